"""The trained model at positions that are no subspots: cells, finer divisions, gaps between the spots."""

from __future__ import annotations

import warnings
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy.spatial import cKDTree

from soscope_scverse import _keys as keys
from soscope_scverse import _validation as check
from soscope_scverse.model._tiles import Section, Tiles, weights_at
from soscope_scverse.model.estimates.image_projection import Projection
from soscope_scverse.model.inference.processes import Processes
from soscope_scverse.model.inference.result import latent_states, spatial_uns
from soscope_scverse.model.inference.store import Arrays
from soscope_scverse.module.vae import SoScopeVAE
from soscope_scverse.pp._graphs import nearest_distance

_CHUNK_VALUES = 5_000_000
_FAR = 2.0
"""Distances of neighbouring spots beyond which a position has no spot near it."""


class Positions(NamedTuple):
    """Where to predict, and what is known there."""

    xy: np.ndarray
    """n_positions x 2."""
    exposure: np.ndarray
    """n_positions shares of a spot."""
    features: np.ndarray | None
    """n_positions x n_image_features as the encoder gives them."""
    rows: np.ndarray
    """Spots of the section that holds the positions."""

    def part(self, which: slice) -> Positions:
        """Some of the positions."""
        features = None if self.features is None else self.features[which]
        return Positions(self.xy[which], self.exposure[which], features, self.rows)


def table(positions: np.ndarray | pd.DataFrame | AnnData, n_positions: int) -> pd.DataFrame:
    """Names of the positions and whatever else is given of them."""
    if isinstance(positions, AnnData):
        return positions.obs.copy()
    if isinstance(positions, pd.DataFrame):
        if not positions.index.is_unique:
            n_repeated = positions.index.duplicated().sum()
            msg = f"Expected unique names in the index of `positions`, found {n_repeated} repeated. Number them."
            raise ValueError(msg)
        return positions.drop(columns=["x", "y"]).set_axis(positions.index.astype(str))
    return pd.DataFrame(index=[f"position_{i}" for i in range(n_positions)])


def section_rows(sections: np.ndarray, library_id: str | None) -> np.ndarray:
    """Spots of one section; `library_id` may be left out where there is no other."""
    names = np.unique(sections)
    if library_id is None and len(names) == 1:
        library_id = names[0]
    if library_id not in names:
        msg = (
            f"Expected `library_id` to be the section of the positions, one of {names.tolist()}; found {library_id!r}."
        )
        raise ValueError(msg)
    return np.flatnonzero(sections == library_id)


def checked_features(features: np.ndarray | None, n_positions: int, width: int) -> np.ndarray | None:
    """Image features of the positions; None where the model looks at none (`width` 0)."""
    if not width:
        return None
    if features is not None:
        with np.errstate(over="ignore"):  # what is too large for the networks is refused as infinite
            features = check.numbers("`image_features`", features).astype(np.float32)
    if features is None or np.shape(features) != (n_positions, width) or not np.isfinite(features).all():
        found = "none" if features is None else f"shape {np.shape(features)}, finite={np.isfinite(features).all()}"
        msg = (
            f"Expected finite `image_features`, {n_positions} positions x {width} features of the kind that the model "
            f"was trained on, found {found}. Make them with `im.features_at(adata, positions, image)`."
        )
        raise ValueError(msg)
    return features


def checked_exposure(exposure: float | np.ndarray, n_positions: int) -> np.ndarray:
    """Exposure of every position."""
    exposure = check.numbers("`exposure`", exposure).astype(np.float32)
    if exposure.shape not in ((), (n_positions,)) or not (np.isfinite(exposure) & (exposure > 0)).all():
        msg = f"Expected `exposure` to be positive, one number or {n_positions}, found shape {exposure.shape}."
        raise ValueError(msg)
    return np.full(n_positions, exposure)


def positions_frame(xy: np.ndarray, obs: pd.DataFrame, spots: AnnData, library_key: str | None) -> AnnData:
    """AnnData of the positions without their profiles."""
    frame = AnnData(obs=obs, var=spots.var.copy(), obsm={keys.SPATIAL: xy})
    spatial = spatial_uns(spots, frame, library_key)
    record = {"version": version("soscope-scverse")}
    if library_key is not None:
        record["library_id"] = obs[library_key].iloc[0]
        spatial = {record["library_id"]: spatial[record["library_id"]]}
    frame.uns |= {keys.SPATIAL: spatial, keys.RESULT: record}
    return frame


def block_positions(n_features: int) -> int:
    """How many positions to decode at once."""
    return max(1, _CHUNK_VALUES // n_features)


def warn_far(spots: np.ndarray, xy: np.ndarray) -> None:
    """Warn of positions that no spot is near to."""
    far = cKDTree(spots).query(xy)[0] > _FAR * nearest_distance(spots)
    if far.any():
        warnings.warn(
            f"{far.sum()} of {len(xy)} positions are farther than {_FAR:g} distances of neighbouring spots from all "
            "spots: what is predicted there is extrapolated from the nearest ones.",
            UserWarning,
            stacklevel=3,
        )


@torch.inference_mode()
def fill_positions(
    arrays: Arrays,
    module: SoScopeVAE,
    tiles: Tiles,
    positions: Positions,
    projection: Projection,
    *,
    batch_size: int,
    processes: Processes,
) -> None:
    """Write the expected profiles at any positions, block by block, to ``arrays["X"]`` of the first process.

    Parameters
    ----------
    arrays
        n_positions x n_features; empty on all processes but the first.
    module
        Trained module.
    tiles
        The spots that the latent states are of.
    positions
        Where to predict.
    projection
        Of the image features.
    batch_size
        Positions decoded at once.
    processes
        Who takes part.
    """
    states = latent_states(module, tiles, processes)
    for turn, start in enumerate(range(0, len(positions.xy), batch_size)):
        rows = slice(start, start + batch_size)
        block = positions.part(rows)
        values = None
        if processes.takes(turn):
            batch = _batch(block, tiles, projection)
            batch = {name: value.to(states.mean.device) for name, value in batch.items()}
            values = module.generative(batch, states.mean)["subspots"].mean.squeeze(1)
        values = processes.to_first(values, turn, (len(block.xy), module.n_features))
        if values is not None:
            arrays["X"][rows] = values.cpu().numpy()


def _batch(positions: Positions, tiles: Tiles, projection: Projection) -> dict[str, torch.Tensor]:
    """What the decoder is given: every position is the only subspot of a spot of its own."""
    section: Section = tiles.section
    near, weights = weights_at(
        section.spatial[positions.rows], positions.xy, kind=tiles.interpolation, bandwidth=tiles.bandwidth
    )
    neighbors = positions.rows[near]
    parts = {"exposure": positions.exposure[:, None], "neighbor_weights": weights[:, None]}
    if positions.features is not None:
        parts["features"] = projection(positions.features[:, None], np.arange(len(positions.xy)))
    if section.batches is not None:
        parts["batch"] = section.batches[neighbors[:, 0]]  # that of the nearest spot
    batch = {name: torch.as_tensor(part, dtype=torch.float32) for name, part in parts.items()}
    return batch | {"neighbors": torch.as_tensor(neighbors[:, None])}

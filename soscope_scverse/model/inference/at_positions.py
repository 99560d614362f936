"""Predictions at given positions: cells, finer partitions, gaps between the spots."""

from __future__ import annotations

import warnings
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from scipy.spatial import cKDTree

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse._validators import POSITIVE_INTEGER, Rules
from soscope_scverse.model._interpolation import weights_at
from soscope_scverse.model._kriging import Krige, section_krige
from soscope_scverse.model._section import Section
from soscope_scverse.model._threads import torch_threads
from soscope_scverse.model._tiles import Tiles
from soscope_scverse.model.estimates.image_projection import Projection, projection_of
from soscope_scverse.model.inference.posterior import Posterior
from soscope_scverse.model.inference.result import spatial_uns, with_profiles
from soscope_scverse.model.inference.sampler import LatentStates
from soscope_scverse.model.inference.store import Arrays
from soscope_scverse.pp._graphs import nearest_distance

PREDICT_RULES: Rules = {"batch_size": POSITIVE_INTEGER.or_(None)}
"""Of :meth:`SoScope.predict`."""

_CHUNK_VALUES = 5_000_000  # decoded at once
_FAR = 2.0  # from all spots, in centre-to-centre distances: predictions are extrapolated


class Positions(NamedTuple):
    """Positions to predict at."""

    xy: np.ndarray
    """n_positions x 2."""
    exposure: np.ndarray
    """n_positions shares of a spot."""
    features: np.ndarray | None
    """n_positions x n_image_features, before their projection."""
    rows: np.ndarray
    """Rows of the spots of the section that contains the positions."""

    def part(self, which: slice) -> Positions:
        """Some of the positions."""
        features = None if self.features is None else self.features[which]
        return Positions(self.xy[which], self.exposure[which], features, self.rows)


@torch_threads()
def predicted_profiles(
    posterior: Posterior,
    positions: np.ndarray | pd.DataFrame | AnnData,
    image_features: np.ndarray | None,
    exposure: float | np.ndarray | None,
    library_id: str | None,
    batch_size: int | None,
    out: Path | None,
) -> AnnData | MuData:
    """Expected profiles at positions, see :meth:`SoScope.predict`.

    Parameters
    ----------
    posterior
        Spots of the section.
    positions, image_features, exposure, library_id, batch_size
        See :meth:`SoScope.predict`.
    out
        Path that can be written to; None is memory.
    """
    module, inputs, tiles = posterior.module, posterior.inputs, posterior.tiles
    xy = read.xy(positions)
    spots = inputs.spots()
    rows = read.rows_of_section(spots, inputs.library_key, library_id)
    features = checked_features(image_features, len(xy), len(module.image_mean) if module.uses_image else 0)
    trained = tiles.section.area[rows]
    exposure = checked_exposure(trained[trained > 0].mean() if exposure is None else exposure, len(xy))
    warn_far(tiles.section.spatial[rows], xy)
    obs = positions_table(positions, len(xy))
    if inputs.library_key is not None:
        obs[inputs.library_key] = pd.Categorical(tiles.section.sections[rows[:1]].repeat(len(xy)))
    frame = positions_frame(xy, obs, spots, inputs.library_key)
    size = batch_size or max(1, _CHUNK_VALUES // module.n_features)
    states, places = posterior.latent_states(), Positions(xy, exposure, features, rows)
    if module.uses_latent:
        frame.obsm[keys.LATENT] = states_at(posterior, states, places, batch_size=size)
    fill = partial(fill_positions, posterior=posterior, states=states, positions=places, batch_size=size)
    return posterior.like_inputs(with_profiles(frame, out, ["X"], (size, frame.n_vars), fill, posterior.processes))


def positions_table(positions: np.ndarray | pd.DataFrame | AnnData, n_positions: int) -> pd.DataFrame:
    """Return ``obs`` of the positions: their names and the other columns that were given."""
    if isinstance(positions, AnnData):
        return positions.obs.copy()
    if isinstance(positions, pd.DataFrame):
        if not positions.index.is_unique:
            n_repeated = positions.index.duplicated().sum()
            msg = f"Expected unique names in the index of `positions`, found {n_repeated} repeated. Number them."
            raise ValueError(msg)
        return positions.drop(columns=["x", "y"]).set_axis(positions.index.astype(str))
    return pd.DataFrame(index=[f"position_{i}" for i in range(n_positions)])


def checked_features(features: np.ndarray | None, n_positions: int, width: int) -> np.ndarray | None:
    """Return the image features of the positions; None if the model uses none (`width` 0)."""
    if not width:
        return None
    if features is not None:
        with np.errstate(over="ignore"):  # values too large for float32 are refused as infinite
            features = read.numbers("`image_features`", features).astype(np.float32)
    if features is None or np.shape(features) != (n_positions, width) or not np.isfinite(features).all():
        found = "none" if features is None else f"shape {np.shape(features)}, finite={np.isfinite(features).all()}"
        msg = (
            f"Expected finite `image_features`, {n_positions} positions x {width} features of the kind that the model "
            f"was trained on, found {found}. Make them with `im.features_at(adata, positions, image)`."
        )
        raise ValueError(msg)
    return features


def checked_exposure(exposure: float | np.ndarray, n_positions: int) -> np.ndarray:
    """Return the exposure of every position."""
    exposure = read.numbers("`exposure`", exposure).astype(np.float32)
    if exposure.shape not in ((), (n_positions,)) or not (np.isfinite(exposure) & (exposure > 0)).all():
        msg = f"Expected `exposure` to be positive, one number or {n_positions}, found shape {exposure.shape}."
        raise ValueError(msg)
    return np.full(n_positions, exposure)


def positions_frame(xy: np.ndarray, obs: pd.DataFrame, spots: AnnData, library_key: str | None) -> AnnData:
    """Return an AnnData of the positions without profiles."""
    frame = AnnData(obs=obs, var=spots.var.copy(), obsm={keys.SPATIAL: xy})
    spatial = spatial_uns(spots, frame, library_key)
    record = {"version": version("soscope-scverse")}
    if library_key is not None:
        record["library_id"] = obs[library_key].iloc[0]
        spatial = {record["library_id"]: spatial[record["library_id"]]}
    frame.uns |= {keys.SPATIAL: spatial, keys.RESULT: record}
    return frame


def warn_far(spots: np.ndarray, xy: np.ndarray) -> None:
    """Warn of positions without a nearby spot."""
    far = cKDTree(spots).query(xy)[0] > _FAR * nearest_distance(spots)
    if far.any():
        warnings.warn(
            f"{far.sum()} of {len(xy)} positions are farther than {_FAR:g} centre-to-centre distances from all spots: "
            "predictions there are extrapolated from the nearest spots.",
            UserWarning,
            stacklevel=4,
        )


@torch.inference_mode()
def states_at(posterior: Posterior, states: LatentStates, positions: Positions, *, batch_size: int) -> np.ndarray:
    """Latent states at positions as the decoder reads them, n_positions x n_latent float32.

    Parameters
    ----------
    posterior, states, positions, batch_size
        See :func:`fill_positions`.
    """
    projection = projection_of(posterior.module)
    found = np.empty((len(positions.xy), states.mean.shape[1]), np.float32)
    for start in range(0, len(found), batch_size):
        rows = slice(start, start + batch_size)
        batch = _batch(positions.part(rows), posterior.tiles, projection, None, states.mean.device)
        found[rows] = posterior.module.subspot_states(batch, states.mean).cpu().numpy()
    return found


@torch.inference_mode()
def fill_positions(
    arrays: Arrays, posterior: Posterior, states: LatentStates, positions: Positions, *, batch_size: int
) -> None:
    """Write the expected profiles at positions, block by block, to ``arrays["X"]`` of the first process.

    Parameters
    ----------
    arrays
        n_positions x n_features; empty on all processes but the first.
    posterior
        The spots.
    states
        Their latent states, which are interpolated.
    positions
        Positions to predict at.
    batch_size
        Positions decoded at once.
    """
    module, processes = posterior.module, posterior.processes
    projection = projection_of(module)
    krige = section_krige(module, posterior.tiles.section, positions.rows) if module.kriged.is_set else None
    for turn, start in enumerate(range(0, len(positions.xy), batch_size)):
        rows = slice(start, start + batch_size)
        block = positions.part(rows)
        values = None
        if processes.takes(turn):
            batch = _batch(block, posterior.tiles, projection, krige, states.mean.device)
            values = module.generative(batch, states.mean)["subspots"].mean.squeeze(1)
        values = processes.to_first(values, turn, (len(block.xy), module.n_features))
        if values is not None:
            arrays["X"][rows] = values.cpu().numpy()


def _batch(
    positions: Positions, tiles: Tiles, projection: Projection, krige: Krige | None, device: torch.device
) -> dict[str, torch.Tensor]:
    """Inputs of the decoder: every position is the only subspot of a spot of its own."""
    section: Section = tiles.section
    near, weights = weights_at(
        section.spatial[positions.rows], positions.xy, kind=tiles.interpolation, bandwidth=tiles.bandwidth
    )
    neighbors = positions.rows[near]
    parts = {"exposure": positions.exposure[:, None], "neighbor_weights": weights[:, None]}
    if positions.features is not None:
        parts["features"] = projection(positions.features[:, None], np.arange(len(positions.xy)))
    if krige is not None:
        pitch = nearest_distance(section.spatial[positions.rows])
        features = parts["features"][:, 0] if "features" in parts else np.zeros((len(near), 0))
        parts["kriged"] = krige.everywhere(positions.xy / pitch, features, near[:, 0])[:, None]
    if section.batches is not None:
        parts["batch"] = section.batches[neighbors[:, 0]]  # that of the nearest spot
    batch = {name: torch.as_tensor(part, dtype=torch.float32, device=device) for name, part in parts.items()}
    return batch | {"neighbors": torch.as_tensor(neighbors[:, None], device=device)}

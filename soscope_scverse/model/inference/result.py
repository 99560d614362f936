"""From a trained module to the AnnData of subspots."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import zarr
from anndata import AnnData
from torch import Tensor
from tqdm.auto import tqdm

from soscope_scverse import _keys as keys
from soscope_scverse import _validation as check
from soscope_scverse.model._tiles import Tiles, contiguous_groups
from soscope_scverse.model.inference.processes import Processes
from soscope_scverse.model.inference.sampler import LatentStates, Sampler
from soscope_scverse.model.inference.store import Arrays, new_array, new_store, open_lazily
from soscope_scverse.module.vae import SoScopeVAE
from soscope_scverse.pp._geometry import fine_array_index
from soscope_scverse.pp._graphs import nearest_distance

_CHUNK_VALUES = 5_000_000  # subspot values decoded at once: 20 MB a tensor
_DRAWN_VALUES = 50_000_000  # the same of all draws together
_LATENT_SPOTS = 2048
_QUANTILES = {keys.Q05: 0.05, keys.Q95: 0.95}


@torch.inference_mode()
def latent_states(module: SoScopeVAE, tiles: Tiles, processes: Processes) -> LatentStates:
    """Latent states of all spots, tile by tile; on the module's device."""
    module.eval()
    device = _device(module)
    states = np.zeros((2, tiles.n_spots, module.encoder.mean.out_features), np.float32)
    groups = contiguous_groups(tiles.section.spatial, tiles.section.sections, _LATENT_SPOTS)
    for turn, group in enumerate(groups):
        if processes.takes(turn):
            own = np.sort(group)
            tile = {name: value.to(device) for name, value in tiles.tile(own).items()}
            qz = module.inference(tile)["qz"]
            states[0, own], states[1, own] = (part[tile["own"]].cpu().numpy() for part in (qz.loc, qz.scale))
    return LatentStates(*torch.as_tensor(processes.add_up(states), device=device))


def places(n_samples: int, *, counts: bool = False) -> list[str]:
    """Where the result has arrays of subspots x features; `counts` is one draw that adds up to observed counts."""
    drawn = [keys.STD, *_QUANTILES, *([keys.SAMPLED_COUNTS] if counts else [])]
    return ["X", *(f"layers/{name}" for name in drawn if n_samples)]


def block_spots(tiles: Tiles, n_features: int, n_samples: int) -> int:
    """How many spots to decode at once."""
    values = tiles.section.exposure.shape[1] * n_features
    return max(1, min(_CHUNK_VALUES, _DRAWN_VALUES // max(n_samples, 1)) // values)


def fill_profiles(arrays: Arrays, sampler: Sampler, batch_size: int, processes: Processes) -> None:
    """Write the profiles of all valid subspots, spot by spot, to the arrays of the first process.

    Parameters
    ----------
    arrays
        n_targets x n_features for each of :func:`places`; empty on all processes but the first.
    sampler
        The section, in the order of the result, and its draws, if any.
    batch_size
        Spots decoded at once.
    processes
        Who takes part.
    """
    names = places(sampler.n_samples, counts=sampler.samples_counts)

    def write(rows: slice, values: np.ndarray) -> None:
        for name, value in zip(names, values, strict=True):
            arrays[name][rows] = value

    _in_blocks(sampler.tiles, batch_size, len(names), lambda spots: _decoded(sampler, spots), write, processes)


def fill_samples(array: Any, sampler: Sampler, batch_size: int, processes: Processes) -> None:
    """Write all draws, n_samples x n_targets x n_features; parameters as of :func:`fill_profiles`."""

    def write(rows: slice, values: np.ndarray) -> None:
        array[rows] = values

    def block(spots: np.ndarray) -> Tensor:
        return sampler.draw(spots)[:, torch.as_tensor(sampler.tiles.section.exposure[spots] > 0)]

    _in_blocks(sampler.tiles, batch_size, sampler.n_samples, block, write, processes)


def _decoded(sampler: Sampler, spots: np.ndarray) -> Tensor:
    """Profiles of the valid subspots of some spots: mean and, with draws, what is told of them, one after the other."""
    values = [sampler.mean(spots)]
    if sampler.n_samples:
        draws = sampler.draw(spots)
        values += [draws.std(dim=0, correction=0), *(draws.quantile(q, dim=0) for q in _QUANTILES.values())]
        values += [draws[0]] if sampler.samples_counts else []
    valid = torch.as_tensor(sampler.tiles.section.exposure[spots] > 0)
    return torch.stack([value[valid] for value in values])


def _in_blocks(
    tiles: Tiles,
    size: int,
    n_arrays: int,
    block: Callable[[np.ndarray], Tensor],
    write: Callable[[slice, np.ndarray], None],
    processes: Processes,
) -> None:
    """Make n_arrays x n_targets x n_features values of `size` spots at a time; the first process writes them."""
    starts = range(0, tiles.n_spots, size)
    progress = tqdm(starts, desc="Enhancing", unit="block", delay=5, disable=None if processes.is_first else True)
    for turn, start in enumerate(progress):
        spots = np.arange(start, min(start + size, tiles.n_spots))
        rows = slice(tiles.first_target[spots[0]], tiles.first_target[spots[-1] + 1])
        made = block(spots) if processes.takes(turn) else None
        values = processes.to_first(made, turn, (n_arrays, rows.stop - rows.start, tiles.section.x.shape[1]))
        if values is not None:
            write(rows, values.cpu().numpy())


def _device(module: SoScopeVAE) -> torch.device:
    return next(module.parameters()).device


def result_rows(adata: AnnData) -> np.ndarray:
    """Which subspots are rows of a result, n_spots x n_subspots: neither padding nor a spot that holds no cell."""
    valid = np.asarray(adata.obsm[keys.EXPOSURE]) > 0
    if keys.SUBSPOT_NAMES in adata.obsm:
        valid &= np.asarray(adata.obsm[keys.SUBSPOT_NAMES]) != ""
    return valid


class SomeRows:
    """An array whose rows are some of those that are written to it; the others are dropped.

    Parameters
    ----------
    array
        Takes the rows to keep, next to each other; n_targets x n_features or several of these.
    kept
        For every row that is written whether to keep it.
    """

    def __init__(self, array: Any, kept: np.ndarray) -> None:
        self.array = array
        self.kept = kept
        self.first = np.r_[0, kept.cumsum()]

    def __setitem__(self, rows: slice, values: np.ndarray) -> None:
        self.array[..., self.first[rows.start] : self.first[rows.stop], :] = values[..., self.kept[rows], :]


def result_frame(
    adata: AnnData, *, features_key: str | None, library_key: str | None, uns: Mapping[str, Any]
) -> AnnData:
    """AnnData of the subspots of `adata` without their profiles.

    Parameters
    ----------
    adata
        Spots, in the order of the result.
    features_key
        Slot of ``obsm`` with the image features, if any.
    library_key
        Column of ``obs`` that tells the sections.
    uns
        Further entries of ``uns``.
    """
    valid = result_rows(adata)
    spot, subspot = np.nonzero(valid)
    if keys.SUBSPOT_NAMES in adata.obsm:
        names = np.asarray(adata.obsm[keys.SUBSPOT_NAMES])[valid].astype(object)
    else:
        names = np.array([f"{name}_{k}" for name, k in zip(adata.obs_names[spot], subspot, strict=True)])
    obs = pd.DataFrame({keys.SPOT: adata.obs_names[spot], keys.SUBSPOT: subspot}, index=names)
    if library_key is not None:
        obs[library_key] = adata.obs[library_key].to_numpy()[spot]
        obs[library_key] = obs[library_key].astype("category")
    info = adata.uns.get(keys.SUBSPOTS, {})
    array = check.array_index(adata)
    if array is not None and "array_steps" in info:
        obs[["array_col", "array_row"]] = fine_array_index(array, info)[valid]
    frame = AnnData(obs=obs, var=adata.var.copy())
    frame.obsm[keys.SPATIAL] = _targets(adata.obsm[keys.SUBSPOTS], valid)
    if features_key is not None:
        frame.obsm[keys.IMAGE_FEATURES] = _targets(adata.obsm[features_key], valid)
    frame.uns[keys.SPATIAL] = spatial_uns(adata, frame, library_key)
    frame.uns |= uns
    return frame


def _targets(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Rows of the valid subspots; no copy where there is no padding, since image features may be large."""
    rows = np.asarray(values).reshape(valid.size, -1)
    return rows if valid.all() else rows[valid.ravel()]


def with_profiles(
    frame: AnnData, out: Path | None, places: list[str], chunk_rows: int, fill: Callable[[Arrays], None], who: Processes
) -> AnnData:
    """Fill the profiles of a result in memory, or on disk if `out` is given; all processes get the result."""
    if out is None:
        arrays = {place: np.empty(frame.shape, np.float32) for place in places}
        fill(arrays)
        frame = frame.copy()  # its arrays may be those of the spots
        for place, values in arrays.items():
            who.from_first(values)
            if place == "X":
                frame.X = values
            else:
                frame.layers[place.removeprefix("layers/")] = values
        return frame
    if who.is_first:
        with new_store(out, frame, places, chunk_rows) as arrays:
            fill(arrays)
    else:
        fill({})
    who.wait()
    return open_lazily(out)


def with_samples(
    shape: tuple[int, int, int], out: Path | None, chunk_rows: int, fill: Callable[[Any], None], who: Processes
) -> np.ndarray | zarr.Array:
    """Fill an array of draws in memory, or a zarr array if `out` is given; all processes get it."""
    if out is None:
        array = np.empty(shape, np.float32)
        fill(array)
        who.from_first(array)
        return array
    if who.is_first:
        with new_array(out, shape, (1, min(chunk_rows, max(shape[1], 1)), shape[2])) as array:
            fill(array)
    else:
        fill(None)
    who.wait()
    return zarr.open_array(out, mode="r")


def spatial_uns(adata: AnnData, frame: AnnData, library_key: str | None) -> dict:
    """``uns["spatial"]`` of the spots with the diameter of the subspots, for squidpy and scanpy."""
    spatial: dict[str, Any] = copy.deepcopy(dict(check.libraries(adata)))
    sections = check.sections(frame, library_key)
    for section in np.unique(sections):
        # without a library_key there is one section, whatever name it has in uns
        library_id = next(iter(spatial), section) if library_key is None else section
        entry = spatial.setdefault(library_id, {"images": {}})
        diameter = nearest_distance(frame.obsm[keys.SPATIAL][sections == section])
        entry.setdefault("scalefactors", {"tissue_hires_scalef": 1.0})["spot_diameter_fullres"] = diameter
    return spatial

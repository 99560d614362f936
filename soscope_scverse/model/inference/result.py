"""Enhanced profiles and posterior samples of the subspots, in memory or on disk."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
import zarr
from anndata import AnnData
from mudata import MuData
from torch import Tensor

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse._progress import progress_bar
from soscope_scverse._storable import check_storable
from soscope_scverse._validators import POSITIVE_INTEGER, Choice, Choices, Number, Rules
from soscope_scverse.model._threads import torch_threads
from soscope_scverse.model._tiles import Tiles
from soscope_scverse.model.inference._carried import carried_columns, carried_tables, check_tables
from soscope_scverse.model.inference.posterior import Posterior
from soscope_scverse.model.inference.processes import Processes
from soscope_scverse.model.inference.sampler import Expectation, Sampler
from soscope_scverse.model.inference.store import Arrays, new_array, new_store, open_lazily
from soscope_scverse.pp._geometry import fine_array_index
from soscope_scverse.pp._graphs import nearest_distance

ENHANCED_RULES: Rules = {
    "expectation": Choices(get_args(Expectation)),
    "n_samples": Number(0, integer=True),
    "batch_size": POSITIVE_INTEGER.or_(None),
}
"""Of :meth:`SoScope.get_enhanced`."""

SAMPLE_RULES: Rules = {
    **ENHANCED_RULES,
    "expectation": Choice(get_args(Expectation)),
    "n_samples": POSITIVE_INTEGER,
}
"""Of :meth:`SoScope.sample_enhanced`."""

_CHUNK_VALUES = 5_000_000  # subspot values decoded at once: 20 MB a tensor
_SAMPLED_VALUES = 50_000_000  # the same for all posterior samples together
_QUANTILES = {keys.Q05: 0.05, keys.Q95: 0.95}


@torch_threads()
def enhanced_profiles(
    posterior: Posterior,
    expectation: Expectation | Sequence[Expectation],
    n_samples: int,
    batch_size: int | None,
    out: Path | None,
    uns: Mapping[str, Any],
    obsm_keys: Sequence[str],
) -> AnnData | MuData:
    """Enhanced profiles of all subspots, see :meth:`SoScope.get_enhanced`.

    Parameters
    ----------
    posterior
        The spots.
    expectation, n_samples, batch_size
        See :meth:`SoScope.get_enhanced`.
    out
        Path that can be written to; None is memory.
    uns
        Further entries of ``uns``.
    obsm_keys
        Slots of ``obsm`` of the spots, see :meth:`SoScope.get_enhanced`.
    """
    inputs, tiles, processes = posterior.inputs, posterior.tiles, posterior.processes
    spots = inputs.spots()
    frame = result_frame(
        spots, features_key=inputs.features_key, library_key=inputs.library_key, uns=uns, obsm_keys=obsm_keys
    )
    if inputs.features_key and posterior.module.kriged.is_set:
        frame.var[keys.IMAGE_GAIN] = posterior.module.kriged.image_gain.cpu().numpy()
    if out is not None:
        check_storable("out", frame, out.suffix)
    size = batch_size or block_spots(tiles, posterior.module.n_features, n_samples)
    kept = result_rows(spots)[tiles.section.is_subspot]
    sampler = posterior.sampler(expectation, n_samples)
    if posterior.module.uses_latent:
        frame.obsm[keys.LATENT] = sampler.latent_states()[kept]

    def fill(arrays: Arrays) -> None:
        fill_profiles({slot: SomeRows(array, kept) for slot, array in arrays.items()}, sampler, size, processes)

    chunks = size * tiles.section.exposure.shape[1], frame.n_vars
    return posterior.like_inputs(with_profiles(frame, out, profile_slots(sampler), chunks, fill, processes))


@torch_threads()
def posterior_samples(
    posterior: Posterior, expectation: Expectation, n_samples: int, batch_size: int | None, out: Path | None
) -> np.ndarray | zarr.Array:
    """Posterior samples of all subspots, see :meth:`SoScope.sample_enhanced`.

    Parameters
    ----------
    posterior
        The spots.
    expectation, n_samples, batch_size
        See :meth:`SoScope.sample_enhanced`.
    out
        Path that can be written to; None is memory.
    """
    tiles, processes, n_features = posterior.tiles, posterior.processes, posterior.module.n_features
    size = batch_size or block_spots(tiles, n_features, n_samples)
    kept = result_rows(posterior.inputs.spots())[tiles.section.is_subspot]
    sampler = posterior.sampler(expectation, n_samples)

    def fill(array: Any) -> None:
        fill_samples(SomeRows(array, kept), sampler, size, processes)

    shape = n_samples, int(kept.sum()), n_features
    return with_samples(shape, out, size * tiles.section.exposure.shape[1], fill, processes)


def profile_slots(sampler: Sampler) -> list[str]:
    """Slots of the result that hold n_targets x n_features."""
    layers: list[str] = list(sampler.expectations[1:])
    if sampler.n_samples:
        layers += [keys.STD, *_QUANTILES, *([keys.SAMPLED_COUNTS] if sampler.samples_counts else [])]
    return ["X", *(f"layers/{name}" for name in layers)]


def block_spots(tiles: Tiles, n_features: int, n_samples: int) -> int:
    """Number of spots to decode at once."""
    values = tiles.section.exposure.shape[1] * n_features
    return max(1, min(_CHUNK_VALUES, _SAMPLED_VALUES // max(n_samples, 1)) // values)


def fill_profiles(arrays: Arrays, sampler: Sampler, batch_size: int, processes: Processes) -> None:
    """Write the profiles of all valid subspots, spot by spot, to the arrays of the first process.

    Parameters
    ----------
    arrays
        n_targets x n_features for each of :func:`profile_slots`; empty on all processes but the first.
    sampler
        Of the section, in the order of the result.
    batch_size
        Spots decoded at once.
    processes
        Those that share the work.
    """
    slots = profile_slots(sampler)

    def write(rows: slice, values: np.ndarray) -> None:
        for slot, value in zip(slots, values, strict=True):
            arrays[slot][rows] = value

    _in_blocks(sampler.tiles, batch_size, len(slots), lambda spots: _decoded(sampler, spots), write, processes)


def fill_samples(array: Any, sampler: Sampler, batch_size: int, processes: Processes) -> None:
    """Write all samples, n_samples x n_targets x n_features; parameters as in :func:`fill_profiles`."""

    def write(rows: slice, values: np.ndarray) -> None:
        array[rows] = values

    def block(spots: np.ndarray) -> Tensor:
        return sampler.sample(spots)[:, torch.as_tensor(sampler.tiles.section.area[spots] > 0)]

    _in_blocks(sampler.tiles, batch_size, sampler.n_samples, block, write, processes)


def _decoded(sampler: Sampler, spots: np.ndarray) -> Tensor:
    """Expectations and statistics of the samples for valid subspots, n_arrays x n_targets x n_features."""
    values = sampler.means(spots)
    if sampler.n_samples:
        samples = sampler.sample(spots)
        values += [samples.std(dim=0, correction=0), *(samples.quantile(q, dim=0) for q in _QUANTILES.values())]
        values += [samples[0]] if sampler.samples_counts else []
    valid = torch.as_tensor(sampler.tiles.section.area[spots] > 0)
    return torch.stack([value[valid] for value in values])


def _in_blocks(
    tiles: Tiles,
    size: int,
    n_arrays: int,
    block: Callable[[np.ndarray], Tensor],
    write: Callable[[slice, np.ndarray], None],
    processes: Processes,
) -> None:
    """Compute n_arrays x n_targets x n_features values for `size` spots at a time; the first process writes them."""
    starts = range(0, tiles.n_spots, size)
    progress = progress_bar(starts, shown=processes.is_first, desc="Enhancing", unit="block", delay=5)
    for turn, start in enumerate(progress):
        spots = np.arange(start, min(start + size, tiles.n_spots))
        rows = slice(tiles.first_target[spots[0]], tiles.first_target[spots[-1] + 1])
        made = block(spots) if processes.takes(turn) else None
        values = processes.to_first(made, turn, (n_arrays, rows.stop - rows.start, tiles.section.x.shape[1]))
        if values is not None:
            write(rows, values.cpu().numpy())


def result_rows(adata: AnnData) -> np.ndarray:
    """Which subspots are rows of a result, n_spots x n_subspots: neither padding nor a spot without cells."""
    exposure = np.asarray(adata.obsm[keys.EXPOSURE])
    valid = read.areas(adata, exposure) > 0
    if keys.SUBSPOT_NAMES in adata.obsm:
        valid &= np.asarray(adata.obsm[keys.SUBSPOT_NAMES]) != ""
    return valid


class SomeRows:
    """An array that keeps some of the rows that are written to it and drops the others.

    Parameters
    ----------
    array
        Receives the rows to keep, contiguously; n_targets x n_features or several of these.
    kept
        For every written row whether to keep it.
    """

    def __init__(self, array: Any, kept: np.ndarray) -> None:
        self.array = array
        self.kept = kept
        self.first = np.r_[0, kept.cumsum()]

    def __setitem__(self, rows: slice, values: np.ndarray) -> None:
        self.array[..., self.first[rows.start] : self.first[rows.stop], :] = values[..., self.kept[rows], :]


def result_frame(
    adata: AnnData,
    *,
    features_key: str | None,
    library_key: str | None,
    uns: Mapping[str, Any],
    obsm_keys: Sequence[str] = (),
) -> AnnData:
    """Return an AnnData of the subspots of `adata` without profiles.

    Parameters
    ----------
    adata
        Spots, in the order of the result.
    features_key
        Slot of ``obsm`` with the image features, if any.
    library_key
        Column of ``obs`` with the sections.
    uns
        Further entries of ``uns``.
    obsm_keys
        Slots of ``obsm`` of the spots that are repeated for their subspots.
    """
    tables = check_tables(adata, obsm_keys)
    valid = result_rows(adata)
    spot, subspot = np.nonzero(valid)
    if keys.SUBSPOT_NAMES in adata.obsm:
        names = np.asarray(adata.obsm[keys.SUBSPOT_NAMES])[valid].astype(object)
    else:
        names = np.array([f"{name}_{k}" for name, k in zip(adata.obs_names[spot], subspot, strict=True)])
    exposure = np.asarray(adata.obsm[keys.EXPOSURE])
    share = (exposure / np.where(valid, read.areas(adata, exposure), 1))[valid]
    obs = pd.DataFrame({keys.SPOT: adata.obs_names[spot], keys.SUBSPOT: subspot}, index=names)
    obs[keys.MEASURED_SHARE] = share
    if library_key is not None:
        obs[library_key] = adata.obs[library_key].to_numpy()[spot]
        obs[library_key] = obs[library_key].astype("category")
    info = adata.uns.get(keys.SUBSPOTS, {})
    array = read.array_index(adata)
    if array is not None and "array_steps" in info:
        obs[["array_col", "array_row"]] = fine_array_index(array, info)[valid]
    carried = carried_columns(adata.obs, () if library_key is None else (library_key,))
    obs = pd.concat([obs, carried.iloc[spot].set_axis(names, axis=0)], axis=1)
    frame = AnnData(obs=obs, var=adata.var.copy(), obsm=carried_tables(adata, tables, spot, names))
    frame.obsm[keys.SPATIAL] = _targets(adata.obsm[keys.SUBSPOTS], valid)
    if features_key is not None:
        frame.obsm[keys.IMAGE_FEATURES] = _targets(adata.obsm[features_key], valid)
    frame.uns[keys.SPATIAL] = spatial_uns(adata, frame, library_key)
    frame.uns |= uns
    return frame


def _targets(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Rows of the valid subspots; no copy without padding, since image features may be large."""
    rows = np.asarray(values).reshape(valid.size, -1)
    return rows if valid.all() else rows[valid.ravel()]


def with_profiles(
    frame: AnnData,
    out: Path | None,
    slots: list[str],
    chunks: tuple[int, int],
    fill: Callable[[Arrays], None],
    processes: Processes,
    dtype: str = "float32",
) -> AnnData:
    """Fill the profiles of a result in memory, or on disk if `out` is given; all processes get the result."""
    if out is None:
        arrays = {slot: np.empty(frame.shape, dtype) for slot in slots}
        fill(arrays)
        frame = frame.copy()  # its arrays may be those of the spots
        for slot, values in arrays.items():
            processes.from_first(values)
            if slot == "X":
                frame.X = values
            else:
                frame.layers[slot.removeprefix("layers/")] = values
        return frame
    if processes.is_first:
        with new_store(out, frame, slots, chunks, dtype) as arrays:
            fill(arrays)
    else:
        fill({})
    processes.wait()
    return open_lazily(out)


def with_samples(
    shape: tuple[int, int, int], out: Path | None, chunk_rows: int, fill: Callable[[Any], None], processes: Processes
) -> np.ndarray | zarr.Array:
    """Fill an array of posterior samples in memory, or a zarr array if `out` is given; all processes get it."""
    if out is None:
        array = np.empty(shape, np.float32)
        fill(array)
        processes.from_first(array)
        return array
    if processes.is_first:
        with new_array(out, shape, (1, min(chunk_rows, max(shape[1], 1)), shape[2])) as array:
            fill(array)
    else:
        fill(None)
    processes.wait()
    return zarr.open_array(out, mode="r")


def spatial_uns(adata: AnnData, frame: AnnData, library_key: str | None) -> dict:
    """Return ``uns["spatial"]`` of the spots with the diameter of the subspots, for squidpy and scanpy."""
    spatial: dict[str, Any] = copy.deepcopy(dict(read.libraries(adata)))
    sections = read.sections(frame, library_key)
    for section in np.unique(sections):
        # without a library_key there is one section, under any name in uns
        library_id = next(iter(spatial), section) if library_key is None else section
        entry = spatial.setdefault(library_id, {"images": {}})
        diameter = nearest_distance(frame.obsm[keys.SPATIAL][sections == section])
        entry.setdefault("scalefactors", {"tissue_hires_scalef": 1.0})["spot_diameter_fullres"] = diameter
    return spatial

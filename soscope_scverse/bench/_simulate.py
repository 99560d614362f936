"""Low-resolution sections with known truth, made by merging neighbouring spots or cells of a section."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse._arrays import Matrix
from soscope_scverse._containers.dispatch import accepts_containers
from soscope_scverse._containers.mudata import joined, modality
from soscope_scverse._validators import POSITIVE, Choice, Rules, check_arguments, check_finite
from soscope_scverse.bench._blocks import FLOWER, Blocks, flower_blocks, gather, square_blocks
from soscope_scverse.pp._capture import CaptureArea, CaptureShape
from soscope_scverse.pp._geometry import partition_lattice, unit_subspots, write_partition
from soscope_scverse.pp._lattice import LatticeKind, in_lattice_cell

if TYPE_CHECKING:
    from spatialdata import SpatialData

_SPOTS_RULES: Rules = {
    "pitch": POSITIVE,
    "diameter": POSITIVE,
    "lattice": Choice(("hex", "square")),
    "capture_shape": Choice(("circle", "square")),
}
_RULES: Rules = {"lattice": Choice(("auto", "square", "hex")), "aggregate": Choice(("sum", "mean"))}


class LowResolution(NamedTuple):
    """A merged section and its original observations."""

    adata: AnnData
    """n_spots x n_features, the merged section with its subspots; of a MuData a MuData."""

    truth: AnnData
    """n_targets x n_features, the original rows, in the C order of the valid entries of ``adata.obsm["subspots"]``."""


@accepts_containers()
def simulate_low_resolution(
    adata: AnnData | MuData | SpatialData,
    factor: float = 2,
    *,
    lattice: Literal["auto", "square", "hex"] = "auto",
    cells: bool = False,
    aggregate: Literal["sum", "mean"] | Mapping[str, Literal["sum", "mean"]] = "sum",
    table_key: str = "table",
    shapes_key: str | None = None,
) -> LowResolution:
    """Merge neighbouring spots or cells into larger spots with known subspots.

    Only complete blocks are kept. Of all offsets of the lattice of blocks, the one with the most complete blocks is
    used (the first on a tie), so the result is determined by the input.

    Parameters
    ----------
    adata
        n_obs x n_features, profiles in ``X``, positions in ``obsm["spatial"]``. Lattices are read from
        ``obs["array_row"]`` and ``obs["array_col"]``, or from ``obs["quad_u"]`` and ``obs["quad_v"]`` if present (a
        quincunx, read as a square lattice rotated by 45 degrees). A single section. Of a MuData all modalities are
        merged in the same blocks; positions and lattice are at the top or in one of them.
    factor
        Square lattice: blocks of ``factor`` x ``factor`` spots, 2 to 6. Hexagonal lattice: must be 2; a block consists
        of a spot and its six neighbours. Cells: width of the square bins, in units of the positions.
    lattice
        ``"auto"`` selects hexagonal if ``array_row + array_col`` has the same parity for all spots (the Visium
        convention) and the six neighbours of a spot are equally distant, and square otherwise.
    cells
        Merge the observations within each square bin, at least 2 of them, instead of blocks of a lattice.
    aggregate
        ``"sum"`` for counts, ``"mean"`` for principal components and intensities; of a MuData also a dict by modality,
        with sums of those that it does not name.
    table_key, shapes_key
        Elements of a SpatialData, see :func:`~soscope_scverse.tl.enhance`; the result has the coordinates of its spots,
        which are those of ``im.open_image(sdata)``.

    Returns
    -------
    LowResolution
        ``adata``: sums (CSR, the dtype of the input) or means (dense) with ``obsm["spatial"]`` (mean position),
        ``obsm["subspots"]`` (n_spots x n_subspots x 2, the original positions, NaN = padding),
        ``obsm["subspot_exposure"]`` (1 / number of the spot's subspots, 0 = padding), ``uns["subspots"]``, whose
        ``"aggregate"`` is read by the baselines, ``uns["spatial"]`` with the larger spot diameter and
        ``obs["array_row"]``, ``obs["array_col"]`` of the coarse lattice; for sums of different numbers of cells also
        ``obs["relative_cell_number"]`` (relative to the mean over spots). With `cells`,
        ``obsm["subspot_names"]`` has their names, so that ``truth[enhanced.obs_names]`` has the rows of an enhanced
        ``adata``. ``truth``: the original rows, with ``obs["spot"]`` and ``obs["subspot"]``. Both are MuData if the
        section is one.

    Raises
    ------
    TypeError, ValueError
        If a lattice column is missing, modalities have different spots, two observations share a lattice position,
        ``factor``, ``lattice`` or ``aggregate`` is invalid, or no block is complete.
    """
    if isinstance(adata, MuData):
        return _simulated_modalities(adata, aggregate, factor=factor, lattice=lattice, cells=cells)
    check_arguments(locals(), _RULES)
    positions = read.positions(read.read_anndata(adata))
    profiles = read.matrix(adata, None)
    check_finite(profiles)
    if cells:
        blocks, members = _cell_bins(positions, factor)
    else:
        kind = _lattice_kind(adata, positions) if lattice == "auto" else lattice
        blocks, members = _flowers(adata, factor) if kind == "hex" else _squares(adata, factor)
    low = merged(adata, profiles, positions, blocks, members, cast("Literal['sum', 'mean']", aggregate))
    if cells:
        names = np.asarray(adata.obs_names, dtype=str)
        low.obsm[keys.SUBSPOT_NAMES] = np.where(members >= 0, names[members], "")
    if keys.SPATIAL in adata.uns:
        growth = np.sqrt(members.shape[1])  # a block of K equal spots has K times their area
        enlarge = (lambda diameter: factor) if cells else (lambda diameter: growth * diameter)
        low.uns[keys.SPATIAL] = larger_spots(read.libraries(adata), enlarge)
    return LowResolution(low, merged_from(adata, low, members))


def _simulated_modalities(mdata: MuData, aggregate: Any, **arguments: Any) -> LowResolution:
    """Merge every modality in the same blocks."""
    how = aggregate if isinstance(aggregate, Mapping) else dict.fromkeys(mdata.mod, aggregate)
    read.read_mudata(mdata, dict.fromkeys(mdata.mod, ""), None, how)
    parts = {
        name: simulate_low_resolution(modality(mdata, name), aggregate=how.get(name, "sum"), **arguments)
        for name in mdata.mod
    }
    low, truth = (joined({name: part[i] for name, part in parts.items()}) for i in (0, 1))
    for name, part in parts.items():
        low.mod[name].uns[keys.SUBSPOTS] = part.adata.uns[keys.SUBSPOTS]  # its own aggregate
    return LowResolution(cast("AnnData", low), cast("AnnData", truth))  # a class of its own would be one to learn


@accepts_containers()
def simulate_spots(
    cells: AnnData | SpatialData,
    *,
    pitch: float,
    diameter: float,
    lattice: LatticeKind = "hex",
    n_subspots: int | Literal["auto"] = "auto",
    capture_shape: CaptureShape = "circle",
    table_key: str = "table",
    shapes_key: str | None = None,
) -> LowResolution:
    """Count single cells in spots with gaps between them, as Visium captures them; the whole tissue is the truth.

    Spots are laid out over the extent of the cells. A spot counts the cells whose centre it captures, and the truth of
    a subspot counts all cells in its part of the lattice cell, whether they were captured or not. Spots without a
    captured cell are excluded.

    Parameters
    ----------
    cells
        n_cells x n_features counts in ``X``, positions in ``obsm["spatial"]`` (MERFISH, Xenium, osmFISH, ...). A single
        section.
    pitch, diameter
        Centre-to-centre distance of the spots and diameter of what they capture, in the unit of the positions. Visium:
        100 and 55 um.
    lattice
        ``"hex"`` as in Visium, or ``"square"``.
    n_subspots, capture_shape
        See :func:`~soscope_scverse.pp.subspots`.
    table_key, shapes_key
        Elements of a SpatialData, see :func:`~soscope_scverse.tl.enhance`.

    Returns
    -------
    LowResolution
        ``adata``: n_spots x n_features sums (CSR), with the slots of :func:`~soscope_scverse.pp.subspots`,
        ``obs["array_row"]``, ``obs["array_col"]`` and ``uns["spatial"]``, which records `diameter`. ``truth``:
        (n_spots * n_subspots) x n_features sums of the cells in every subspot, zeros included, named as the rows of an
        enhanced ``adata``, with ``obs["spot"]``, ``obs["subspot"]``, ``obs["measured"]`` and ``obs["n_cells"]``.

    Raises
    ------
    TypeError, ValueError
        If positions or counts are invalid, a number is not positive, spots would overlap, or no spot captures a cell.

    Examples
    --------
    >>> low, truth = simulate_spots(cells, pitch=100, diameter=55)  # doctest: +SKIP
    >>> table = compare(low, truth, "section.tif")  # doctest: +SKIP
    """
    check_arguments(locals(), _SPOTS_RULES)
    if diameter > pitch:
        msg = f"Expected `diameter` to be at most the `pitch` of {pitch}, found {diameter}: spots would overlap."
        raise ValueError(msg)
    positions, counts = read.positions(read.read_anndata(cells)), csr_matrix(read.matrix(cells, None))
    check_finite(counts)
    spots = _laid_out(positions, pitch, lattice)
    write_partition(spots, partition_lattice(read.read_spots(spots), n_subspots, lattice, diameter, capture_shape))
    nearest = cKDTree(spots.obsm[keys.SPATIAL]).query(positions)[1]
    area = CaptureArea(diameter, capture_shape, np.array([1.0, 0.0]))
    captured = area.contains(positions - spots.obsm[keys.SPATIAL][nearest])
    kept = np.bincount(nearest[captured], minlength=spots.n_obs) > 0
    if not kept.any():
        msg = f"Expected spots that capture cells, found none of {spots.n_obs} with pitch={pitch}, diameter={diameter}."
        raise ValueError(msg)
    low = AnnData(_sums(nearest[captured], counts[captured], spots.n_obs)[kept], obs=spots.obs[kept], var=cells.var)
    for key, values in spots.obsm.items():
        low.obsm[key] = values[kept]
    low.uns[keys.SUBSPOTS] = spots.uns[keys.SUBSPOTS]
    scales = {"spot_diameter_fullres": float(diameter), "tissue_hires_scalef": 1.0}
    low.uns[keys.SPATIAL] = {"simulated": {"images": {}, "scalefactors": scales}}
    return LowResolution(low, _parts(low, positions, counts, cells.var))


def _laid_out(positions: np.ndarray, pitch: float, lattice: LatticeKind) -> AnnData:
    """Spots over the extent of the cells, without counts."""
    low, extent = positions.min(axis=0), np.ptp(positions, axis=0)
    height = pitch * (np.sqrt(0.75) if lattice == "hex" else 1)
    rows, cols = np.indices((max(1, int(extent[1] / height)), max(1, int(extent[0] / pitch)))).reshape(2, -1)
    steps = (2 * cols + rows % 2, rows) if lattice == "hex" else (cols, rows)
    x = pitch * (cols + 0.5 + (0.5 * (rows % 2) if lattice == "hex" else 0))
    names = [f"{row}x{col}" for row, col in zip(steps[1], steps[0], strict=True)]
    spots = AnnData(obs=pd.DataFrame({"array_row": steps[1], "array_col": steps[0]}, index=names))
    spots.obsm[keys.SPATIAL] = low + np.column_stack([x, height * (rows + 0.5)])
    return spots


def _sums(group: np.ndarray, counts: csr_matrix, n_groups: int) -> csr_matrix:
    """Sum the rows of every group, n_groups x n_features."""
    ones = np.ones(len(group), dtype=counts.dtype)
    return csr_matrix((ones, (group, np.arange(len(group)))), shape=(n_groups, len(group))) @ counts


def _parts(low: AnnData, positions: np.ndarray, counts: csr_matrix, var: pd.DataFrame) -> AnnData:
    """Sums of all cells in every subspot: the nearest of the fine lattice, if it is that of a spot."""
    subspots = low.obsm[keys.SUBSPOTS]
    n_spots, n_subspots = subspots.shape[:2]
    _, basis = unit_subspots(low.uns[keys.SUBSPOTS]["geometry"], low.uns[keys.SUBSPOTS]["basis"], n_subspots)
    nearest = cKDTree(subspots.reshape(-1, 2)).query(positions)[1]
    inside = in_lattice_cell(basis, positions - subspots.reshape(-1, 2)[nearest])
    spot = np.repeat(low.obs_names.to_numpy(), n_subspots)
    number = np.tile(np.arange(n_subspots), n_spots)
    obs = pd.DataFrame(
        {
            keys.SPOT: spot,
            keys.SUBSPOT: number,
            keys.MEASURED_SHARE: low.obsm[keys.MEASURED].ravel(),
            "n_cells": np.bincount(nearest[inside], minlength=len(spot)),
        },
        index=[f"{name}_{k}" for name, k in zip(spot, number, strict=True)],
    )
    truth = AnnData(_sums(nearest[inside], counts[inside], len(spot)), obs=obs, var=var.copy())
    truth.obsm[keys.SPATIAL] = subspots.reshape(-1, 2)
    return truth


def _squares(adata: AnnData, factor: float) -> Blocks:
    """Blocks of factor x factor spots of a square lattice."""
    if factor not in range(2, 7):
        msg = f"Expected `factor` to be an integer from 2 to 6 on a square lattice, found {factor}."
        raise ValueError(msg)
    columns = ("quad_u", "quad_v") if {"quad_u", "quad_v"} <= set(adata.obs) else ("array_row", "array_col")
    return square_blocks(_lattice_positions(adata, columns), int(factor))


def _flowers(adata: AnnData, factor: float) -> Blocks:
    """Blocks of a spot and its six neighbours of a hexagonal lattice."""
    if factor != 2:
        msg = (
            f"Expected `factor` to be left at 2 on a hexagonal lattice, whose block is the flower of {FLOWER} spots, "
            f"found {factor}. Pass `lattice='square'` if the lattice is square."
        )
        raise ValueError(msg)
    return flower_blocks(_lattice_positions(adata, ("array_row", "array_col")))


def _cell_bins(positions: np.ndarray, width: float) -> Blocks:
    """Square bins with at least two cells."""
    if not isinstance(width, Real) or not width > 0:
        msg = f"Expected `factor` to be the positive width of the bins of cells, found {width}."
        raise ValueError(msg)
    bins = ((positions - positions.min(axis=0)) // width).astype(int)[:, ::-1]  # rows run along y
    blocks, members = gather(bins, positions[:, ::-1])
    keep = (members >= 0).sum(axis=1) >= 2
    if not keep.any():
        msg = f"Found no bin of width {width} with at least two cells. Pass a larger `factor` (the width of the bins)."
        raise ValueError(msg)
    members = members[keep]
    return Blocks(blocks[keep], members[:, (members >= 0).any(axis=0)])


def _lattice_positions(adata: AnnData, columns: tuple[str, str]) -> np.ndarray:
    """Read n_obs x 2 integer lattice coordinates."""
    missing = [column for column in columns if column not in adata.obs]
    if missing:
        msg = (
            f"Expected lattice coordinates {columns} in `adata.obs`, found no {missing}. "
            "Store them there, or pass `cells=True` for observations without a lattice."
        )
        raise ValueError(msg)
    fine = read.numbers(f"`adata.obs` {columns}", adata.obs[list(columns)])
    if not np.isfinite(fine).all() or (fine != np.round(fine)).any():
        msg = f"Expected integer lattice coordinates {columns} in `adata.obs`, found fractions, NaN or infinite values."
        raise ValueError(msg)
    fine = fine.astype(int)
    n_distinct = len(np.unique(fine, axis=0))
    if n_distinct < len(fine):
        msg = (
            f"Expected every spot to have its own {columns}, found {n_distinct} positions for {len(fine)} spots. "
            "Simulate one section at a time."
        )
        raise ValueError(msg)
    return fine


def _lattice_kind(adata: AnnData, positions: np.ndarray) -> Literal["square", "hex"]:
    """Identify a hexagonal lattice by its parity and by equal distances of the six neighbours.

    A quincunx has the same parity, but its neighbours along a row are 1.4 times as distant as those across rows.
    """
    if {"quad_u", "quad_v"} <= set(adata.obs):
        return "square"
    fine = _lattice_positions(adata, ("array_row", "array_col"))
    if np.ptp(fine.sum(axis=1) % 2):
        return "square"
    along, across = (_median_step(fine, positions, step) for step in ((0, 2), (1, 1)))
    return "hex" if 0.85 < along / across < 1.15 else "square"


def _median_step(fine: np.ndarray, positions: np.ndarray, step: tuple[int, int]) -> float:
    """Median distance of pairs of spots that are one lattice step apart; NaN without such a pair."""
    index = pd.MultiIndex.from_arrays(fine.T)
    other = index.get_indexer(pd.MultiIndex.from_arrays((fine + step).T))
    found = other >= 0
    if not found.any():
        return np.nan
    return float(np.median(np.linalg.norm(positions[other[found]] - positions[found], axis=1)))


def merged(
    adata: AnnData,
    profiles: Matrix,
    positions: np.ndarray,
    blocks: np.ndarray,
    members: np.ndarray,
    aggregate: Literal["sum", "mean"],
) -> AnnData:
    """Sum or average the members of each block and store them as subspots."""
    valid = members >= 0
    spot = np.nonzero(valid)[0]
    exposure = valid / valid.sum(axis=1, keepdims=True)
    weight = np.ones(len(spot), dtype=profiles.dtype) if aggregate == "sum" else exposure[valid]
    merged = csr_matrix((weight, (spot, members[valid])), shape=(len(members), adata.n_obs)) @ csr_matrix(profiles)
    subspots = np.where(valid[:, :, None], positions[members], np.nan)
    first = blocks.min(axis=0)
    rows = blocks - (first - first % 2)  # an even shift preserves the parity, which identifies a hexagonal lattice
    obs = pd.DataFrame({"array_row": rows[:, 0], "array_col": rows[:, 1]}, index=[f"{row}x{col}" for row, col in rows])
    low = AnnData(merged if aggregate == "sum" else merged.toarray(), obs=obs, var=adata.var.copy())
    low.obsm[keys.SPATIAL] = np.nanmean(subspots, axis=1)
    low.obsm[keys.SUBSPOTS] = subspots
    low.obsm[keys.EXPOSURE] = exposure
    low.uns[keys.SUBSPOTS] = {"geometry": "positions", "n_subspots": members.shape[1], "aggregate": aggregate}
    n_members = valid.sum(axis=1)
    if aggregate == "sum" and np.ptp(n_members):
        low.obs[keys.RELATIVE_CELL_NUMBER] = n_members / n_members.mean()
    return low


def merged_from(adata: AnnData, low: AnnData, members: np.ndarray) -> AnnData:
    """Return the original rows in the order of the subspots, with their spots."""
    spot, subspot = np.nonzero(members >= 0)
    truth = adata[members[spot, subspot]].copy()
    truth.obs[keys.SPOT] = low.obs_names[spot].to_numpy()
    truth.obs[keys.SUBSPOT] = subspot
    return truth


def larger_spots(spatial: Mapping[str, Any], enlarge: Callable[[float], float]) -> dict[str, Any]:
    """Return a copy of ``uns["spatial"]`` with the diameter of the merged spots."""
    larger = deepcopy(dict(spatial))
    for section in larger.values():
        scales = section.get("scalefactors", {})
        if "spot_diameter_fullres" in scales:
            diameter = read.numbers("`spot_diameter_fullres`", scales["spot_diameter_fullres"])
            scales["spot_diameter_fullres"] = float(enlarge(float(diameter)))
    return larger

"""The user's spots merged into coarser ones, whose subspots are the spots themselves."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from anndata import AnnData

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse._arrays import Matrix
from soscope_scverse._read import Spots
from soscope_scverse.bench import baselines
from soscope_scverse.bench._blocks import Blocks, flower_blocks, square_blocks
from soscope_scverse.bench._simulate import larger_spots, merged
from soscope_scverse.pp._lattice import Lattice
from soscope_scverse.pp._several import section_lattices

_FEWEST_MEMBERS = 2
"""Members of a merged spot: of a single one there is nothing to recover."""
_FEWEST_SPOTS = 4
"""Merged spots of a section: linear interpolation needs a triangle, and a test more than that."""


class Merged(NamedTuple):
    """Merged spots and what they consist of."""

    adata: AnnData
    """The merged spots with their subspots."""
    truth: Matrix
    """n_members x n_features profiles of the spots that were merged, in the order of the valid subspots."""
    block: np.ndarray
    """n_members row numbers of the merged spots."""


def merge_spots(
    spots: Spots, x: Matrix, factor: int, aggregate: Literal["sum", "mean"], columns: tuple[str | None, ...]
) -> Merged:
    """Merge neighbouring spots of the lattice of every section.

    Blocks at the border of the tissue, of which spots are missing, are merged spots of fewer members. If the spots have
    image features already, those of a member are the mean over its subspots.

    Parameters
    ----------
    spots
        The spots, with the features to score.
    x
        n_spots x n_features profiles.
    factor
        Blocks of factor x factor spots on a square lattice; of a spot and its neighbours on a hexagonal one.
    aggregate
        What a merged spot is of its members.
    columns
        Of ``obs``, which a merged spot has from its first member; None are ignored.

    Raises
    ------
    ValueError
        If spots do not lie on a lattice, or a section has too few.
    """
    lattices = section_lattices(spots, "auto")
    blocks = _side_by_side([_blocks(spots, name, lattice, factor) for name, lattice in lattices.items()])
    members, adata = blocks.members, spots.adata
    low = merged(adata, x, spots.positions, blocks.coarse, members, aggregate)
    for column in filter(None, columns):
        low.obs[column] = adata.obs[column].iloc[members.max(axis=1)].to_numpy()
    if keys.SPATIAL in adata.uns:
        growth = np.sqrt(members.shape[1])  # a block of K equal spots has K times their area
        low.uns[keys.SPATIAL] = larger_spots(spots.libraries, lambda diameter: growth * diameter)
    if keys.FEATURES in adata.obsm:
        low.obsm[keys.FEATURES], low.uns[keys.FEATURES] = (
            _mean_features(adata, members),
            adata.uns.get(keys.FEATURES, {}),
        )
    valid = members >= 0
    return Merged(low, x[members[valid]], np.nonzero(valid)[0])


def _mean_features(adata: AnnData, members: np.ndarray) -> np.ndarray:
    """Image features of spots, means over their subspots, as those of the subspots of merged spots."""
    features = read.numbers(f"`adata.obsm['{keys.FEATURES}']`", adata.obsm[keys.FEATURES])
    exposure = read.exposures(adata)
    if features.shape[:2] != exposure.shape:
        msg = (
            f"Expected `adata.obsm['{keys.FEATURES}']` of n_spots x n_subspots = {exposure.shape}, found shape "
            f"{features.shape}. Run `im.features` again, or delete it and pass the image."
        )
        raise ValueError(msg)
    of_spot = np.einsum("nk,nkl->nl", exposure, features)
    return np.where((members >= 0)[..., None], of_spot[members], 0)


def linear(low: AnnData, library_key: str | None) -> np.ndarray:
    """Linear interpolation between the merged spots of every section, n_members x n_features."""
    of_spot = read.sections(low, library_key)
    of_member = np.repeat(of_spot, (read.exposures(low) > 0).sum(axis=1))
    found = np.empty((len(of_member), low.n_vars))
    for name in np.unique(of_spot):
        found[of_member == name] = baselines.linear(low[of_spot == name].copy())
    return found


def _blocks(spots: Spots, section: str, lattice: Lattice, factor: int) -> Blocks:
    """Blocks of one section; members are row numbers of all spots."""
    rows = spots.rows[section]
    fine = _lattice_index(*spots.lattice_of(rows), lattice)
    if len(np.unique(fine, axis=0)) < len(fine):
        msg = (
            f"Expected every spot at its own point of the lattice {spots.where(section)}, found several at one. Add "
            "array indices (`array_row` and `array_col` in `adata.obs`)."
        )
        raise ValueError(msg)
    try:
        found = (
            flower_blocks(fine, _FEWEST_MEMBERS)
            if lattice.kind == "hex"
            else square_blocks(fine, factor, _FEWEST_MEMBERS)
        )
    except ValueError:
        found = Blocks(np.empty((0, 2), int), np.empty((0, 1), int))
    if len(found.coarse) < _FEWEST_SPOTS:
        msg = (
            f"Expected at least {_FEWEST_SPOTS} merged spots {spots.where(section)}, found {len(found.coarse)} of "
            f"{len(rows)} spots. Too few to validate: choose a larger section"
            f"{' or a smaller `factor`' if lattice.kind == 'square' and factor > 2 else ''}."
        )
        raise ValueError(msg)
    return found._replace(members=np.where(found.members >= 0, rows[found.members], -1))


def _lattice_index(xy: np.ndarray, array: np.ndarray | None, lattice: Lattice) -> np.ndarray:
    """Integer (row, column) of spots on their lattice, n_spots x 2; doubled columns on a hexagonal one."""
    if array is not None and lattice.array_steps is not None:
        index = (array - array[0]) @ np.linalg.inv(lattice.array_steps)
    else:
        index = (xy - xy[0]) @ np.linalg.inv(lattice.basis)
    index = np.rint(index).astype(int)
    u, v = (index - index.min(axis=0)).T  # which of the blocks are chosen does not depend on the order of the spots
    return np.column_stack([v, 2 * u + v if lattice.kind == "hex" else u])


def _side_by_side(blocks: list[Blocks]) -> Blocks:
    """Blocks of several sections, whose rows in the coarse lattice follow each other."""
    width = max(of.members.shape[1] for of in blocks)
    index, members, start = [], [], 0
    for of in blocks:
        shifted = of.coarse - [of.coarse[:, 0].min() // 2 * 2 - start, 0]  # even, which keeps hexagonal lattices
        start = (shifted[:, 0].max() // 2 + 1) * 2
        index.append(shifted)
        members.append(np.pad(of.members, ((0, 0), (0, width - of.members.shape[1])), constant_values=-1))
    return Blocks(np.concatenate(index), np.concatenate(members))

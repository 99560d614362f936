"""Values at positions or on pixels, as values of subspots."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix
from scipy.spatial import KDTree

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse._validators import Number

LOG_BASE = Number(1, above=True).or_(None)
"""Base of the logarithm of 1 + x, None where there is none."""
_FARTHEST = 1.0
"""Distance in subspots from which on a subspot has no value near it."""


class Subspots:
    """Rows of the subspots of some spots, and which positions are in which of them.

    Parameters
    ----------
    adata
        Spots with ``obsm["subspots"]``.
    """

    def __init__(self, adata: AnnData) -> None:
        self.adata = read.read_anndata(adata)
        positions, there = read.subspots(self.adata)
        exposure = read.exposures(self.adata)
        there &= read.areas(self.adata, exposure) > 0
        self.spot, self.number = np.nonzero(there)
        self.positions = positions[there]
        self.tree = KDTree(self.positions)
        spacing = self.tree.query(self.positions, min(2, len(self.positions)))[0]
        self.width = float(np.median(spacing[:, -1])) if len(self.positions) > 1 else 0.0

    def weights(self, xy: np.ndarray, what: str) -> csr_matrix:
        """Return n_subspots x n_positions weights that average the positions in every subspot.

        A position is in a subspot up to half the distance between subspots: in circles, so that values on the border of
        the section are as far to all sides as those within it. Subspots without a position take the nearest.

        Raises
        ------
        ValueError
            If subspots are farther from all positions than from each other.
        """
        distance, subspot = self.tree.query(xy)
        inside = np.flatnonzero(distance <= self.width / 2 * (1 + 1e-6))
        counts = np.bincount(subspot[inside], minlength=len(self.positions))
        empty = np.flatnonzero(counts == 0)
        rows, cols = subspot[inside], inside
        if len(empty):
            away, nearest = KDTree(xy).query(self.positions[empty])
            self._check_near(away, xy, what)
            rows, cols = np.concatenate([rows, empty]), np.concatenate([cols, nearest])
        shape = (len(self.positions), len(xy))
        return csr_matrix((1 / np.maximum(counts, 1)[rows], (rows, cols)), shape=shape)

    def _check_near(self, away: np.ndarray, xy: np.ndarray, what: str) -> None:
        far = away > _FARTHEST * self.width * (1 + 1e-6)
        if far.any():
            extents = [
                f"x {p[:, 0].min():.4g} to {p[:, 0].max():.4g}, y {p[:, 1].min():.4g} to {p[:, 1].max():.4g}"
                for p in (xy, self.positions)
            ]
            msg = (
                f"Expected values of {what} at all {len(self.positions)} subspots, found none near {far.sum()}: "
                f"values have {extents[0]}, subspots {extents[1]}. Check scales and the order of x and y, or keep the "
                "spots that both have."
            )
            raise ValueError(msg)

    def result(self, values: np.ndarray, genes: Sequence[str], name: str) -> AnnData:
        """Return n_subspots x n_genes values as a result, negative ones as 0."""
        spots = self.adata.obs_names[self.spot].to_numpy()
        names = [f"{spot}_{number}" for spot, number in zip(spots, self.number, strict=True)]
        obs = pd.DataFrame({keys.SPOT: spots, keys.SUBSPOT: self.number}, index=names)
        x = np.clip(values, 0, None).astype(np.float32)
        result = AnnData(x, obs=obs, var=pd.DataFrame(index=pd.Index(genes).astype(str)))
        result.obsm[keys.SPATIAL] = self.positions
        result.uns["method"] = name
        return read.read_anndata(result)


def without_log(values: np.ndarray, base: float | None) -> np.ndarray:
    """Return x of log(1 + x)."""
    return values if base is None else np.expm1(values * math.log(base))


def check_finite_values(values: np.ndarray, what: str) -> None:
    """Raise a ValueError if values hold NaN or infinite ones."""
    bad = int((~np.isfinite(values)).sum())
    if bad:
        msg = f"Expected finite values of {what}, found {bad} NaN or infinite ones. Drop these observations."
        raise ValueError(msg)

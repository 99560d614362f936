"""Lattices of spots made by hand, and dense computations on them."""

import anndata as ad
import numpy as np
import pandas as pd

from soscope_scverse import pp

PITCH = 10.0
DIVISIONS = [*(("square", k) for k in (4, 9, 16, 25, 36)), *(("hex", k) for k in (7, 19, 37))]
CONVENTIONS = {
    "plain": lambda array: array,
    "swapped": lambda array: array[:, ::-1],
    "offset": lambda array: array - np.array([41, -7]),
    "mirrored": lambda array: array * [-1, 1],
    "turned": lambda array: array[:, ::-1] * [1, -1] + [3, 8],
}


def square(n_rows=9, n_cols=10):
    """Positions and (array_col, array_row)."""
    row, col = np.indices((n_rows, n_cols)).reshape(2, -1)
    return PITCH * np.column_stack([col, row]), np.column_stack([col, row])


def hexagonal(n_rows=10, n_cols=9):
    """Visium: doubled columns, the sum of row and column is even."""
    row, col = np.indices((n_rows, n_cols)).reshape(2, -1)
    col = 2 * col + row % 2
    return PITCH * np.column_stack([col / 2, row * np.sqrt(0.75)]), np.column_stack([col, row])


def quincunx(n_rows=12, n_cols=8):
    """A square lattice that stands on a corner, numbered like Visium's."""
    row, col = np.indices((n_rows, n_cols)).reshape(2, -1)
    col = 2 * col + row % 2
    return PITCH * np.sqrt(0.5) * np.column_stack([col, row]), np.column_stack([col, row])


LATTICES = {"square": square, "hex": hexagonal, "quincunx": quincunx}
KIND = {"square": "square", "hex": "hex", "quincunx": "square"}


def rotation(degrees):
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, sin], [-sin, cos]])


def spots(xy, array=None, x=None, **obs):
    """Spots at given positions; one constant gene unless profiles are given."""
    names = [f"s{i}" for i in range(len(xy))]
    adata = ad.AnnData(np.ones((len(xy), 1)) if x is None else x, obs=pd.DataFrame(obs, index=names))
    adata.obsm["spatial"] = np.asarray(xy, dtype=float)
    if array is not None:
        adata.obs["array_col"], adata.obs["array_row"] = np.asarray(array).T
    return adata


def central(points, share=0.5):
    """Rows of the points in the middle of the patch."""
    distance = np.linalg.norm(points - (points.min(axis=0) + points.max(axis=0)) / 2, axis=1)
    return np.flatnonzero(distance < share * np.ptp(points, axis=0).min() / 2)


def divided(xy, array=None, n_subspots="auto", **kwargs):
    return pp.subspots(spots(xy, array), n_subspots, copy=True, **kwargs)


def random_xy():
    return np.random.default_rng(0).random((200, 2))


def profiles(n_spots, n_genes=6, seed=0):
    return np.random.default_rng(seed).poisson(5, (n_spots, n_genes)).astype(float)


def near(xy, reach):
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    return (distance > 0) & (distance < reach)


def dense_graph(adjacent, x, strength):
    """The formula, pair by pair; profiles as they are."""
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    edges = distance[np.triu(adjacent)]
    delta = (np.median(edges) - edges.min()) / np.log(strength)
    return np.where(adjacent, np.exp(-(distance - edges.min()) / delta), 0)

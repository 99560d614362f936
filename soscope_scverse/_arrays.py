"""Matrices that are dense or sparse, in memory or on disk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from anndata import AnnData
from scipy.sparse import csr_matrix, issparse, vstack

Matrix: TypeAlias = np.ndarray | csr_matrix
"""n_rows x n_features, dense or sparse."""


_CHUNK_ROWS = 10_000


def in_memory(x: Any) -> Matrix:
    """Return an array or CSR matrix; a matrix on disk is read."""
    for read in ("to_memory", "compute"):  # of anndata and of dask, whose blocks may be sparse
        if hasattr(x, read):
            x = getattr(x, read)()
    return csr_matrix(x) if issparse(x) else np.asarray(x)


def layers_of(adata: AnnData) -> dict[str, Any]:
    """Return layers by name, without ``X``, which anndata 0.13 and newer list under None."""
    return {name: values for name, values in adata.layers.items() if name is not None}


def row_chunks(x: Any) -> Iterator[Matrix]:
    """Yield chunks of rows of a matrix that may be on disk; a matrix in memory is a single chunk."""
    size = x.shape[0] if issparse(x) or isinstance(x, np.ndarray) else _CHUNK_ROWS
    for start in range(0, x.shape[0], size):
        yield in_memory(x[start : start + size])


def columns(x: Any, index: np.ndarray) -> Matrix:
    """Return columns of a matrix that may be on disk, in memory."""
    chunks = [chunk[:, index] for chunk in row_chunks(x)]
    return vstack(chunks, format="csr") if issparse(chunks[0]) else np.concatenate(chunks)


def dense(x: Any) -> np.ndarray:
    """Return a dense array."""
    return x.toarray() if issparse(x) else np.asarray(x)


def stored(x: Any) -> np.ndarray:
    """Return the values of a matrix; for a sparse one those that are stored."""
    return np.asarray(x.data if issparse(x) else x)


def undirected(graph: Any) -> csr_matrix:
    """Return a square matrix without zeros that are stored and without diagonal, symmetric by the larger of two values.

    The matrix may be dense, or sparse of any format. Columns are sorted, since the order of edges decides how sums are
    rounded. A matrix in this form is returned as it is.
    """
    if getattr(graph, "dtype", None) == np.float16:  # scipy has no sparse matrices of it
        graph = graph.astype(np.float32)
    graph = graph if isinstance(graph, csr_matrix) else csr_matrix(graph)
    if not graph.has_canonical_format:
        graph = graph.copy()
        graph.sum_duplicates()
    if graph.data.all() and not graph.diagonal().any() and not (graph != graph.T).nnz:
        return graph
    found = csr_matrix(graph.maximum(graph.T))
    found.setdiag(0)
    found.eliminate_zeros()
    return found


def spread(n: int, most: int) -> np.ndarray:
    """Return up to `most` of the integers below `n`, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int))


def is_counts(x: Matrix) -> bool:
    """Return whether all values are finite non-negative integers."""
    values = stored(x)
    return bool(np.isfinite(values).all() and (values >= 0).all() and (values == np.round(values)).all())

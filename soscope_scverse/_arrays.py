"""Dense or sparse, in memory or on disk: the little that the package needs to know."""

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
    """As an array or CSR matrix; what an AnnData holds on disk is read."""
    if hasattr(x, "to_memory"):
        x = x.to_memory()
    return csr_matrix(x) if issparse(x) else np.asarray(x)


def layers_of(adata: AnnData) -> dict[str, Any]:
    """Layers by name; those of anndata 0.13 and newer hold ``X`` as well, named None."""
    return {name: values for name, values in adata.layers.items() if name is not None}


def row_chunks(x: Any) -> Iterator[Matrix]:
    """Pieces of a matrix that may be on disk; one that is in memory is a single piece."""
    size = x.shape[0] if issparse(x) or isinstance(x, np.ndarray) else _CHUNK_ROWS
    for start in range(0, x.shape[0], size):
        yield in_memory(x[start : start + size])


def columns(x: Any, index: np.ndarray) -> Matrix:
    """Columns of a matrix that may be on disk, in memory."""
    chunks = [chunk[:, index] for chunk in row_chunks(x)]
    return vstack(chunks, format="csr") if issparse(chunks[0]) else np.concatenate(chunks)


def dense(x: Any) -> np.ndarray:
    """As a dense array."""
    return x.toarray() if issparse(x) else np.asarray(x)


def stored(x: Any) -> np.ndarray:
    """The values of a matrix; of a sparse one those that are stored."""
    return np.asarray(x.data if issparse(x) else x)


def spread(n: int, most: int) -> np.ndarray:
    """Up to `most` of the numbers below `n`, evenly spread."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int))

"""Dense or sparse: the little that the package needs to know."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from scipy.sparse import csr_matrix, issparse

Matrix: TypeAlias = np.ndarray | csr_matrix
"""n_rows x n_features, dense or sparse."""


def dense(x: Any) -> np.ndarray:
    """As a dense array."""
    return x.toarray() if issparse(x) else np.asarray(x)


def stored(x: Any) -> np.ndarray:
    """The values of a matrix; of a sparse one those that are stored."""
    return np.asarray(x.data if issparse(x) else x)

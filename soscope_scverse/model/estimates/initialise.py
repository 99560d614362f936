"""Starting values of a training: scales of the features and their noise."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy.sparse import csr_matrix

from soscope_scverse._arrays import Matrix, dense, spread
from soscope_scverse.model._section import Section
from soscope_scverse.model.estimates.library_size import library_size_noise
from soscope_scverse.module.vae import SoScopeVAE

_MOST_SAMPLED = 20_000  # spots for starting values
_MOST_COMPARED = 5_000  # spots that are compared with their neighbours

Sample = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]


def set_start(module: SoScopeVAE, section: Section, noise: float | Literal["auto"]) -> None:
    """Set the scales of the features and the library-size noise before training.

    Parameters
    ----------
    module
        Of an untrained model.
    section
        The spots to train on.
    noise
        Library-size noise; ``"auto"`` estimates it.
    """
    module.start_from(*starting_sample(section, is_counts=module.likelihood.is_counts))
    for i, (part, features) in enumerate(zip(module.likelihood.parts, module.features, strict=True)):
        if part.is_counts:
            module.library_size_noise[i] = (
                library_size_noise(section.x[:, features], section.spatial, section.sections, section.size)
                if noise == "auto"
                else noise
            )


def starting_sample(section: Section, *, is_counts: bool) -> Sample:
    """Profiles, sizes and batches of enough spots to estimate means and variances of the features, and their noise."""
    rows = spread(len(section.spatial), _MOST_SAMPLED)
    batches = None if section.batches is None else torch.as_tensor(section.batches[rows])
    # counts start with a noise of their own
    noise = None if is_counts else torch.as_tensor(local_noise(section.x, section.graph), dtype=torch.float32)
    return *dense_profiles(section, rows), batches, noise


def dense_profiles(section: Section, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Profiles, n_rows x n_features, and relative sizes, n_rows x 1, of some spots."""
    return torch.as_tensor(dense(section.x[rows]), dtype=torch.float32), torch.as_tensor(section.size[rows])


def local_noise(x: Matrix, graph: csr_matrix) -> np.ndarray:
    """Variance of every feature that a spot does not share with its neighbours.

    It is the variance of the difference to the mean of the neighbours, corrected for the noise of this mean; linear
    variation around a spot does not contribute (Gasser, Sroka & Jennen-Steinmetz, Residual variance and residual
    pattern in nonlinear regression, Biometrika 73, 625, 1986).

    Parameters
    ----------
    x
        n_spots x n_features.
    graph
        n_spots x n_spots neighbour graph.

    Returns
    -------
    n_features variances; the total variances if no spot has a neighbour.
    """
    n_neighbors = np.diff(graph.indptr)
    rows = np.flatnonzero(n_neighbors)
    rows = rows[spread(len(rows), _MOST_COMPARED)]
    if len(rows) == 0:
        return dense(x).var(axis=0)
    n = n_neighbors[rows, None]
    joined = csr_matrix((np.ones(len(graph.indices)), graph.indices, graph.indptr), graph.shape)[rows]
    residual = dense(x[rows]) - dense(joined @ x) / n
    return (residual**2 * n / (n + 1)).mean(axis=0)

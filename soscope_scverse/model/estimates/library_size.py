"""Library-size noise: how much of the library size of a spot is technical."""

from __future__ import annotations

import numpy as np

from soscope_scverse._arrays import Matrix
from soscope_scverse.model._section import within_sections
from soscope_scverse.model.estimates.gp import MIN_SPOTS, groups_of, maximise_likelihood, standardised

_MIN_NOISE = 0.01  # a tenth more or less: no two spots are captured equally well
_START = np.array([-0.7, 1.0, -0.7])  # log parameters of `gp.Fit`


def library_size_noise(
    x: Matrix, spatial: np.ndarray, sections: np.ndarray | None = None, size: np.ndarray | float = 1.0
) -> float:
    """Variance of the log library size that belongs to the single spot instead of being smooth in space.

    Library sizes are those of a spot of mean size. Spots without counts are excluded.

    Parameters
    ----------
    x
        n_spots x n_features counts.
    spatial
        n_spots x 2 positions.
    sections
        n_spots labels; None is one section.
    size
        Relative sizes of the spots.

    Returns
    -------
    The variance, at least 0.01; 0.01 with fewer than eight spots.
    """
    total = np.asarray(x.sum(axis=1), dtype=float).ravel()
    counted = np.flatnonzero(total > 0)
    log_size = np.log((total / np.ravel(size))[counted])
    if sections is not None:
        log_size = within_sections(log_size, sections[counted])
    if len(log_size) < MIN_SPOTS or log_size.std() < 1e-6:
        return _MIN_NOISE
    groups = groups_of(spatial[counted], None if sections is None else sections[counted])
    fit = maximise_likelihood(groups, standardised(log_size), _START)
    noise = np.exp(fit.log_parameters[2]) * log_size.var()
    return max(_MIN_NOISE, float(noise - (1 / total[counted]).mean()))  # less the noise of counting

"""A section as arrays: the inputs of the model, spot by spot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from soscope_scverse._arrays import Matrix
from soscope_scverse.pp._graphs import nearest_distance


class Section(NamedTuple):
    """Spots of one or more sections, row by row."""

    x: Matrix
    """n_spots x n_features profiles."""
    graph: csr_matrix
    """n_spots x n_spots weights, symmetric."""
    spatial: np.ndarray
    """n_spots x 2 positions."""
    subspots: np.ndarray
    """n_spots x n_subspots x 2 positions, NaN = padding."""
    exposure: np.ndarray
    """n_spots x n_subspots shares of what the spot captured, times its relative size; 0 = padding or in a gap."""
    features: np.ndarray | None
    """n_spots x n_subspots x n_image_components, projected."""
    sections: np.ndarray
    """n_spots labels."""
    batches: np.ndarray | None = None
    """n_spots x n_batches float32 shares: 1 for the batch of the spot, equal shares for an unknown batch."""
    gapped_area: np.ndarray | None = None
    """n_spots x n_subspots areas in the unit of the exposures, 0 = padding; None where spots tile the tissue."""
    kriged: np.ndarray | None = None
    """n_spots x n_subspots x n_components, the kriged field of the subspots; None before a training."""

    def some(self, rows: np.ndarray) -> Section:
        """Some of the spots, in this order."""
        own = {name: values[rows] for name, values in self._asdict().items() if values is not None}
        return self._replace(**(own | {"graph": self.graph[rows][:, rows]}))

    @property
    def size(self) -> np.ndarray:
        """n_spots x 1 relative sizes of the spots, 1 for the mean spot."""
        return self.exposure.sum(axis=1, keepdims=True)

    @property
    def pitch(self) -> np.ndarray:
        """n_spots centre-to-centre distances, each that of the spot's own section."""
        pitch = np.empty(len(self.spatial))
        for name in np.unique(self.sections):
            rows = self.sections == name
            pitch[rows] = nearest_distance(self.spatial[rows])
        return pitch

    @property
    def has_gaps(self) -> bool:
        """Whether spots captured a part of their subspots only."""
        return self.gapped_area is not None

    @property
    def area(self) -> np.ndarray:
        """Areas of the subspots in the unit of the exposures, n_spots x n_subspots, 0 = padding."""
        return self.exposure if self.gapped_area is None else self.gapped_area

    @property
    def is_subspot(self) -> np.ndarray:
        """Which subspots are no padding, n_spots x n_subspots."""
        return self.area > 0


def batch_shares(labels: np.ndarray, batches: Sequence[str]) -> np.ndarray:
    """Encode the batch of every spot, with equal shares for a spot of none of the batches.

    Parameters
    ----------
    labels
        n_spots labels.
    batches
        Labels of the batches that the model was trained on.

    Returns
    -------
    n_spots x n_batches float32; rows sum to 1.
    """
    shares = (labels[:, None] == np.asarray(batches)).astype(np.float32)
    shares[~shares.any(axis=1)] = 1 / len(batches)
    return shares


def thin_counts(x: Matrix, fraction: float, seed: int) -> tuple[csr_matrix, csr_matrix]:
    """Split counts in two: each molecule goes to the first part with probability `fraction`, else to the second."""
    counts = csr_matrix(x, dtype=np.float32)
    kept, rest = counts.copy(), counts.copy()
    kept.data = np.random.default_rng(seed).binomial(counts.data.astype(np.int64), fraction).astype(np.float32)
    rest.data -= kept.data
    return kept, rest


def within_sections(values: np.ndarray, sections: np.ndarray) -> np.ndarray:
    """Subtract the mean of its section from every spot; values of a single section are returned unchanged.

    Differences between sections, in stain or in sequencing depth, say nothing about the variation inside a section.

    Parameters
    ----------
    values
        n_spots or n_spots x n_features.
    sections
        n_spots labels.
    """
    names, number = np.unique(sections, return_inverse=True)
    if len(names) < 2:
        return values
    return values - np.stack([values[number == i].mean(axis=0) for i in range(len(names))])[number]

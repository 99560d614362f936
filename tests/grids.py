"""Square sections divided by four, and their tiles."""

import numpy as np
from scipy.sparse import csr_matrix

from soscope_scverse.model._section import Section
from soscope_scverse.model._tiles import Tiles


def grid(n=6, pitch=10.0):
    return pitch * np.stack(np.meshgrid(np.arange(n), np.arange(n)), axis=-1).reshape(-1, 2)


def divided(spatial, k=4, pitch=10.0):
    offset = (np.stack(np.meshgrid([-0.25, 0.25], [-0.25, 0.25]), axis=-1).reshape(-1, 2) * pitch)[:k]
    return spatial[:, None] + offset


def one_section(spatial):
    return np.full(len(spatial), "a")


def section_tiles():
    """A section of 14 x 14 spots, four subspots each, some of them missing."""
    rng = np.random.default_rng(0)
    spatial = grid(14)
    subspots = divided(spatial)
    subspots[::5, 2:] = np.nan
    valid = np.isfinite(subspots[..., 0])
    distance = np.linalg.norm(spatial[:, None] - spatial, axis=-1)
    section = Section(
        x=rng.poisson(20, (196, 5)).astype(float),
        graph=csr_matrix(np.where(np.isclose(distance, 10), 0.5, 0)),
        spatial=spatial,
        subspots=subspots,
        exposure=valid / valid.sum(axis=1, keepdims=True),
        features=rng.normal(size=(196, 4, 3)),
        sections=one_section(spatial),
    )
    return Tiles(section, interpolation="gaussian", bandwidth=0.5, similarity_strength=2.0)

"""Kriging of the principal components of a section: spots as averages, covariances, the field at any position."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from soscope_scverse.model._section import Section
from soscope_scverse.model._tiles import contiguous_groups
from soscope_scverse.model.estimates.initialise import dense_profiles
from soscope_scverse.module.kriged_field import KrigedField
from soscope_scverse.module.vae import SoScopeVAE

_CHUNK_SPOTS = 4096
_EXACT_SPOTS = 600  # up to which a section is kriged from all its spots, else group by group
_GROUP_SPOTS = 150
_MARGIN = 3.0  # centre-to-centre distances around a group from which its field is kriged


class Averages(NamedTuple):
    """What spots are averages of."""

    xy: np.ndarray
    """n_spots x 2 centres of what was captured, in centre-to-centre distances of the spots of their section."""
    extent: np.ndarray
    """n_spots mean squared distances of what was captured from its centre."""
    features: np.ndarray
    """n_spots x n_image_features means over what was captured."""

    def some(self, rows: np.ndarray) -> Averages:
        """Some of the spots."""
        return Averages(*(values[rows] for values in self))


def averages(section: Section) -> Averages:
    """Centres, extents and mean image features of the spots."""
    share = section.exposure / np.maximum(section.size, 1e-12)
    xy = np.nan_to_num(section.subspots) / section.pitch[:, None, None]
    centre = np.einsum("nk,nkd->nd", share, xy)
    extent = np.einsum("nk,nkd->n", share, (xy - centre[:, None]) ** 2)
    features = np.zeros((len(centre), 0))
    if section.features is not None:
        features = np.einsum("nk,nkl->nl", share, section.features).astype(float)
    return Averages(centre, extent, features)


def transformed_profiles(module: SoScopeVAE, section: Section, rows: np.ndarray) -> np.ndarray:
    """Profiles of some spots on the scale on which they are kriged, n_rows x n_features."""
    likelihood = module.likelihood
    x = likelihood.at_mean_size(*dense_profiles(section, rows))
    return likelihood.transform(x, module.kriged.unit.cpu()).numpy().astype(float)


def components(module: SoScopeVAE, section: Section) -> np.ndarray:
    """Principal components of the spots, n_spots x n_components."""
    field = module.kriged
    mean, scale, patterns = (part.cpu().numpy() for part in (field.mean, field.scale, field.patterns))
    n_spots = len(section.spatial)
    chunks = [np.arange(first, min(first + _CHUNK_SPOTS, n_spots)) for first in range(0, n_spots, _CHUNK_SPOTS)]
    return np.concatenate([(transformed_profiles(module, section, c) - mean) / scale @ patterns.T for c in chunks])


def distances(a: np.ndarray, b: np.ndarray, extent_a: np.ndarray | float, extent_b: np.ndarray) -> np.ndarray:
    """Root mean squared distances between what spots, or points of extent 0, consist of.

    With these in place of distances a covariance exp(-d / length) is positive definite, and close to the mean over all
    pairs of positions.
    """
    return np.sqrt(cdist(a, b, "sqeuclidean") + np.reshape(extent_a, (-1, 1)) + extent_b)


class Krige:
    """The field of one section, kriged from its spots.

    Parameters
    ----------
    field
        Components and covariance.
    spots
        Those of the section.
    values
        n_spots x n_components.
    """

    def __init__(self, field: KrigedField, spots: Averages, values: np.ndarray) -> None:
        self.length, self.noise, self.effect = (
            part.cpu().numpy().astype(float) for part in (field.length, field.noise, field.image_effect)
        )
        self.spots = spots
        self.image_mean = spots.features.mean(axis=0)
        self.level = values.mean(axis=0)
        self.residual = values - self.level - (spots.features - self.image_mean) @ self.effect

    def at(self, xy: np.ndarray, features: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Expected components at positions, kriged from some of the spots.

        Parameters
        ----------
        xy
            n_positions x 2, in centre-to-centre distances.
        features
            n_positions x n_image_features.
        rows
            The spots.

        Returns
        -------
        n_positions x n_components.
        """
        spots, residual = self.spots.some(rows), self.residual[rows]
        among = distances(spots.xy, spots.xy, spots.extent, spots.extent)
        across = distances(xy, spots.xy, 0.0, spots.extent)
        kriged = self.level + (features - self.image_mean) @ self.effect
        for i, (length, noise) in enumerate(zip(self.length, self.noise, strict=True)):
            covariance = np.exp(-among / length)
            covariance[np.diag_indices_from(covariance)] += noise
            kriged[:, i] += np.exp(-across / length) @ cho_solve(cho_factor(covariance), residual[:, i])
        return kriged

    def everywhere(self, xy: np.ndarray, features: np.ndarray, near: np.ndarray) -> np.ndarray:
        """Expected components at any number of positions; `near` is the row of the nearest spot of each."""
        own = self.spots.xy
        if len(own) <= _EXACT_SPOTS:
            return self.at(xy, features, np.arange(len(own)))
        tree, kriged = cKDTree(own), np.empty((len(xy), len(self.length)))
        for group in contiguous_groups(own, np.zeros(len(own)), _GROUP_SPOTS):
            around = np.unique(np.concatenate(tree.query_ball_point(own[group], _MARGIN))).astype(int)
            here = np.flatnonzero(np.isin(near, group))
            kriged[here] = self.at(xy[here], features[here], around)
        return kriged


def kriged_subspots(module: SoScopeVAE, section: Section) -> np.ndarray:
    """Expected components of all subspots, n_spots x n_subspots x n_components float32; 0 for padding."""
    pitch, valid = section.pitch, section.is_subspot
    kriged = np.zeros((*valid.shape, len(module.kriged.patterns)), np.float32)
    for name in np.unique(section.sections):
        rows = np.flatnonzero(section.sections == name)
        near, subspot = np.nonzero(valid[rows])
        own = rows[near]
        xy = section.subspots[own, subspot] / pitch[own, None]
        features = np.zeros((len(own), 0)) if section.features is None else section.features[own, subspot]
        kriged[own, subspot] = section_krige(module, section, rows).everywhere(xy, features, near)
    return kriged


def section_krige(module: SoScopeVAE, section: Section, rows: np.ndarray) -> Krige:
    """Kriging from the spots of one section, whose rows these are."""
    part = section.some(rows)
    return Krige(module.kriged, averages(part), components(module, part))


def with_kriged(module: SoScopeVAE, section: Section) -> Section:
    """Return the section with its kriged field, if the module has one."""
    return section._replace(kriged=kriged_subspots(module, section)) if module.kriged.is_set else section

"""Whether the image is used: evidence that it is informative about the profiles, and the threshold."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from soscope_scverse.model._section import Section, within_sections
from soscope_scverse.model.estimates.gp import (
    MIN_SPOTS,
    ROUGH,
    SMOOTH,
    Group,
    groups_of,
    maximise_likelihood,
    sample_groups,
    standardised,
)
from soscope_scverse.model.estimates.initialise import dense_profiles
from soscope_scverse.module.vae import SoScopeVAE

EVIDENCE_THRESHOLD = 4.0
"""Log likelihood ratio above which the image is used; permuted images exceed it in fewer than 1 of 100 sections."""

_N_COMPONENTS = 2
# log parameters of `gp.Fit`
_START = np.array([-0.7, 1.0, -0.7, -3.0])
_LOG_STRENGTHS = (-3.0, -0.5)


def decide_on_image(module: SoScopeVAE, section: Section) -> None:
    """Set ``module.uses_image`` by the evidence of the spots, with a warning if the image is ignored.

    Parameters
    ----------
    module
        Its scales have been set.
    section
        Spots with image features.
    """
    assert section.features is not None
    rows, groups = sample_groups(section.spatial, section.sections)
    profile = module.transform(module.likelihood.at_mean_size(*dense_profiles(section, rows))).numpy()
    image = np.einsum("nk,nkl->nl", section.exposure[rows] / section.size[rows], section.features[rows])
    sections = section.sections[rows]
    evidence = image_evidence(
        within_sections(profile, sections), within_sections(image, sections), section.spatial[rows], groups
    )
    module.uses_image.fill_(evidence > EVIDENCE_THRESHOLD)
    if evidence <= EVIDENCE_THRESHOLD:
        msg = (
            "The image is ignored: it is not informative about the profiles beyond their positions (log likelihood "
            f"ratio {evidence:.1f}, threshold {EVIDENCE_THRESHOLD:.0f}). Check that it is the image of this section "
            "and that positions fit it (`im.check_alignment`); `test_image=False` uses it nevertheless."
        )
        warnings.warn(msg, UserWarning, stacklevel=5)  # the caller of `SoScope.train`


def image_evidence(
    profile: np.ndarray, features: np.ndarray, spatial: np.ndarray, sections: np.ndarray | None = None
) -> float:
    """Log likelihood ratio of an image that is informative about the profiles to one that is not.

    The first two principal components of the profiles are modelled as smooth in space plus noise, without and with a
    part that is linear in the image features. An image feature that is merely smooth gains little, as the smooth part,
    rough or nearly Gaussian, explains it as well. With the images of six real sections permuted, the ratio exceeded 4
    once in 268 times.

    Parameters
    ----------
    profile
        n_spots x n_features, on the scale on which effects add up (log for counts).
    features
        n_spots x n_image_features, means over the spots.
    spatial
        n_spots x 2 positions.
    sections
        n_spots labels; None is one section.

    Returns
    -------
    The ratio, at least 0; 0 with fewer than eight spots.
    """
    profile, features = standardised(profile), standardised(features)
    if len(profile) < MIN_SPOTS or not features.any():
        return 0.0
    groups = groups_of(spatial, sections)
    kernels = [features[rows] @ features[rows].T / features.shape[1] for rows, _ in groups]
    components, size, _ = np.linalg.svd(profile, full_matrices=False)
    n_components = min(_N_COMPONENTS, int((size > 1e-6 * len(profile) ** 0.5).sum()))
    ratio = 0.0
    for values in standardised(components[:, :n_components]).T:
        fits = [_with_and_without(groups, kernels, values, power) for power in (ROUGH, SMOOTH)]
        ratio += max(0.0, np.max(fits, axis=0) @ [1, -1])
    return ratio


def _with_and_without(
    groups: Sequence[Group], kernels: Sequence[np.ndarray], values: np.ndarray, power: float
) -> tuple[float, float]:
    """Log likelihoods with and without a part that is linear in the image features."""
    without = maximise_likelihood(groups, values, [_START], power=power)
    starts = [np.r_[without.log_parameters[:3], strength] for strength in _LOG_STRENGTHS]
    linear = maximise_likelihood(groups, values, starts, power=power, linear=kernels)
    return linear.log_likelihood, without.log_likelihood

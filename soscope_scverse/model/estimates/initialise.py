"""What is read off the data before and after the training: scales, noise, use of the image, spread of draws."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
import torch

from soscope_scverse._arrays import dense, spread
from soscope_scverse.model._tiles import Section
from soscope_scverse.model.estimates.image_evidence import (
    image_evidence,
    library_size_noise,
    local_noise,
    sample_blocks,
    within_sections,
)
from soscope_scverse.model.estimates.uncertainty import feature_variation
from soscope_scverse.module.vae import SoScopeVAE

_EVIDENCE = 4.0  # log likelihood ratio; a permuted image reaches it in less than 1 of 100 sections
_MOST_SAMPLED = 20_000  # spots that starting values are taken from

Sample = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]


def set_start(module: SoScopeVAE, section: Section, noise: float | Literal["auto"], *, test_image: bool) -> None:
    """Set scales, noise of the depth (unless it is given) and whether the image is used, before the training."""
    module.start_from(*sampled(section, is_counts=module.likelihood.is_counts))
    for i, (part, features) in enumerate(zip(module.likelihood.parts, module.features, strict=True)):
        if part.is_counts:
            module.library_size_noise[i] = (
                library_size_noise(section.x[:, features], section.spatial, section.sections, section.size)
                if noise == "auto"
                else noise
            )
    if section.features is not None and test_image:
        _test_image(module, section)


def _test_image(module: SoScopeVAE, section: Section) -> None:
    """Leave the image out, with a warning, where it tells nothing."""
    assert section.features is not None
    rows, blocks = sample_blocks(section.spatial, section.sections)
    profile = module.transform(module.likelihood.at_mean_size(*_profiles(section, rows))).numpy()
    image = np.einsum("nk,nkl->nl", section.exposure[rows] / section.size[rows], section.features[rows])
    sections = section.sections[rows]
    evidence = image_evidence(
        within_sections(profile, sections), within_sections(image, sections), section.spatial[rows], blocks
    )
    module.uses_image.fill_(evidence > _EVIDENCE)
    if evidence <= _EVIDENCE:
        msg = (
            "The image is left out: it tells nothing of the profiles that their positions do not tell (log "
            f"likelihood ratio {evidence:.1f}, needed {_EVIDENCE:.0f}). Check that it is the image of this "
            "section and that positions fit it (`im.check_alignment`); `test_image=False` uses it all the same."
        )
        warnings.warn(msg, UserWarning, stacklevel=4)


@torch.no_grad()
def set_variation(module: SoScopeVAE, section: Section) -> None:
    """Set what draws are made with, after the training, which leaves dispersions about where they start."""
    for i, (part, features) in enumerate(zip(module.likelihood.parts, module.features, strict=True)):
        variation = feature_variation(
            section.x[:, features],
            section.spatial,
            section.sections,
            section.size,
            is_counts=part.is_counts,
            library_size_noise=module.library_size_noise[i].item(),
        )
        if part.is_counts and not module.per_subspot_dispersion:
            module.log_dispersion[features] = torch.as_tensor(variation.dispersion).log().to(module.log_dispersion)
        module.residual_loadings[:, features] = torch.as_tensor(variation.loadings).to(module.residual_loadings)
        module.residual_length[i] = variation.length


def sampled(section: Section, *, is_counts: bool) -> Sample:
    """Profiles, sizes and batches of enough spots to tell means and variances of the features, and their noise."""
    rows = spread(len(section.spatial), _MOST_SAMPLED)
    batches = None if section.batches is None else torch.as_tensor(section.batches[rows])
    # counts start with a noise of their own
    noise = None if is_counts else torch.as_tensor(local_noise(section.x, section.graph), dtype=torch.float32)
    return *_profiles(section, rows), batches, noise


def _profiles(section: Section, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Profiles and sizes of spots, dense."""
    return torch.as_tensor(dense(section.x[rows]), dtype=torch.float32), torch.as_tensor(section.size[rows])

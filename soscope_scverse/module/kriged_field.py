"""The kriged field: a closed form beside the networks, linear in a few principal components of the profiles."""

from __future__ import annotations

import torch
from torch import Tensor, nn

N_COMPONENTS = 16
"""Most principal components that are kriged; more change no figure of `benchmarks/quality.py` by .001."""


class KrigedField(nn.Module):
    """Principal components of the transformed profiles, and the covariance that they are kriged with.

    All are estimates from the spots, not weights to train. A component u is a Gaussian process: a part that is smooth
    in space, with covariance exp(-distance / length), one that is linear in the image features, and noise.

    Parameters
    ----------
    n_features
        Width of a profile.
    n_image_features
        Width of the projected image features; 0 without an image.
    """

    is_set: Tensor
    """Whether predictions have a part of the field."""
    unit: Tensor
    """n_features, of the transformation of the profiles."""
    mean: Tensor
    """n_features, of the transformed profiles."""
    scale: Tensor
    """n_features, that transformed profiles are divided by."""
    patterns: Tensor
    """n_components x n_features, orthonormal."""
    length: Tensor
    """n_components, in centre-to-centre distances of the spots."""
    noise: Tensor
    """n_components, relative to the variance of the smooth part."""
    image_effect: Tensor
    """n_image_features x n_components."""
    image_gain: Tensor
    """n_features shares of the variance of the field that is linear in the image."""
    level: Tensor
    """n_features effects at which the field adds up to the spots."""

    def __init__(self, n_features: int, n_image_features: int) -> None:
        super().__init__()
        n_components = min(N_COMPONENTS, n_features)
        self.register_buffer("is_set", torch.tensor(False))
        self.register_buffer("unit", torch.ones(n_features))
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))
        self.register_buffer("patterns", torch.zeros(n_components, n_features))
        self.register_buffer("length", torch.ones(n_components))
        self.register_buffer("noise", torch.ones(n_components))
        self.register_buffer("image_effect", torch.zeros(n_image_features, n_components))
        self.register_buffer("image_gain", torch.zeros(n_features))
        self.register_buffer("level", torch.zeros(n_features))

    def components(self, transformed: Tensor) -> Tensor:
        """Principal components, n x n_components, of transformed profiles, n x n_features."""
        return (transformed - self.mean) / self.scale @ self.patterns.T

    def transformed(self, components: Tensor) -> Tensor:
        """Transformed profiles, ... x n_features, that have these components, ... x n_components."""
        return self.mean + self.scale * (components @ self.patterns)

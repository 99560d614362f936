"""f(y_k, z): from latent states and image features to the effects on every subspot's profile."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """x + ReLU(Linear(ReLU(Linear(x))))."""

    def __init__(self, n_hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(n_hidden, n_hidden), nn.ReLU(), nn.Linear(n_hidden, n_hidden), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as `x`."""
        return x + self.layers(x)


def _trunk(n_in: int, n_hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, n_hidden), ResidualBlock(n_hidden), ResidualBlock(n_hidden))


class JointDecoder(nn.Module):
    """The paper's decoder: latent state and image features enter one network together.

    Parameters
    ----------
    n_latent, n_image_features, n_outputs, n_hidden
        Widths; without a picture `n_image_features` is 0.
    dropout
        Share of the image features that is dropped at every step of the training.
    """

    def __init__(
        self, n_latent: int, n_image_features: int, n_outputs: int, n_hidden: int = 128, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.trunk = _trunk(n_latent + n_image_features, n_hidden)
        self.head = nn.Linear(n_hidden, n_outputs)

    def forward(self, z: Tensor, features: Tensor | None, trust: Tensor) -> Tensor:
        """Effects, n_targets x n_outputs, from z (n_targets x n_latent) and features (n_targets x n_image_features)."""
        if features is not None:
            z = torch.cat([z, self.dropout(features)], dim=1)
        return self.head(self.trunk(z))


class AdditiveDecoder(nn.Module):
    """A spatial term plus an image term, so that the model can say where the picture tells nothing.

    effect = spatial(z) + trust * image(y). The image term starts at 0, and `trust` in [0, 1] tells for every feature
    how far the picture is believed.

    Parameters
    ----------
    n_latent, n_image_features, n_outputs, n_hidden
        Widths; without a picture `n_image_features` is 0.
    dropout
        Share of the image features that is dropped at every step of the training.
    """

    def __init__(
        self, n_latent: int, n_image_features: int, n_outputs: int, n_hidden: int = 128, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.spatial = nn.Sequential(_trunk(n_latent, n_hidden), nn.Linear(n_hidden, n_outputs))
        if n_image_features:
            head = nn.Linear(n_hidden // 2, n_outputs)
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
            self.image = nn.Sequential(
                nn.Dropout(dropout), nn.Linear(n_image_features, n_hidden // 2), nn.ReLU(), nn.Dropout(0.2), head
            )

    def forward(self, z: Tensor, features: Tensor | None, trust: Tensor) -> Tensor:
        """Effects, n_targets x n_outputs, from z (n_targets x n_latent) and features (n_targets x n_image_features)."""
        effect = self.spatial(z)
        if features is not None:
            effect = torch.addcmul(effect, trust, self.image(features))
        return effect


DECODERS: dict[str, type[JointDecoder] | type[AdditiveDecoder]] = {"joint": JointDecoder, "additive": AdditiveDecoder}

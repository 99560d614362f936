"""f(y_k, z): from latent states and image features to the effects on every subspot's profile."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """x + ReLU(Linear(ReLU(Linear(x)))).

    Parameters
    ----------
    n_hidden
        Width.
    """

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
        Widths; without an image `n_image_features` is 0.
    dropout
        Share of the image features that is dropped at every step of the training.
    """

    def __init__(
        self, n_latent: int, n_image_features: int, n_outputs: int, n_hidden: int = 128, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.n_image_features = n_image_features
        self.dropout = nn.Dropout(dropout)
        self.trunk = _trunk(n_latent + n_image_features, n_hidden)
        self.head = nn.Linear(n_hidden, n_outputs)

    def forward(self, z: Tensor, features: Tensor | None) -> Tensor:
        """Effects, n_targets x n_outputs, from z (n_targets x n_latent) and features (n_targets x n_image_features).

        `features` None stands for a constant image.
        """
        return self.head(self.hidden(z, features))

    def hidden(self, z: Tensor, features: Tensor | None) -> Tensor:
        """What the last layer, `head`, gets: n_targets x n_hidden."""
        features = z.new_zeros(len(z), self.n_image_features) if features is None else self.dropout(features)
        return self.trunk(torch.cat([z, features], dim=1))

    def state(self, z: Tensor, features: Tensor | None) -> Tensor:
        """Latent states, n_targets x n_latent: the image does not change them."""
        return z


class ShiftDecoder(nn.Module):
    """The image shifts the latent state, which one network decodes: effect = f(z + B y).

    f models the joint variation of the features between spots, and the image uses the same f. So the effect of the
    image has n_latent dimensions, not n_outputs. B starts at 0.

    Parameters
    ----------
    n_latent, n_image_features, n_outputs, n_hidden
        Widths; without an image `n_image_features` is 0.
    dropout
        Share of the image features that is dropped at every step of the training.
    """

    def __init__(
        self, n_latent: int, n_image_features: int, n_outputs: int, n_hidden: int = 128, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.effect = nn.Sequential(_trunk(n_latent, n_hidden), nn.Linear(n_hidden, n_outputs))
        self.shift = nn.Parameter(torch.zeros(n_latent, n_image_features))

    def forward(self, z: Tensor, features: Tensor | None) -> Tensor:
        """Effects, n_targets x n_outputs, from z (n_targets x n_latent) and features (n_targets x n_image_features).

        `features` None stands for a constant image.
        """
        return self.head(self.hidden(z, features))

    @property
    def head(self) -> nn.Linear:
        """The last layer."""
        return cast("nn.Linear", self.effect[1])

    def hidden(self, z: Tensor, features: Tensor | None) -> Tensor:
        """What the last layer gets, n_targets x n_hidden."""
        return self.effect[0](self.state(z, features))

    def state(self, z: Tensor, features: Tensor | None) -> Tensor:
        """Latent states after the shift by the image, n_targets x n_latent."""
        if features is None:
            # a distributed training requires a gradient of every parameter
            return z + 0 * self.shift.sum()
        return z + nn.functional.linear(self.dropout(features), self.shift)


DECODERS: dict[str, type[JointDecoder] | type[ShiftDecoder]] = {"joint": JointDecoder, "shift": ShiftDecoder}

"""q(Z given X, A): graph transformer over the spots."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from soscope_scverse._upstream import without_deprecations

with without_deprecations():
    from torch_geometric.nn import TransformerConv

_MIN_SCALE = 1e-4


class GraphEncoder(nn.Module):
    """Latent state of every spot from its profile and its neighbours (soScope, Eq. 3; ReLU graph transformers).

    Parameters
    ----------
    n_features
        Features of a spot's profile.
    n_latent
        Dimensions of the latent state.
    n_hidden
        Width of the layers.
    n_layers
        Graph-transformer layers, the number of hops that a latent state depends on.
    n_batches
        Number of batches; 0 without a batch covariate.
    """

    def __init__(
        self, n_features: int, n_latent: int, n_hidden: int = 128, n_layers: int = 3, n_batches: int = 0
    ) -> None:
        super().__init__()
        widths = [n_features + 1 + n_batches] + [n_hidden] * n_layers  # one more input: whether the spot is masked
        self.layers = nn.ModuleList(TransformerConv(a, b, edge_dim=1) for a, b in pairwise(widths))
        self.mean = nn.Linear(n_hidden, n_latent)
        self.scale = nn.Linear(n_hidden, n_latent)

    def forward(
        self, profile: Tensor, masked: Tensor, edge_index: Tensor, edge_weight: Tensor, batch: Tensor | None = None
    ) -> Normal:
        """Distribution of the latent state.

        Parameters
        ----------
        profile
            n_spots x n_features standardised profiles.
        masked
            n_spots booleans; the profiles of these spots are set to 0.
        edge_index
            2 x n_edges rows of the spots, in both directions.
        edge_weight
            n_edges weights.
        batch
            n_spots x n_batches shares, with a batch covariate.

        Returns
        -------
        Normal with batch shape n_spots x n_latent.
        """
        flag = masked.to(profile.dtype).unsqueeze(1)
        inputs = [profile * (1 - flag), flag] if batch is None else [profile * (1 - flag), flag, batch]
        h = torch.cat(inputs, dim=1)
        for layer in self.layers:
            h = torch.relu(layer(h, edge_index, edge_weight.unsqueeze(1)))
        # in mixed precision the layers return bfloat16, too coarse for the following steps
        mean, scale = self.mean(h).float(), self.scale(h).float()
        return Normal(mean, nn.functional.softplus(scale) + _MIN_SCALE, validate_args=False)

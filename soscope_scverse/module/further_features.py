"""Features beyond those of a trained module: their effects are linear in those of the trained features."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from soscope_scverse.module.likelihoods import Start, Subspots
from soscope_scverse.module.vae import SoScopeVAE, Tensors, subspots_of


class Heads(NamedTuple):
    """Parameters of further features of one modality."""

    weight: Tensor
    """n_features x n_trained: of the effects of the trained features of the modality."""
    bias: Tensor
    """n_features."""
    start: Start
    """Baseline, log dispersion and unit, n_features each."""
    batch_effect: Tensor | None
    """n_batches x n_features, beyond that of the trained features; None without a batch covariate."""
    loadings: Tensor
    """N_RESIDUALS x n_features: patterns of the residual variation."""


class FurtherFeatures:
    """A trained module that is read out for other features of one modality.

    Parameters
    ----------
    trained
        The module.
    modality
        Number of the modality.
    heads
        Of the features.
    """

    def __init__(self, trained: SoScopeVAE, modality: int, heads: Heads) -> None:
        self.trained, self.heads = trained, heads
        self.columns = trained.features[modality]
        self.likelihood = trained.likelihood.parts[modality]
        self.n_features = len(heads.bias)
        self.sizes = [self.n_features]
        own = slice(modality, modality + 1)
        self.library_size_noise, self.residual_length = trained.library_size_noise[own], trained.residual_length[own]
        self.residual_loadings = heads.loadings

    def subspot_states(self, tensors: Tensors, z: Tensor) -> Tensor:
        """Latent states of the subspots, those of the trained module."""
        return self.trained.subspot_states(tensors, z)

    def generative(self, tensors: Tensors, z: Tensor) -> dict[str, Subspots]:
        """Parameters of the subspots of the own spots, from latent states `z` of all inputs."""
        effect, _ = self.trained.effects(tensors, z)
        effect = effect[..., self.columns] @ self.heads.weight.T + self.heads.bias
        if self.heads.batch_effect is not None:
            effect = effect + (tensors["batch"] @ self.heads.batch_effect).unsqueeze(1)
        return {"subspots": subspots_of(self.likelihood, effect, self.heads.start, tensors)}

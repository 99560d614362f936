"""Heads of features that a model was not trained on: given the latent states, an empirical Bayes regression of each.

The head of a feature is a linear function of the last hidden layer of the decoder. Those of the trained features show
which functions occur: their mean and covariance are the prior of every further head, up to one scale for each feature,
which its evidence decides on. So a feature with many molecules has a pattern of its own, and one with few the mean
pattern, which follows the library size. Given the states, features are independent of each other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from soscope_scverse._arrays import Matrix, dense, spread
from soscope_scverse.model._tiles import Tiles
from soscope_scverse.model.estimates.uncertainty import feature_variation
from soscope_scverse.module.likelihoods import Spots, Subspots
from soscope_scverse.module.vae import Heads, SoScopeVAE

BLOCK = 256
"""Features that are fitted and decoded together; the bits of a feature depend on those of its block alone."""

_MOST_SPOTS = 20_000  # as for starting values
_CHUNK_VALUES = 5_000_000  # subspots x features at once: 20 MB a tensor
_VARIANCE = 0.999  # of the log profiles of the trained features that the components have
_MOST_COMPONENTS = 64
_LOG_SCALES = np.linspace(-7, 3, 21)  # of the prior variance, relative to that of the trained features
_N_PASSES = 8
_TINY = 1e-8


class Chunk(NamedTuple):
    """Some spots that heads are fitted to."""

    rows: np.ndarray
    """Rows of the spots."""
    tensors: dict[str, Tensor]
    """Exposures and areas, see :meth:`.Tiles.tile`."""
    components: Tensor
    """n_spots x n_subspots x n_components."""
    mean: Tensor
    """n_spots x n_subspots x 1: mean effect of the trained features."""
    factor: Tensor
    """n_spots x 1: library sizes, relative to what follows from the latent states."""


class Fitted(NamedTuple):
    """Heads and the evidence of each."""

    heads: Heads
    evidence: Tensor
    """n_features log evidence ratios of a pattern of its own to the mean pattern."""


class Readout:
    """What heads of one modality are fitted on: principal components of the trained effects over the subspots.

    Parameters
    ----------
    module
        Trained module.
    tiles
        Spots whose counts of the further features are known.
    states
        Latent states of these spots, n_spots x n_latent.
    modality
        Number of the modality.
    """

    @torch.no_grad()
    def __init__(self, module: SoScopeVAE, tiles: Tiles, states: Tensor, modality: int) -> None:
        self.module, self.tiles, self.modality = module, tiles, modality
        self.trained = module.features[modality]
        self.likelihood = module.likelihood.parts[modality]
        weight = module.decoder.head.weight[self.trained].detach().double().cpu()
        hidden = [(rows, batch, module.hidden(batch, states[inputs])) for rows, inputs, batch in self._blocks(states)]
        share = torch.cat([batch["exposure"].flatten() for _, batch, _ in hidden]).double().cpu()
        share /= share.sum()
        values = torch.cat([part.flatten(0, 1) for _, _, part in hidden]).double().cpu()
        self.centre = share @ values
        self.mean_weight = weight.mean(dim=0)
        deviation = (weight - self.mean_weight).T / len(weight) ** 0.5
        self.basis = deviation @ _rotation((values - self.centre) * share.sqrt()[:, None], deviation)
        self.batch_mean, self.batch_scale = self._batch_effects()
        self.chunks = [self._chunk(*block) for block in hidden]

    def _blocks(self, states: Tensor) -> list[tuple[np.ndarray, np.ndarray, dict[str, Tensor]]]:
        """Rows of some spots, of the latent states that they need, and the other inputs of the decoder."""
        rows = spread(self.tiles.n_spots, _MOST_SPOTS)
        size = max(1, _CHUNK_VALUES // (self.tiles.section.exposure.shape[1] * BLOCK))
        blocks = []
        for own in np.split(rows, range(size, len(rows), size)):
            inputs, batch = self.tiles.block(own)
            blocks.append((own, inputs, {name: value.to(states.device) for name, value in batch.items()}))
        return blocks

    def _batch_effects(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the trained effects of every batch, n_batches each; empty without any."""
        if self.module.batch_effect is None:
            return torch.zeros(0), torch.zeros(0)
        effect = self.module.batch_effect[:, self.trained].detach().float().cpu()
        return effect.mean(dim=1), effect.std(dim=1, correction=0)

    def _chunk(self, rows: np.ndarray, batch: dict[str, Tensor], hidden: Tensor) -> Chunk:
        """Components, mean effect and library sizes of some spots."""
        centred = hidden - self.centre.to(hidden)
        components, mean = centred @ self.basis.to(hidden), (centred @ self.mean_weight.to(hidden)).unsqueeze(-1)
        if "batch" in batch:
            shares = batch["batch"].unsqueeze(1).expand(-1, hidden.shape[1], -1)
            components = torch.cat([components, shares * self.batch_scale.to(hidden)], dim=-1)
            mean = mean + shares @ self.batch_mean.to(hidden).unsqueeze(-1)
        return Chunk(rows, batch, components, mean, self._library_sizes(rows, batch, hidden))

    def _library_sizes(self, rows: np.ndarray, batch: dict[str, Tensor], hidden: Tensor) -> Tensor:
        """Library sizes of the spots relative to what follows from their latent states, from the trained features."""
        if not self.likelihood.is_counts:
            return hidden.new_ones(len(rows), 1)
        module = self.module
        spots = _aggregated(module, module.subspots(module.decoder.head(hidden).float(), batch))
        x = torch.as_tensor(dense(self.tiles.section.x[rows]), dtype=torch.float32, device=hidden.device)
        absorbed, _ = module.likelihood.absorb_library_size(x, spots, module.library_size_noise)
        first = slice(self.trained.start, self.trained.start + 1)
        return absorbed.mean[:, first] / spots.mean[:, first].clamp(min=_TINY)

    def fit(self, x: Matrix) -> Fitted:
        """Heads of some features of the modality from their profiles, n_spots x n_features.

        Fisher scoring of a quasi-likelihood: the variance of a spot is proportional to its mean (counts) or constant,
        by a factor that is estimated. The scale of the prior is averaged over by its evidence in the linearised model
        (Laplace's approximation), in which intercepts have a flat prior.
        """
        chunks = [
            torch.as_tensor(dense(x[chunk.rows]), dtype=torch.float32, device=chunk.mean.device)
            for chunk in self.chunks
        ]
        regression = _Regression(self, chunks)
        for _ in range(_N_PASSES):
            evidence = regression.step()
        return Fitted(self._heads(regression, x), evidence)

    def _heads(self, regression: _Regression, x: Matrix) -> Heads:
        """Heads of the decoder that have the effects of a regression, and the variation around them."""
        section, module = self.tiles.section, self.module
        coefficients = regression.coefficients.double().cpu()
        n_batches = len(self.batch_mean)
        own, of_batch = coefficients.split([coefficients.shape[1] - n_batches, n_batches], dim=1)
        weight = self.mean_weight + own @ self.basis.T
        bias = regression.intercept.double().cpu() - weight @ self.centre
        variation = feature_variation(
            x,
            section.spatial,
            section.sections,
            section.size,
            is_counts=self.likelihood.is_counts,
            library_size_noise=None if section.has_gaps else module.library_size_noise[self.modality].item(),
            length=module.residual_length[self.modality].item(),
        )
        like = module.baseline.detach()
        start = regression.start
        if self.likelihood.has_dispersion:
            dispersion = torch.as_tensor(variation.dispersion).clamp(min=_TINY).log().to(like)
            start = start._replace(log_dispersion=dispersion)
        effect = (self.batch_mean + of_batch * self.batch_scale).T.to(like) if n_batches else None
        loadings = torch.as_tensor(variation.loadings).to(like)
        return Heads(weight.to(like), bias.to(like), start, effect, loadings)


class _Regression:
    """The heads of some features on the way.

    Parameters
    ----------
    readout
        What they are fitted on.
    x
        Profiles of the spots of its chunks.
    """

    def __init__(self, readout: Readout, x: list[Tensor]) -> None:
        self.readout, self.x = readout, x
        likelihood = readout.likelihood
        size = torch.as_tensor(np.concatenate([readout.tiles.section.size[chunk.rows] for chunk in readout.chunks]))
        self.start = likelihood.start(likelihood.at_mean_size(torch.cat(x), size.to(x[0])))
        n_features, n_components = len(self.start.baseline), readout.chunks[0].components.shape[2]
        self.coefficients = x[0].new_zeros(n_features, n_components)
        self.intercept = x[0].new_zeros(n_features)
        self.dof = torch.ones(n_features, dtype=torch.float64)
        nothing = Heads(
            x[0].new_zeros(n_features, 1),
            self.intercept,
            self.start,
            None,
            x[0].new_zeros(len(readout.module.residual_loadings), n_features),
        )
        self.module = readout.module.with_heads(nothing, readout.modality)

    def step(self) -> Tensor:
        """Improve all heads once; return their log evidence ratios."""
        sums = [self._sums(chunk, x) for chunk, x in zip(self.readout.chunks, self.x, strict=True)]
        curvature, slope, with_intercept, own, own_slope, square = (
            sum(parts).double().cpu() for parts in zip(*sums, strict=True)
        )
        n_spots = sum(map(len, self.x))
        scale = square / (n_spots - self.dof).clamp(min=n_spots / 4)
        if self.readout.likelihood.is_counts:
            scale = scale.clamp(min=1)  # no less than counting
        scale = scale.clamp(min=_TINY)
        # the intercept, of a flat prior, is eliminated
        own = own.clamp(min=_TINY)
        gain = with_intercept / own[:, None]
        curvature = (curvature - gain[:, :, None] * with_intercept[:, None]) / scale[:, None, None]
        before = self.coefficients.double().cpu()
        target = (slope - gain * own_slope[:, None]) / scale[:, None] + _times(curvature, before)
        coefficients, self.dof, evidence = _averaged(curvature, target)
        change = coefficients - before
        intercept = (own_slope - (with_intercept * change).sum(dim=1)) / own
        self.coefficients += change.to(self.coefficients)
        self.intercept = self.intercept + intercept.to(self.intercept)
        return evidence

    def _sums(self, chunk: Chunk, x: Tensor) -> tuple[Tensor, ...]:
        """Sums over spots of the linearised model, see the names in :meth:`step`."""
        effect = chunk.mean + chunk.components @ self.coefficients.T + self.intercept
        effect.requires_grad_()
        mean = _aggregated(self.module, self.module.subspots(effect, chunk.tensors)).mean * chunk.factor
        (gradient,) = torch.autograd.grad(mean.sum(), effect)  # a mean depends on the subspots of its spot alone
        mean = mean.detach()
        variance = mean.clamp(min=_TINY) if self.readout.likelihood.is_counts else self.start.unit.square()
        residual, of_intercept = (x - mean) / variance, gradient.sum(dim=1)
        # n_features x n_spots x n_components
        jacobian = torch.einsum("nkg,nkr->gnr", gradient, chunk.components)
        weighted = jacobian / variance.expand_as(mean).T.unsqueeze(-1)
        return (
            weighted.transpose(1, 2) @ jacobian,
            torch.einsum("gnr,ng->gr", jacobian, residual),
            torch.einsum("gnr,ng->gr", weighted, of_intercept),
            (of_intercept**2 / variance).sum(dim=0),
            (of_intercept * residual).sum(dim=0),
            ((x - mean) * residual).sum(dim=0),
        )


def _aggregated(module: SoScopeVAE, subspots: Subspots) -> Spots:
    """Parameters of the spots that captured these subspots."""
    return module.likelihood.aggregate(module.likelihood.captured(subspots))


def _rotation(hidden: Tensor, deviation: Tensor) -> Tensor:
    """Directions of the prior, n_heads x n_components, that vary most over the subspots.

    Parameters
    ----------
    hidden
        n_targets x n_hidden, centred, times the roots of the shares of the subspots.
    deviation
        n_hidden x n_heads: deviations of the trained heads from their mean.
    """
    values, vectors = torch.linalg.eigh(hidden.T @ hidden)
    root = vectors * values.clamp(min=0).sqrt()  # n_hidden x n_hidden
    _, size, directions = torch.linalg.svd(root.T @ deviation, full_matrices=False)
    explained = (size**2).cumsum(0) / (size**2).sum().clamp(min=_TINY)
    n_components = min(_MOST_COMPONENTS, int((explained < _VARIANCE).sum()) + 1)
    directions = directions[:n_components]
    largest = directions.abs().argmax(dim=1, keepdim=True)
    return (directions * directions.gather(1, largest).sign()).T


def _averaged(curvature: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients of the linearised model, averaged over the scale of their prior by its evidence.

    Parameters
    ----------
    curvature
        n_features x n_components x n_components.
    target
        n_features x n_components: curvature times the coefficients without a prior.

    Returns
    -------
    Coefficients, effective number of parameters with the intercept, and log evidence ratio of the best scale to none.
    """
    values, vectors = torch.linalg.eigh(curvature)
    values = values.clamp(min=0)
    rotated = _times(vectors.transpose(1, 2), target)
    scales = torch.as_tensor(np.exp(_LOG_SCALES))[:, None, None]
    shrunk = rotated / (values + 1 / scales)  # n_scales x n_features x n_components
    evidence = 0.5 * (shrunk * rotated - torch.log1p(values * scales)).sum(dim=2)
    share = torch.softmax(evidence, dim=0).unsqueeze(-1)
    dof = (share * values / (values + 1 / scales)).sum(dim=(0, 2)) + 1
    return _times(vectors, (share * shrunk).sum(dim=0)), dof, evidence.amax(dim=0)


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    return (matrices @ vectors.unsqueeze(-1)).squeeze(-1)

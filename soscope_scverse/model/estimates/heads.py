"""Heads of features that a model was not trained on: an empirical Bayes regression of each on the trained effects.

The effects of the trained features over the subspots show which patterns occur: their mean and covariance are the prior
of the effect of every further feature, up to one scale for each, which its evidence decides on. So a feature with many
molecules has a pattern of its own, and one with few the mean pattern, which follows the library size. Given the latent
states, features are independent of each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from soscope_scverse._arrays import Matrix, dense, spread
from soscope_scverse.model._tiles import Tiles
from soscope_scverse.model.estimates.uncertainty import feature_variation
from soscope_scverse.module.further_features import Heads
from soscope_scverse.module.likelihoods import Likelihood, Spots, Start
from soscope_scverse.module.vae import SoScopeVAE, Tensors, subspots_of

BLOCK = 256
"""Features that are fitted and decoded together; the bits of a feature depend on those of its block alone."""

_MOST_SPOTS = 20_000  # as for starting values
_CHUNK_VALUES = 5_000_000  # at once: 20 MB a tensor, which the allocator reuses
_VARIANCE = 0.999  # of the trained effects that the components have
_MOST_COMPONENTS = 64
_LOG_SCALES = np.linspace(-7, 3, 21)  # of the prior variance, relative to that of the trained features
_N_PASSES = 6  # in the last of which the effects of the median feature change by 1e-3
_TINY = 1e-8


class Chunk(NamedTuple):
    """Some spots that heads are fitted to."""

    rows: np.ndarray
    """Rows of the spots."""
    tensors: Tensors
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
        self.module, self.tiles, self.states, self.modality = module, tiles, states, modality
        self.trained = module.features[modality]
        self.likelihood = module.likelihood.parts[modality]
        self.centre, self.basis = self._components()
        self.batch_scale = torch.zeros(0)
        if module.batch_effect is not None:  # what batches add to a feature beyond their mean effect
            self.batch_scale = module.batch_effect[:, self.trained].detach().float().std(dim=1, correction=0)
        self.chunks = [self._chunk(*block) for block in self._blocks()]

    def _blocks(self) -> Iterator[tuple[np.ndarray, Tensors, Tensor, Start]]:
        """Rows of some spots, inputs of the decoder, effects of all trained features, and their parameters."""
        rows = spread(self.tiles.n_spots, _MOST_SPOTS)
        size = max(1, _CHUNK_VALUES // (max(self.tiles.section.exposure.shape[1], _MOST_COMPONENTS) * BLOCK))
        for own in np.split(rows, range(size, len(rows), size)):
            inputs, batch = self.tiles.block(own)
            batch = {name: value.to(self.states.device) for name, value in batch.items()}
            yield own, batch, *self.module.effects(batch, self.states[inputs])

    def _components(self) -> tuple[Tensor, Tensor]:
        """Mean over the subspots of the deviations of trained effects from their mean, and their components."""
        n_trained = self.trained.stop - self.trained.start
        total, first, second = 0.0, torch.zeros(n_trained).double(), torch.zeros(n_trained, n_trained).double()
        for _, batch, effect, _ in self._blocks():
            area = batch.get("area", batch["exposure"]).flatten().double().cpu()
            deviation = _deviation(effect[..., self.trained]).flatten(0, 1).double().cpu()
            total, first = total + float(area.sum()), first + area @ deviation
            second += (area[:, None] * deviation).T @ deviation
        centre = first / total
        variance, components = torch.linalg.eigh(second / total - torch.outer(centre, centre))
        variance, components = variance.flip(0).clamp(min=0), components.flip(1)
        explained = variance.cumsum(0) / variance.sum().clamp(min=_TINY)
        components = components[:, : min(_MOST_COMPONENTS, int((explained < _VARIANCE).sum()) + 1)]
        largest = components.abs().argmax(dim=0, keepdim=True)
        return centre, components * components.gather(0, largest).sign() / n_trained**0.5

    def _chunk(self, rows: np.ndarray, batch: Tensors, effect: Tensor, start: Start) -> Chunk:
        """Components, mean effect and library sizes of some spots."""
        own = effect[..., self.trained]
        components = (_deviation(own) - self.centre.to(own)) @ self.basis.to(own)
        if "batch" in batch:
            shares = batch["batch"].unsqueeze(1).expand(-1, own.shape[1], -1)
            components = torch.cat([components, shares * self.batch_scale.to(own)], dim=-1)
        factor = self._library_sizes(rows, batch, effect, start)
        return Chunk(rows, batch, components, own.mean(dim=-1, keepdim=True), factor)

    def _library_sizes(self, rows: np.ndarray, batch: Tensors, effect: Tensor, start: Start) -> Tensor:
        """Library sizes of the spots relative to what follows from their latent states, from the trained features."""
        if not self.likelihood.is_counts:
            return effect.new_ones(len(rows), 1)
        module = self.module
        spots = _spots(module.likelihood, effect, start, batch)
        x = torch.as_tensor(dense(self.tiles.section.x[rows]), dtype=torch.float32, device=effect.device)
        absorbed, _ = module.likelihood.absorb_library_size(x, spots, module.library_size_noise)
        first = slice(self.trained.start, self.trained.start + 1)
        return absorbed.mean[:, first] / spots.mean[:, first].clamp(min=_TINY)

    def fit(self, x: Matrix) -> Fitted:
        """Heads of some features of the modality from their profiles, n_spots x n_features.

        Fisher scoring of a quasi-likelihood: the variance of a spot is proportional to its mean (counts) or constant,
        by a factor that is estimated. The scale of the prior is averaged over by its evidence in the linearised model
        (Laplace's approximation), in which intercepts have a flat prior.
        """
        parts = [
            torch.as_tensor(dense(x[chunk.rows]), dtype=torch.float32, device=chunk.mean.device)
            for chunk in self.chunks
        ]
        regression = _Regression(self, parts)
        for _ in range(_N_PASSES):
            evidence = regression.step()
        return Fitted(self._heads(regression, x), evidence)

    def _heads(self, regression: _Regression, x: Matrix) -> Heads:
        """Heads that have the effects of a regression, and the variation around them."""
        section, start = self.tiles.section, regression.start
        n_batches = len(self.batch_scale)
        coefficients = regression.coefficients.double().cpu()
        own, of_batch = coefficients.split([coefficients.shape[1] - n_batches, n_batches], dim=1)
        pattern = own @ self.basis.T
        bias = regression.intercept.double().cpu() - pattern @ self.centre
        variation = feature_variation(
            x,
            section.spatial,
            section.sections,
            section.size,
            is_counts=self.likelihood.is_counts,
            library_size_noise=None if section.has_gaps else self.module.library_size_noise[self.modality].item(),
            length=self.module.residual_length[self.modality].item(),
        )
        like = self.module.baseline.detach()
        if self.likelihood.has_dispersion:
            log_dispersion = torch.as_tensor(variation.dispersion).clamp(min=_TINY).log().clamp(-8, 8)
            start = start._replace(log_dispersion=log_dispersion.to(like))
        return Heads(
            (_deviation(pattern) + 1 / pattern.shape[1]).to(like),
            bias.to(like),
            start,
            (of_batch * self.batch_scale.double().cpu()).T.to(like) if n_batches else None,
            torch.as_tensor(variation.loadings).to(like),
        )


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
        self.chunks, self.likelihood, self.x = readout.chunks, readout.likelihood, x
        size = torch.as_tensor(np.concatenate([readout.tiles.section.size[chunk.rows] for chunk in self.chunks]))
        self.start = self.likelihood.start(self.likelihood.at_mean_size(torch.cat(x), size.to(x[0])))
        n_features, n_components = x[0].shape[1], self.chunks[0].components.shape[2]
        self.coefficients = x[0].new_zeros(n_features, n_components)
        self.intercept = x[0].new_zeros(n_features)
        self.dof = torch.ones(n_features, dtype=torch.float64)

    def step(self) -> Tensor:
        """Improve all heads once; return their log evidence ratios."""
        sums = [self._sums(chunk, x) for chunk, x in zip(self.chunks, self.x, strict=True)]
        curvature, slope, with_intercept, own, own_slope, square = (
            torch.stack(parts).sum(dim=0).double().cpu() for parts in zip(*sums, strict=True)
        )
        n_spots = sum(map(len, self.x))
        scale = square / (n_spots - self.dof).clamp(min=n_spots / 4)
        scale = scale.clamp(min=1 if self.likelihood.is_counts else _TINY)  # no less than the noise of counting
        # the intercept, of a flat prior, is eliminated
        own = own.clamp(min=_TINY)
        gain = with_intercept / own[:, None]
        curvature = (curvature - gain[:, :, None] * with_intercept[:, None]) / scale[:, None, None]
        before = self.coefficients.double().cpu()
        target = (slope - gain * own_slope[:, None]) / scale[:, None] + _times(curvature, before)
        coefficients, self.dof, evidence = _averaged(curvature, target)
        change = coefficients - before
        intercept = (own_slope - (with_intercept * change).sum(dim=1)) / own
        self.coefficients = coefficients.to(self.coefficients)
        self.intercept = self.intercept + intercept.to(self.intercept)
        return evidence

    def _sums(self, chunk: Chunk, x: Tensor) -> tuple[Tensor, ...]:
        """Sums over spots of the linearised model, see the names in :meth:`step`."""
        effect = chunk.mean + chunk.components @ self.coefficients.T + self.intercept
        effect.requires_grad_()
        mean = _spots(self.likelihood, effect, self.start, chunk.tensors).mean * chunk.factor
        (gradient,) = torch.autograd.grad(mean.sum(), effect)  # a mean depends on the subspots of its spot alone
        mean = mean.detach()
        # in units of the standard deviation of the spots
        precision = mean.clamp(min=_TINY).rsqrt() if self.likelihood.is_counts else 1 / self.start.unit.expand_as(mean)
        of_intercept, residual = gradient.sum(dim=1) * precision, (x - mean) * precision
        weighted = gradient * precision.unsqueeze(1)
        jacobian = torch.einsum("nkg,nkr->gnr", weighted, chunk.components).contiguous().transpose(1, 2)
        with_both = jacobian @ torch.stack([residual.T, of_intercept.T], dim=2)
        return (
            jacobian @ jacobian.transpose(1, 2),
            with_both[..., 0],
            with_both[..., 1],
            of_intercept.square().sum(dim=0),
            (of_intercept * residual).sum(dim=0),
            residual.square().sum(dim=0),
        )


def _spots(likelihood: Likelihood, effect: Tensor, start: Start, tensors: Tensors) -> Spots:
    """Parameters of the spots that captured subspots with these effects."""
    return likelihood.aggregate(likelihood.captured(subspots_of(likelihood, effect, start, tensors)))


def _deviation(values: Tensor) -> Tensor:
    """Deviations from the mean over the trained features, the last dimension."""
    return values - values.mean(dim=-1, keepdim=True)


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

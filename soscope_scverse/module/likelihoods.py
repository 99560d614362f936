"""Likelihoods of the subspots that add up exactly to the likelihood of their spot.

A new omics type is one new class here with the same methods. Tensors of subspots are n_spots x n_subspots x n_features;
padding has exposure 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Gamma, NegativeBinomial, Normal, Poisson

_TINY = 1e-8
_MAX_EFFECT = 8.0  # bound of a subspot's log mean around its feature's: e^8 is 3,000-fold up or down


class Subspots(NamedTuple):
    """Parameters of the subspots' profiles."""

    mean: Tensor
    """n_spots x n_subspots x n_features."""
    dispersion: Tensor
    """phi of a negative binomial or variance of a Gaussian; broadcasts against `mean`."""
    exposure: Tensor
    """n_spots x n_subspots x 1."""


class Spots(NamedTuple):
    """Parameters of the spots' profiles, n_spots x n_features each."""

    mean: Tensor
    dispersion: Tensor


class Start(NamedTuple):
    """Where the parameters of every feature start, n_features each."""

    baseline: Tensor
    """Log mean of counts, mean of other data."""
    log_dispersion: Tensor
    unit: Tensor
    """Typical size of a spot's value: differences between subspots are measured in it."""


class Likelihood(ABC):
    """Distribution of a subspot's profile and of the sum (or mean) over a spot.

    Parameters
    ----------
    aggregate
        Whether a spot is the ``"sum"`` of its subspots or their exposure-weighted ``"mean"``; default: the first of
        `aggregates`.
    sigma
        Standard deviation of the measurement noise of a spot, of likelihoods that know it.
    """

    is_counts: ClassVar[bool]
    has_dispersion: ClassVar[bool]
    aggregates: ClassVar[tuple[str, ...]]

    def __init__(self, aggregate: Literal["mean", "sum"] | None = None, sigma: float = 0.0) -> None:
        if aggregate not in (None, *self.aggregates):
            msg = (
                f"Expected `aggregate` of a {type(self).__name__} to be one of {list(self.aggregates)}, found "
                f"{aggregate!r}. Counts add up; means of other data need likelihood='gaussian'."
            )
            raise ValueError(msg)
        self.is_mean = (aggregate or self.aggregates[0]) == "mean"
        self.sigma = sigma

    @abstractmethod
    def start(self, x: Tensor) -> Start:
        """Starting values from observed profiles, n_spots x n_features."""

    @abstractmethod
    def parameters(self, effect: Tensor, start: Start, exposure: Tensor) -> Subspots:
        """Parameters of the subspots.

        Parameters
        ----------
        effect
            Decoder output, n_spots x n_subspots x n_features; 0 is the typical subspot.
        start
            Feature parameters as learnt so far; ``log_dispersion`` may also be given per subspot.
        exposure
            n_spots x n_subspots shares of the spot.
        """

    @abstractmethod
    def aggregate(self, subspots: Subspots) -> Spots:
        """Parameters of the spots that the subspots make up."""

    def rate(self, subspots: Subspots) -> Tensor:
        """Mean that a whole spot like the subspot would have, comparable between subspots of any exposure."""
        return subspots.mean / subspots.exposure.clamp(min=_TINY)

    @abstractmethod
    def log_prob(self, x: Tensor, spots: Spots) -> Tensor:
        """Log probability of observed profiles, n_spots x n_features."""

    @abstractmethod
    def condition(self, x: Tensor, subspots: Subspots) -> Tensor:
        """Expected subspots given the observed spots `x`, n_spots x n_subspots x n_features."""

    @abstractmethod
    def sample(self, subspots: Subspots, x: Tensor | None = None) -> Tensor:
        """Draw subspots from the prior, or given the observed spots `x`."""


class _Counts(Likelihood):
    """What the count likelihoods share: log link, additive means, and shares of the observed count."""

    is_counts = True
    aggregates = ("sum",)

    def start(self, x: Tensor) -> Start:
        mean = x.mean(dim=0).clamp(min=1e-4)
        return Start(mean.log(), torch.zeros_like(mean), mean)

    def parameters(self, effect: Tensor, start: Start, exposure: Tensor) -> Subspots:
        bounded = _MAX_EFFECT * torch.tanh(effect / _MAX_EFFECT)
        exposure = exposure.unsqueeze(-1)
        return Subspots(exposure * torch.exp(start.baseline + bounded), start.log_dispersion.exp(), exposure)

    def aggregate(self, subspots: Subspots) -> Spots:
        mean = subspots.mean.sum(dim=1)
        dispersion = subspots.dispersion
        if dispersion.dim() == 3:  # phi differs between subspots: match the variance of the sum
            dispersion = (subspots.mean * dispersion).sum(dim=1) / mean.clamp(min=_TINY)
        return Spots(mean, dispersion)

    def condition(self, x: Tensor, subspots: Subspots) -> Tensor:
        return x.unsqueeze(1) * _shares(subspots.mean, subspots.exposure)


class PoissonLikelihood(_Counts):
    """Poisson subspots: a spot is Poisson, its subspots given its count are multinomial."""

    has_dispersion = False

    def log_prob(self, x: Tensor, spots: Spots) -> Tensor:
        return Poisson(spots.mean.clamp(min=_TINY), validate_args=False).log_prob(x)

    def sample(self, subspots: Subspots, x: Tensor | None = None) -> Tensor:
        if x is None:
            return torch.poisson(subspots.mean)
        return _multinomial(x, _shares(subspots.mean, subspots.exposure))


class NegativeBinomialLikelihood(_Counts):
    """Negative binomial subspots with variance (1 + phi) mean.

    This form is closed under sums over subspots that share phi, so a spot is negative binomial with the same phi, and
    the subspots given its count are Dirichlet-multinomial with concentrations mean / phi.
    """

    has_dispersion = True

    def log_prob(self, x: Tensor, spots: Spots) -> Tensor:
        total = spots.mean.clamp(min=_TINY) / spots.dispersion
        return NegativeBinomial(total, logits=spots.dispersion.log(), validate_args=False).log_prob(x)

    def sample(self, subspots: Subspots, x: Tensor | None = None) -> Tensor:
        concentration = (subspots.mean / subspots.dispersion).clamp(min=_TINY)
        rate = Gamma(concentration, torch.ones_like(concentration), validate_args=False).sample()
        if x is None:
            return torch.poisson(rate * subspots.dispersion * (subspots.exposure > 0))
        return _multinomial(x, _shares(rate, subspots.exposure))


class GaussianLikelihood(Likelihood):
    """Gaussian subspots; a spot is their sum, or their exposure-weighted mean, plus measurement noise.

    The mean is for intensities and principal components, the sum for amounts. The variance of a subspot is set so that
    the variance of a spot does not depend on how finely it is divided. With `sigma` 0 the conditional mean adds up to
    the spot.
    """

    is_counts = False
    has_dispersion = True
    aggregates = ("mean", "sum")

    def start(self, x: Tensor) -> Start:
        variance = x.var(dim=0, correction=0).clamp(min=_TINY)
        return Start(x.mean(dim=0), (0.5 * variance).log(), variance.sqrt())

    def parameters(self, effect: Tensor, start: Start, exposure: Tensor) -> Subspots:
        exposure = exposure.unsqueeze(-1)
        mean = start.baseline + start.unit * effect
        share = 1 / exposure.clamp(min=_TINY) if self.is_mean else exposure
        scale = torch.ones_like(exposure) if self.is_mean else exposure
        return Subspots(scale * mean, share * start.log_dispersion.exp(), exposure)

    def aggregate(self, subspots: Subspots) -> Spots:
        weight = self._weight(subspots)
        variance = (weight**2 * subspots.dispersion).sum(dim=1) + self.sigma**2
        return Spots((weight * subspots.mean).sum(dim=1), variance)

    def rate(self, subspots: Subspots) -> Tensor:
        return subspots.mean if self.is_mean else super().rate(subspots)

    def log_prob(self, x: Tensor, spots: Spots) -> Tensor:
        return Normal(spots.mean, spots.dispersion.clamp(min=_TINY).sqrt(), validate_args=False).log_prob(x)

    def condition(self, x: Tensor, subspots: Subspots) -> Tensor:
        return self._conditioned(subspots.mean, x, self.aggregate(subspots).mean, subspots)

    def sample(self, subspots: Subspots, x: Tensor | None = None) -> Tensor:
        draw = subspots.mean + subspots.dispersion.sqrt() * torch.randn_like(subspots.mean)
        if x is None:
            return draw
        # Matheron's rule: a prior draw, moved by what its own noisy aggregate lacks to the observation
        aggregate = (self._weight(subspots) * draw).sum(dim=1)
        return self._conditioned(draw, x, aggregate + self.sigma * torch.randn_like(aggregate), subspots)

    def _conditioned(self, value: Tensor, x: Tensor, aggregate: Tensor, subspots: Subspots) -> Tensor:
        gain = self._weight(subspots) * subspots.dispersion / self.aggregate(subspots).dispersion.unsqueeze(1)
        return value + gain * (x - aggregate).unsqueeze(1)

    def _weight(self, subspots: Subspots) -> Tensor:
        return subspots.exposure if self.is_mean else (subspots.exposure > 0).to(subspots.exposure.dtype)


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "nb": NegativeBinomialLikelihood,
    "poisson": PoissonLikelihood,
    "gaussian": GaussianLikelihood,
}
"""Every likelihood by its name; one that is added can be used by this name."""


def get_likelihood(name: str, *, aggregate: Literal["sum", "mean"] | None = None, sigma: float = 0.0) -> Likelihood:
    """Likelihood by its name in :data:`LIKELIHOODS`.

    Raises
    ------
    ValueError
        For an unknown name, or for counts that shall be averaged.
    """
    if name not in LIKELIHOODS:
        msg = f"Expected `likelihood` to be one of {list(LIKELIHOODS)}, found {name!r}."
        raise ValueError(msg)
    return LIKELIHOODS[name](aggregate, sigma)


def _shares(weight: Tensor, exposure: Tensor) -> Tensor:
    """Shares of a spot in proportion to `weight`; by exposure where all weights vanish."""
    weight = torch.where(exposure > 0, weight, torch.zeros_like(weight))
    total = weight.sum(dim=1, keepdim=True)
    return torch.where(total > 0, weight / total.clamp(min=torch.finfo(weight.dtype).tiny), exposure)


def _multinomial(count: Tensor, share: Tensor) -> Tensor:
    """Split counts, n_spots x n_features, by shares that sum to 1 over dimension 1, one binomial after the other."""
    left, rest, parts = count, torch.ones_like(count), []
    for k in range(share.shape[1]):
        p = (share[:, k] / rest.clamp(min=_TINY)).clamp(0, 1) if k < share.shape[1] - 1 else torch.ones_like(count)
        # padding at the end holds nothing: whatever is left belongs to the last subspot with a share
        p = torch.where(share[:, k + 1 :].sum(dim=1) > 0, p, (share[:, k] > 0).to(p.dtype))
        part = torch.binomial(left, p)
        parts.append(part)
        left, rest = left - part, rest - share[:, k]
    return torch.stack(parts, dim=1)

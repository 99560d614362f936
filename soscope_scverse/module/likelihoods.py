"""Likelihoods of the subspots that add up exactly to the likelihood of their spot.

A new omics type is one new class here with the same methods. Tensors of subspots are n_spots x n_subspots x n_features;
padding has exposure 0. Where spots captured a part of their subspots only, a subspot consists of two portions with the
same rate: one that was captured and adds up with others to the spot, and one that was not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Gamma, Normal, Poisson

from soscope_scverse.module.negative_binomial import nb_log_prob

_TINY = 1e-8
MAX_EFFECT = 8.0  # bound of a subspot's log mean around its feature's: e^8 is 3,000-fold up or down
_MOST_BOUNDED = 0.99  # of this bound, where it is inverted
_SMALLEST_RATE = 0.05  # in units; an expected transformed profile may be 0 or below, a rate may not


class Subspots(NamedTuple):
    """Parameters of the subspots' profiles."""

    mean: Tensor
    """n_spots x n_subspots x n_features."""
    dispersion: Tensor
    """phi of a negative binomial or variance of a Gaussian; broadcasts against `mean`."""
    exposure: Tensor
    """n_spots x n_subspots x 1."""
    measured: Tensor | None = None
    """n_spots x n_subspots x 1 shares that were captured; None if that is all."""


class Spots(NamedTuple):
    """Parameters of the spots' profiles."""

    mean: Tensor
    """n_spots x n_features."""
    dispersion: Tensor
    """phi of a negative binomial or variance of a Gaussian; broadcasts against `mean`."""


class Start(NamedTuple):
    """Starting values of the parameters of every feature, n_features each."""

    baseline: Tensor
    """Log mean of counts, mean of other data."""
    log_dispersion: Tensor
    """Log of phi of counts, of the variance of other data."""
    unit: Tensor
    """Typical value of a spot, the unit of differences between subspots."""


class Likelihood(ABC):
    """Distribution of a subspot's profile and of the sum (or mean) over a spot.

    Parameters
    ----------
    aggregate
        Whether a spot is the ``"sum"`` of its subspots or their exposure-weighted ``"mean"``; default: the first of
        `aggregates`.
    sigma
        Standard deviation of the measurement noise of a spot, for likelihoods that have one.
    """

    is_counts: bool
    has_dispersion: bool
    aggregates: tuple[str, ...]

    def __init__(self, aggregate: Literal["mean", "sum"] | None = None, sigma: float = 0.0) -> None:
        if aggregate not in (None, *self.aggregates):
            msg = (
                f"Expected `aggregate` of a {type(self).__name__} to be one of {list(self.aggregates)}, found "
                f"{aggregate!r}. Counts add up; means of other data need likelihood='gaussian'."
            )
            raise ValueError(msg)
        self.is_mean = (aggregate or self.aggregates[0]) == "mean"
        self.sigma = sigma

    @property
    def parts(self) -> list[Likelihood]:
        """Likelihood of every modality."""
        return [self]

    def at_mean_size(self, x: Tensor, size: Tensor) -> Tensor:
        """Values of spots of relative sizes n_spots x 1, rescaled to the mean size; means are invariant to it."""
        return x if self.is_mean else x / size

    def divided(self, x: Tensor, exposure: Tensor) -> Tensor:
        """Share of each subspot, n_spots x n_subspots x 1 areas, in an observed spot that is divided evenly."""
        return x.unsqueeze(1) * (torch.ones_like(exposure) if self.is_mean else _even(exposure))

    @abstractmethod
    def start(self, x: Tensor) -> Start:
        """Starting values from observed profiles, n_spots x n_features."""

    def with_noise(self, start: Start, noise: Tensor) -> Start:
        """Starting values given `noise`, n_features variances that neighbouring spots do not share."""
        return start

    def transform(self, x: Tensor, unit: Tensor) -> Tensor:
        """Profiles on the scale on which effects add up, for the encoder."""
        return x / unit

    def effect_of(self, values: Tensor, unit: Tensor, start: Start) -> Tensor:
        """Effects of subspots with these transformed profiles: inverse of :meth:`transform` and :meth:`parameters`."""
        return (values * unit - start.baseline) / start.unit

    def offset(self, x: Tensor, start: Start) -> Tensor:
        """Effect, n_features, that turns the typical profile into the mean of n_spots x n_features profiles."""
        return self.start(x).baseline - start.baseline

    @abstractmethod
    def parameters(self, effect: Tensor, start: Start, exposure: Tensor) -> Subspots:
        """Parameters of the subspots.

        Parameters
        ----------
        effect
            Decoder output, n_spots x n_subspots x n_features; 0 is the typical subspot.
        start
            Current feature parameters; ``log_dispersion`` may also be given per subspot.
        exposure
            n_spots x n_subspots areas relative to what a spot captured, times its relative size.
        """

    @abstractmethod
    def aggregate(self, subspots: Subspots) -> Spots:
        """Parameters of the spots that consist of these subspots."""

    def rate(self, subspots: Subspots) -> Tensor:
        """Mean of a whole spot like the subspot, comparable between subspots of any exposure."""
        return subspots.mean if self.is_mean else subspots.mean / subspots.exposure.clamp(min=_TINY)

    def absorb_library_size(self, x: Tensor, spots: Spots, noise: Tensor) -> tuple[Spots, Tensor]:
        """Adjust the library size of every spot before features are compared; only counts have one.

        Parameters
        ----------
        x
            n_spots x n_features observed profiles.
        spots
            Their parameters at the library size that follows from the latent states.
        noise
            Variance of the log library size of every modality.

        Returns
        -------
        Parameters at the most likely library size of every spot, and minus the log probability of that size, n_spots x
        n_modalities.
        """
        return spots, x.new_zeros(len(x), 1)

    @abstractmethod
    def log_prob(self, x: Tensor, spots: Spots) -> Tensor:
        """Log probability of observed profiles, n_spots x n_features."""

    def change(self, subspots: Subspots, change: Tensor) -> Subspots:
        """Subspots that differ by `change`, n_spots x n_subspots x n_features, for posterior samples.

        It is added to the logarithm of counts, and to the rate of other data. The default returns them unchanged.
        """
        return subspots

    @abstractmethod
    def condition(self, x: Tensor, subspots: Subspots) -> Tensor:
        """Expected subspots given the observed spots `x`, n_spots x n_subspots x n_features."""

    @abstractmethod
    def sample(self, subspots: Subspots, x: Tensor | None = None) -> Tensor:
        """Sample subspots from their distribution, or given the observed spots `x`."""

    def denoise(self, x: Tensor, subspots: Subspots) -> Tensor:
        """Posterior mean of the rates of the subspots given the observed spots `x`, the noise of measuring excluded.

        The default is for likelihoods whose variance is that noise alone: the rate is the mean.
        """
        return subspots.mean

    def sample_rate(self, subspots: Subspots, x: Tensor | None = None) -> Tensor:
        """Sample rates of the subspots from their distribution, or given the observed spots `x`."""
        return subspots.mean

    def with_measured(self, subspots: Subspots, measured: Tensor) -> Subspots:
        """Subspots of which spots captured the shares `measured`, n_spots x n_subspots x 1."""
        return subspots._replace(measured=measured)

    def portion(self, subspots: Subspots, share: Tensor) -> Subspots:
        """A share, n_spots x n_subspots x 1, of every subspot; the default raises a NotImplementedError."""
        msg = f"Spots that capture a part of their subspots only need `portion` and `union` of a {type(self).__name__}."
        raise NotImplementedError(msg)

    def union(self, captured: Tensor, rest: Tensor, measured: Tensor) -> Tensor:
        """Values of whole subspots from those of the portions that were captured and not, for sums."""
        return captured + rest

    def captured(self, subspots: Subspots) -> Subspots:
        """The portions of the subspots that make up the spots."""
        return subspots if subspots.measured is None else self.portion(subspots, subspots.measured)

    def enhanced(self, x: Tensor, subspots: Subspots) -> Tensor:
        """Expected whole subspots: what was captured given the observed spots, and what was not without them."""
        return self._whole(self.condition(x, self.captured(subspots)), subspots)

    def denoised(self, x: Tensor, subspots: Subspots) -> Tensor:
        """Posterior mean of the rates of whole subspots: as :meth:`enhanced` without the noise of measuring."""
        return self._whole(self.denoise(x, self.captured(subspots)), subspots)

    def _whole(self, captured: Tensor, subspots: Subspots) -> Tensor:
        """Whole subspots: the values of what was captured, and the expectation of what was not."""
        if subspots.measured is None:
            return captured
        return self.union(captured, self.portion(subspots, 1 - subspots.measured).mean, subspots.measured)

    def sample_enhanced(self, subspots: Subspots, x: Tensor | None = None) -> Tensor:
        """Sample whole subspots, what was captured of them given the observed spots if `x` is given."""
        return self._sample_whole(self.sample, subspots, x)

    def sample_denoised(self, subspots: Subspots, x: Tensor | None = None) -> Tensor:
        """Sample rates of whole subspots, those of what was captured given the observed spots if `x` is given."""
        return self._sample_whole(self.sample_rate, subspots, x)

    def _sample_whole(self, sample: Callable[..., Tensor], subspots: Subspots, x: Tensor | None) -> Tensor:
        captured = sample(self.captured(subspots), x)
        if subspots.measured is None:
            return captured
        rest = sample(self.portion(subspots, 1 - subspots.measured))
        return self.union(captured, rest, subspots.measured)


class _Counts(Likelihood):
    """Common part of the count likelihoods: log link, additive means, and shares of the observed count.

    See :class:`Likelihood` for its parameters.
    """

    is_counts = True
    aggregates = ("sum",)

    def start(self, x: Tensor) -> Start:
        mean = x.mean(dim=0).clamp(min=1e-4)
        return Start(mean.log(), torch.zeros_like(mean), mean)

    def transform(self, x: Tensor, unit: Tensor) -> Tensor:
        # relative to the mean of the feature: library size is kept, and no feature dominates
        return torch.log1p(x / unit)

    def effect_of(self, values: Tensor, unit: Tensor, start: Start) -> Tensor:
        rate = unit * torch.expm1(values).clamp(min=_SMALLEST_RATE)
        bounded = (rate.clamp(min=_TINY).log() - start.baseline) / MAX_EFFECT
        return MAX_EFFECT * torch.atanh(bounded.clamp(-_MOST_BOUNDED, _MOST_BOUNDED))

    def absorb_library_size(self, x: Tensor, spots: Spots, noise: Tensor) -> tuple[Spots, Tensor]:
        """Integrate out a log-normal library size by Laplace's approximation.

        A spot with a larger library size than its position explains deviates in one number instead of in all features;
        so the latent states, which are interpolated between spots, need not model it.
        """
        if not noise.item() > 0:
            return super().absorb_library_size(x, spots, noise)
        total = spots.mean.sum(dim=1)
        counting = self.variance(spots).sum(dim=1) / total.clamp(min=_TINY) ** 2
        surplus = torch.log1p(x.sum(dim=1)) - torch.log1p(total)
        log_factor = surplus * noise / (noise + counting)
        penalty = 0.5 * (log_factor**2 / noise + torch.log1p(noise / counting))
        return Spots(spots.mean * log_factor.exp().unsqueeze(1), spots.dispersion), penalty.unsqueeze(1)

    @abstractmethod
    def variance(self, spots: Spots) -> Tensor:
        """Variance of the spots' counts, n_spots x n_features."""

    def parameters(self, effect: Tensor, start: Start, exposure: Tensor) -> Subspots:
        bounded = MAX_EFFECT * torch.tanh(effect / MAX_EFFECT)
        exposure = exposure.unsqueeze(-1)
        return Subspots(exposure * torch.exp(start.baseline + bounded), start.log_dispersion.exp(), exposure)

    def portion(self, subspots: Subspots, share: Tensor) -> Subspots:
        return Subspots(subspots.mean * share, subspots.dispersion, subspots.exposure * share)

    def aggregate(self, subspots: Subspots) -> Spots:
        mean = subspots.mean.sum(dim=1)
        dispersion = subspots.dispersion
        if dispersion.dim() == 3:  # phi differs between subspots: match the variance of the sum
            dispersion = (subspots.mean * dispersion).sum(dim=1) / mean.clamp(min=_TINY)
        return Spots(mean, dispersion)

    def change(self, subspots: Subspots, change: Tensor) -> Subspots:
        return subspots._replace(mean=subspots.mean * change.exp())

    def condition(self, x: Tensor, subspots: Subspots) -> Tensor:
        return x.unsqueeze(1) * _shares(subspots.mean, subspots.exposure)


class PoissonLikelihood(_Counts):
    """Poisson subspots: a spot is Poisson, its subspots given its count are multinomial.

    Parameters
    ----------
    aggregate, sigma
        See :class:`Likelihood`.
    """

    has_dispersion = False

    def variance(self, spots: Spots) -> Tensor:
        return spots.mean

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

    Parameters
    ----------
    aggregate, sigma
        See :class:`Likelihood`.
    """

    has_dispersion = True

    def variance(self, spots: Spots) -> Tensor:
        return spots.mean * (1 + spots.dispersion)

    def log_prob(self, x: Tensor, spots: Spots) -> Tensor:
        return nb_log_prob(x, spots.mean, spots.dispersion)

    def sample(self, subspots: Subspots, x: Tensor | None = None) -> Tensor:
        concentration = (subspots.mean / subspots.dispersion).clamp(min=_TINY)
        rate = Gamma(concentration, torch.ones_like(concentration), validate_args=False).sample()
        if x is None:
            return torch.poisson(rate * subspots.dispersion * (subspots.exposure > 0))
        return _multinomial(x, _shares(rate, subspots.exposure))

    def denoise(self, x: Tensor, subspots: Subspots) -> Tensor:
        # rates are gamma distributed with mean mu and variance phi mu, and counts given them are Poisson
        weight = subspots.dispersion / (1 + subspots.dispersion)
        return torch.lerp(subspots.mean, self.condition(x, subspots), weight.expand_as(subspots.mean))

    def sample_rate(self, subspots: Subspots, x: Tensor | None = None) -> Tensor:
        count = 0 if x is None else self.sample(subspots, x)
        scale = subspots.dispersion if x is None else subspots.dispersion / (1 + subspots.dispersion)
        shape = (subspots.mean / subspots.dispersion + count).clamp(min=_TINY)
        rate = Gamma(shape, torch.ones_like(shape), validate_args=False).sample()
        return rate * scale * (subspots.exposure > 0)


class GaussianLikelihood(Likelihood):
    """Gaussian subspots; a spot is their sum, or their exposure-weighted mean, plus measurement noise.

    The mean is for intensities and principal components, the sum for amounts. The variance of a subspot is set so that
    the variance of a spot is invariant to its number of subspots. With `sigma` 0 the conditional mean adds up to the
    spot.

    Parameters
    ----------
    aggregate, sigma
        See :class:`Likelihood`.
    """

    is_counts = False
    has_dispersion = True
    aggregates = ("mean", "sum")

    def start(self, x: Tensor) -> Start:
        variance = x.var(dim=0, correction=0).clamp(min=_TINY)
        return Start(x.mean(dim=0), (0.5 * variance).log(), variance.sqrt())

    def with_noise(self, start: Start, noise: Tensor) -> Start:
        # training changes it at most 1.5-fold, and with too large a variance x is not informative about z
        variance = start.unit.square()
        return start._replace(log_dispersion=noise.clamp(min=1e-3 * variance, max=variance).log())

    def offset(self, x: Tensor, start: Start) -> Tensor:
        return super().offset(x, start) / start.unit

    def parameters(self, effect: Tensor, start: Start, exposure: Tensor) -> Subspots:
        exposure = exposure.unsqueeze(-1)
        mean = start.baseline + start.unit * effect
        share = 1 / _even(exposure).clamp(min=_TINY) if self.is_mean else exposure
        scale = torch.ones_like(exposure) if self.is_mean else exposure
        return Subspots(scale * mean, share * start.log_dispersion.exp(), exposure)

    def with_measured(self, subspots: Subspots, measured: Tensor) -> Subspots:
        if self.is_mean:  # the variance of a spot is that of a mean over what it captured, not over its whole cell
            captured = (subspots.exposure * measured).sum(dim=1, keepdim=True)
            share = captured / subspots.exposure.sum(dim=1, keepdim=True)
            subspots = subspots._replace(dispersion=subspots.dispersion * share)
        return super().with_measured(subspots, measured)

    def portion(self, subspots: Subspots, share: Tensor) -> Subspots:
        exposure = subspots.exposure * share
        if self.is_mean:  # the noise of a mean falls with the area that it is taken over
            return Subspots(subspots.mean, subspots.dispersion / share.clamp(min=_TINY), exposure)
        return Subspots(subspots.mean * share, subspots.dispersion * share, exposure)

    def union(self, captured: Tensor, rest: Tensor, measured: Tensor) -> Tensor:
        return measured * captured + (1 - measured) * rest if self.is_mean else captured + rest

    def aggregate(self, subspots: Subspots) -> Spots:
        weight = self._weight(subspots)
        variance = (weight**2 * subspots.dispersion).sum(dim=1) + self.sigma**2
        return Spots((weight * subspots.mean).sum(dim=1), variance)

    def log_prob(self, x: Tensor, spots: Spots) -> Tensor:
        return Normal(spots.mean, spots.dispersion.clamp(min=_TINY).sqrt(), validate_args=False).log_prob(x)

    def change(self, subspots: Subspots, change: Tensor) -> Subspots:
        return subspots._replace(mean=subspots.mean + (change if self.is_mean else subspots.exposure * change))

    def condition(self, x: Tensor, subspots: Subspots) -> Tensor:
        return self._conditioned(subspots.mean, x, self.aggregate(subspots).mean, subspots)

    def sample(self, subspots: Subspots, x: Tensor | None = None) -> Tensor:
        sample = subspots.mean + subspots.dispersion.sqrt() * torch.randn_like(subspots.mean)
        if x is None:
            return sample
        # Matheron's rule: a prior sample is corrected by the difference of its noisy aggregate to the observation
        aggregate = (self._weight(subspots) * sample).sum(dim=1)
        return self._conditioned(sample, x, aggregate + self.sigma * torch.randn_like(aggregate), subspots)

    def _conditioned(self, value: Tensor, x: Tensor, aggregate: Tensor, subspots: Subspots) -> Tensor:
        gain = self._weight(subspots) * subspots.dispersion / self.aggregate(subspots).dispersion.unsqueeze(1)
        return value + gain * (x - aggregate).unsqueeze(1)

    def _weight(self, subspots: Subspots) -> Tensor:
        return _even(subspots.exposure) if self.is_mean else (subspots.exposure > 0).to(subspots.exposure.dtype)


class JointLikelihood(Likelihood):
    """Several modalities with concatenated features; each keeps its own likelihood.

    Parameters
    ----------
    parts
        Likelihood of every modality.
    sizes
        Number of features of every modality.
    """

    def __init__(self, parts: Sequence[Likelihood], sizes: Sequence[int]) -> None:
        self._parts = list(parts)
        self.sizes = list(sizes)
        self.is_counts = all(part.is_counts for part in parts)
        self.has_dispersion = any(part.has_dispersion for part in parts)

    @property
    def parts(self) -> list[Likelihood]:
        return self._parts

    def start(self, x: Tensor) -> Start:
        return Start(*map(_joined, zip(*self._each("start", self._split(x)), strict=True)))

    def with_noise(self, start: Start, noise: Tensor) -> Start:
        parts = self._each("with_noise", map(Start, *map(self._split, start)), self._split(noise))
        return Start(*map(_joined, zip(*parts, strict=True)))

    def offset(self, x: Tensor, start: Start) -> Tensor:
        return _joined(self._each("offset", self._split(x), map(Start, *map(self._split, start))))

    def transform(self, x: Tensor, unit: Tensor) -> Tensor:
        return _joined(self._each("transform", self._split(x), self._split(unit)))

    def effect_of(self, values: Tensor, unit: Tensor, start: Start) -> Tensor:
        starts = map(Start, *map(self._split, start))
        return _joined(self._each("effect_of", self._split(values), self._split(unit), starts))

    def parameters(self, effect: Tensor, start: Start, exposure: Tensor) -> Subspots:
        starts = map(Start, *map(self._split, start))
        return self._joined_subspots(
            self._each("parameters", self._split(effect), starts, [exposure] * len(self.parts))
        )

    def with_measured(self, subspots: Subspots, measured: Tensor) -> Subspots:
        parts = self._each("with_measured", self._split_subspots(subspots), [measured] * len(self.parts))
        return self._joined_subspots(parts)

    def portion(self, subspots: Subspots, share: Tensor) -> Subspots:
        return self._joined_subspots(self._each("portion", self._split_subspots(subspots), [share] * len(self.parts)))

    def union(self, captured: Tensor, rest: Tensor, measured: Tensor) -> Tensor:
        values = self._split(captured), self._split(rest), [measured] * len(self.parts)
        return _joined(self._each("union", *values))

    def aggregate(self, subspots: Subspots) -> Spots:
        parts = self._each("aggregate", self._split_subspots(subspots))
        return Spots(_joined([p.mean for p in parts]), _joined([p.dispersion for p in parts]))

    def at_mean_size(self, x: Tensor, size: Tensor) -> Tensor:
        return _joined(self._each("at_mean_size", self._split(x), [size] * len(self.parts)))

    def divided(self, x: Tensor, exposure: Tensor) -> Tensor:
        return _joined(self._each("divided", self._split(x), [exposure] * len(self.parts)))

    def rate(self, subspots: Subspots) -> Tensor:
        return _joined(self._each("rate", self._split_subspots(subspots)))

    def absorb_library_size(self, x: Tensor, spots: Spots, noise: Tensor) -> tuple[Spots, Tensor]:
        parts = self._each("absorb_library_size", self._split(x), map(Spots, *map(self._split, spots)), noise)
        own, penalty = zip(*parts, strict=True)
        mean, dispersion = (_joined(values) for values in zip(*own, strict=True))
        return Spots(mean, dispersion), torch.cat(penalty, dim=1)

    def log_prob(self, x: Tensor, spots: Spots) -> Tensor:
        return _joined(self._each("log_prob", self._split(x), map(Spots, *map(self._split, spots))))

    def change(self, subspots: Subspots, change: Tensor) -> Subspots:
        parts = self._each("change", self._split_subspots(subspots), self._split(change))
        return subspots._replace(mean=_joined([part.mean for part in parts]))

    def condition(self, x: Tensor, subspots: Subspots) -> Tensor:
        return _joined(self._each("condition", self._split(x), self._split_subspots(subspots)))

    def sample(self, subspots: Subspots, x: Tensor | None = None) -> Tensor:
        given = [None] * len(self.parts) if x is None else self._split(x)
        return _joined(self._each("sample", self._split_subspots(subspots), given))

    def denoise(self, x: Tensor, subspots: Subspots) -> Tensor:
        return _joined(self._each("denoise", self._split(x), self._split_subspots(subspots)))

    def sample_rate(self, subspots: Subspots, x: Tensor | None = None) -> Tensor:
        given = [None] * len(self.parts) if x is None else self._split(x)
        return _joined(self._each("sample_rate", self._split_subspots(subspots), given))

    def _each(self, method: str, *arguments: Iterable) -> list:
        """Call a method of every part with its own arguments."""
        return [getattr(part, method)(*own) for part, *own in zip(self.parts, *arguments, strict=True)]

    def _split(self, values: Tensor) -> Sequence[Tensor]:
        return values.split(self.sizes, dim=-1)

    def _split_subspots(self, subspots: Subspots) -> list[Subspots]:
        mean, dispersion = self._split(subspots.mean), self._split(subspots.dispersion)
        return [Subspots(*part, subspots.exposure, subspots.measured) for part in zip(mean, dispersion, strict=True)]

    @staticmethod
    def _joined_subspots(parts: Sequence[Subspots]) -> Subspots:
        mean, dispersion = (_joined(values) for values in zip(*((p.mean, p.dispersion) for p in parts), strict=True))
        return Subspots(mean, dispersion, parts[0].exposure, parts[0].measured)


def has_log_means(likelihood: Likelihood) -> bool:
    """Whether log means are a baseline plus a bounded effect, and means add up, as those of the counts here."""
    return all(
        isinstance(part, _Counts)
        and type(part).parameters is _Counts.parameters
        and type(part).aggregate is _Counts.aggregate
        for part in likelihood.parts
    )


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "nb": NegativeBinomialLikelihood,
    "poisson": PoissonLikelihood,
    "gaussian": GaussianLikelihood,
}
"""Every likelihood by its name; an added one can be used by this name."""


def count_likelihoods() -> dict[str, bool]:
    """Whether each likelihood, by its name, is one of counts."""
    return {name: likelihood.is_counts for name, likelihood in LIKELIHOODS.items()}


def unmeasured_dispersions(names: Iterable[str], observation: str, dispersion: str) -> list[str]:
    """Likelihoods whose dispersion nothing measures, so that posterior samples have no meaningful width.

    A Gaussian observation scores the means of counts alone, and lets the variance of Gaussian subspots fall to its
    bound. One dispersion per feature of counts is estimated from the spots after the training.

    Parameters
    ----------
    names
        Likelihood of every modality, by its name in :data:`LIKELIHOODS`.
    observation, dispersion
        See :class:`~soscope_scverse.model.SoScope`.
    """
    if observation == "matched":
        return []
    chosen = {name: LIKELIHOODS[name] for name in names}
    return [n for n, one in chosen.items() if one.has_dispersion and not (one.is_counts and dispersion == "feature")]


def get_likelihood(name: str, *, aggregate: Literal["sum", "mean"] | None = None, sigma: float = 0.0) -> Likelihood:
    """Likelihood by its name in :data:`LIKELIHOODS`.

    Raises
    ------
    ValueError
        For an unknown name, or ``aggregate="mean"`` for counts.
    """
    if name not in LIKELIHOODS:
        msg = f"Expected `likelihood` to be one of {list(LIKELIHOODS)}, found {name!r}."
        raise ValueError(msg)
    return LIKELIHOODS[name](aggregate, sigma)


def joint_likelihood(
    modalities: Sequence[tuple[str, int]],
    *,
    aggregate: Literal["sum", "mean"] | None = None,
    sigma: float = 0.0,
) -> Likelihood:
    """Likelihood of one modality, or of several with concatenated features.

    Parameters
    ----------
    modalities
        Name of the likelihood and number of features of each.
    aggregate, sigma
        See :class:`Likelihood`; of several modalities, `aggregate` applies to those that support it.
    """
    if len(modalities) == 1:
        return get_likelihood(modalities[0][0], aggregate=aggregate, sigma=sigma)
    parts = [
        get_likelihood(name, aggregate=aggregate if aggregate in LIKELIHOODS[name].aggregates else None, sigma=sigma)
        for name, _ in modalities
    ]
    return JointLikelihood(parts, [size for _, size in modalities])


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate along features; tensors that are constant over spots or subspots are expanded if another is not."""
    leading = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*leading, part.shape[-1]) for part in parts], dim=-1)


def _shares(weight: Tensor, exposure: Tensor) -> Tensor:
    """Shares of a spot in proportion to `weight`; by exposure where all weights vanish."""
    weight = torch.where(exposure > 0, weight, torch.zeros_like(weight))
    total = weight.sum(dim=1, keepdim=True)
    return torch.where(total > 0, weight / total.clamp(min=torch.finfo(weight.dtype).tiny), _even(exposure))


def _even(exposure: Tensor) -> Tensor:
    """Shares of a spot by exposure, invariant to its relative size."""
    return exposure / exposure.sum(dim=1, keepdim=True)


def _multinomial(count: Tensor, share: Tensor) -> Tensor:
    """Split counts, n_spots x n_features, by shares that sum to 1 over dimension 1, one binomial after the other."""
    left, rest, parts = count, torch.ones_like(count), []
    for k in range(share.shape[1]):
        p = (share[:, k] / rest.clamp(min=_TINY)).clamp(0, 1) if k < share.shape[1] - 1 else torch.ones_like(count)
        # padding at the end gets nothing: the remainder belongs to the last subspot with a share
        p = torch.where(share[:, k + 1 :].sum(dim=1) > 0, p, (share[:, k] > 0).to(p.dtype))
        part = torch.binomial(left, p)
        parts.append(part)
        left, rest = left - part, rest - share[:, k]
    return torch.stack(parts, dim=1)

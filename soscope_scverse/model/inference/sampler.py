"""Posterior samples of the subspots, invariant to the order of the spots and to the block size."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from soscope_scverse._arrays import Matrix, dense
from soscope_scverse.model._tiles import Tiles
from soscope_scverse.module.further_features import FurtherFeatures
from soscope_scverse.module.likelihoods import Subspots
from soscope_scverse.module.vae import SoScopeVAE

Expectation: TypeAlias = Literal["conditional", "denoised", "decoded"]
"""What the values of a subspot are, see :meth:`SoScope.get_enhanced`."""

_LATENT_SPOTS = 2048  # interpolated at once


class LatentStates(NamedTuple):
    """q(Z given X, A)."""

    mean: Tensor
    """n_spots x n_latent."""
    scale: Tensor
    """n_spots x n_latent standard deviations."""


class Sampler:
    """Expected subspots of a section, and joint posterior samples of latent states, residuals and subspots.

    Every spot has its own seeds, assigned in the order of the names of the spots. So a sample of a latent state is the
    same for all subspots that are interpolated from it, in any block.

    Parameters
    ----------
    module
        Trained module.
    tiles
        The section.
    states
        Latent states of its spots.
    order
        Rows of the spots by name.
    n_samples
        Number of posterior samples.
    expectations
        See :meth:`SoScope.get_enhanced`; samples are of the first.
    seed
        Of all random numbers.
    """

    def __init__(
        self,
        module: SoScopeVAE | FurtherFeatures,
        tiles: Tiles,
        states: LatentStates,
        order: np.ndarray,
        *,
        n_samples: int,
        expectations: Sequence[Expectation],
        seed: int,
    ) -> None:
        self.module = module
        self.tiles = tiles
        self.states = states
        self.n_samples = n_samples
        self.expectations = list(expectations)
        self.seeds = np.empty((tiles.n_spots, 2), dtype=np.int64)
        self.seeds[order] = np.random.default_rng(seed).integers(2**63 - 1, size=(tiles.n_spots, 2))

    def of_features(self, module: FurtherFeatures, x: Matrix, number: int) -> Sampler:
        """Sampler of other features of the same spots, with the same latent states.

        Parameters
        ----------
        module
            Of these features.
        x
            n_spots x n_features.
        number
            Of the group of features: each has random numbers of its own.
        """
        other = copy.copy(self)
        other.module, other.seeds = module, self.seeds.copy()
        other.tiles = self.tiles.of(self.tiles.section._replace(x=x))
        other.seeds[:, 1] ^= number
        return other

    @cached_property
    def pitch(self) -> np.ndarray:
        """Centre-to-centre distance in the section of every spot, n_spots; only samples need it."""
        return self.tiles.section.pitch

    @property
    def samples_counts(self) -> bool:
        """Whether a sample consists of integers that add up to the observed spots."""
        return self.expectations[0] == "conditional" and self.module.likelihood.is_counts

    @property
    def given(self) -> bool:
        """Whether samples are given the observed spots."""
        return self.expectations[0] != "decoded"

    @torch.inference_mode()
    def means(self, spots: np.ndarray) -> list[Tensor]:
        """Every expectation of some spots at the mean latent states, n_own x n_subspots x n_features each."""
        inputs, batch = self._batch(spots)
        subspots = self.module.generative(batch, self.states.mean[inputs])["subspots"]
        x, likelihood = self._observed(spots), self.module.likelihood
        expected: dict[Expectation, Callable[[], Tensor]] = {
            "conditional": lambda: likelihood.enhanced(x, subspots),
            "denoised": lambda: likelihood.denoised(x, subspots),
            "decoded": lambda: subspots.mean,
        }
        return [expected[name]() for name in self.expectations]

    @torch.inference_mode()
    def latent_states(self) -> np.ndarray:
        """Mean latent states of the valid subspots, as the decoder reads them: n_targets x n_latent float32."""
        states = np.empty((self.tiles.n_targets, self.states.mean.shape[1]), np.float32)
        for start in range(0, self.tiles.n_spots, _LATENT_SPOTS):
            spots = np.arange(start, min(start + _LATENT_SPOTS, self.tiles.n_spots))
            inputs, batch = self._batch(spots)
            valid = torch.as_tensor(self.tiles.section.area[spots].ravel() > 0)
            rows = slice(self.tiles.first_target[spots[0]], self.tiles.first_target[spots[-1] + 1])
            states[rows] = self.module.subspot_states(batch, self.states.mean[inputs]).cpu()[valid].numpy()
        return states

    @torch.inference_mode()
    def sample(self, spots: np.ndarray) -> Tensor:
        """Posterior samples of some spots, padding included: n_samples x n_own x n_subspots x n_features."""
        device = self.states.mean.device
        x = self._observed(spots)
        likelihood = self.module.likelihood
        sample = likelihood.sample_denoised if self.expectations[0] == "denoised" else likelihood.sample_enhanced
        roots = [
            torch.as_tensor(self._roots(spots, length), dtype=torch.float32, device=device)
            for length in self.module.residual_length.tolist()
        ]
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            subspots = self._subspots(spots)
            own = []
            for i, seed in enumerate(self.seeds[spots, 1]):
                _seed(device, seed)
                change = self._change([root[i] for root in roots])
                changed = likelihood.change(_of_spot(subspots, i), change)
                given = x[i].expand(self.n_samples, -1) if self.given else None
                own.append(sample(changed, given))
        return torch.stack(own, dim=1)

    def _batch(self, spots: np.ndarray) -> tuple[np.ndarray, dict[str, Tensor]]:
        """Rows of the latent states that the decoder needs for some spots, and its other inputs."""
        inputs, batch = self.tiles.block(spots)
        return inputs, {name: value.to(self.states.mean.device) for name, value in batch.items()}

    def _observed(self, spots: np.ndarray) -> Tensor:
        return torch.as_tensor(dense(self.tiles.section.x[spots]), dtype=torch.float32, device=self.states.mean.device)

    def _subspots(self, spots: np.ndarray) -> Subspots:
        """Parameters of the subspots for each sample of the latent states."""
        inputs, batch = self._batch(spots)
        mean, scale = self.states.mean[inputs], self.states.scale[inputs]
        device = mean.device
        noise = torch.empty(self.n_samples, *mean.shape, device=device)
        for i, seed in enumerate(self.seeds[inputs, 0]):
            _seed(device, seed)
            noise[:, i] = torch.randn(self.n_samples, mean.shape[1], device=device)
        sampled = [self.module.generative(batch, mean + scale * one)["subspots"] for one in noise]
        stacked = {
            name: torch.stack([getattr(one, name) for one in sampled])
            for name in Subspots._fields
            if getattr(sampled[0], name) is not None
        }
        return Subspots(**stacked)

    def _roots(self, spots: np.ndarray, length: float) -> np.ndarray:
        """Roots of the covariances of the residual process in some spots."""
        section = self.tiles.section
        positions = section.subspots[spots] / (length * self.pitch[spots, None, None])
        return residual_roots(positions, section.exposure[spots])

    def _change(self, roots: list[Tensor]) -> Tensor:
        """Sample residuals of the subspots of a spot around the decoder: n_samples x n_subspots x n_features."""
        parts = []
        loadings = self.module.residual_loadings.split(self.module.sizes, dim=1)
        # with gaps it is part of the dispersion
        noises = (
            torch.zeros_like(self.module.library_size_noise)
            if self.tiles.section.has_gaps
            else self.module.library_size_noise
        )
        for part, root, pattern, noise in zip(self.module.likelihood.parts, roots, loadings, noises, strict=True):
            change = root @ torch.randn(self.n_samples, len(root), len(pattern), device=root.device) @ pattern
            if part.is_counts:  # a log-normal factor of mean 1
                change -= 0.5 * (root**2).sum(dim=1, keepdim=True) * (pattern**2).sum(dim=0)
            # library sizes of subspots vary around that of the spot as spots do around their position
            change += noise.sqrt() * torch.randn(self.n_samples, len(root), 1, device=root.device)
            if not self.given:  # the library size of an observed spot is known
                change += noise.sqrt() * torch.randn(self.n_samples, 1, 1, device=root.device)
            parts.append(change)
        return torch.cat(parts, dim=2)


def residual_roots(positions: np.ndarray, exposure: np.ndarray) -> np.ndarray:
    """Symmetric roots R of the residual covariance R R of the subspots given their spot.

    It is that of a Gaussian process of variance 1 and length 1 given its average over what the spot captured.
    Information of the neighbours is part of the prediction; the residuals of different spots are independent.

    Parameters
    ----------
    positions
        n_spots x n_subspots x 2, in lengths of the process, NaN = padding.
    exposure
        n_spots x n_subspots, 0 = padding or in a gap.

    Returns
    -------
    n_spots x n_subspots x n_subspots.
    """
    positions = np.nan_to_num(positions)
    share = (exposure / exposure.sum(axis=1, keepdims=True)).astype(float)
    covariance = np.exp(-np.linalg.norm(positions[:, :, None] - positions[:, None], axis=-1))
    with_average = np.einsum("nkj,nj->nk", covariance, share)
    average = np.einsum("nk,nk->n", with_average, share)
    covariance -= with_average[:, :, None] * with_average[:, None] / average[:, None, None]
    values, vectors = np.linalg.eigh(covariance)
    return np.einsum("nki,ni,nji->nkj", vectors, np.sqrt(np.maximum(values, 0)), vectors)


def _seed(device: torch.device, seed: np.int64) -> None:
    """Seed the generator of one device; seeding all, GPUs included, takes longer than the samples of a spot."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(int(seed))
    else:
        torch.manual_seed(int(seed))


def _of_spot(subspots: Subspots, i: int) -> Subspots:
    """Parameters of one spot, with the samples along the dimension of the spots."""
    dispersion, measured = subspots.dispersion, subspots.measured
    return Subspots(
        subspots.mean[:, i],
        dispersion[:, i] if dispersion.dim() == 4 else dispersion[0],
        subspots.exposure[:, i],
        None if measured is None else measured[:, i],
    )

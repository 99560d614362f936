"""Expected counts of the spots straight from the hidden layer of the decoder, without those of all subspots.

The expected counts of all subspots would be written to and read from main memory a dozen times in a training step,
which takes longer than the matrix products. Here a few spots at a time are computed in the cache of the processor.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from soscope_scverse.module.likelihoods import MAX_EFFECT
from soscope_scverse.module.negative_binomial import row_blocks

_TINY = 1e-8


class HiddenSubspots(NamedTuple):
    """Subspots of counts as the last layer of the decoder gets them."""

    hidden: Tensor
    """(n_spots * n_subspots) x n_hidden."""
    weight: Tensor
    """n_features x n_hidden, of the last layer."""
    bias: Tensor
    """n_features."""
    baseline: Tensor
    """n_features log means."""
    exposure: Tensor
    """n_spots x n_subspots areas that spots captured, times the relative size of the spot."""

    def means(self, rows: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Means of the spots, and deviations of the rates of some subspots from those of their spots.

        Parameters
        ----------
        rows
            Indices of n_rows subspots among n_spots * n_subspots; one may occur more than once.
        unit
            n_features, of the deviations.

        Returns
        -------
        n_spots x n_features and n_rows x n_features.
        """
        return _Means.apply(*self, rows, unit)


class _Means(torch.autograd.Function):
    """sum_k a_k r_k, and (r_k - sum_j a_j r_j / sum_j a_j) / unit of some k.

    The rates are r_k = exp(baseline + bound(W h_k + b)),
    bound(e) = m tanh(e / m) = m (2 sigmoid(2 e / m) - 1) with m = `MAX_EFFECT`; its derivative is 4 s (1 - s) with the
    sigmoid s. The derivative of the rates by e is all that is kept for the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        baseline: Tensor,
        exposure: Tensor,
        rows: Tensor,
        unit: Tensor,
    ) -> tuple[Tensor, Tensor]:
        (n_spots, n_subspots), n_features = exposure.shape, len(weight)
        scaled, offset = (2 / MAX_EFFECT * weight).T.contiguous(), 2 / MAX_EFFECT * bias
        lowest, size = baseline - MAX_EFFECT, _sizes(exposure)
        means, deviations = hidden.new_empty(n_spots, n_features), hidden.new_empty(len(rows), n_features)
        blocks = _blocks(rows, exposure.shape, n_features)
        slopes = []
        for block in blocks:
            slope = torch.addmm(offset, hidden[block.targets], scaled).sigmoid_()
            rate = torch.add(lowest, slope, alpha=2 * MAX_EFFECT).exp_()
            own = means[block.spots]
            parts = rate.view(len(own), n_subspots, n_features)
            torch.bmm(exposure[block.spots].unsqueeze(1), parts, out=own.unsqueeze(1))
            whole = (own / size[block.spots]).index_select(0, block.spot)
            deviations[block.output] = rate.index_select(0, block.target).sub_(whole).div_(unit)
            slopes.append(slope.addcmul_(slope, slope, value=-1).mul_(rate).mul_(4))
        ctx.save_for_backward(hidden, weight, exposure, unit, means, deviations)
        ctx.blocks, ctx.slopes = blocks, slopes
        return means, deviations

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_means: Tensor, of_deviations: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, exposure, unit, means, deviations = ctx.saved_tensors
        size = _sizes(exposure)
        by_hidden, by_weight, by_bias = torch.empty_like(hidden), torch.zeros_like(weight), torch.zeros_like(unit)
        by_baseline = (of_means * means).sum(dim=0)  # and deviations, in which a change of their spot cancels
        for block, slope in zip(ctx.blocks, ctx.slopes, strict=True):
            area = exposure[block.spots].unsqueeze(2)
            own_deviations = of_deviations.index_select(0, block.output)
            of_rates = own_deviations / unit
            of_own = of_means[block.spots] - torch.zeros_like(means[block.spots]).index_add_(
                0, block.spot, of_rates
            ).div_(size[block.spots])
            by_effect = (slope.view(*area.shape[:2], -1) * of_own.unsqueeze(1)).mul_(area).flatten(0, 1)
            by_effect.index_add_(0, block.target, of_rates.mul_(slope.index_select(0, block.target)))
            by_baseline += (own_deviations * deviations.index_select(0, block.output)).sum(dim=0)
            torch.mm(by_effect, weight, out=by_hidden[block.targets])
            by_weight.addmm_(by_effect.T, hidden[block.targets])
            by_bias += by_effect.sum(dim=0)
        return by_hidden, by_weight, by_bias, by_baseline, None, None, None


def _sizes(exposure: Tensor) -> Tensor:
    return exposure.sum(dim=1, keepdim=True).clamp(min=_TINY)


class _Block(NamedTuple):
    """Some spots, and which of the chosen subspots belong to them."""

    spots: slice
    targets: slice
    """Their subspots."""
    output: Tensor
    """Number of the chosen subspots among all that were chosen."""
    target: Tensor
    """Their rows among the subspots of these spots."""
    spot: Tensor
    """Rows of their spots among these spots."""


def _blocks(rows: Tensor, shape: torch.Size, n_features: int) -> list[_Block]:
    n_spots, n_subspots = shape
    slices = [*row_blocks(n_spots, n_subspots * n_features, rows.device)]
    rows, order = rows.sort(stable=True)
    last = torch.searchsorted(
        rows, torch.tensor([own.stop * n_subspots for own in slices], device=rows.device)
    ).tolist()
    blocks = []
    for own, first, end in zip(slices, [0, *last], last, strict=False):
        target = rows[first:end] - own.start * n_subspots
        spot = target.div(n_subspots, rounding_mode="floor")
        targets = slice(own.start * n_subspots, own.stop * n_subspots)
        blocks.append(_Block(own, targets, order[first:end], target, spot))
    return blocks

"""Means of the spots in blocks against the means of all subspots, added up and differentiated by torch."""

import pytest
import torch

from helpers import chain, vae
from soscope_scverse.module import spot_means
from soscope_scverse.module.likelihoods import Start, get_likelihood
from soscope_scverse.module.spot_means import HiddenSubspots

N_SPOTS, N_SUBSPOTS, N_FEATURES, N_HIDDEN = 11, 4, 6, 5


def dense(hidden, weight, bias, baseline, exposure, rows, unit):
    """The definition: all subspots, then their sums."""
    likelihood, zero = get_likelihood("poisson"), torch.zeros_like(baseline)
    effect = torch.nn.functional.linear(hidden, weight, bias).view(*exposure.shape, -1)
    subspots = likelihood.parameters(effect, Start(baseline, zero, zero + 1), exposure)
    mean = likelihood.aggregate(subspots).mean
    whole = (mean / exposure.sum(1, keepdim=True)).index_select(0, rows // exposure.shape[1])
    return mean, (likelihood.rate(subspots).flatten(0, 1)[rows] - whole) / unit


def blockwise(*arguments):
    return HiddenSubspots(*arguments[:5]).means(*arguments[5:])


def inputs(dtype):
    generator = torch.Generator().manual_seed(0)
    shapes = (N_SPOTS * N_SUBSPOTS, N_HIDDEN), (N_FEATURES, N_HIDDEN), (N_FEATURES,), (N_FEATURES,)
    parameters = [2 * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    exposure = torch.rand(N_SPOTS, N_SUBSPOTS, generator=generator, dtype=torch.float64) + 0.1
    exposure[::3, -1] = 0  # padding
    valid = exposure.flatten().nonzero().squeeze(1)
    rows = valid[torch.randint(len(valid), (30,), generator=generator)]
    unit = torch.rand(N_FEATURES, generator=generator, dtype=torch.float64) + 0.5
    return [values.to(dtype) for values in parameters], [exposure.to(dtype), rows, unit.to(dtype)]


def values_and_gradients(means, parameters, others):
    parameters = [values.clone().requires_grad_() for values in parameters]
    found = means(*parameters, *others)
    weights = [torch.linspace(-1, 2, values.numel()).view_as(values).to(values) for values in found]
    return *found, *torch.autograd.grad(found, parameters, weights)


@pytest.mark.parametrize("block", [1, 60, 2**17])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_values_and_gradients_are_those_of_all_subspots(monkeypatch, block, dtype, tolerance):
    blocks = spot_means.row_blocks
    monkeypatch.setattr(spot_means, "row_blocks", lambda *args: blocks(*args, block))
    exact = values_and_gradients(dense, *inputs(torch.float64))
    for found, expected in zip(values_and_gradients(blockwise, *inputs(dtype)), exact, strict=True):
        assert (found.double() - expected).norm() < tolerance * expected.norm()


def test_no_deviations():
    parameters, (exposure, rows, unit) = inputs(torch.float64)
    found, expected = (values_and_gradients(f, parameters, (exposure, rows[:0], unit)) for f in (blockwise, dense))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("likelihood", ["nb", "poisson"])
@pytest.mark.parametrize("n_batches", [0, 2])
def test_the_loss_and_its_gradients_do_not_depend_on_the_way(likelihood, n_batches):
    tile = chain(n=40, n_features=30)
    module = vae(tile, likelihood=likelihood, n_batches=n_batches, image_weight=3.0).train()
    if n_batches:
        shares = torch.eye(2).repeat(20, 1)
        tile |= {"batch": shares, "input_batch": shares}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    found = []
    for in_blocks in (True, False):
        module.has_log_means = in_blocks
        module.zero_grad()
        torch.manual_seed(0)
        _, generative, output = module(tile)
        output.loss.backward()
        assert isinstance(generative["subspots"], HiddenSubspots) == in_blocks
        found.append((output.loss.detach(), [p.grad for p in module.parameters() if p.grad is not None]))
    (loss, gradients), (expected, of_dense) = found
    torch.testing.assert_close(loss, expected)
    assert len(gradients) == len(of_dense)
    for one, other in zip(gradients, of_dense, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)

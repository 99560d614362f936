"""Log probability and gradients of counts against those of torch, differentiated by torch."""

import pytest
import torch
from torch.distributions import NegativeBinomial

from soscope_scverse.module import negative_binomial
from soscope_scverse.module.negative_binomial import nb_log_prob


def expected(x, mean, phi):
    return NegativeBinomial(mean.clamp(min=1e-8) / phi, logits=phi.log(), validate_args=False).log_prob(x)


def counts(dtype, *, wide=False):
    generator = torch.Generator().manual_seed(0)
    mean = torch.exp(3 * torch.randn(40, 9, generator=generator, dtype=torch.float64))
    x = torch.poisson(2 * mean * torch.rand(40, 9, generator=generator, dtype=torch.float64), generator=generator)
    x[0, :3], mean[1, :3] = 1e5, 0.0
    phi = torch.exp(2 * torch.randn(40 if wide else 1, 9, generator=generator, dtype=torch.float64))
    return [values.to(dtype) for values in (x, mean, phi if wide else phi[0])]


def value_and_gradients(log_prob, x, mean, phi):
    mean, phi = mean.clone().requires_grad_(), phi.clone().requires_grad_()
    value = log_prob(x, mean, phi)
    weight = torch.linspace(-1, 2, value.numel()).view_as(value).to(value)
    return value, *torch.autograd.grad((value * weight).sum(), (mean, phi))


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("block", [10, 100, 2**17])
def test_value_and_gradients_are_those_of_torch(monkeypatch, wide, block):
    blocks = negative_binomial.row_blocks
    monkeypatch.setattr(negative_binomial, "row_blocks", lambda *args: blocks(*args, block))
    data = counts(torch.float64, wide=wide)
    for found, of_torch in zip(
        value_and_gradients(nb_log_prob, *data), value_and_gradients(expected, *data), strict=True
    ):
        torch.testing.assert_close(found, of_torch, rtol=1e-6, atol=1e-6)


def test_single_precision_is_that_of_double_precision():
    exact = value_and_gradients(expected, *counts(torch.float64))
    found = value_and_gradients(nb_log_prob, *counts(torch.float32))
    for one, other in zip(found, exact, strict=True):
        assert (one.double() - other).norm() < 1e-5 * other.norm()


def test_numerical_gradients():
    x = torch.tensor([[0.0, 1.0, 7.0], [0.0, 0.0, 300.0]], dtype=torch.float64)
    mean = torch.tensor([[0.1, 2.0, 5.0], [3.0, 0.5, 200.0]], dtype=torch.float64, requires_grad=True)
    phi = torch.tensor([0.2, 1.0, 30.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m, p: nb_log_prob(x, m, p), (mean, phi))


def test_fractions_are_counts_as_well():
    x, mean, phi = counts(torch.float64)
    torch.testing.assert_close(nb_log_prob(x / 3, mean, phi), expected(x / 3, mean, phi), rtol=1e-6, atol=1e-6)


def test_no_counts_and_no_spots():
    mean, phi = torch.full((3, 2), 0.5), torch.tensor([0.5, 2.0])
    nothing = torch.zeros(3, 2)
    torch.testing.assert_close(nb_log_prob(nothing, mean, phi), expected(nothing, mean, phi))
    assert nb_log_prob(nothing[:0], mean[:0], phi).shape == (0, 2)

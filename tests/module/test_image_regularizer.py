"""The linear-cost estimator against the dense definition."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from soscope_scverse.module.image_regularizer import graph_bce


@pytest.fixture(scope="module")
def graph():
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(30, 5, generator=generator, dtype=torch.float64) * 0.6
    pairs = torch.combinations(torch.arange(30))
    kept = torch.randperm(len(pairs), generator=generator)[:60]
    return embedding, pairs[kept].T, torch.rand(60, generator=generator, dtype=torch.float64)


def dense(embedding, edge_index, edge_weight):
    """Mean over all pairs i < j of the binary cross entropy, as it is written."""
    target = torch.zeros(len(embedding), len(embedding), dtype=embedding.dtype)
    target[edge_index[0], edge_index[1]] = edge_weight
    i, j = torch.triu_indices(*target.shape, offset=1)
    return binary_cross_entropy_with_logits((embedding @ embedding.T)[i, j], target[i, j])


@pytest.mark.parametrize("n_sampled", [None, 30, 1000])
def test_all_nodes_give_the_dense_value_and_gradient(graph, n_sampled):
    embedding, edge_index, edge_weight = graph
    a = embedding.clone().requires_grad_()
    b = embedding.clone().requires_grad_()
    value, expected = (
        graph_bce(a.__getitem__, 30, edge_index, edge_weight, n_sampled),
        dense(b, edge_index, edge_weight),
    )
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(
        *(torch.autograd.grad(v, x)[0] for v, x in ((value, a), (expected, b))), rtol=1e-5, atol=1e-8
    )


@pytest.mark.parametrize("n_sampled", [4, 12])  # 12 takes all edges, 4 a sample of them
def test_the_sample_is_unbiased_in_value_and_gradient(graph, n_sampled):
    embedding, edge_index, edge_weight = graph
    a = embedding.clone().requires_grad_()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        values = torch.stack([graph_bce(a.__getitem__, 30, edge_index, edge_weight, n_sampled) for _ in range(4000)])
    expected = dense(a, edge_index, edge_weight)
    error = values.std() / len(values) ** 0.5
    assert abs(values.mean() - expected) < 4 * error
    assert error < 0.01 * expected
    gradient, exact = (torch.autograd.grad(v, a, retain_graph=True)[0] for v in (values.mean(), expected))
    assert torch.nn.functional.cosine_similarity(gradient.flatten(), exact.flatten(), dim=0) > 0.98
    torch.testing.assert_close(gradient.norm(), exact.norm(), rtol=0.05, atol=0)


def test_no_edges_and_a_single_node():
    none = torch.empty(2, 0, dtype=torch.long), torch.empty(0)
    torch.testing.assert_close(graph_bce(torch.zeros(6, 2).__getitem__, 6, *none), torch.tensor(2.0).log())
    torch.testing.assert_close(graph_bce(torch.zeros(6, 2).__getitem__, 6, *none, n_sampled=3), torch.tensor(2.0).log())
    assert graph_bce(torch.ones(1, 2).__getitem__, 1, *none) == 0

"""What the encoder of the spots depends on."""

import torch

from helpers import chain
from soscope_scverse.module.graph_encoder import GraphEncoder


def test_hidden_spots_are_not_looked_at():
    tile = chain()
    encoder = GraphEncoder(5, 4, 16)
    hidden = torch.zeros(12, dtype=torch.bool)
    hidden[4] = True
    edges = tile["edge_index"], tile["edge_weight"]
    changed = tile["x"].clone()
    changed[4] += 100
    assert torch.equal(encoder(tile["x"], hidden, *edges).mean, encoder(changed, hidden, *edges).mean)
    assert not torch.equal(encoder(tile["x"], ~hidden, *edges).mean, encoder(tile["x"], hidden, *edges).mean)


def test_a_latent_state_depends_on_three_hops_and_no_more():
    tile = chain(n_features=5)
    encoder = GraphEncoder(5, 4, 16)
    x = tile["x"].requires_grad_()
    nobody = torch.zeros(12, dtype=torch.bool)
    z = encoder(x, nobody, tile["edge_index"], tile["edge_weight"]).mean
    (gradient,) = torch.autograd.grad(z[0].sum(), x)
    assert (gradient.abs().sum(1) > 0).tolist() == [True] * 4 + [False] * 8


def test_edge_weights_matter():
    tile = chain()
    encoder = GraphEncoder(5, 4, 16)
    nobody = torch.zeros(12, dtype=torch.bool)
    a = encoder(tile["x"], nobody, tile["edge_index"], tile["edge_weight"]).mean
    b = encoder(tile["x"], nobody, tile["edge_index"], tile["edge_weight"] * 0.1).mean
    assert not torch.allclose(a, b)

"""Tiles of a section stand for the section."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from grids import divided, grid, one_section, section_tiles
from soscope_scverse.model._section import Section, thin_counts
from soscope_scverse.model._tiles import Tiles, contiguous_groups
from soscope_scverse.module.image_regularizer import graph_bce
from soscope_scverse.module.vae import GraphAutoencoder, SoScopeVAE


def test_thinning_splits_every_molecule():
    x = np.random.default_rng(0).poisson(50, (200, 20))
    for matrix in (x, csr_matrix(x)):
        kept, rest = thin_counts(matrix, 0.9, seed=1)
        kept, rest = kept.toarray(), rest.toarray()
        np.testing.assert_array_equal(kept + rest, x)
        assert (kept >= 0).all()
        assert (rest >= 0).all()
        assert kept.sum() / x.sum() == pytest.approx(0.9, abs=0.005)
        residual = kept - 0.9 * x  # binomial: variance x p (1 - p)
        assert (residual**2).sum() / (x * 0.09).sum() == pytest.approx(1, abs=0.05)


def test_tile_holds_what_the_section_holds():
    spatial = grid(3)
    subspots = divided(spatial)
    subspots[4, 2:] = np.nan
    valid = np.isfinite(subspots[..., 0])
    exposure = valid / valid.sum(axis=1, keepdims=True)
    graph = csr_matrix(np.eye(9, k=1) + np.eye(9, k=-1))
    features = np.random.default_rng(0).normal(size=(9, 4, 5))
    section = Section(csr_matrix(np.ones((9, 2))), graph, spatial, subspots, exposure, features, one_section(spatial))
    tile = Tiles(section, interpolation="gaussian", bandwidth=0.5, similarity_strength=2.0).tile()
    assert tile["x"].shape == (9, 2)
    assert tile["edge_index"].shape == (2, 16)
    assert len(tile["valid"]) == 34
    i, j = tile["image_edge_index"].numpy()
    targets = subspots.reshape(-1, 2)[tile["valid"].numpy()]
    assert (i < j).all()
    np.testing.assert_allclose(np.linalg.norm(targets[i] - targets[j], axis=1), 5)  # sides only
    assert tile["image_edge_weight"].median() == pytest.approx(0.5, abs=0.05)
    assert "image_edge_index" not in Tiles(section, interpolation="none", bandwidth=0.5).tile()
    assert all(not value.is_floating_point() or value.dtype == torch.float32 for value in tile.values())


@pytest.fixture
def tiles():
    return section_tiles()


def models(tiles):
    torch.manual_seed(0)
    module = SoScopeVAE(
        [("nb", 5)],
        3,
        n_image_components=128,
        aggregate=None,
        sigma=None,
        dispersion="feature",
        observation="matched",
        n_latent=4,
        n_hidden=16,
        n_layers=3,
        decoder="shift",
        uses_latent=True,
        feature_dropout=0.0,
        masked=0.0,
        image_weight=0.0,
        n_graph_samples=None,
    )
    torch.nn.init.normal_(module.decoder.shift)
    auto = GraphAutoencoder(
        module.encoder, [5], module.likelihood, n_latent=4, n_hidden=16, masked=0.0, n_graph_samples=None
    )
    for m in (module, auto):
        m.start_from(torch.as_tensor(tiles.section.x, dtype=torch.float32), torch.as_tensor(tiles.section.size))
        m.eval()
    return module, auto


@pytest.mark.parametrize("size", [1, 7, 60])
def test_what_is_said_of_a_spot_does_not_depend_on_the_tiling(tiles, size):
    module, _ = models(tiles)
    whole = tiles.tile()
    z = module.inference(whole)["z"]
    expected = module.generative(whole, z)["subspots"].mean
    for own in contiguous_groups(tiles.section.spatial, tiles.section.sections, size, np.random.default_rng(1))[:20]:
        tile, own = tiles.tile(own), np.sort(own)
        z_tile = module.inference(tile)["z"]
        torch.testing.assert_close(z_tile[tile["own"]], z[own], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            module.generative(tile, z_tile)["subspots"].mean, expected[own], rtol=1e-5, atol=1e-6
        )


def test_the_losses_of_the_tiles_average_to_that_of_the_section(tiles):
    module, auto = models(tiles)
    groups = contiguous_groups(tiles.section.spatial, tiles.section.sections, 50)
    assert len(groups) == 4
    module.library_size_noise.fill_(0.05)
    whole = module(tiles.tile())[2].loss
    parts = [module(tiles.tile(own))[2].loss * len(own) / 196 for own in groups]
    torch.testing.assert_close(sum(parts), whole)

    def likelihood_and_divergence(tile):
        output = auto(tile)[2]
        return sum(value.sum() for part in (output.reconstruction_loss, output.kl_local) for value in part.values())

    torch.testing.assert_close(
        sum(likelihood_and_divergence(tiles.tile(own)) for own in groups), likelihood_and_divergence(tiles.tile())
    )


def test_gradients_of_the_tiles_average_to_that_of_the_section(tiles):
    module, _ = models(tiles)
    module(tiles.tile())[2].loss.backward()
    expected = [None if p.grad is None else p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    for own in contiguous_groups(tiles.section.spatial, tiles.section.sections, 50):
        (module(tiles.tile(own))[2].loss * len(own) / 196).backward()
    for p, gradient in zip(module.parameters(), expected, strict=True):
        if gradient is not None:
            torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-6)


def test_the_image_pairs_of_a_tile_are_those_of_the_section(tiles):
    whole = tiles.tile()
    index, weights = whole["image_edge_index"].T.tolist(), whole["image_edge_weight"]
    pairs = {tuple(pair): weight for pair, weight in zip(index, weights, strict=True)}
    own = contiguous_groups(tiles.section.spatial, tiles.section.sections, 50)[1]
    tile, targets = tiles.tile(own), tiles.targets(np.sort(own))
    assert len(tile["valid"]) == len(targets)
    for (i, j), weight in zip(tile["image_edge_index"].T.tolist(), tile["image_edge_weight"], strict=True):
        assert pairs[targets[i], targets[j]] == weight
    assert tile["image_edge_density"] == pytest.approx(
        len(pairs) / (len(whole["valid"]) * (len(whole["valid"]) - 1) / 2)
    )


def test_edges_of_a_tile_stand_for_those_of_the_section(tiles):
    """Of the graph losses, the term of the edges averages to that of the section over many tilings, or nearly so."""
    embedding = torch.rand(196, 3, generator=torch.Generator().manual_seed(0))

    def edge_term(own):
        tile = tiles.tile(own)
        own = np.arange(196) if own is None else np.sort(own)
        edges, weights = GraphAutoencoder._own_edges(tile)
        density = tile["edge_density"]
        losses = [
            graph_bce(embedding[own].__getitem__, len(own), edges, weight, density=density)
            for weight in (torch.zeros_like(weights), weights)
        ]
        return float(losses[0] - losses[1])

    rng = np.random.default_rng(0)
    tilings = [contiguous_groups(tiles.section.spatial, tiles.section.sections, 50, rng) for _ in range(30)]
    assert np.mean([edge_term(own) for groups in tilings for own in groups]) == pytest.approx(edge_term(None), rel=0.03)


def test_groups_are_contiguous_disjoint_and_complete():
    spatial = np.vstack([grid(12), grid(12)])
    sections = np.repeat(["a", "b"], 144)
    for rng in (None, np.random.default_rng(0)):
        groups = contiguous_groups(spatial, sections, 40, rng)
        assert sorted(np.concatenate(groups)) == list(range(288))
        assert all(len(group) == 36 for group in groups)
        assert all(len(set(sections[group])) == 1 for group in groups)
        assert all(np.ptp(spatial[group], axis=0).max() < 90 for group in groups)


@pytest.mark.parametrize("size", [1, 10, 48, 50, 143])
def test_groups_are_as_few_as_fit_and_of_one_size(size):
    groups = contiguous_groups(grid(12), np.full(144, "a"), size, np.random.default_rng(0))
    assert len(groups) == -(-144 // size)
    sizes = [len(group) for group in groups]
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= len(groups).bit_length()


def test_blocks_decode_as_the_whole_does(tiles):
    module, _ = models(tiles)
    whole = tiles.tile()
    z = module.inference(whole)["z"]
    expected = module.generative(whole, z)["subspots"].mean
    own = np.array([100, 3, 4, 50])
    inputs, block = tiles.block(own)
    torch.testing.assert_close(module.generative(block, z[inputs])["subspots"].mean, expected[own])

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from soscope_scverse.model._interpolation import interpolation_weights
from soscope_scverse.model._section import Section, thin_counts
from soscope_scverse.model._tiles import Tiles, contiguous_groups
from soscope_scverse.model.training.datamodule import TileDataModule
from soscope_scverse.module.image_regularizer import graph_bce
from soscope_scverse.module.vae import GraphAutoencoder, SoScopeVAE


def grid(n=6, pitch=10.0):
    return pitch * np.stack(np.meshgrid(np.arange(n), np.arange(n)), axis=-1).reshape(-1, 2)


def divided(spatial, k=4, pitch=10.0):
    offset = (np.stack(np.meshgrid([-0.25, 0.25], [-0.25, 0.25]), axis=-1).reshape(-1, 2) * pitch)[:k]
    return spatial[:, None] + offset


def one_section(spatial):
    return np.full(len(spatial), "a")


def test_interpolation_weights_sum_to_one_and_follow_the_kernel():
    spatial = grid()
    index, weight = interpolation_weights(spatial, divided(spatial), one_section(spatial), bandwidth=0.7)
    np.testing.assert_allclose(weight.sum(axis=-1), 1, rtol=1e-6)
    distance = np.linalg.norm(spatial[index] - divided(spatial)[:, :, None], axis=-1)
    beyond = np.sort(np.linalg.norm(divided(spatial)[:, :, None] - spatial, axis=-1), axis=-1)[..., [9]]
    kernel = np.exp(-(distance**2) / (2 * 7.0**2)) - np.exp(-(beyond**2) / (2 * 7.0**2))
    np.testing.assert_allclose(weight, kernel / kernel.sum(axis=-1, keepdims=True), rtol=1e-5, atol=1e-6)


def test_interpolation_reproduces_a_plane_inside():
    spatial = grid(9)
    index, weight = interpolation_weights(
        spatial, divided(spatial), one_section(spatial), n_neighbors=49, bandwidth=0.7
    )
    inside = (np.abs(spatial - 40) < 25).all(axis=1)
    got = (weight[..., None] * spatial[index]).sum(axis=2)
    np.testing.assert_allclose(got[inside], divided(spatial)[inside], atol=0.3)


def test_spots_at_one_distance_weigh_the_same():
    """Also where not all of them are among the neighbours."""
    spatial = grid(5)
    centre = spatial[[12]][:, None]
    for n_neighbors in range(1, 12):
        index, weight = interpolation_weights(
            spatial, np.repeat(centre, 25, axis=0), one_section(spatial), n_neighbors=n_neighbors
        )
        distance = np.linalg.norm(spatial[index[0, 0]] - centre[0, 0], axis=1).round(6)
        for d in np.unique(distance):
            assert np.ptp(weight[0, 0][distance == d]) < 1e-7


def test_fewer_spots_than_neighbours():
    spatial = grid(2)
    _, weight = interpolation_weights(spatial, divided(spatial), one_section(spatial))
    np.testing.assert_allclose(weight.sum(axis=-1), 1, rtol=1e-6)
    _, weight = interpolation_weights(spatial[:1], divided(spatial[:1]), np.array(["a"]))
    np.testing.assert_allclose(weight.sum(axis=-1), 1, rtol=1e-6)


def test_none_takes_the_latent_state_of_the_parent():
    spatial = grid(3)
    index, weight = interpolation_weights(spatial, divided(spatial), one_section(spatial), kind="none")
    assert (index == np.arange(9)[:, None, None]).all()
    assert (weight == 1).all()


def test_padding_has_no_weight_and_far_subspots_still_have():
    spatial = grid(3)
    subspots = divided(spatial)
    subspots[0, 3] = np.nan
    subspots[1, 0] = 1e6
    for kind in ("gaussian", "none"):
        _, weight = interpolation_weights(spatial, subspots, one_section(spatial), kind=kind)
        total = weight.sum(axis=-1)
        assert total[0, 3] == 0
        np.testing.assert_allclose(np.delete(total.ravel(), 3), 1, rtol=1e-6)


def test_no_interpolation_across_sections():
    spatial = np.vstack([grid(3), grid(3)])  # two sections at the same place
    sections = np.repeat(["a", "b"], 9)
    index, weight = interpolation_weights(spatial, divided(spatial), sections)
    crosses = sections[index] != sections[:, None, None]
    assert weight[crosses].sum() == 0
    np.testing.assert_allclose(weight[:9], weight[9:])


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
    """A section of 14 x 14 spots, four subspots each, some of them missing."""
    rng = np.random.default_rng(0)
    spatial = grid(14)
    subspots = divided(spatial)
    subspots[::5, 2:] = np.nan
    valid = np.isfinite(subspots[..., 0])
    distance = np.linalg.norm(spatial[:, None] - spatial, axis=-1)
    section = Section(
        x=rng.poisson(20, (196, 5)).astype(float),
        graph=csr_matrix(np.where(np.isclose(distance, 10), 0.5, 0)),
        spatial=spatial,
        subspots=subspots,
        exposure=valid / valid.sum(axis=1, keepdims=True),
        features=rng.normal(size=(196, 4, 3)),
        sections=one_section(spatial),
    )
    return Tiles(section, interpolation="gaussian", bandwidth=0.5, similarity_strength=2.0)


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


def started(tiles, *args, **kwargs):
    data = TileDataModule(tiles, *args, **kwargs)
    data.setup("fit")
    return data


def test_borders_move_from_epoch_to_epoch(tiles):
    data = started(tiles, 50, seed=0)
    assert data.n_tiles == 4
    a, b = ([set(map(float, batch["x"][batch["own"]].sum(1))) for batch in data.epoch(i)] for i in range(2))
    assert len(a) == len(b) == 4
    assert a != b
    c, d = (
        {i: [len(batch["x"]) for batch in data.epoch(i)] for i in order}
        for data, order in ((started(tiles, 50, seed=0), (0, 1)), (started(tiles, 50, seed=0), (1, 0)))
    )
    assert c == d


def test_a_long_pass_takes_several_epochs(tiles):
    data = started(tiles, 14, seed=0, step_spots=14)
    assert (data.n_steps, data.n_epochs) == (14, 2)
    for turn in (0, 2):
        parts = [[batch["x"][batch["own"]] for batch in data.epoch(turn + i)] for i in range(2)]
        assert [len(part) for part in parts] == [10, len(parts[1])]
        assert 196 == sum(len(x) for part in parts for x in part)


def test_small_sections_share_a_tile(tiles):
    section = tiles.section._replace(sections=np.repeat(np.arange(14), 14))
    shared = Tiles(section, interpolation="none", bandwidth=0.5)
    assert TileDataModule(shared, 45, seed=0).n_tiles == 5


@pytest.mark.parametrize(("batch_size", "n_processes"), [(2048, 1), (50, 1), (100, 2), (50, 2), (2048, 3), (7, 3)])
def test_a_step_takes_the_same_spots_whatever_fits_into_memory(tiles, batch_size, n_processes):
    data = TileDataModule(tiles, batch_size, seed=0, n_processes=n_processes)
    assert data.n_steps == 1
    assert data.tile_spots <= batch_size
    assert data.n_tiles <= data.n_accumulated * n_processes < data.n_tiles + n_processes


def test_large_sections_take_several_steps(tiles):
    assert TileDataModule(tiles, 2048, seed=0, step_spots=60).n_steps == 1
    whole, small, two = (
        TileDataModule(tiles, 60, seed=0, step_spots=60),
        TileDataModule(tiles, 20, seed=0, step_spots=60),
        TileDataModule(tiles, 60, seed=0, n_processes=2, step_spots=60),
    )
    assert whole.n_steps == small.n_steps == two.n_steps == 4
    assert (whole.n_accumulated, small.n_accumulated, two.n_accumulated) == (1, 3, 1)
    assert (whole.n_tiles, small.n_tiles, two.n_tiles) == (4, 12, 8)


def test_blocks_decode_as_the_whole_does(tiles):
    module, _ = models(tiles)
    whole = tiles.tile()
    z = module.inference(whole)["z"]
    expected = module.generative(whole, z)["subspots"].mean
    own = np.array([100, 3, 4, 50])
    inputs, block = tiles.block(own)
    torch.testing.assert_close(module.generative(block, z[inputs])["subspots"].mean, expected[own])

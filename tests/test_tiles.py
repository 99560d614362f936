import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from soscope_scverse.data.tiles import Section, full_tile, interpolation_weights, thin_counts


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
    np.testing.assert_allclose(weight.sum(axis=-1), 1)
    distance = np.linalg.norm(spatial[index] - divided(spatial)[:, :, None], axis=-1)
    beyond = np.sort(np.linalg.norm(divided(spatial)[:, :, None] - spatial, axis=-1), axis=-1)[..., [9]]
    kernel = np.exp(-(distance**2) / (2 * 7.0**2)) - np.exp(-(beyond**2) / (2 * 7.0**2))
    np.testing.assert_allclose(weight, kernel / kernel.sum(axis=-1, keepdims=True))


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
            assert np.ptp(weight[0, 0][distance == d]) < 1e-12


def test_fewer_spots_than_neighbours():
    spatial = grid(2)
    _, weight = interpolation_weights(spatial, divided(spatial), one_section(spatial))
    np.testing.assert_allclose(weight.sum(axis=-1), 1)
    _, weight = interpolation_weights(spatial[:1], divided(spatial[:1]), np.array(["a"]))
    np.testing.assert_allclose(weight.sum(axis=-1), 1)


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
        np.testing.assert_allclose(np.delete(total.ravel(), 3), 1)


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
    tile = full_tile(section, interpolation="gaussian", bandwidth=0.5, similarity_strength=2.0)
    assert tile["x"].shape == (9, 2)
    assert tile["edge_index"].shape == (2, 16)
    assert len(tile["valid"]) == 34
    i, j = tile["image_edge_index"].numpy()
    targets = subspots.reshape(-1, 2)[tile["valid"].numpy()]
    assert (i < j).all()
    np.testing.assert_allclose(np.linalg.norm(targets[i] - targets[j], axis=1), 5)  # sides only
    assert tile["image_edge_weight"].median() == pytest.approx(0.5, abs=0.05)
    assert "image_edge_index" not in full_tile(section, interpolation="none", bandwidth=0.5)
    assert all(not value.is_floating_point() or value.dtype == torch.float32 for value in tile.values())


def test_reordering_a_section_reorders_its_tile():
    spatial = grid(3)
    graph = csr_matrix(np.triu(np.random.default_rng(0).random((9, 9)), 1))
    graph = graph + graph.T
    exposure = np.full((9, 4), 0.25)
    section = Section(
        np.arange(18.0).reshape(9, 2), graph, spatial, divided(spatial), exposure, None, one_section(spatial)
    )
    rows = np.random.default_rng(1).permutation(9)
    moved = full_tile(section.reorder(rows), interpolation="none", bandwidth=0.5)
    assert (moved["x"].numpy() == section.x[rows]).all()
    dense = np.zeros((9, 9))
    dense[tuple(moved["edge_index"].numpy())] = moved["edge_weight"].numpy()
    np.testing.assert_allclose(dense, graph.toarray()[np.ix_(rows, rows)], rtol=1e-6)

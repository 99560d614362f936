"""Weights that carry latent states to the subspots."""

import numpy as np

from grids import divided, grid, one_section
from soscope_scverse.model._interpolation import interpolation_weights


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

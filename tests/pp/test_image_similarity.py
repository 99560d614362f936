"""Touching subspots and how alike they look, against dense computations."""

import numpy as np
import pytest

from lattices import LATTICES, PITCH, dense_graph, divided, near, square
from soscope_scverse.pp._graphs import image_similarity


@pytest.mark.parametrize(
    ("name", "n_subspots"), [("square", 4), ("square", 9), ("quincunx", 9), ("hex", 7), ("hex", 19)]
)
@pytest.mark.parametrize("size", [2, 6])
def test_touching_subspots_are_those_that_share_a_side(name, n_subspots, size):
    xy, array = LATTICES[name](size, size)
    points = divided(xy, array, n_subspots).obsm["subspots"].reshape(-1, 2)
    i, j, weight = image_similarity(points, np.ones((len(points), 2)), np.zeros(len(points)))
    expected = np.argwhere(np.triu(near(points, 1.05 * PITCH / np.sqrt(n_subspots))))
    assert (i < j).all()
    assert set(zip(i, j, strict=True)) == set(map(tuple, expected))
    assert len(i) == len(expected)
    np.testing.assert_array_equal(weight, 1)


@pytest.mark.parametrize("strength", [2, 4])
def test_weights_of_touching_subspots(strength):
    points = divided(*square(5, 5), 4).obsm["subspots"].reshape(-1, 2)
    features = np.random.default_rng(0).normal(size=(len(points), 8)).astype(np.float32)
    i, j, weight = image_similarity(points, features, np.zeros(len(points)), strength)
    expected = dense_graph(near(points, 1.05 * PITCH / 2), features, strength)
    np.testing.assert_allclose(weight, expected[i, j], rtol=1e-4)
    assert weight.max() == 1
    assert np.exp(np.median(np.log(weight))) == pytest.approx(1 / strength)


def test_no_similarity_across_sections():
    points = divided(*square(5, 5), 4).obsm["subspots"].reshape(-1, 2)
    n = len(points)
    order = np.random.default_rng(0).permutation(2 * n)
    section = np.repeat(["a", "b"], n)[order]
    both = np.vstack([points, points + 0.1])[order]
    features = np.random.default_rng(1).normal(size=(2 * n, 3))
    i, j, weight = image_similarity(both, features, section)
    expected = dense_graph(near(both, 1.05 * PITCH / 2) & (section[:, None] == section), features, 2)
    assert len(weight) == np.triu(expected > 0).sum()
    np.testing.assert_allclose(weight, expected[i, j])


def test_similarity_of_a_single_subspot():
    assert [len(part) for part in image_similarity(np.zeros((1, 2)), np.ones((1, 3)), np.zeros(1))] == [0, 0, 0]

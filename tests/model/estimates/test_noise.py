"""The noise of the features, which the model starts at."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from soscope_scverse import datasets, im, pp
from soscope_scverse.model import SoScope
from soscope_scverse.model.estimates.initialise import local_noise
from soscope_scverse.module.likelihoods import get_likelihood, joint_likelihood


def lattice(n=30):
    rows, cols = np.divmod(np.arange(n * n), n)
    touching = np.abs(rows[:, None] - rows) + np.abs(cols[:, None] - cols) == 1
    return np.column_stack([rows, cols]).astype(float), csr_matrix(touching * 0.3)


@pytest.mark.parametrize("container", [np.asarray, csr_matrix])
def test_local_noise_is_that_of_the_spots_without_their_plane(container):
    xy, graph = lattice()
    noise = np.random.default_rng(0).normal(0, [0.5, 2.0], (900, 2))
    plane = 0.02 * xy @ np.array([[1.0, 3.0], [2.0, -1.0]])
    np.testing.assert_allclose(local_noise(container(plane + noise), graph), [0.25, 4.0], rtol=0.1)
    assert (local_noise(container(plane), graph) < 0.001 * plane.var(axis=0)).all()


def test_without_neighbours_all_variance_is_noise():
    x = np.random.default_rng(0).normal(size=(20, 3))
    np.testing.assert_allclose(local_noise(x, csr_matrix((20, 20))), x.var(axis=0))


def test_gaussian_data_start_at_their_noise_and_counts_where_they_did():
    x, noise = torch.randn(50, 3) * torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.1, 100.0, 0.0])
    gaussian = get_likelihood("gaussian")
    start = gaussian.start(x)
    found = gaussian.with_noise(start, noise)
    variance = x.var(dim=0, correction=0)
    torch.testing.assert_close(found.log_dispersion.exp(), torch.stack([noise[0], variance[1], 1e-3 * variance[2]]))
    torch.testing.assert_close(found.baseline, start.baseline)
    joint = joint_likelihood([("poisson", 1), ("gaussian", 2)])
    of_counts = joint.with_noise(joint.start(x.abs()), noise)
    assert of_counts.log_dispersion[0] == 0
    assert of_counts.log_dispersion[1].exp() == pytest.approx(x.abs()[:, 1].var(correction=0).item())


@pytest.mark.parametrize(("likelihood", "dropout"), [("gaussian", 160 / 260), ("poisson", 40 / 140)])
def test_the_image_of_data_without_counts_is_held_back_by_subspots(likelihood, dropout):
    adata, image, _ = datasets.synthetic_section(100, lattice="square", n_subspots=4, n_genes=3)
    pp.subspots(adata, 4)
    pp.spot_graph(adata)
    im.features(adata, image, encoder=lambda tiles: tiles.mean(axis=(1, 2)))
    SoScope.setup_anndata(adata)
    assert SoScope(adata, likelihood=likelihood).module.decoder.dropout.p == pytest.approx(dropout)

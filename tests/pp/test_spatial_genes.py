"""The choice of genes."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from lattices import hexagonal, profiles, spots, square
from soscope_scverse import pp


def test_smooth_genes_come_before_noise():
    xy, _ = hexagonal(14, 14)
    rng = np.random.default_rng(0)
    smooth = 20 * np.exp(np.column_stack([np.sin(xy[:, 0] / 25), np.cos(xy[:, 1] / 30), xy.sum(axis=1) / 150]))
    depth = np.exp(xy[:, :1] / 60)  # a pattern of the depth alone, shared by all genes
    x = rng.poisson(depth * np.column_stack([np.full((len(xy), 20), 20.0), smooth]))
    adata = spots(xy, x=x)
    adata.var_names = [f"noise{i}" for i in range(20)] + ["sine", "cosine", "slope"]
    assert set(pp.spatial_genes(adata, 3)) == {"sine", "cosine", "slope"}
    assert len(pp.spatial_genes(adata)) == 23
    assert pp.spatial_genes(adata, 23) == pp.spatial_genes(adata)
    adata.X = csr_matrix(x)
    assert set(pp.spatial_genes(adata, 3)) == {"sine", "cosine", "slope"}
    adata.layers["counts"], adata.X = x, rng.poisson(20, x.shape)
    assert set(pp.spatial_genes(adata, 3, layer="counts")) == {"sine", "cosine", "slope"}


def test_only_the_most_counted_genes_are_candidates():
    xy, _ = square()
    noise = 100 + np.random.default_rng(0).poisson(5, (90, 4))
    x = np.column_stack([noise, 1 + (xy[:, 0] > 40)])
    adata = spots(xy, x=x.astype(float))
    assert pp.spatial_genes(adata, 1) == ["4"]
    assert "4" not in pp.spatial_genes(adata, n_candidates=4)


def test_ties_go_to_the_more_counted_gene_and_constant_genes_come_last():
    xy, _ = square()
    pattern = np.random.default_rng(0).random(90)
    adata = spots(xy, x=np.column_stack([pattern, 4 * pattern, np.full(90, 9.5), 2 * pattern]))
    assert pp.spatial_genes(adata) == ["1", "3", "0", "2"]


@pytest.mark.parametrize("n_spots", [1, 2, 3, 6])
def test_genes_of_very_few_spots(n_spots):
    xy, _ = square()
    adata = spots(xy[:n_spots], x=profiles(n_spots, 5) * [1, 3, 9, 27, 81] + [0, 1, 2, 3, 4])
    names = pp.spatial_genes(adata, 4)
    assert len(set(names)) == 4
    if n_spots < 3:
        assert names == ["4", "3", "2", "1"]


def test_genes_need_coordinates():
    adata = spots(square()[0])
    del adata.obsm["spatial"]
    with pytest.raises(ValueError, match="Expected spot coordinates"):
        pp.spatial_genes(adata)

"""Genes that the model was not trained on."""

import anndata as ad
import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything  # noqa: F401

from helpers import QUIET
from soscope_scverse import SoScope, datasets, im, pp
from soscope_scverse.model.estimates import heads
from soscope_scverse.model.inference import fitted_heads, gene_blocks


@pytest.fixture(scope="module")
def spots():
    """150 spots with 40 genes."""
    adata, image, _ = datasets.synthetic_section(150, n_genes=40)
    pp.subspots(adata)
    pp.spot_graph(adata)
    im.features(adata, image)
    return adata


@pytest.fixture(scope="module")
def model(spots):
    """A model of every second gene."""
    part = spots[:, ::2].copy()
    SoScope.setup_anndata(part)
    torch.manual_seed(0)
    model = SoScope(part, test_image=False)
    model.train(40, **QUIET)
    return model


def test_all_genes(spots, model):
    enhanced = model.enhance_genes(spots)
    assert enhanced.var_names.tolist() == spots.var_names.tolist()
    np.testing.assert_allclose(enhanced.X.reshape(150, 7, 40).sum(axis=1), spots.X.toarray(), rtol=1e-4)
    assert enhanced.var["trained"].tolist() == [True, False] * 20
    assert np.isfinite(enhanced.var["evidence"]).all()
    np.testing.assert_allclose(enhanced.X[:, ::2], model.get_enhanced().X, rtol=1e-4, atol=1e-6)

"""The modes of the paper: image alone, no image, and noise in the place of an image."""

import numpy as np
import pytest

import soscope_scverse as sos
from soscope_scverse import datasets, im, tl

QUIET = {"enable_progress_bar": False}


def trained(adata, **options):
    sos.SoScope.setup_anndata(adata)
    model = sos.SoScope(adata, **options)
    model.train(5, **QUIET)
    return model


def other_profiles(adata):
    other = adata.copy()
    other.X = np.random.default_rng(1).poisson(9, adata.shape).astype(np.float32)
    return other


def test_image_alone_looks_at_no_profile_beyond_training(prepared):
    model = trained(prepared, sources="image")
    prior = model.get_enhanced(expectation="decoded").X
    np.testing.assert_array_equal(model.get_enhanced(other_profiles(prepared), expectation="decoded").X, prior)
    assert not any(name.startswith("pretrain") for name in model.history)

    repainted = prepared.copy()
    repainted.obsm["subspot_features"] = prepared.obsm["subspot_features"][:, ::-1].copy()
    np.testing.assert_allclose(
        model.get_enhanced(repainted, expectation="decoded").X.reshape(60, 7, 8)[:, ::-1].reshape(-1, 8),
        prior,
        rtol=1e-5,
    )
    both = trained(prepared, image_strength=1)
    profiles_matter = both.get_enhanced(other_profiles(prepared), expectation="decoded").X
    assert not np.allclose(profiles_matter, both.get_enhanced(expectation="decoded").X)


def test_positions_alone_ignore_the_image(prepared):
    bare = prepared.copy()
    del bare.obsm["subspot_features"]
    repainted = prepared.copy()
    repainted.obsm["subspot_features"] = prepared.obsm["subspot_features"] ** 2
    results = []
    for adata, sources in ((prepared, "positions"), (repainted, "positions"), (bare, "both")):
        sos.SoScope.setup_anndata(adata)
        results.append(tl.enhance(adata, sources=sources, max_epochs=3, train_kwargs=QUIET))
    for other in results[1:]:
        np.testing.assert_array_equal(other.X, results[0].X)
    assert "image_features" not in results[0].obsm


def test_noise_stands_in_for_a_image(section):
    adata = section.adata
    sos.pp.subspots(adata)
    im.features(adata, encoder="noise")
    noise = adata.obsm["subspot_features"]
    assert noise.shape == (60, 7, 128)
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    many = datasets.synthetic_section(n_genes=20).adata
    with pytest.warns(UserWarning, match="practically no effect"):
        unused = tl.enhance(many, encoder="noise", max_epochs=3, train_kwargs=QUIET)
    assert unused.uns["soscope"]["image_strength"] < 0.1
    as_in_the_paper = tl.enhance(section.adata, encoder="noise", preset="paper", max_epochs=3, train_kwargs=QUIET)
    assert as_in_the_paper.uns["soscope"]["image_strength"] == 1
    within = as_in_the_paper.X.reshape(60, 7, 8).std(axis=1)
    assert (within > 0).all()  # the noise alone tells subspots apart there


def test_faults_are_named(section, prepared):
    with pytest.raises(ValueError, match="Expected an image for sources='image'"):
        tl.enhance(section.adata, sources="image")
    with pytest.raises(ValueError, match="`sources` to be one of"):
        tl.enhance(section.adata, sources="picture")
    del prepared.obsm["subspot_features"]
    sos.SoScope.setup_anndata(prepared)
    with pytest.raises(ValueError, match="Expected image features for sources='image'"):
        sos.SoScope(prepared, sources="image")

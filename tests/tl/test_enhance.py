import json

import anndata as ad
import numpy as np
import pytest
import torch

from helpers import QUICK
from soscope_scverse import SoScope, pp, tl


def test_one_call(section, tmp_path):
    before = section.adata.copy()
    enhanced = tl.enhance(section.adata, image=section.image, save_model=tmp_path / "model", **QUICK)
    assert enhanced.shape == (420, 8)
    np.testing.assert_allclose(enhanced.obsm["spatial"], pp.subspots(before, copy=True).obsm["subspots"].reshape(-1, 2))

    # the input is as it was
    assert set(section.adata.obsm) == set(before.obsm)
    assert not section.adata.obsp
    assert set(section.adata.uns) == set(before.uns)

    enhanced.write_h5ad(tmp_path / "enhanced.h5ad")
    again = ad.read_h5ad(tmp_path / "enhanced.h5ad")
    np.testing.assert_array_equal(again.X, enhanced.X)
    record = again.uns["soscope"]
    assert record["seed"] == 0
    assert json.loads(record["arguments"])["max_epochs"] == 4
    assert record["geometry"]["geometry"] == "hex"
    assert record["encoder"]["encoder"] == "texture"
    assert len(record["history"]["train_loss"]) == 4

    model = SoScope.load(str(tmp_path / "model"), accelerator="cpu")
    np.testing.assert_array_equal(model.get_enhanced().X, enhanced.X)
    assert model.adata.obsm["X_soscope"].shape == (60, 32)


def test_preset_paper_is_the_model_of_the_paper(section):
    enhanced = tl.enhance(section.adata, image=section.image, preset="paper", encoder="texture", **QUICK)
    arguments = json.loads(enhanced.uns["soscope"]["arguments"])
    assert arguments["expectation"] == "decoded"
    assert arguments["model_kwargs"]["decoder"] == "joint"
    assert 0 <= enhanced.uns["soscope"]["image_strength"] <= 1
    # all subspots of a spot share the latent state: without an image they are the same
    with pytest.warns(UserWarning, match="No image"):
        alone = tl.enhance(section.adata, preset="paper", **QUICK).X.reshape(60, 7, 8)
    np.testing.assert_allclose(alone, alone[:, :1].repeat(7, axis=1), rtol=1e-5)


def test_arguments_win_over_the_preset(section):
    options = {"preset": "paper", "expectation": "conditional", "model_kwargs": {"interpolation": "gaussian"}}
    enhanced = tl.enhance(section.adata, image=section.image, encoder="texture", **options, **QUICK)
    # the decoded expectation, that of the preset, does not add up
    np.testing.assert_allclose(enhanced.X.reshape(60, 7, 8).sum(axis=1), section.adata.X.toarray(), rtol=1e-4)
    arguments = json.loads(enhanced.uns["soscope"]["arguments"])
    assert arguments["model_kwargs"]["interpolation"] == "gaussian"
    assert arguments["model_kwargs"]["observation"] == "gaussian"


def test_squidpy_draws_the_result_as_it_is(section, tmp_path):
    import matplotlib as mpl
    import matplotlib.pyplot as plt
    import squidpy as sq

    mpl.use("Agg")
    enhanced = tl.enhance(section.adata, image=section.image, **QUICK)
    sq.pl.spatial_scatter(enhanced, color=enhanced.var_names[0])
    plt.savefig(tmp_path / "map.png")
    plt.close("all")
    assert (tmp_path / "map.png").stat().st_size > 10_000


def test_a_seed_is_enough_and_global_random_state_is_left_alone(section):
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    a = tl.enhance(section.adata, image=section.image, seed=3, **QUICK)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    b = tl.enhance(section.adata, image=section.image, seed=3, **QUICK)
    np.testing.assert_array_equal(a.X, b.X)


def test_steps_whose_slots_are_there_are_left_out(section, prepared):
    prepared.obsm["subspots"] += 1.0
    enhanced = tl.enhance(prepared, **QUICK)
    np.testing.assert_array_equal(enhanced.obsm["spatial"], prepared.obsm["subspots"].reshape(-1, 2))
    np.testing.assert_array_equal(enhanced.obsm["image_features"], prepared.obsm["subspot_features"].reshape(420, -1))
    with pytest.raises(ValueError, match="holds 7 subspots"):
        tl.enhance(prepared, n_subspots=19, **QUICK)


def test_embedded_image_with_its_scale_factor(section):
    adata = section.adata
    adata.uns["spatial"]["synthetic"]["images"] = {"hires": section.image[::2, ::2].astype(np.float32) / 255}
    adata.uns["spatial"]["synthetic"]["scalefactors"]["tissue_hires_scalef"] = 0.5
    enhanced = tl.enhance(adata, **QUICK)
    assert "image_features" in enhanced.obsm
    assert enhanced.uns["spatial"]["synthetic"]["scalefactors"]["tissue_hires_scalef"] == 0.5


def test_without_image_it_says_so(section):
    with pytest.warns(UserWarning, match="positions alone"):
        enhanced = tl.enhance(section.adata, **QUICK)
    assert "image_features" not in enhanced.obsm


def test_genes(section):
    adata = section.adata
    names = list(adata.var_names[[1, 5]])
    assert list(tl.enhance(adata, genes=names, image=section.image, **QUICK).var_names) == names
    adata.var["highly_variable"] = adata.var_names.isin(names)
    assert set(tl.enhance(adata, image=section.image, **QUICK).var_names) == set(names)


def test_layer(section):
    adata = section.adata
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X * 0.5
    enhanced = tl.enhance(adata, layer="counts", image=section.image, **QUICK)
    np.testing.assert_allclose(enhanced.X.reshape(60, 7, 8).sum(axis=1), adata.layers["counts"].toarray(), rtol=1e-4)


def test_a_view_counts_as_the_spots_in_it(section):
    view = section.adata[:40]
    enhanced = tl.enhance(view, image=section.image, **QUICK)
    assert view.is_view
    np.testing.assert_array_equal(enhanced.X, tl.enhance(view.copy(), image=section.image, **QUICK).X)


def test_several_sections(section):
    two = ad.concat([section.adata, section.adata], label="library", keys=["a", "b"], index_unique="-")
    enhanced = tl.enhance(two, image={"a": section.image, "b": section.image}, library_key="library", **QUICK)
    assert enhanced.obs["library"].value_counts().to_dict() == {"a": 420, "b": 420}
    assert enhanced.n_obs == 840


def with_nan(adata):
    x = adata.X.toarray().astype(float)
    x[3, 0] = np.nan
    adata.X = x
    return adata


def scattered(adata):
    del adata.obs["array_row"]
    adata.obsm["spatial"] = np.random.default_rng(0).uniform(40, 200, (60, 2))
    return adata


def ten_times_as_far(adata):
    adata.obsm["spatial"] = adata.obsm["spatial"] * 10
    return adata


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (with_nan, {"likelihood": "gaussian"}, "NaN"),
        (ten_times_as_far, {}, "outside"),
        (scattered, {}, "lattice"),
        (lambda a: a, {"n_subspots": 9}, "hex lattice"),
    ],
)
def test_bad_input_is_refused_before_any_work(section, spoil, options, message, monkeypatch):
    """That of tests/test_refusals.py, too."""
    monkeypatch.setattr("lightning.pytorch.Trainer.fit", lambda *args, **kwargs: pytest.fail("training started"))
    with pytest.raises(ValueError, match=message):
        tl.enhance(spoil(section.adata), **{"image": section.image} | options)


@pytest.mark.parametrize("image", [np.zeros((700, 800, 2), np.uint8), np.zeros((700, 800, 7), np.uint8)])
def test_image_with_strange_channels(section, image):
    with pytest.raises(ValueError, match="channels"):
        tl.enhance(section.adata, image=image, **QUICK)


def test_spot_and_gene_without_counts_are_kept_and_enhanced_to_zero(section):
    x = section.adata.X.toarray()
    x[7], x[:, 2] = 0, 0
    section.adata.X = x
    with (
        pytest.warns(UserWarning, match=r"1 of 60 spots have no counts .*'spot_0008'"),
        pytest.warns(UserWarning, match="1 of 8 features have no counts"),
    ):
        enhanced = tl.enhance(section.adata, image=section.image, **QUICK)
    assert (enhanced.X[49:56] == 0).all()
    assert (enhanced.X[:, 2] == 0).all()
    assert np.isfinite(enhanced.X).all()


def test_spot_without_neighbours_is_kept(section):
    adata = section.adata[np.r_[0, 20:60]].copy()
    with pytest.warns(UserWarning, match="1 of 41 spots have no neighbour"):
        enhanced = tl.enhance(adata, image=section.image, **QUICK)
    assert np.isfinite(enhanced.X).all()


def test_existing_model_directory_is_not_overwritten(section, tmp_path):
    with pytest.raises(ValueError, match="save_model"):
        tl.enhance(section.adata, image=section.image, save_model=tmp_path, **QUICK)


@pytest.mark.filterwarnings("ignore:The image has practically no effect")
def test_precomputed_features_and_further_arguments(section):
    adata = section.adata
    pp.subspots(adata)
    with pytest.raises(ValueError, match="precomputed"):
        tl.enhance(adata, encoder="precomputed", **QUICK)
    adata.obsm["subspot_features"] = np.random.default_rng(0).normal(size=(60, 7, 3))
    enhanced = tl.enhance(adata, encoder="precomputed", **QUICK)
    assert enhanced.uns["soscope"]["encoder"]["encoder"] == "precomputed"
    del adata.obsm["subspot_features"]
    enhanced = tl.enhance(adata, image=section.image, features_kwargs={"context": [2, 4]}, **QUICK)
    assert enhanced.obsm["image_features"].shape == (420, 152)


def test_the_model_beside_the_result(section):
    enhanced, model = tl.enhance(section.adata, image=section.image, max_epochs=2, return_model=True)
    np.testing.assert_array_equal(model.get_enhanced().X, enhanced.X)


@pytest.mark.parametrize("likelihood", ["nb", "gaussian"])
def test_spots_off_the_tissue_are_reported(section, likelihood):
    """Positions in pixels of a smaller image lie in a corner of this one, on glass."""
    glass = np.full((section.image.shape[0] + 300, section.image.shape[1] + 200, 3), 243, np.uint8)
    glass[150:-150, 100:-100] = section.image
    adata = section.adata
    adata.obsm["spatial"] = (adata.obsm["spatial"] + [100, 150]) * 0.1
    off_tissue = pytest.warns(UserWarning, match=r"lie on tissue.*image_scale=(9\.\d*|10[\d.]*)`")
    with pytest.warns(UserWarning, match="practically no effect"), off_tissue:
        tl.enhance(adata, image=glass, likelihood=likelihood, **QUICK)

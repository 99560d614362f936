"""What subspots have of their spots, and their latent states."""

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from helpers import QUICK, train
from soscope_scverse import SoScope, im, tl
from soscope_scverse._containers.mudata import columns_apart
from soscope_scverse.model.inference._carried import free_names

SMALL = {**QUICK, "sources": "positions", "max_epochs": 1}


@pytest.fixture
def noted(section):
    """Spots with columns of all kinds, some with names that subspots have, and tables."""
    adata, n = section.adata, section.adata.n_obs
    adata.obs["total_counts"] = np.asarray(adata.X.sum(axis=1)).ravel()
    adata.obs["layer"] = pd.Categorical(np.where(np.arange(n) % 3, "L1", "L2"), categories=["L2", "L1", "none"])
    adata.obs["note"] = [f"n{i}" for i in range(n)]
    adata.obs["measured"] = 7
    adata.obs["spot"] = "mine"
    adata.obs["missing"] = np.where(np.arange(n) % 2, np.nan, 1.5)
    adata.obsm["X_pca"] = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    adata.obsm["share"] = pd.DataFrame({"B": np.arange(n) / n, "T": 1.0}, index=adata.obs_names)
    adata.obsm["sparse"] = sparse.random_array((n, 4), density=0.3, format="csr", rng=0)
    return adata


TABLES = ["X_pca", "share", "sparse"]


def test_columns_of_the_spots_are_those_of_their_subspots(noted):
    enhanced = tl.enhance(noted, **SMALL)
    spots = noted.obs.loc[enhanced.obs["spot"]]
    for column in ("total_counts", "layer", "note", "missing", "region"):
        assert enhanced.obs[column].equals(spots[column].set_axis(enhanced.obs_names)), column
    assert enhanced.obs["layer"].cat.categories.tolist() == ["L2", "L1", "none"]
    assert set(enhanced.obs["spot"]) == set(noted.obs_names)
    assert set(enhanced.obs["spot_of_spot"]) == {"mine"}
    assert set(enhanced.obs["measured_of_spot"]) == {7}
    fine = enhanced.obs[["array_row", "array_col"]].drop_duplicates()
    assert len(fine) == enhanced.n_obs
    np.testing.assert_array_equal(enhanced.obs["array_row_of_spot"], spots["array_row"])
    assert list(enhanced.obsm) == ["spatial", "X_soscope"]


def test_tables_that_are_asked_for_are_repeated(noted):
    noted.obsm["X_soscope"] = np.ones((noted.n_obs, 2))
    enhanced = tl.enhance(noted, obsm_keys=[*TABLES, "X_soscope", "spatial"], **SMALL)
    rows = noted.obs_names.get_indexer(enhanced.obs["spot"])
    np.testing.assert_array_equal(enhanced.obsm["X_pca"], noted.obsm["X_pca"][rows])
    np.testing.assert_array_equal(enhanced.obsm["share"].to_numpy(), noted.obsm["share"].to_numpy()[rows])
    np.testing.assert_array_equal(enhanced.obsm["sparse"].toarray(), noted.obsm["sparse"].toarray()[rows])
    np.testing.assert_array_equal(enhanced.obsm["spatial_of_spot"], noted.obsm["spatial"][rows])
    np.testing.assert_array_equal(enhanced.obsm["X_soscope_of_spot"], 1)
    assert enhanced.obsm["X_soscope"].shape == (enhanced.n_obs, 32)
    assert tl.enhance(noted, obsm_keys="X_pca", **SMALL).obsm["X_pca"].shape == (enhanced.n_obs, 3)


@pytest.mark.parametrize(
    ("keys", "message"),
    [(["nope"], r"`obsm_keys` out of .* found \['nope'\]"), (["subspots"], r"n_spots x n_columns, found \{'subspots'")],
)
def test_tables_that_are_none_are_refused_before_any_work(prepared, keys, message):
    with pytest.raises(ValueError, match=message):
        tl.enhance(prepared, obsm_keys=keys, **SMALL)


def test_columns_that_a_file_cannot_hold_are_found_before_any_work(section, tmp_path):
    section.adata.obs["noted"] = [[1, 2]] * section.adata.n_obs
    with pytest.raises(ValueError, match=r"obs\['noted'\] \(values of type list"):
        tl.enhance(section.adata, image="nowhere.tif", out=tmp_path / "enhanced.h5ad")


def test_names_that_are_taken_twice_are_free():
    assert free_names(["spot", "a", "spot_of_spot"], {"spot"}) == ["spot_of_spot_of_spot", "a", "spot_of_spot"]
    assert free_names([3, "spot"], {"spot"}) == [3, "spot_of_spot"]


# ---- latent states --------------------------------------------------------------------------------------------------


def test_latent_states_are_what_the_decoder_reads(prepared):
    """Interpolated and shifted by the image: decoded, they are what the networks expect."""
    model = train(prepared, 10)
    state = model.get_enhanced().obsm["X_soscope"]
    assert state.dtype == np.float32
    assert state.shape == (420, 32)
    posterior = model._posterior(None)
    inputs, batch = posterior.tiles.block(np.arange(60))
    batch.pop("kriged", None)
    with torch.inference_mode():
        expected = model.module.generative(batch, posterior.latent_states().mean[inputs])["subspots"].mean
        effect = model.module.decoder.effect(torch.as_tensor(state)).view(60, 7, -1)
        found = model.module.likelihood.parameters(effect, model.module.feature_parameters(), batch["exposure"]).mean
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)


def test_without_image_and_interpolation_they_are_those_of_the_spots(prepared):
    for decoder in ("joint", "shift"):
        model = train(prepared, 3, decoder=decoder, interpolation="none", sources="positions")
        states = model.get_latent_representation()
        np.testing.assert_allclose(model.get_enhanced().obsm["X_soscope"], np.repeat(states, 7, axis=0), rtol=1e-5)


def test_a_model_without_latent_states_has_none(prepared):
    assert "X_soscope" not in train(prepared, 2, sources="image").get_enhanced().obsm


def test_latent_states_of_fewer_subspots_other_spots_and_positions(padded):
    spots = padded.adata
    enhanced = padded.get_enhanced()
    assert enhanced.obsm["X_soscope"].shape == (360, 32)
    np.testing.assert_allclose(
        padded.get_enhanced(batch_size=7).obsm["X_soscope"], enhanced.obsm["X_soscope"], rtol=1e-5, atol=1e-6
    )
    other = padded.get_enhanced(spots[:20].copy())
    assert other.obsm["X_soscope"].shape == (other.n_obs, 32)
    features = spots.obsm["subspot_features"].reshape(60 * 7, -1)[[0, 1]]
    there = padded.predict(enhanced.obsm["spatial"][:2], features, batch_size=1)
    np.testing.assert_allclose(there.obsm["X_soscope"], enhanced.obsm["X_soscope"][:2], rtol=1e-4, atol=1e-5)


# ---- files ----------------------------------------------------------------------------------------------------------

SAME = ("total_counts", "measured", "measured_of_spot", "note", "region", "missing")


def kept(found, expected):
    """Whether latent states, tables and columns of a result are there."""
    for key in ("X_soscope", "X_pca", "spatial"):
        np.testing.assert_array_equal(np.asarray(found.obsm[key]), expected.obsm[key])
    assert np.asarray(found.obsm["X_soscope"]).dtype == np.float32
    for column in SAME:
        assert found.obs[column].astype(str).tolist() == expected.obs[column].astype(str).tolist(), column
    assert found.obs["layer"].cat.categories.tolist() == ["L2", "L1", "none"]


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("streamed", [False, True])
def test_the_round_trip_of_an_anndata(noted, tmp_path, suffix, streamed):
    expected = tl.enhance(noted, obsm_keys=["X_pca"], **SMALL)
    path = tmp_path / f"enhanced{suffix}"
    if streamed:
        kept(tl.enhance(noted, obsm_keys=["X_pca"], out=path, **SMALL), expected)
    else:
        getattr(expected, f"write_{suffix[1:]}")(path)
    kept(ad.read_h5ad(path) if suffix == ".h5ad" else ad.read_zarr(path), expected)


def test_the_round_trip_of_a_mudata(noted, tmp_path):
    with columns_apart():
        mdata = md.MuData({"rna": noted[:, :5].copy(), "prot": noted[:, 5:].copy()})
    for part in mdata.mod.values():
        part.obs = noted.obs.copy()  # a part of an AnnData loses categories without rows
    expected = tl.enhance(mdata, likelihood={"rna": "nb", "prot": "poisson"}, obsm_keys=["X_pca"], **SMALL)
    with columns_apart():
        expected.write(tmp_path / "enhanced.h5mu")
        found = md.read_h5mu(tmp_path / "enhanced.h5mu")
    for name in ("rna", "prot"):
        kept(found[name], expected[name])
    np.testing.assert_array_equal(found.obsm["X_soscope"], expected["rna"].obsm["X_soscope"])


@pytest.mark.filterwarnings("ignore:Transforming")
def test_the_round_trip_of_a_spatialdata(noted, section, tmp_path):
    import spatialdata as sd

    expected = tl.enhance(noted, obsm_keys=["X_pca"], **SMALL)
    sdata = tl.to_spatialdata(expected)
    sdata.write(tmp_path / "enhanced.zarr")
    found = sd.read_zarr(tmp_path / "enhanced.zarr")["enhanced"]
    assert found.obs["region_of_spot"].tolist() == expected.obs["region"].astype(str).tolist()
    assert set(found.obs["region"]) == {"enhanced_subspots"}
    found.obs["region"] = found.obs["region_of_spot"]
    kept(found, expected)


def test_sections_and_unseen_spots_have_their_own_columns(noted, section):
    both = ad.concat({"a": noted, "b": noted}, label="slide", index_unique="_")
    enhanced, model = tl.enhance(both, library_key="slide", return_model=True, obsm_keys=["X_pca"], **SMALL)
    assert enhanced.obs["slide"].tolist() == both.obs.loc[enhanced.obs["spot"], "slide"].tolist()
    assert [name for name in enhanced.obs if str(name).startswith("slide")] == ["slide"]
    assert isinstance(model, SoScope)
    unseen = model.adata[:30].copy()
    unseen.obs["only here"] = 1
    im.features(unseen, encoder="noise")
    assert set(model.get_enhanced(unseen).obs["only here"]) == {1}

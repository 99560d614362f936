"""Several modalities of the same spots: as one model, and as a user calls it."""

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import soscope_scverse as sos
from soscope_scverse import bench, datasets, metrics, pp, tl
from soscope_scverse._containers.mudata import columns_apart
from soscope_scverse.module.likelihoods import (
    GaussianLikelihood,
    JointLikelihood,
    NegativeBinomialLikelihood,
    PoissonLikelihood,
)

QUIET = {"enable_progress_bar": False}


@pytest.fixture
def joint():
    """Likelihood of 3 negative binomial, 2 Gaussian and 1 Poisson feature, and its parts with their columns."""
    parts = [NegativeBinomialLikelihood(), GaussianLikelihood(sigma=0.3), PoissonLikelihood()]
    columns = [slice(0, 3), slice(3, 5), slice(5, 6)]
    return JointLikelihood(parts, [3, 2, 1]), list(zip(parts, columns, strict=True))


@pytest.fixture(scope="module")
def mdata_and_image():
    adata, image, _ = datasets.synthetic_section(60, n_genes=12)
    prot = adata[:, :4].copy()
    prot.var_names = [f"protein {i}" for i in range(4)]
    del prot.obsm["spatial"]
    peaks = ad.AnnData(np.log1p(adata.X[:, 4:7].toarray()), obs=prot.obs[[]].copy())
    peaks.var_names = [f"score {i}" for i in range(3)]
    with columns_apart():
        mdata = md.MuData({"rna": adata[:, 7:].copy(), "prot": prot[::-1].copy(), "peaks": peaks})
    return mdata, image


@pytest.fixture
def mdata(mdata_and_image):
    return mdata_and_image[0].copy()


LIKELIHOOD = {"rna": "nb", "prot": "poisson", "peaks": "gaussian"}


def summed(part, names):
    table = pd.DataFrame(np.asarray(part.X, dtype=float), columns=part.var_names)
    return table.groupby(part.obs["spot"].to_numpy()).sum().loc[names].to_numpy()


def test_enhance_of_a_mudata(mdata, mdata_and_image, tmp_path):
    """Every modality adds up (or averages) to its spots, whatever the order of its rows; the result can be stored."""
    names = mdata.obs_names
    rows = {name: part[names].X for name, part in mdata.mod.items()}
    enhanced = tl.enhance(mdata, image=mdata_and_image[1], likelihood=LIKELIHOOD, max_epochs=2, n_samples=3)
    assert list(enhanced.mod) == list(LIKELIHOOD)
    assert enhanced.n_obs == 60 * 7
    np.testing.assert_allclose(summed(enhanced["rna"], names), rows["rna"].toarray(), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(summed(enhanced["prot"], names), rows["prot"].toarray(), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(summed(enhanced["peaks"], names) / 7, rows["peaks"], rtol=1e-4, atol=1e-3)
    for name in LIKELIHOOD:
        assert enhanced[name].var_names.equals(mdata[name].var_names)
        assert {"std", "q05", "q95"} <= set(enhanced[name].layers)
        assert {"spatial", "image_features"} <= set(enhanced[name].obsm)
    assert "subspots" not in mdata.obsm  # the input is as it was

    enhanced.write_h5mu(tmp_path / "enhanced.h5mu")
    again = md.read_h5mu(tmp_path / "enhanced.h5mu")
    for name in LIKELIHOOD:
        np.testing.assert_array_equal(again[name].X, enhanced[name].X)
        pd.testing.assert_frame_equal(again[name].obs, enhanced[name].obs, check_dtype=False)
    assert again.uns["soscope"]["seed"] == 0


def test_step_by_step_and_saved(mdata, mdata_and_image, tmp_path):
    pp.subspots(mdata)
    pp.spot_graph(mdata)
    sos.im.features(mdata, mdata_and_image[1])
    assert {"subspots", "subspot_exposure", "subspot_features"} <= set(mdata.obsm)
    sos.SoScope.setup_mudata(mdata, {"prot": "nb", "rna": "nb"})
    model = sos.SoScope(mdata)
    model.train(10, train_size=0.8, **QUIET)
    assert "reconstruction_loss_validation" in model.history
    enhanced = model.get_enhanced()
    assert list(enhanced.mod) == ["prot", "rna"]
    model.save(str(tmp_path / "model"), save_anndata=True)
    again = sos.SoScope.load(str(tmp_path / "model")).get_enhanced()
    for name in enhanced.mod:
        np.testing.assert_array_equal(again[name].X, enhanced[name].X)


def test_the_graph_joins_all_modalities(mdata):
    pp.spot_graph(mdata)
    single = []
    for part in mdata.mod.values():
        part = part[mdata.obs_names].copy()
        part.obsm["spatial"] = mdata["rna"].obsm["spatial"]
        part.obs = mdata["rna"].obs
        single.append(pp.spot_graph(part, copy=True).obsp["spot_graph"].toarray())
    np.testing.assert_allclose(mdata.obsp["spot_graph"].toarray(), np.prod(single, axis=0) ** (1 / 3), rtol=1e-5)


def test_one_modality_of_a_mudata_is_an_anndata(mdata, mdata_and_image):
    """The same bits as the model of that modality alone."""
    alone = tl.enhance(mdata["rna"], image=mdata_and_image[1], max_epochs=2, train_kwargs=QUIET)
    in_mudata = tl.enhance(mdata, image=mdata_and_image[1], likelihood={"rna": "nb"}, max_epochs=2, train_kwargs=QUIET)
    np.testing.assert_array_equal(in_mudata["rna"].X, alone.X)


def test_faults_are_named(mdata):
    with pytest.raises(ValueError, match="likelihood of each modality"):
        tl.enhance(mdata)
    with pytest.raises(ValueError, match=r"modalities out of .*found \['adt'\]"):
        tl.enhance(mdata, likelihood={"adt": "nb"})
    with pytest.raises(ValueError, match="`genes` of a MuData to be a dict"):
        tl.enhance(mdata, likelihood=LIKELIHOOD, genes=["protein 1"])
    with pytest.raises(ValueError, match="write_h5mu"):
        tl.enhance(mdata, likelihood=LIKELIHOOD, out="enhanced.zarr")
    with pytest.raises(ValueError, match="fractions"):
        tl.enhance(mdata, likelihood=LIKELIHOOD | {"peaks": "nb"})
    fewer = md.MuData({"rna": mdata["rna"].copy(), "prot": mdata["prot"][:50].copy()})
    with pytest.raises(ValueError, match="found 10 of 60 spots missing in 'prot'"):
        tl.enhance(fewer, likelihood={"rna": "nb", "prot": "nb"})
    pp.subspots(mdata)
    pp.spot_graph(mdata)
    sos.SoScope.setup_mudata(mdata, {"rna": "nb", "prot": "nb"})
    model = sos.SoScope(mdata)
    for call in (model.get_enhanced, lambda out: model.predict(np.zeros((1, 2)), out=out)):
        with pytest.raises(ValueError, match="write_h5mu"):
            call(out="enhanced.zarr")
    with pytest.raises(ValueError, match="beside those given to `setup_mudata`"):
        sos.SoScope(mdata, likelihood="poisson")


@pytest.mark.realdata
@pytest.mark.slow
def test_protein_and_rna_of_the_skin_help_each_other(data_dir):
    """Joint model against that of each modality alone and the simple answers, on merged spots."""
    mdata = md.read_h5mu(data_dir / "humanskin" / "humanskin.h5mu")
    likelihood = {"prot": "poisson", "rna": "nb"}
    low, truth = {}, {}
    for name in likelihood:
        low[name], truth[name] = bench.simulate_low_resolution(mdata[name])
    everything = {name: list(part.var_names) for name, part in low.items()}

    def scores(name, prediction):
        target = truth[name]
        r = np.nanmedian(metrics.pearson(prediction, target.X))
        return r, np.nanmedian(metrics.within_r(prediction, target.X, target.obs["spot"]))

    def enhanced(spots, **options):
        return [tl.enhance(spots, seed=seed, train_kwargs=QUIET, **options) for seed in (0, 1)]

    joint = enhanced(md.MuData(low), likelihood=likelihood, genes=everything)
    for name, of_it in likelihood.items():
        alone = enhanced(low[name], likelihood=of_it, genes=everything[name])
        rivals = [np.mean([scores(name, one.X) for one in alone], axis=0)]
        rivals += [scores(name, bench.BASELINES[b](low[name])) for b in ("repeat", "linear", "linear_conserving")]
        found = np.mean([scores(name, one[name].X) for one in joint], axis=0)
        assert (found > np.max(rivals, axis=0) - 0.002).all()


def test_sparse_and_dense_modalities_stand_side_by_side(mdata):
    mdata["prot"].X = csr_matrix(mdata["prot"].X)
    pp.subspots(mdata)
    pp.spot_graph(mdata)
    sos.SoScope.setup_mudata(mdata, LIKELIHOOD)
    x = sos.SoScope(mdata)._inputs.section().x
    names = mdata.obs_names
    expected = [np.asarray(mdata[name][names].to_df()) for name in LIKELIHOOD]
    np.testing.assert_allclose(x, np.hstack(expected), rtol=1e-6)

"""Genes that the model was not trained on."""

import anndata as ad
import mudata as md
import numpy as np
import pytest
from scipy.sparse import issparse

from helpers import QUIET, seeded, train
from soscope_scverse import SoScope, datasets, im, pp, tl
from soscope_scverse.model.estimates import heads
from soscope_scverse.model.estimates.kriging import FurtherGains
from soscope_scverse.model.inference import fitted_heads, gene_blocks

N_SPOTS, N_GENES = 150, 40


@pytest.fixture(scope="module")
def section():
    """Spots without slots, and their image."""
    adata, image, _ = datasets.synthetic_section(N_SPOTS, n_genes=N_GENES)
    return adata, image


@pytest.fixture(scope="module")
def spots(section):
    adata, image = section
    adata = adata.copy()
    pp.subspots(adata)
    pp.spot_graph(adata)
    im.features(adata, image)
    return adata


@pytest.fixture(scope="module")
def model(spots):
    """A model of every second gene."""
    return train(spots[:, ::2].copy(), 40)


@pytest.fixture
def _blocks_of_12(monkeypatch):
    for module in (heads, gene_blocks):
        monkeypatch.setattr(module, "BLOCK", 12)


def within_spots(x):
    """Values without the mean of each spot, n_targets x n_genes."""
    x = np.asarray(x).reshape(N_SPOTS, -1, x.shape[1])
    return (x - x.mean(axis=1, keepdims=True)).reshape(-1, x.shape[2])


def test_the_size_of_a_block_changes_rounding_only(spots, model, monkeypatch):
    results = []
    for size in (5, 12, 256):
        for module in (heads, gene_blocks):
            monkeypatch.setattr(module, "BLOCK", size)
        results.append(model.enhance_genes(spots))
    for other in results[1:]:
        np.testing.assert_allclose(other.X, results[0].X, rtol=1e-5)
        np.testing.assert_allclose(other.layers["denoised"], results[0].layers["denoised"], rtol=1e-5)
        np.testing.assert_allclose(other.var["evidence"], results[0].var["evidence"], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(other.var["image_gain"], results[0].var["image_gain"], rtol=1e-6)


def test_gain_by_the_image_of_further_genes(spots, model):
    """A gene of the model that is taken for a further one has the share that the model has for it."""
    enhanced, field = model.enhance_genes(spots), model.module.kriged
    trained = enhanced.var["trained"].to_numpy()
    np.testing.assert_array_equal(enhanced.var["image_gain"][trained], field.image_gain.numpy())
    section = model._posterior(None).tiles.section
    found = FurtherGains(model.module, section).of(model.module.likelihood, section.x, model.module.unit)
    np.testing.assert_allclose(found, field.image_gain.numpy(), atol=0.02)
    assert enhanced.var["image_gain"][~trained].between(0, 1).all()
    assert enhanced.var["image_gain"][~trained].std() > 0


@pytest.mark.usefixtures("_blocks_of_12")
def test_all_genes(spots, model):
    enhanced = model.enhance_genes(spots)
    assert enhanced.var_names.tolist() == spots.var_names.tolist()
    np.testing.assert_allclose(enhanced.X.reshape(N_SPOTS, -1, N_GENES).sum(axis=1), spots.X.toarray(), rtol=1e-4)
    assert enhanced.var["trained"].tolist() == [True, False] * (N_GENES // 2)
    of_model = model.get_enhanced()
    np.testing.assert_allclose(enhanced.X[:, ::2], of_model.X, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(enhanced.layers["denoised"][:, ::2], of_model.layers["denoised"], rtol=1e-4, atol=1e-6)
    assert enhanced.obs.equals(of_model.obs)
    assert set(enhanced.obsm) == set(of_model.obsm)
    np.testing.assert_array_equal(enhanced.obsm["image_features"], of_model.obsm["image_features"])


def test_heads_find_the_patterns_of_a_training(spots, model):
    """Those of genes that were not trained on are as those of a model that was."""
    other = train(spots[:, 1::2].copy(), 40)
    decoded = model.enhance_genes(spots, expectation="decoded").X[:, 1::2]
    trained = other.get_enhanced(expectation="decoded").X
    r = [np.corrcoef(np.log(a), np.log(b))[0, 1] for a, b in zip(decoded.T, trained.T, strict=True)]
    assert np.median(r) > 0.9


def test_genes_without_a_pattern_follow_the_library_size(spots, model):
    rng = np.random.default_rng(0)
    noise = spots.copy()
    total = np.asarray(spots.X.sum(axis=1)).ravel()
    noise.X = rng.poisson(2.0 * total[:, None] / total.mean() * np.ones(N_GENES)).astype(np.float32)
    both = ad.concat([spots[:, ::2], noise[:, 1::2]], axis=1, merge="first")
    for slot in ("obsm", "obsp", "uns"):
        getattr(both, slot).update(getattr(spots, slot))
    enhanced = model.enhance_genes(both)
    evidence = enhanced.var["evidence"].to_numpy()
    assert np.median(evidence[N_GENES // 2 :]) < 1
    assert np.median(evidence[: N_GENES // 2]) > 3


def test_some_genes_in_any_order(spots, model):
    names = spots.var_names[[7, 2, 31]].tolist()
    some = model.enhance_genes(spots, names)
    assert some.var_names.tolist() == names
    np.testing.assert_allclose(some.X, model.enhance_genes(spots)[:, names].X, rtol=1e-3, atol=1e-6)


@pytest.mark.usefixtures("_blocks_of_12")
@pytest.mark.parametrize("suffix", [".zarr", ".h5ad"])
def test_on_disk_and_in_blocks_of_spots(spots, model, tmp_path, suffix):
    in_memory = seeded(model.enhance_genes, spots, n_samples=3)
    out = tmp_path / f"all{suffix}"
    on_disk = seeded(model.enhance_genes, spots, n_samples=3, batch_size=17, out=out)
    np.testing.assert_allclose(on_disk.X.compute(), in_memory.X, rtol=1e-5)
    np.testing.assert_array_equal(on_disk.layers["sampled_counts"].compute(), in_memory.layers["sampled_counts"])
    total = in_memory.layers["sampled_counts"].reshape(N_SPOTS, -1, N_GENES).sum(axis=1)
    np.testing.assert_array_equal(total, spots.X.toarray())
    assert on_disk.var["evidence"].equals(in_memory.var["evidence"])
    assert on_disk.X.chunks[1][0] == 12
    noise = in_memory.layers["sampled_counts"] - in_memory.X
    of_blocks = np.corrcoef(noise[:, 1:36:12].T)  # each has random numbers of its own
    assert np.abs(of_blocks[np.triu_indices(3, 1)]).max() < 0.3


def test_half_precision(spots, model, tmp_path):
    full = model.enhance_genes(spots)
    half = model.enhance_genes(spots, dtype="float16")
    assert half.X.dtype == np.float16
    np.testing.assert_allclose(half.X.astype(np.float32), full.X, rtol=1e-3, atol=1e-6)
    assert model.enhance_genes(spots, dtype="float16", out=tmp_path / "half.zarr").X.dtype == np.float16
    with pytest.raises(ValueError, match="`dtype` to be one of"):
        model.enhance_genes(spots, dtype="int8")


@pytest.mark.usefixtures("_blocks_of_12")
def test_an_interrupted_call_resumes_with_the_same_bits(spots, model, tmp_path, monkeypatch):
    expected = model.enhance_genes(spots)
    fit, calls = heads.Readout.fit, []

    def interrupted(self, x):
        calls.append(x)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fit(self, x)

    monkeypatch.setattr(heads.Readout, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.enhance_genes(spots, checkpoint_dir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["heads.pt"]
    resumed = model.enhance_genes(spots, checkpoint_dir=tmp_path)
    assert len(calls) == 5  # 12 + 12, then 12 and 4
    np.testing.assert_array_equal(resumed.X, expected.X)
    assert resumed.var.equals(expected.var)
    again = model.enhance_genes(spots, checkpoint_dir=tmp_path)
    assert len(calls) == 5
    np.testing.assert_array_equal(again.X, expected.X)
    other = spots.copy()
    other.X[0, 0] += 1
    model.enhance_genes(other, checkpoint_dir=tmp_path)  # other counts have other heads
    assert len(calls) == 9
    (tmp_path / "heads.pt").write_bytes(b"damaged")
    np.testing.assert_array_equal(model.enhance_genes(spots, checkpoint_dir=tmp_path).X, expected.X)


def test_heads_are_written_in_between(spots, model, tmp_path, monkeypatch):
    monkeypatch.setattr(fitted_heads, "_SECONDS", 0.0)
    model.enhance_genes(spots, checkpoint_dir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["heads.pt"]


def test_unseen_sections_and_saved_models(spots, model, tmp_path):
    unseen, image, _ = datasets.synthetic_section(N_SPOTS, n_genes=N_GENES, seed=1)
    pp.subspots(unseen)
    pp.spot_graph(unseen)
    im.features(unseen, image)
    enhanced = model.enhance_genes(unseen)
    np.testing.assert_allclose(enhanced.X.reshape(N_SPOTS, -1, N_GENES).sum(axis=1), unseen.X.toarray(), rtol=1e-4)
    model.save(tmp_path / "model", save_anndata=True)
    loaded = SoScope.load(tmp_path / "model", accelerator="cpu")
    np.testing.assert_array_equal(loaded.enhance_genes(unseen).X, enhanced.X)


@pytest.mark.parametrize("options", [{"likelihood": "poisson"}, {"likelihood": "gaussian"}, {"decoder": "joint"}])
def test_other_models(spots, options):
    other = spots.copy()
    if options.get("likelihood") == "gaussian":
        other.X = np.log1p(other.X.toarray())
    model = train(other[:, ::2].copy(), 40, **options)
    decoded = model.enhance_genes(other, expectation="decoded").X
    x = other.X.toarray() if issparse(other.X) else other.X
    at_spots = decoded.reshape(N_SPOTS, -1, N_GENES)
    at_spots = at_spots.mean(axis=1) if options.get("likelihood") == "gaussian" else at_spots.sum(axis=1)
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(at_spots.T, x.T, strict=True)]
    assert np.median(r[1::2]) > np.median(r[::2]) - 0.1
    assert np.isfinite(model.enhance_genes(other, n_samples=2).layers["std"]).all()


def test_the_model_of_the_paper(spots):
    """One dispersion of each subspot in the training, one of each gene for those that are fitted."""
    model = train(spots[:, ::2].copy(), 10, dispersion="subspot", observation="gaussian", interpolation="none")
    enhanced = model.enhance_genes(spots)
    np.testing.assert_allclose(enhanced.X.reshape(N_SPOTS, -1, N_GENES).sum(axis=1), spots.X.toarray(), rtol=1e-4)


def test_batches(spots):
    """A gene that one batch measures three times as well."""
    other = spots.copy()
    other.obs["batch"] = np.where(np.arange(N_SPOTS) % 2, "a", "b")
    x = other.X.toarray()
    x[::2] *= 3
    other.X = x
    model = train(other[:, ::2].copy(), 40, setup={"batch_key": "batch"})
    decoded = model.enhance_genes(other, expectation="decoded").X.reshape(N_SPOTS, -1, N_GENES).sum(axis=1)
    ratio = decoded[::2].mean(axis=0) / decoded[1::2].mean(axis=0)
    assert np.median(ratio[1::2]) > 1.5  # half of a prediction, the kriged field, knows no batches
    np.testing.assert_allclose(np.median(ratio[1::2]), np.median(ratio[::2]), rtol=0.1)


def test_several_modalities(spots):
    rna, protein = spots[:, :30].copy(), spots[:, 30:].copy()
    protein.X = np.log1p(protein.X.toarray())
    for name in ("obsm", "obsp"):
        getattr(protein, name).clear()
    mdata = md.MuData({"rna": rna, "prot": protein})
    for slot in ("obsm", "obsp", "uns"):
        getattr(mdata, slot).update(getattr(spots, slot))
    learnt = md.MuData({"rna": rna[:, ::2].copy(), "prot": protein[:, :5].copy()})
    for slot in ("obsm", "obsp", "uns"):
        getattr(learnt, slot).update(getattr(spots, slot))
    SoScope.setup_mudata(learnt, {"rna": "nb", "prot": "gaussian"})
    model = seeded(SoScope, learnt)
    seeded(model.train, 20, **QUIET)
    enhanced = model.enhance_genes(mdata)
    assert {name: part.var_names.tolist() for name, part in enhanced.mod.items()} == {
        name: part.var_names.tolist() for name, part in mdata.mod.items()
    }
    total = enhanced["rna"].X.reshape(N_SPOTS, -1, 30).sum(axis=1)
    np.testing.assert_allclose(total, rna.X.toarray(), rtol=1e-4)
    np.testing.assert_allclose(enhanced["prot"].X[:, :5], model.get_enhanced()["prot"].X, rtol=1e-4, atol=1e-5)
    some = model.enhance_genes(mdata, {"rna": rna.var_names[:3].tolist()})
    assert {name: part.n_vars for name, part in some.mod.items()} == {"rna": 3, "prot": 5}


def test_in_one_call(section, tmp_path, monkeypatch):
    from soscope_scverse.tl import _prepare

    monkeypatch.setattr(_prepare, "N_LEARNT", 15)
    adata, image = section
    options = {"image": image, "genes": "all", "max_epochs": 10, "train_kwargs": {"enable_progress_bar": False}}
    assert issparse(adata.X)
    enhanced, model = tl.enhance(adata, return_model=True, n_samples=2, **options)
    assert model.adata.n_vars == 15
    assert enhanced.var_names.tolist() == adata.var_names.tolist()
    assert enhanced.var["trained"].sum() == 15
    run = {"checkpoint_dir": tmp_path / "run", "resume": True, "out": tmp_path / "all.zarr"}
    on_disk = tl.enhance(adata, n_samples=2, **options, **run)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoint.pt", "heads.pt"]
    resumed = tl.enhance(adata, n_samples=2, **options, **run, overwrite=True)
    for other in (on_disk, resumed):
        np.testing.assert_array_equal(other.X.compute(), enhanced.X)
        np.testing.assert_array_equal(other.layers["std"].compute(), enhanced.layers["std"])


def test_fast_quality_trains_on_some_of_the_genes(section, monkeypatch):
    from soscope_scverse.tl import _prepare

    monkeypatch.setattr(_prepare, "N_LEARNT", 15)
    adata, image = section
    options = {"image": image, "quality": "fast", "max_epochs": 10, "train_kwargs": {"enable_progress_bar": False}}
    names = adata.var_names[::-2].tolist()
    enhanced, model = tl.enhance(adata, genes=names, return_model=True, **options)
    assert enhanced.var_names.tolist() == names
    assert model.adata.n_vars == enhanced.var["trained"].sum() == 15
    few, model = tl.enhance(adata, genes=names[:15], return_model=True, **options)  # no more than those
    assert model.adata.n_vars == 15
    assert "trained" not in few.var
    with pytest.raises(ValueError, match="`quality` to be one of"):
        tl.enhance(adata, quality="good")


def test_what_a_file_cannot_hold_of_the_other_genes_is_found_before_the_training(section, tmp_path, monkeypatch):
    from soscope_scverse.tl import _enhance, _prepare

    monkeypatch.setattr(_prepare, "N_LEARNT", 15)
    monkeypatch.setattr(_enhance, "prepare", None)  # nothing comes after the checks
    adata = section[0].copy()
    adata.var.insert(0, "n", [1, *["b"] * (N_GENES - 1)])
    with pytest.raises(ValueError, match=r"var\['n'\]"):
        tl.enhance(adata, genes="all", out=tmp_path / "all.h5ad")


def test_refusals(spots, model, tmp_path):
    lost = spots[:, 1:].copy()
    with pytest.raises(ValueError, match="1 are missing"):
        model.enhance_genes(lost)
    with pytest.raises(ValueError, match="Expected `genes` to be in"):
        model.enhance_genes(spots, ["no gene"])
    fractions = spots.copy()
    fractions.X = fractions.X.toarray() + np.r_[0, 0.5, np.zeros(N_GENES - 2)]  # in a gene that was not trained on
    with pytest.raises(ValueError, match="Expected raw counts"):
        model.enhance_genes(fractions)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="`checkpoint_dir` to be a folder"):
        model.enhance_genes(spots, checkpoint_dir=tmp_path / "file")
    SoScope.setup_anndata(new := spots.copy())
    with pytest.raises(ValueError, match="Expected a trained model"):
        SoScope(new).enhance_genes(spots)

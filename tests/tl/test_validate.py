"""Validation on the user's own spots: what is merged, what is written, and what is refused."""

from functools import wraps

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest

from helpers import QUICK, as_visium, few_steps
from lattices import LATTICES, spots
from soscope_scverse import SoScope, bench, datasets, metrics, pp, tl
from soscope_scverse._containers.mudata import columns_apart
from soscope_scverse._read import read_sections
from soscope_scverse.tl._merged import linear, merge_spots

pytestmark = pytest.mark.filterwarnings(
    "ignore:No image", "ignore:The image is ignored", "ignore:Observation names", "ignore::DeprecationWarning"
)

SCORES = [
    *("pearson", "within_r", "linear_within_r", "expected_within_r", "p_adjusted"),
    *("believed", "image_gain", "interval_width", "coverage"),
]
OPTIONS = {"accelerator": "cpu", "train_kwargs": {"enable_progress_bar": False}}


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(SoScope, "train", few_steps(SoScope.train))


def counted(lattice, n_genes=4, *, indices=True, **shape):
    """Spots of a lattice with counts."""
    xy, array = LATTICES[lattice](**shape)
    x = np.random.default_rng(0).poisson(8, (len(xy), n_genes)).astype(float)
    adata = spots(xy, array if indices else None, x)
    adata.var_names = [f"gene {i}" for i in range(n_genes)]
    return adata


def merged(adata, factor=2, aggregate="sum", library_key=None):
    return merge_spots(read_sections(adata, library_key), adata.X, factor, aggregate, (library_key,))


# ------------------------------------------------------------------------------------------------------------- merging


@pytest.mark.parametrize("indices", [True, False])
@pytest.mark.parametrize("lattice", ["square", "hex", "quincunx"])
def test_neighbours_are_merged(lattice, indices):
    adata = counted(lattice, indices=indices)
    low, truth, block = merged(adata)
    size = 7 if lattice == "hex" else 4
    assert (np.bincount(block) == size).sum() > 6
    assert np.bincount(block).min() >= 2
    assert low.obsm["subspots"].shape[1] == size
    assert len(block) > 0.9 * adata.n_obs
    sums = np.zeros((low.n_obs, low.n_vars))
    np.add.at(sums, block, truth)
    np.testing.assert_array_equal(low.X.toarray(), sums)
    where = low.obsm["subspots"][~np.isnan(low.obsm["subspots"][..., 0])]
    pitch = np.sort(np.linalg.norm(adata.obsm["spatial"] - adata.obsm["spatial"][0], axis=1))[1]
    assert np.linalg.norm(where - low.obsm["spatial"][block], axis=1).max() < 2 * pitch


def test_where_the_spots_are_decides_not_the_order_of_the_rows():
    adata = counted("hex")
    order = np.random.default_rng(0).permutation(adata.n_obs)
    a, b = merged(adata), merged(adata[order].copy())
    np.testing.assert_allclose(a.adata.obsm["spatial"], b.adata.obsm["spatial"])
    np.testing.assert_array_equal(a.truth, b.truth)


def test_complete_sections_are_merged_as_those_of_the_benchmark():
    adata = counted("square", n_rows=6, n_cols=8)
    low, truth, _ = merged(adata)
    of_bench, known = bench.simulate_low_resolution(adata)
    np.testing.assert_array_equal(low.X.toarray(), of_bench.X.toarray())
    np.testing.assert_array_equal(truth, known.X)
    np.testing.assert_array_equal(linear(low, None), bench.BASELINES["linear"](of_bench))


def test_larger_blocks_and_means():
    adata = counted("square", n_rows=9, n_cols=9)
    low, truth, block = merged(adata, factor=3, aggregate="mean")
    assert low.n_obs == 9
    np.testing.assert_allclose(low.X, truth.reshape(9, 9, -1).mean(axis=1))
    assert (np.bincount(block) == 9).all()


def test_incomplete_blocks_count_their_members():
    adata = counted("square", n_rows=5, n_cols=6)
    low, _, block = merged(adata)
    assert sorted(set(np.bincount(block))) == [2, 4]
    size = low.obs["relative_cell_number"].to_numpy()
    np.testing.assert_allclose(size, np.bincount(block) / np.bincount(block).mean())


def test_sections_are_merged_and_interpolated_one_by_one():
    parts = {name: counted("square", n_rows=6, n_cols=6) for name in "ab"}  # in the same place
    parts["b"].X = 10 * parts["b"].X
    adata = ad.concat(parts, label="slide", index_unique="-")
    low, truth, block = merged(adata, library_key="slide")
    assert low.obs_names.is_unique
    assert low.obs["slide"].tolist() == ["a"] * 9 + ["b"] * 9
    alone = [merged(part) for part in parts.values()]
    np.testing.assert_array_equal(truth, np.vstack([one.truth for one in alone]))
    found = linear(low, "slide")
    np.testing.assert_allclose(found, np.vstack([linear(one.adata, None) for one in alone]))
    assert block.max() == 17


def test_image_features_that_are_there_are_averaged(prepared):
    low, _, block = merged(prepared)
    of_spot = prepared.obsm["subspot_features"].mean(axis=1)
    valid = ~np.isnan(low.obsm["subspots"][..., 0])
    found = low.obsm["subspot_features"][valid]
    xy = low.obsm["subspots"][valid]
    rows = [int(np.linalg.norm(prepared.obsm["spatial"] - one, axis=1).argmin()) for one in xy]
    np.testing.assert_allclose(found, of_spot[rows], rtol=1e-5, atol=1e-6)
    assert len(block) == len(found)
    assert low.uns["subspot_features"]["encoder"] == "texture"


# ----------------------------------------------------------------------------------------------------- what is written


@pytest.fixture(scope="module")
def _made():
    return datasets.synthetic_section(90, lattice="square", n_genes=6)


@pytest.fixture
def made(_made):
    return _made._replace(adata=_made.adata.copy())


def test_scores_of_every_gene(made, tmp_path):
    before = made.adata.copy()
    assert tl.validate(made.adata, made.image, **OPTIONS) is None
    assert list(made.adata.var) == [*before.var, *(f"validation_{name}" for name in SCORES)]
    scores = made.adata.var[[f"validation_{name}" for name in SCORES]]
    assert scores.notna().all(axis=None)
    assert scores["validation_believed"].dtype == bool
    assert scores["validation_coverage"].between(0, 1).all()
    assert (scores["validation_interval_width"] > 0).all()
    found = made.adata.uns["validation"]
    assert found["n_genes"] == 6
    assert found["n_believed"] == scores["validation_believed"].sum()
    assert found["within_r"] == pytest.approx(scores["validation_within_r"].median())
    assert found["n_spots"] <= 90 < 5 * found["n_merged"]
    # nothing else has changed, and a file can hold it
    np.testing.assert_array_equal(made.adata.X.toarray(), before.X.toarray())
    assert list(made.adata.obsm) == list(before.obsm)
    made.adata.write_h5ad(tmp_path / "a.h5ad")
    written = ad.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(written.var[scores.columns], scores, check_names=False)
    assert written.uns["validation"]["n_genes"] == 6


def test_scores_are_those_of_enhanced_merged_spots(made):
    """The same as by hand, with the image and without."""
    low, truth, block = merged(made.adata)
    options = {**QUICK, "genes": list(made.adata.var_names)}
    options.pop("max_epochs")
    recovered = tl.enhance(low, image=made.image, n_samples=5, model_kwargs={"image_strength": 1.0}, **options)
    without = tl.enhance(low, sources="positions", **options)
    tl.validate(made.adata, made.image, n_samples=5, model_kwargs={"image_strength": 1.0}, **OPTIONS)
    var, truth = made.adata.var, truth.toarray()
    with_image = metrics.within_r(recovered.X, truth, block)
    np.testing.assert_allclose(var["validation_within_r"], with_image)
    np.testing.assert_allclose(var["validation_pearson"], metrics.pearson(recovered.X, truth))
    gain = with_image - metrics.within_r(without.X, truth, block)
    np.testing.assert_allclose(var["validation_image_gain"], gain, atol=1e-12)
    covered = metrics.coverage(truth, recovered.layers["q05"], recovered.layers["q95"])
    np.testing.assert_allclose(var["validation_coverage"], covered)
    width = (recovered.layers["q95"] - recovered.layers["q05"]).mean(axis=0) / truth.std(axis=0)
    np.testing.assert_allclose(var["validation_interval_width"], width, rtol=1e-5)


def test_without_an_image_there_is_no_gain(made):
    tl.validate(made.adata, n_samples=2, **OPTIONS)
    assert made.adata.var["validation_image_gain"].isna().all()


def test_the_gain_by_an_image_of_no_strength_is_0(made, monkeypatch):
    """A second model is trained only if the image has any effect."""
    trainings = []
    train = SoScope.train

    @wraps(train)
    def counted_train(self, *args, **kwargs):
        trainings.append(self)
        train(self, *args, **kwargs)

    monkeypatch.setattr(SoScope, "train", counted_train)
    tl.validate(made.adata, made.image, n_samples=2, model_kwargs={"image_strength": 0.0}, **OPTIONS)
    assert (made.adata.var["validation_image_gain"] == 0).all()
    assert len(trainings) == 1


def test_copy_key_and_chosen_genes(made):
    genes = list(made.adata.var_names[[2, 0]])
    columns = list(made.adata.var)
    copy = tl.validate(made.adata, n_samples=2, genes=genes, key_added="v", copy=True, **OPTIONS)
    assert list(made.adata.var) == columns
    assert "v" not in made.adata.uns
    assert copy.uns["v"]["n_genes"] == 2
    validated = copy.var["v_p_adjusted"].notna()
    assert list(copy.var_names[validated]) == sorted(genes)
    assert not copy.var["v_believed"][~validated].any()


def test_layers_and_means(made):
    made.adata.layers["counts"] = made.adata.X.copy()
    made.adata.X = np.log1p(made.adata.X.toarray())
    tl.validate(made.adata, n_samples=2, layer="counts", **OPTIONS)
    tl.validate(made.adata, n_samples=2, likelihood="gaussian", key_added="means", **OPTIONS)
    assert made.adata.var.filter(like="means_").drop(columns="means_image_gain").notna().all(axis=None)


def test_spots_off_the_tissue_are_not_merged(made):
    made.adata.obs["in_tissue"] = np.r_[np.zeros(20, int), np.ones(made.adata.n_obs - 20, int)]
    tl.validate(made.adata, n_samples=2, **OPTIONS)
    assert made.adata.uns["validation"]["n_spots"] <= made.adata.n_obs - 20


def test_several_sections():
    parts = {name: datasets.synthetic_section(60, lattice="square", n_genes=3, seed=i) for i, name in enumerate("ab")}
    adata = ad.concat({name: part.adata for name, part in parts.items()}, label="slide", index_unique="_")
    images = {name: part.image for name, part in parts.items()}
    tl.validate(adata, images, library_key="slide", n_samples=2, **OPTIONS)
    assert adata.var["validation_within_r"].notna().all()


def test_spatialdata(made):
    sdata = as_visium(made)
    sdata["table"].var_names = [f"g{i}" for i in range(6)]
    tl.validate(sdata, image_key="visium_full_image", n_samples=2, **OPTIONS)
    assert sdata["table"].var["validation_within_r"].notna().all()
    assert sdata["table"].uns["validation"]["n_genes"] == 6
    assert "spatialdata_attrs" in sdata["table"].uns


def test_results_have_the_scores_of_their_spots(made):
    tl.validate(made.adata, n_samples=2, **OPTIONS)
    enhanced = tl.enhance(made.adata, **OPTIONS)
    assert enhanced.var["validation_believed"].equals(made.adata.var["validation_believed"])


# ------------------------------------------------------------------------------------------------------ what is refused


def refused(adata, message, image=None, kind=ValueError, **kwargs):
    columns, entries = list(adata.var) if hasattr(adata, "var") else [], set(adata.uns)
    with pytest.raises(kind, match=message):
        tl.validate(adata, image, **kwargs)
    assert set(adata.uns) == entries
    assert not columns or list(adata.var) == columns


def test_spots_that_cannot_be_merged():
    refused(spots(np.random.default_rng(0).random((200, 2)), x=np.ones((200, 1))), "do not lie on a square or hex")
    refused(counted("square", n_rows=2, n_cols=4), r"at least 4 merged spots .* found 2 of 8 spots.* larger section\.$")
    refused(counted("square", n_rows=5, n_cols=5), r"found 3 of 25 .*smaller `factor`", factor=4)
    refused(counted("hex", n_rows=3, n_cols=3), "at least 4 merged spots")


def test_sections_of_few_spots_are_named():
    parts = {"large": counted("square"), "small": counted("square", n_rows=2, n_cols=4)}
    adata = ad.concat(parts, label="slide", index_unique="-")
    refused(adata, r"where `adata.obs\['slide'\]` is 'small', found 2 of 8 spots", library_key="slide")


@pytest.mark.parametrize(
    "kwargs", [{"n_subspots": 4}, {"cells": "cells.csv"}, {"capture": None}, {"out": "a.h5ad"}, {"no": 1}]
)
def test_arguments_without_a_meaning_here(kwargs):
    refused(counted("square"), rf"`enhance_kwargs` out of .*found \['{next(iter(kwargs))}'\]", **kwargs)


def test_mudata_is_validated_by_modality(made):
    with columns_apart():
        mdata = md.MuData({"rna": made.adata.copy()})
    refused(mdata, "found MuData. Validate a modality", kind=TypeError)


def test_a_view_of_a_file_is_refused_before_the_training(made, tmp_path, monkeypatch):
    made.adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")

    @wraps(SoScope.train)
    def no_training(*args, **kwargs):
        raise AssertionError

    monkeypatch.setattr(SoScope, "train", no_training)
    with pytest.raises(ValueError, match="found a view of the file"):
        tl.validate(backed[:80], n_samples=2, **OPTIONS)


def test_features_of_another_partition(prepared):
    prepared.obsm["subspot_features"] = prepared.obsm["subspot_features"][:, :3]
    refused(prepared, r"found shape \(60, 3, \d+\). Run `im.features` again")


def test_partitions_of_the_spots_do_not_matter(made):
    plain = tl.validate(made.adata, n_samples=2, copy=True, **OPTIONS)
    pp.subspots(made.adata, 16)
    tl.validate(made.adata, n_samples=2, **OPTIONS)
    pd.testing.assert_frame_equal(made.adata.var, plain.var)

"""Several sections in one model, sections that it was not trained on, and batches."""

import gc
import weakref

import anndata as ad
import numpy as np
import pytest
import torch

from helpers import QUICK, QUIET, train
from soscope_scverse import SoScope, bench, datasets, im, metrics, pp, tl
from soscope_scverse.model._section import within_sections
from soscope_scverse.model.estimates.library_size import library_size_noise


@pytest.fixture(scope="module")
def _other():
    other = datasets.synthetic_section(40, n_genes=8, seed=1)
    adata = other.adata
    pp.subspots(adata)
    pp.spot_graph(adata)
    im.features(adata, other.image)
    return adata, other.image


@pytest.fixture
def other(_other):
    """Another section with all slots; tests may write to it."""
    return _other[0].copy()


def side_by_side(*sections):
    """Sections in one AnnData, each with its own graph and features."""
    names = [f"s{i}" for i in range(len(sections))]
    together = ad.concat(dict(zip(names, sections, strict=True)), label="library", index_unique="-", pairwise=True)
    together.uns = dict(sections[0].uns)
    return together


def test_another_section_is_enhanced_and_left_unchanged(trained, other):
    before = other.copy()
    enhanced = trained.get_enhanced(other)
    assert enhanced.shape == (280, 8)
    np.testing.assert_array_equal(enhanced.obsm["spatial"], other.obsm["subspots"].reshape(-1, 2))
    np.testing.assert_array_equal(enhanced.obsm["image_features"], other.obsm["subspot_features"].reshape(280, -1))
    assert trained.get_latent_representation(other).shape == (40, 32)
    assert set(other.uns) == set(before.uns)
    assert list(other.obs) == list(before.obs)


def test_many_sections_are_not_kept(trained, other):
    stores = SoScope._per_instance_manager_store[trained.id], SoScope._setup_adata_manager_store
    before = [len(store) for store in stores]
    for _ in range(3):
        trained.get_enhanced(other)
    assert [len(store) for store in stores] == before


def test_a_deregistered_model_keeps_nothing_alive(other):
    adata = other.copy()
    SoScope.setup_anndata(adata)
    model = SoScope(adata, image_strength=1)
    model.train(1, **QUIET)
    expected = model.get_enhanced()
    assert not [name for name in vars(adata) if "soscope" in name]
    model.deregister_manager(adata)
    np.testing.assert_array_equal(model.get_enhanced().X, expected.X)
    references = weakref.ref(adata), weakref.ref(model)
    del adata, model
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_features_are_found_by_name(trained, other):
    more = ad.concat([other, ad.AnnData(np.ones((40, 2)), other.obs[[]])], axis=1, merge="first")
    more.var_names = [*other.var_names, "extra1", "extra2"]
    more.obsp = other.obsp
    moved = more[:, np.random.default_rng(0).permutation(10)].copy()
    names = list(moved.var_names)
    enhanced, expected = trained.get_enhanced(moved), trained.get_enhanced(other)
    assert list(moved.var_names) == names
    assert list(enhanced.var_names) == list(expected.var_names)
    np.testing.assert_array_equal(enhanced.X, expected.X)


def test_missing_features_are_named(trained, other):
    with pytest.raises(ValueError, match=rf"2 are missing: {other.var_names[0]}, {other.var_names[1]}\."):
        trained.get_enhanced(other[:, 2:].copy())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda adata: adata.obsm.pop("subspots"), r"pp\.subspots"),
        (lambda adata: adata.obsp.pop("spot_graph"), r"pp\.spot_graph"),
        (lambda adata: adata.obsm.pop("subspot_features"), "trained with an image"),
        (lambda adata: adata.obsm.update(subspot_features=adata.obsm["subspot_features"][..., :5]), "n_image_features"),
        (lambda adata: adata.uns["subspot_features"].update(encoder="inception_v3"), "encoder='texture'"),
        (lambda adata: adata.uns["subspot_features"].update(context=1.0), "`context`: 1.0 instead of"),
        (lambda adata: adata.uns["subspot_features"]["feature_names"].sort(), "another `feature_names`"),
        (lambda adata: adata.X.data.__imul__(0.5), "raw counts"),
    ],
    ids=range(8),
)
def test_sections_that_do_not_fit(trained, other, spoil, message):
    other.X = other.X.astype(float)
    spoil(other)
    with pytest.raises(ValueError, match=message):
        trained.get_enhanced(other)


@pytest.mark.filterwarnings("ignore:`var_names` for the loaded:UserWarning")  # scvi-tools, before the error
def test_a_loaded_model_enhances_other_sections(trained, other, tmp_path):
    trained.save(tmp_path / "model", save_anndata=True)
    again = SoScope.load(tmp_path / "model", accelerator="cpu")
    np.testing.assert_array_equal(again.get_enhanced(other).X, trained.get_enhanced(other).X)
    other.uns["subspot_features"]["encoder"] = "inception_v3"
    with pytest.raises(ValueError, match="another `encoder`"):
        again.get_enhanced(other)
    with pytest.raises(ValueError, match="in their order"):
        SoScope.load(tmp_path / "model", adata=other[:, ::-1].copy(), accelerator="cpu")


def test_a_finer_division_of_the_same_spots(trained, section):
    fine = section.adata
    pp.subspots(fine, 19)
    pp.spot_graph(fine)
    im.features(fine, section.image, context=trained.adata.uns["subspot_features"]["context"])
    assert trained.get_enhanced(fine).shape == (60 * 19, 8)
    np.testing.assert_allclose(
        trained.get_latent_representation(fine), trained.get_latent_representation(), rtol=1e-4, atol=1e-5
    )


def test_sections_at_the_same_place_do_not_meet(prepared, other):
    """Every section is enhanced as if it were alone, wherever the others lie."""
    prepared.obs["library"] = "alone"
    model = train(prepared, setup={"library_key": "library"})
    thinned = prepared.copy()
    thinned.X = thinned.X.multiply(thinned.obs_names.argsort()[:, None] % 2).tocsr().astype(int)
    other.obsm["spatial"] += prepared.obsm["spatial"][0] - other.obsm["spatial"][0]
    sections = prepared, thinned, other
    alone = []
    for one in sections:
        one.obs["library"] = "alone"
        alone.append(model.get_enhanced(one).X)
    together = model.get_enhanced(side_by_side(*sections))
    for name, expected in zip(("s0", "s1", "s2"), alone, strict=True):
        np.testing.assert_allclose(together[together.obs["library"] == name].X, expected, rtol=1e-4, atol=1e-4)


def test_training_on_sections_at_the_same_place(prepared):
    """Latent states, tiles and image similarity of one section do not depend on where another lies."""
    runs = []
    for shift in (0, 100_000):
        second = prepared.copy()
        for key in ("spatial", "subspots"):
            second.obsm[key] = second.obsm[key] + shift
        two = side_by_side(prepared, second)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            SoScope.setup_anndata(two, library_key="library")
            model = SoScope(two, image_strength=1)
            model.train(4, batch_size=60, **QUIET)
        runs.append(model.get_enhanced().X)
    np.testing.assert_allclose(runs[0], runs[1], rtol=1e-3, atol=1e-3)


def test_spatial_genes_of_several_sections(prepared):
    """Sections at the same place would blur each other's patterns."""
    moved = prepared[np.random.default_rng(0).permutation(60)].copy()
    moved.obsm["spatial"] = moved.obsm["spatial"] + 10_000
    apart = side_by_side(prepared, moved)
    at_once = side_by_side(prepared, moved)
    at_once.obsm["spatial"] = np.concatenate([prepared.obsm["spatial"], moved.obsm["spatial"] - 10_000])
    genes = pp.spatial_genes(at_once, library_key="library")
    assert genes == pp.spatial_genes(apart, library_key="library")
    assert genes == pp.spatial_genes(prepared)


def test_batches(prepared):
    """A batch in which some genes are caught better: its offsets say so, and latent states need not."""
    second = prepared.copy()
    x = second.X.toarray()
    x[:, :4] *= 5
    second.X = x
    two = side_by_side(prepared, second)
    with_batches = train(two.copy(), 80, setup={"library_key": "library", "batch_key": "library"})
    effect = with_batches.module.batch_effect.detach().numpy()
    difference = effect[1] - effect[0]
    assert difference[:4].mean() - difference[4:].mean() > 1
    without = train(two.copy(), 80, setup={"library_key": "library"})
    distance = []
    for model in (with_batches, without):
        z = model.get_latent_representation()
        distance.append(np.linalg.norm(z[:60].mean(0) - z[60:].mean(0)) / z.std())
    assert distance[0] < distance[1]
    assert without.module.batch_effect is None


def test_an_unknown_batch_counts_as_the_average(prepared, other):
    two = side_by_side(prepared, prepared)
    model = train(two, setup={"library_key": "library", "batch_key": "library"})
    other.obs["library"] = "s9"
    with pytest.warns(UserWarning, match=r"\['s9'\].*not trained on, only \['s0', 's1'\]"):
        enhanced = model.get_enhanced(other, expectation="decoded")
    other.obs["library"] = "s0"
    known = model.get_enhanced(other, expectation="decoded")
    assert not np.allclose(enhanced.X, known.X, rtol=1e-3)
    with torch.no_grad():  # told apart no more: every batch is the average one
        module = model.module
        module.batch_effect.copy_(module.batch_effect.mean(0, keepdim=True).expand(2, -1).clone())
        for layer in (module.encoder.layers[0],):
            for linear in (layer.lin_key, layer.lin_query, layer.lin_value, layer.lin_skip):
                linear.weight[:, -2:] = linear.weight[:, -2:].mean(1, keepdim=True).clone()
    np.testing.assert_allclose(model.get_enhanced(other, expectation="decoded").X, enhanced.X, rtol=1e-4)


def test_batches_are_saved(prepared, tmp_path):
    two = side_by_side(prepared, prepared)
    two.obs["slide"] = (np.arange(120) % 2).astype(float)
    model = train(two, max_epochs=4, setup={"library_key": "library", "batch_key": "slide"})
    model.save(tmp_path / "model", save_anndata=True)
    again = SoScope.load(tmp_path / "model", accelerator="cpu")
    np.testing.assert_array_equal(again.get_enhanced().X, model.get_enhanced().X)


def test_batch_column_is_checked(prepared):
    with pytest.raises(ValueError, match="`batch_key`"):
        SoScope.setup_anndata(prepared, batch_key="slide")
    prepared.obs["slide"] = [*["a"] * 59, None]
    with pytest.raises(ValueError, match="1 NaN"):
        SoScope.setup_anndata(prepared, batch_key="slide")
    with pytest.raises(ValueError, match="`batch_key`"):
        tl.enhance(prepared, batch_key="donor")


def test_one_call_with_batches(section):
    two = ad.concat({"a": section.adata, "b": section.adata}, label="library", index_unique="-")
    keys = {"library_key": "library", "batch_key": "library"}
    images = {"a": section.image, "b": section.image}
    enhanced, model = tl.enhance(two, image=images, return_model=True, **keys, **QUICK)
    assert enhanced.n_obs == 840
    assert model.module.batch_effect.shape == (2, 8)


@pytest.mark.realdata
@pytest.mark.slow
def test_a_real_section_is_enhanced_unseen(data_dir):
    """C4 of her2st by a model of C2 and C3: above linear interpolation of its own spots."""
    whole = {name: ad.read_h5ad(data_dir / "her2st" / f"{name}.h5ad") for name in ("C2", "C3", "C4")}
    merged = {name: bench.simulate_low_resolution(adata) for name, adata in whole.items()}
    genes = pp.spatial_genes(merged["C4"].truth, 80)
    genes = [gene for gene in genes if all(gene in adata.var_names for adata in whole.values())][:60]

    def prepared_sections(*names):
        spots = ad.concat({name: merged[name].adata[:, genes] for name in names}, label="library", index_unique="-")
        spots.uns["spatial"] = {name: whole[name].uns["spatial"][name] for name in names}
        pp.spot_graph(spots, library_key="library")
        images = {name: data_dir / "her2st" / f"{name}_HE.jpg" for name in names}
        im.features(spots, images, library_key="library")
        return spots

    model = train(prepared_sections("C2", "C3"), 150, image_strength="auto", setup={"library_key": "library"})
    truth = merged["C4"].truth[:, genes]
    unseen = model.get_enhanced(prepared_sections("C4")).X
    linear = bench.BASELINES["linear"](merged["C4"].adata[:, genes].copy())
    scores = [np.median(metrics.pearson(values, truth.X)) for values in (unseen, linear)]
    assert scores[0] > scores[1] + 0.02
    assert np.median(metrics.within_r(unseen, truth.X, truth.obs["spot"])) > 0.3


def test_what_sections_differ_by_is_no_noise(prepared):
    """Another depth does not hide how even the depth is."""
    x = np.log1p(prepared.X.toarray())
    sections = np.repeat(["a", "b"], 60)
    xy = np.tile(prepared.obsm["spatial"], (2, 1))
    counts = np.tile(prepared.X.toarray(), (2, 1)).astype(float)
    deep = counts * np.repeat([1, 50], 60)[:, None]
    assert library_size_noise(deep, xy, sections) == pytest.approx(library_size_noise(counts, xy, sections), abs=0.02)
    np.testing.assert_array_equal(within_sections(x, sections[:60]), x)


def test_the_graph_of_a_section_does_not_depend_on_others(prepared, other):
    two = side_by_side(prepared, other)
    expected = two.obsp["spot_graph"].toarray()  # made of each by itself
    pp.spot_graph(two, library_key="library")
    np.testing.assert_allclose(two.obsp["spot_graph"].toarray(), expected, rtol=1e-6)

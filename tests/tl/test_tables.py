"""Tables as they come: counts elsewhere, several types of features, spots off the tissue, images of some sections."""

import logging
import warnings

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest

from helpers import QUICK
from lattices import spots, square
from soscope_scverse import SoScope, datasets, pp, tl
from soscope_scverse._containers.mudata import columns_apart
from soscope_scverse._read import on_tissue
from soscope_scverse.pp._graphs import image_similarity

pytestmark = pytest.mark.filterwarnings(
    "ignore:Observation names", "ignore:The image has practically no effect", "ignore:No image"
)


@pytest.fixture
def adata(section):
    section.adata.X = section.adata.X.toarray().astype(np.float32)
    return section.adata


# ----------------------------------------------------------------------------------------------------- where counts are


def logged(adata):
    return np.log1p(adata.X / adata.X.sum(axis=1, keepdims=True) * 1e4)


def in_raw(adata):
    adata.raw = adata.copy()
    adata.X = logged(adata)
    return adata, None


def in_raw_of_other_genes(adata):
    part = adata[:, :-1].copy()
    part.raw = part.copy()
    part.var_names = [f"other{i}" for i in range(part.n_vars)]
    part.X = logged(part)
    return part, None


def in_a_layer(adata):
    adata.layers["scaled"], adata.layers["umi"] = logged(adata), adata.X.copy()
    adata.X = logged(adata)
    return adata, None


def in_x(adata):
    adata.layers["lognorm"] = logged(adata)
    return adata, "lognorm"


def off_by_rounding(adata):
    adata.X = np.expm1(np.log1p(adata.X))
    return adata, None


def off_by_rounding_sparse(adata):
    from scipy.sparse import csr_matrix

    adata.layers["back"] = csr_matrix(adata.X * np.float32(1.00001))
    adata.X = logged(adata)
    return adata, "back"


def nowhere(adata):
    adata.X = logged(adata)
    return adata, None


PLACES = {
    in_raw: r"`adata.raw` holds counts: `adata.layers\['counts'\] = adata.raw",
    in_raw_of_other_genes: r"`adata.raw` holds counts: pass `adata.raw.to_adata\(\)`",
    in_a_layer: r"`adata.layers\['umi'\]` holds counts: pass `layer='umi'`",
    in_x: "`adata.X` holds counts: omit `layer`",
    off_by_rounding: r"but for rounding: `adata.X = adata.X.round\(\)`",
    off_by_rounding_sparse: r"but for rounding: `adata.layers\['back'\] = adata.layers\['back'\].rint\(\)`",
    nowhere: "Pass the counts with `layer=`",
}


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_messages_point_at_counts(adata, place):
    changed, layer = place(adata)
    with pytest.raises(ValueError, match=rf"fractions. .*{PLACES[place]}.*likelihood='gaussian'"):
        tl.enhance(changed, layer=layer, **QUICK)


def test_models_and_modalities_point_at_counts(prepared, adata):
    prepared.layers["umi"] = prepared.X.copy()
    prepared.X = prepared.X.toarray() + 0.5
    SoScope.setup_anndata(prepared)
    with pytest.raises(ValueError, match="pass `layer='umi'`"):
        SoScope(prepared)
    rna, prot = adata[:, :5].copy(), adata[:, 5:].copy()
    prot.raw = prot.copy()
    prot.X = logged(prot)
    with columns_apart():
        mdata = md.MuData({"rna": rna, "prot": prot})
    with pytest.raises(ValueError, match=r"`adata\.raw` holds counts"):
        tl.enhance(mdata, likelihood={"rna": "nb", "prot": "poisson"}, **QUICK)


# ---------------------------------------------------------------------------------------------------- types of features


def genes_and_antibodies(seed=0):
    """Ten genes with a pattern along y, ten without; antibodies with most counts and a gradient along x."""
    rng = np.random.default_rng(seed)
    xy, _ = square(16, 16)
    pattern = rng.poisson(4 * (1 + 0.6 * np.sin(xy[:, [1]] / 25)), (len(xy), 10))
    flat, antibody = rng.poisson(40, (len(xy), 10)), rng.poisson(200 * np.exp(xy[:, [0]] / 70), (len(xy), 4))
    adata = spots(xy, x=np.column_stack([antibody, pattern, flat]).astype(float))
    adata.var_names = [f"{kind}{i}" for kind, n in (("mAb", 4), ("pattern", 10), ("flat", 10)) for i in range(n)]
    adata.var["feature_types"] = pd.Categorical(["Antibody Capture"] * 4 + ["Gene Expression"] * 20)
    return adata


def test_each_type_of_features_has_its_library_size():
    adata = genes_and_antibodies()
    with pytest.warns(UserWarning, match=r"4 'Antibody Capture', 20 'Gene Expression'.*MuData"):
        names = pp.spatial_genes(adata)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone = pp.spatial_genes(adata[:, 4:].copy())
    assert [name for name in names if not name.startswith("mAb")] == alone
    assert set(alone[:10]) == {f"pattern{i}" for i in range(10)}


def test_each_type_of_features_has_candidates():
    adata = genes_and_antibodies()
    with pytest.warns(UserWarning, match="several types"):
        names = pp.spatial_genes(adata, n_candidates=2)
    assert sorted(name.startswith("mAb") for name in names) == [False, False, True, True]


# ------------------------------------------------------------------------------------------------- spots off the tissue


IN_TISSUE = {
    "integers": lambda column: column,
    "booleans": lambda column: column.astype(bool),
    "words": lambda column: column.astype(bool).astype(str),
    "categories": lambda column: column.astype(str).astype("category"),
    "missing": lambda column: column.astype(float).where(column == 0),
}


@pytest.mark.parametrize("case", IN_TISSUE)
def test_spots_off_the_tissue_are_excluded(adata, case, caplog):
    off = np.arange(60) % 4 == 0
    adata.obs["in_tissue"] = IN_TISSUE[case](pd.Series(np.where(off, 0, 1), index=adata.obs_names))
    with caplog.at_level(logging.INFO, "soscope_scverse"):
        found = on_tissue(adata, keep=False)
    assert found.obs_names.tolist() == adata.obs_names[~off].tolist()
    assert [record.getMessage() for record in caplog.records] == [
        "Excluded 15 of 60 spots with in_tissue == 0 (keep_off_tissue=True keeps them)."
    ]
    assert on_tissue(adata, keep=True) is adata
    with columns_apart():
        mdata = md.MuData({"rna": adata[:, :5].copy(), "prot": adata[:, 5:].copy()})
    assert on_tissue(mdata, keep=False).n_obs == 45


OTHER_MARKS = {
    "a name": ("cortex", "'cortex'"),
    "yes and no": (["yes", "no"] * 30, "'yes', 'no'"),
    "letters": (pd.Categorical(["T", "F"] * 30), "'T', 'F'"),
    "from 1": ([1, 2] * 30, "2"),
    "signs": ([-1, 1] * 30, "-1"),
    "shares": (np.linspace(0, 1, 60), "0.01"),
}


@pytest.mark.parametrize("case", OTHER_MARKS)
def test_a_column_of_other_marks_is_refused(adata, case):
    adata.obs["in_tissue"], found = OTHER_MARKS[case]
    with pytest.raises(TypeError, match=rf"'in_tissue'\]` to be booleans or 0 and 1, found .*{found}.*keep_off_tissue"):
        tl.enhance(adata, **QUICK)
    assert on_tissue(adata, keep=True) is adata


def test_missing_marks_keep_their_spots_with_a_warning(adata):
    adata.obs["in_tissue"] = np.where(np.arange(60) < 7, np.nan, 1.0)
    with pytest.warns(UserWarning, match=r"7 of 60 spots have no value in `adata.obs\['in_tissue'\]`"):
        assert on_tissue(adata, keep=False) is adata


def test_no_spot_on_the_tissue(adata):
    adata.obs["in_tissue"] = 0
    with pytest.raises(ValueError, match=r"'in_tissue'\]` 0 for all 60 spots.*keep_off_tissue=True"):
        tl.enhance(adata, **QUICK)


def test_results_are_those_of_the_spots_on_the_tissue(adata):
    adata.obs["in_tissue"] = (np.arange(60) < 40).astype(int)
    before = adata.copy()
    enhanced = tl.enhance(adata, sources="positions", **QUICK)
    alone = tl.enhance(adata[:40].copy(), sources="positions", **QUICK)
    np.testing.assert_array_equal(enhanced.X, alone.X)
    assert set(enhanced.obs["spot"]) == set(adata.obs_names[:40])
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    kept = tl.enhance(adata, sources="positions", keep_off_tissue=True, **QUICK)
    assert set(kept.obs["spot"]) == set(adata.obs_names)


# ----------------------------------------------------------------------------------------------- images of the sections


def slides(*entries, image, names=("d1", "d2")):
    """Sections of a column "donor" whose images are under other names, or missing."""
    section = datasets.synthetic_section(60, n_genes=4, seed=0).adata
    both = ad.concat(dict.fromkeys(names, section), label="donor", index_unique="-")
    scales = {"tissue_hires_scalef": 1.0, "spot_diameter_fullres": 36.0}
    both.uns["spatial"] = {
        name: {"images": {} if name.startswith("no ") else {"hires": image}, "scalefactors": scales} for name in entries
    }
    both.uns["spatial"] = {name.removeprefix("no "): entry for name, entry in both.uns["spatial"].items()}
    return both


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (("A", "B"), r"none of \['d1', 'd2'\] and the entries \['A', 'B'\].*\['d1'\] = .*pop\('A'\)"),
        (("A",), r"none of \['d1', 'd2'\] and the entries \['A'\]"),
        (("d1", "no d2"), r"none of \['d2'\] and the entries \['d1', 'd2'\].*`image=\{'d2': None\}`"),
        (("d1",), r"none of \['d2'\] and the entries \['d1'\]"),
        (("d2", "slide"), r"none of \['d1'\] and the entries \['d2', 'slide'\]"),
    ],
)
def test_sections_without_an_image_are_named(section, entries, message):
    both = slides(*entries, image=section.image)
    with pytest.raises(ValueError, match=message):
        tl.enhance(both, library_key="donor", **QUICK)
    with pytest.raises(ValueError, match="for sources='image'"):
        tl.enhance(both, library_key="donor", sources="image", **QUICK)


def test_images_that_are_there_are_used(section):
    both = slides("d1", image=section.image)
    options = {**QUICK, "model_kwargs": {"image_strength": 1}, "return_model": True}
    enhanced, model = tl.enhance(both, library_key="donor", image={"d2": None}, **options)
    assert enhanced.uns["soscope"]["image_strength"] == 1
    features = model.adata.obsm["subspot_features"]
    first = (both.obs["donor"] == "d1").to_numpy()
    assert np.ptp(features[first], axis=(0, 1)).max() > 0
    mean = np.broadcast_to(features[first].mean(axis=(0, 1)), features[~first].shape)
    np.testing.assert_allclose(features[~first], mean, atol=1e-4)


def test_sections_without_an_image_have_no_similar_subspots():
    xy = square(6, 6)[0]
    features = np.random.default_rng(0).random((72, 3))
    features[36:] = 0.3
    labels = np.repeat(["a", "b"], 36)
    alone = image_similarity(xy, features[:36], labels[:36])
    both = image_similarity(np.vstack([xy, xy]), features, labels)
    for a, b in zip(alone, both, strict=True):
        np.testing.assert_array_equal(a, b)


# -------------------------------------------------------------------------------------------------- joined after a step


@pytest.mark.parametrize("join", ["inner", "outer"])
def test_sections_of_different_partitions_cannot_be_joined(join):
    parts = {}
    for name, n_subspots in (("a", 9), ("b", 4)):
        parts[name] = datasets.synthetic_section(60, lattice="square", n_genes=4).adata
        pp.subspots(parts[name], n_subspots)
    both = ad.concat(parts, label="donor", index_unique="-", join=join)
    with pytest.raises(ValueError, match=r"found 60 of 120 that are not .*call `pp\.subspots` after joining"):
        tl.enhance(both, library_key="donor", **QUICK)

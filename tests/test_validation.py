"""Bad input: a message that says what was found, before any work, and the user's object as it was."""

import ast
import re
from collections.abc import Mapping
from pathlib import Path

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from scipy import sparse
from spatialdata.models import ShapesModel, TableModel

from soscope_scverse import SoScope, _validation, bench, datasets, im, metrics, pl, pp, tl

pytestmark = pytest.mark.filterwarnings("ignore:Observation names", "ignore:Variable names", "ignore:Transforming to str")

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}
REFUSED = (ValueError, TypeError)


# ---- the user's object ---------------------------------------------------------------------------------------------


def same(a, b) -> bool:
    """Whether two values are the same, with types, dtypes and the order of what they hold."""
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, pd.DataFrame | pd.Series | pd.Index):
        return type(a) is type(b) and a.equals(b) and (not isinstance(a, pd.DataFrame) or list(a) == list(b))
    if type(a) is not type(b):
        return False
    if sparse.issparse(a):
        return same(a.data, b.data) and same(a.indices, b.indices) and same(a.indptr, b.indptr)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
    return bool(a == b) or (a != a and b != b)


def contents(data):
    """All that an object holds, to compare."""
    if isinstance(data, ad.AnnData):
        slots = {name: dict(getattr(data, name)) for name in ("layers", "obsm", "varm", "obsp", "uns")}
        # a registration that went well leaves its mark, whatever the model refuses later
        slots["uns"] = {key: value for key, value in slots["uns"].items() if not key.startswith("_scvi")}
        return {"X": data.X, "obs": data.obs, "var": data.var, **slots}
    if isinstance(data, md.MuData):
        top = {name: dict(getattr(data, name)) for name in ("obsm", "obsp", "uns")}
        return {"obs": data.obs, **top, **{name: contents(part) for name, part in data.mod.items()}}
    if isinstance(data, sd.SpatialData):
        return {name: contents(table) for name, table in data.tables.items()} | {"shapes": list(data.shapes)}
    return data


def copied(data):
    return data.copy() if hasattr(data, "copy") else data


def as_before(call, data, message):
    """A call is refused with a message, and the object is as it was."""
    before = contents(copied(data))
    with pytest.raises(REFUSED, match=message) as caught:
        call(data)
    assert same(contents(data), before)
    assert type(caught.value) in REFUSED  # no subclass that tells of the inside, as UnicodeError or LinAlgError


def test_the_comparison_sees_a_change(prepared):
    for change in (
        lambda a: a.obs.insert(0, "b", 1),
        lambda a: a.obsm.update(spatial=a.obsm["spatial"] + 1),
        lambda a: a.uns["subspots"].update(pitch=1),
        lambda a: setattr(a, "X", a.X.astype(np.float32)),
        lambda a: a.obsp["spot_graph"].data.fill(1),
        lambda a: a.uns.update(dict([(key, a.uns.pop(key)) for key in list(a.uns)][::-1])),
    ):
        other = ad.AnnData.copy(prepared)
        other.uns = {key: dict(value) for key, value in prepared.uns.items()}
        change(other)
        assert not same(contents(other), contents(prepared))
    assert same(contents(prepared.copy()), contents(prepared))


# ---- entries that take spots ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def picture(_section):
    return _section.image


@pytest.fixture(scope="module")
def model(_prepared):
    spots = _prepared.copy()
    SoScope.setup_anndata(spots)
    model = SoScope(spots)
    model.train(max_steps=1, pretrain_epochs=1, **QUIET)
    return model


@pytest.fixture(scope="module")
def enhanced(model):
    return model.get_enhanced()


@pytest.fixture
def entries(picture, model, enhanced, _section, _prepared):
    """Every function of spots, as called with them alone."""
    gene, places = _section.adata.var_names[:1].tolist(), _section.adata.obsm["spatial"][:3]
    features = np.zeros((3, _prepared.obsm["subspot_features"].shape[2]))

    def setup(adata):
        SoScope.setup_anndata(adata)
        SoScope(adata)

    def mask_subspots(adata):
        if isinstance(adata, ad.AnnData) and "subspot_features" in adata.obsm:
            adata = adata.copy()
            del adata.obsm["subspot_features"]
        im.mask_subspots(adata, picture)

    return {
        "pp.subspots": pp.subspots,
        "pp.spot_graph": pp.spot_graph,
        "pp.spatial_genes": pp.spatial_genes,
        "im.features": lambda a: im.features(a, picture),
        "im.features(precomputed)": lambda a: im.features(a, encoder="precomputed"),
        "im.features(noise)": lambda a: im.features(a, encoder="noise"),
        "im.features_at": lambda a: im.features_at(a, places, picture),
        "im.mask_subspots": mask_subspots,
        "im.check_alignment": lambda a: im.check_alignment(a, picture),
        "im.check_coordinates": lambda a: im.check_coordinates(a, picture),
        "im.embedded_image": im.embedded_image,
        "tl.enhance": lambda a: tl.enhance(a, image=picture),
        "tl.to_spatialdata": tl.to_spatialdata,
        "SoScope": setup,
        "get_enhanced": model.get_enhanced,
        "get_latent_representation": model.get_latent_representation,
        "sample_enhanced": lambda a: model.sample_enhanced(2, a),
        "predict": lambda a: model.predict(places, features, adata=a),
        "predict(positions)": lambda a: model.predict(a, np.zeros((a.n_obs, features.shape[1]))),
        "bench.simulate_low_resolution": bench.simulate_low_resolution,
        "bench.compare": lambda a: bench.compare(a, _section.truth, methods=["repeat"], progress=False),
        "bench.baselines.repeat": bench.BASELINES["repeat"],
        "bench.baselines.linear": bench.BASELINES["linear"],
        "bench.baselines.image_linear": bench.BASELINES["image_linear"],
        "pl.compare": lambda a: pl.compare(a, enhanced, gene),
        "pl.compare(enhanced)": lambda a: pl.compare(_section.adata, a, gene),
    }


EVERY = (
    *("pp.subspots", "pp.spot_graph", "pp.spatial_genes", "im.features", "im.features(precomputed)"),
    *("im.features(noise)", "im.features_at", "im.mask_subspots", "im.check_alignment", "im.check_coordinates"),
    *("im.embedded_image", "tl.enhance", "tl.to_spatialdata", "SoScope", "get_enhanced", "get_latent_representation"),
    *("sample_enhanced", "predict", "bench.simulate_low_resolution", "bench.compare", "bench.baselines.repeat"),
    *("bench.baselines.linear", "bench.baselines.image_linear", "pl.compare", "pl.compare(enhanced)"),
)
RESULTS = ("SoScope", "get_enhanced", "get_latent_representation", "sample_enhanced", "predict")
COUNTS = ("tl.enhance", *RESULTS)
PROFILES = ("pp.spot_graph", "pp.spatial_genes", "im.check_alignment", "bench.simulate_low_resolution", *COUNTS)
POSITIONS = (*PROFILES, "pp.subspots", "im.features_at", "tl.to_spatialdata", "bench.baselines.linear", "pl.compare")
PLACED = (*POSITIONS, "predict(positions)", "pl.compare(enhanced)")
DIVIDED = (*COUNTS, "bench.baselines.repeat", "bench.baselines.image_linear", "im.mask_subspots")


def with_x(change):
    def spoil(adata):
        adata.X = change(adata.X.toarray().astype(float))
        return adata

    return spoil


def with_value(value):
    return with_x(lambda x: np.where(np.arange(x.size).reshape(x.shape) == 11, value, x))


def with_slot(key, change, slot="obsm"):
    def spoil(adata):
        values = getattr(adata, slot)
        values[key] = change(values[key] if slot != "obsm" else np.asarray(values[key]))
        return adata

    return spoil


def without(slot, key):
    def spoil(adata):
        del getattr(adata, slot)[key]
        return adata

    return spoil


def with_uns(**uns):
    def spoil(adata):
        adata.uns.update(uns)
        return adata

    return spoil


def of_strings(adata):
    slots = {"obsm": dict(adata.obsm), "obsp": dict(adata.obsp), "uns": dict(adata.uns)}
    return ad.AnnData(np.full(adata.shape, "a", dtype=object), obs=adata.obs, var=adata.var, **slots)


def without_profiles(adata):
    slots = {"obsm": dict(adata.obsm), "obsp": dict(adata.obsp), "uns": dict(adata.uns)}
    return ad.AnnData(None, obs=adata.obs, var=adata.var, **slots)


def repeated(axis):
    def spoil(adata):
        names = getattr(adata, f"{axis}_names").tolist()
        setattr(adata, f"{axis}_names", [names[1], *names[1:]])
        return adata

    return spoil


def first(value):
    """Change of the first value of an array."""
    return lambda x: np.where(np.arange(x.size).reshape(x.shape) == 0, value, x)


def words(x):
    return np.full(x.shape, "a", dtype=object)


BAD_SPOTS = {
    "an array": (lambda a: a.X.toarray(), "Expected an AnnData.*found ndarray", EVERY),
    "a DataFrame": (lambda a: a.to_df(), "Expected an AnnData.*found DataFrame", EVERY),
    "a path": (lambda a: "spots.h5ad", "Expected an AnnData.*found str", EVERY),
    "repeated names of spots": (repeated("obs"), r"unique `adata.obs_names`.*obs_names_make_unique", COUNTS),
    "repeated names of genes": (repeated("var"), r"unique `adata.var_names`.*var_names_make_unique", COUNTS),
    "no spots": (lambda a: a[:0].copy(), "Expected .*found", (*PROFILES, "pp.subspots", "tl.to_spatialdata")),
    "no genes": (lambda a: a[:, :0].copy(), "at least one observation and one feature|features that", PROFILES),
    "no profiles": (without_profiles, "found None", (*PROFILES, "bench.baselines.repeat", "pl.compare")),
    "profiles of words": (of_strings, "profiles of real numbers, found object", (*PROFILES, "pl.compare")),
    "complex profiles": (with_x(lambda x: x * 1j), "profiles of real numbers, found complex", PROFILES),
    "masked profiles": (
        with_x(lambda x: np.ma.masked_array(x, x > 5)),
        "real numbers, found float64 with .* masked",
        ("pp.spot_graph", "tl.enhance"),
    ),
    "NaN in profiles": (with_value(np.nan), "1 NaN or infinite values", PROFILES),
    "infinite profiles": (with_value(np.inf), "1 NaN or infinite values", PROFILES),
    "negative counts": (with_value(-1), "1 negative values.*likelihood='gaussian'", COUNTS),
    "fractions as counts": (with_value(0.5), "1 fractions.*likelihood='gaussian'", COUNTS),
    "no positions": (without("obsm", "spatial"), r"spot coordinates in `adata.obsm\['spatial'\]`", POSITIONS),
    "NaN in positions": (with_slot("spatial", first(np.nan)), "NaN or infinite values for 1 of 60", PLACED),
    "infinite positions": (with_slot("spatial", first(np.inf)), "NaN or infinite values for 1 of 60", PLACED),
    "one coordinate": (with_slot("spatial", lambda x: x[:, :1]), r"n_obs x 2 .*\(60, 1\)", PLACED),
    "three coordinates": (with_slot("spatial", lambda x: x[:, [0, 1, 1]]), r"n_obs x 2 .*\(60, 3\)", PLACED),
    "positions of words": (with_slot("spatial", words), "real numbers .*ndarray of object", PLACED),
    "positions as text": (with_slot("spatial", lambda x: x.astype(str)), "real numbers .*ndarray of <U", PLACED),
    "complex positions": (with_slot("spatial", lambda x: x * 1j), "real numbers .*complex", PLACED),
    "sparse positions": (with_slot("spatial", sparse.csr_matrix), "real numbers .*csr_matrix", PLACED),
    "no subspots": (without("obsm", "subspots"), r"pp\.subspots", (*RESULTS, "im.features", "bench.baselines.repeat")),
    "no exposures": (without("obsm", "subspot_exposure"), r"pp\.subspots", DIVIDED),
    "flat subspots": (with_slot("subspots", lambda x: x[..., 0]), r"n_subspots x 2.*\(60, 7\)", DIVIDED),
    "subspots of another number": (with_slot("subspots", lambda x: x[:, :3]), r"\(60, 3, 2\) and \(60, 7\)", DIVIDED),
    "subspots of words": (with_slot("subspots", words), "real numbers", (*DIVIDED, "im.features")),
    "NaN in subspots": (with_slot("subspots", first(np.nan)), "finite .*found 1 ", (*DIVIDED, "im.features")),
    "negative exposures": (with_slot("subspot_exposure", np.negative), "non-negative with rows that sum to 1", DIVIDED),
    "NaN in exposures": (with_slot("subspot_exposure", first(np.nan)), "rows that sum to 1", DIVIDED),
    "exposures of words": (with_slot("subspot_exposure", words), "real numbers", DIVIDED),
    "sizes of 0": (lambda a: a.obs.insert(0, "spot_size", 0) or a, "above 0 for every spot", DIVIDED),
    "NaN in sizes": (lambda a: a.obs.insert(0, "spot_size", np.nan) or a, "above 0 for every spot", DIVIDED),
    "sizes of words": (lambda a: a.obs.insert(0, "spot_size", "a") or a, "real numbers", DIVIDED),
    "a division that is a list": (with_uns(subspots=[1]), r"uns\['subspots'\]` to be a dict", DIVIDED),
    "no graph": (without("obsp", "spot_graph"), r"pp\.spot_graph", RESULTS),
    "NaN in the graph": (with_slot("spot_graph", lambda g: g * np.nan, "obsp"), "finite weights", COUNTS),
    "a negative graph": (with_slot("spot_graph", np.negative, "obsp"), "weights of at least 0", COUNTS),
    "NaN in image features": (
        with_slot("subspot_features", first(np.nan)),
        r"im\.features|finite",
        (*COUNTS, "im.features(precomputed)", "bench.baselines.image_linear"),
    ),
    "flat image features": (
        with_slot("subspot_features", lambda x: x[..., 0]),
        r"shape \(60, 7\)",
        (*COUNTS, "im.features(precomputed)", "bench.baselines.image_linear"),
    ),
    "image features of words": (
        with_slot("subspot_features", words),
        "real numbers",
        (*COUNTS, "im.features(precomputed)", "bench.baselines.image_linear"),
    ),
    "no image features left": (with_slot("subspot_features", lambda x: x[..., :0]), r"\(60, 7, 0\)", COUNTS),
    "pictures that are no dict": (
        with_uns(spatial=np.zeros(3)),
        r"uns\['spatial'\]` to be a dict",
        ("tl.enhance", "im.features", "im.embedded_image", "im.check_alignment", "bench.simulate_low_resolution"),
    ),
    "scale factors that are a number": (
        with_uns(spatial={"slide": {"scalefactors": 3}}),
        "found int instead of one of these",
        ("tl.enhance", "im.features", "im.embedded_image", "im.check_alignment", "bench.simulate_low_resolution"),
    ),
    "a diameter that is a word": (
        with_uns(spatial={"slide": {"images": {}, "scalefactors": {"spot_diameter_fullres": "wide"}}}),
        "spot_diameter_fullres` to be an array of real numbers",
        ("im.features", "im.check_alignment", "bench.simulate_low_resolution"),
    ),
    "marked genes that are words": (
        lambda a: a.var.insert(0, "highly_variable", "yes") or a,
        "to be booleans",
        ("tl.enhance",),
    ),
    "no marked genes": (lambda a: a.var.insert(0, "highly_variable", False) or a, "found none", ("tl.enhance",)),
}


@pytest.mark.parametrize(("fault", "entry"), [(fault, entry) for fault, (*_, of) in BAD_SPOTS.items() for entry in of])
def test_bad_spots_are_refused_and_left_alone(prepared, entries, fault, entry):
    spoil, message, _ = BAD_SPOTS[fault]
    as_before(entries[entry], spoil(prepared), message)

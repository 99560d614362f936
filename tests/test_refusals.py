"""Bad input: a message that says what was found, before any work, and the user's object as it was."""

import re
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
import tifffile
from PIL import Image
from scipy import sparse

from helpers import QUIET
from soscope_scverse import SoScope, bench, datasets, im, metrics, pl, pp, tl
from soscope_scverse._containers.mudata import columns_apart
from soscope_scverse._read import rows_of_section
from soscope_scverse._validators import check_spots_of_subspots

pytestmark = pytest.mark.filterwarnings("ignore:Observation names", "ignore:Variable names", "ignore:Transforming")

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
    with columns_apart():  # else the copy has columns of the modalities at the top
        return data.copy() if hasattr(data, "copy") else data


def fault(call, data, message, kinds=REFUSED) -> str:
    """What is wrong with how a call is refused: it is to have a message, and to leave the object unchanged."""
    before = contents(copied(data))
    try:
        call(data)
    except Exception as error:
        if type(error) not in kinds:  # nor a subclass that shows the inside, as UnicodeError or LinAlgError
            return f"{type(error).__name__}: {error}"
        if not re.search(message, str(error)):
            return f"expected {message!r}, found {str(error)!r}"
        return "" if same(contents(data), before) else "the object was changed"
    return "not refused"


def as_before(call, data, message):
    """A call is refused with a message, and the object is as it was."""
    assert fault(call, data, message) == ""


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
def image(_section):
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
def entries(image, model, enhanced, _section, _prepared):
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
        im.mask_subspots(adata, image)

    return {
        "pp.subspots": pp.subspots,
        "pp.spot_graph": pp.spot_graph,
        "pp.spatial_genes": pp.spatial_genes,
        "im.features": lambda a: im.features(a, image),
        "im.features(precomputed)": lambda a: im.features(a, encoder="precomputed"),
        "im.features(noise)": lambda a: im.features(a, encoder="noise"),
        "im.features_at": lambda a: im.features_at(a, places, image),
        "im.mask_subspots": mask_subspots,
        "im.check_alignment": lambda a: im.check_alignment(a, image),
        "im.check_coordinates": lambda a: im.check_coordinates(a, image),
        "im.embedded_image": im.embedded_image,
        "tl.enhance": lambda a: tl.enhance(a, image=image),
        "tl.validate": lambda a: tl.validate(a, image),
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
        "bench.baselines.kriging_image": bench.BASELINES["kriging_image"],
        "pl.compare": lambda a: pl.compare(a, enhanced, gene),
        "pl.compare(enhanced)": lambda a: pl.compare(_section.adata, a, gene),
    }


EVERY = (
    *("pp.subspots", "pp.spot_graph", "pp.spatial_genes", "im.features", "im.features(precomputed)"),
    *("im.features(noise)", "im.features_at", "im.mask_subspots", "im.check_alignment", "im.check_coordinates"),
    *(
        "im.embedded_image",
        "tl.enhance",
        "tl.validate",
        "tl.to_spatialdata",
        "SoScope",
        "get_enhanced",
        "get_latent_representation",
    ),
    *("sample_enhanced", "predict", "bench.simulate_low_resolution", "bench.compare", "bench.baselines.repeat"),
    *("bench.baselines.linear", "bench.baselines.image_linear", "bench.baselines.kriging_image"),
    *("pl.compare", "pl.compare(enhanced)"),
)
RESULTS = ("SoScope", "get_enhanced", "get_latent_representation", "sample_enhanced", "predict")
COUNTS = ("tl.enhance", *RESULTS)
PROFILES = (
    "pp.spot_graph",
    "pp.spatial_genes",
    "im.check_alignment",
    "bench.simulate_low_resolution",
    "tl.validate",
    *COUNTS,
)
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
    "a path": (
        lambda a: "spots.h5ad",
        r"Expected an AnnData.*found str. Read it first: `soscope_scverse.read\('spots.h5ad'\)`",
        EVERY,
    ),
    "a list of sections": (
        lambda a: [a, a],
        "Expected an AnnData.*found list. Join sections with .*library_key",
        ("tl.enhance", "tl.validate", "pp.subspots", "im.features"),
    ),
    "repeated names of spots": (
        repeated("obs"),
        r"unique `adata.obs_names`.*obs_names_make_unique",
        (*COUNTS, "tl.validate"),
    ),
    "repeated names of genes": (
        repeated("var"),
        r"unique `adata.var_names`.*var_names_make_unique",
        (*COUNTS, "tl.validate"),
    ),
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
    "negative counts": (with_value(-1), "1 negative values.*likelihood='gaussian'", (*COUNTS, "tl.validate")),
    "fractions as counts": (with_value(0.5), "1 fractions.*likelihood='gaussian'", (*COUNTS, "tl.validate")),
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
    "sizes of 0": (lambda a: a.obs.insert(0, "relative_cell_number", 0) or a, "above 0 for every spot", DIVIDED),
    "NaN in sizes": (lambda a: a.obs.insert(0, "relative_cell_number", np.nan) or a, "above 0 for every spot", DIVIDED),
    "sizes of words": (lambda a: a.obs.insert(0, "relative_cell_number", "a") or a, "real numbers", DIVIDED),
    "a division that is a list": (with_uns(subspots=[1]), r"uns\['subspots'\]` to be a dict", DIVIDED),
    "no graph": (without("obsp", "spot_graph"), r"pp\.spot_graph", RESULTS),
    "NaN in the graph": (with_slot("spot_graph", lambda g: g * np.nan, "obsp"), "finite weights", COUNTS),
    "a negative graph": (with_slot("spot_graph", np.negative, "obsp"), "weights of at least 0", COUNTS),
    "NaN in image features": (
        with_slot("subspot_features", first(np.nan)),
        r"im\.features|finite",
        (*COUNTS, "im.features(precomputed)", "bench.baselines.image_linear", "bench.baselines.kriging_image"),
    ),
    "flat image features": (
        with_slot("subspot_features", lambda x: x[..., 0]),
        r"shape \(60, 7\)",
        (*COUNTS, "im.features(precomputed)", "bench.baselines.image_linear", "bench.baselines.kriging_image"),
    ),
    "image features of words": (
        with_slot("subspot_features", words),
        "real numbers",
        (*COUNTS, "im.features(precomputed)", "bench.baselines.image_linear", "bench.baselines.kriging_image"),
    ),
    "no image features left": (with_slot("subspot_features", lambda x: x[..., :0]), r"\(60, 7, 0\)", COUNTS),
    "images that are no dict": (
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


FAULTS = {entry: [name for name, (*_, of) in BAD_SPOTS.items() if entry in of] for entry in EVERY}


@pytest.mark.parametrize("entry", FAULTS)
def test_bad_spots_are_refused_and_left_alone(prepared, entries, entry):
    found = {}
    for name in FAULTS[entry]:
        spoil, message, _ = BAD_SPOTS[name]
        if text := fault(entries[entry], spoil(prepared.copy()), message):
            found[name] = text
    assert found == {}


# ---- arguments ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def task():
    return bench.simulate_low_resolution(datasets.synthetic_section(60, n_genes=8).adata)


@pytest.fixture
def calls(_section, _prepared, image, model, enhanced, task):
    """Every public function with arguments that it takes, to be replaced by bad ones."""
    adata, gene = _section.adata, _section.adata.var_names[:1].tolist()
    places = adata.obsm["spatial"][:3]
    values, draws = np.arange(12.0).reshape(6, 2), np.zeros((2, 6, 2))
    features = np.zeros((3, _prepared.obsm["subspot_features"].shape[2]))

    def make(**kwargs):
        spots = _prepared.copy()
        SoScope.setup_anndata(
            spots, **{key: kwargs.pop(key) for key in ("layer", "library_key", "batch_key") if key in kwargs}
        )
        return SoScope(spots, **kwargs)

    def called(function, *args, **defaults):
        return lambda **kwargs: function(*args, **{**defaults, **kwargs})

    low, truth = task
    return {
        "tl.enhance": called(tl.enhance, adata, image=image),
        "tl.validate": called(tl.validate, adata.copy(), image=image),
        "tl.to_spatialdata": called(tl.to_spatialdata, enhanced),
        "pp.subspots": lambda **kwargs: pp.subspots(adata.copy(), **kwargs),
        "pp.spot_graph": lambda **kwargs: pp.spot_graph(adata.copy(), **kwargs),
        "pp.spatial_genes": called(pp.spatial_genes, adata),
        "im.features": lambda **kwargs: im.features(_prepared.copy(), **{"image": image, **kwargs}),
        "im.features_at": called(im.features_at, _prepared, positions=places, image=image),
        "im.mask_subspots": lambda **kwargs: im.mask_subspots(low.copy(), **{"image": image, **kwargs}),
        "im.check_alignment": called(im.check_alignment, adata, image=image),
        "im.check_coordinates": called(im.check_coordinates, adata, image=image),
        "im.open_image": called(im.open_image, image=image),
        "im.thumbnail": called(im.thumbnail, source=im.open_image(image)),
        "im.tissue_mask": called(im.tissue_mask, image=image),
        "SoScope": make,
        "train": lambda **kwargs: make().train(**{**QUIET, **kwargs}),
        "get_enhanced": model.get_enhanced,
        "sample_enhanced": called(model.sample_enhanced, n_samples=2),
        "predict": called(model.predict, positions=places, image_features=features),
        "bench.simulate_low_resolution": called(bench.simulate_low_resolution, adata),
        "bench.compare": called(bench.compare, low=low, truth=truth, methods=["repeat"], progress=False),
        "pl.compare": called(pl.compare, adata, enhanced, genes=gene),
        "metrics.pearson": called(metrics.pearson, prediction=values, truth=values),
        "metrics.normalized_pearson": called(metrics.normalized_pearson, prediction=values, truth=values),
        "metrics.mse": called(metrics.mse, prediction=values, truth=values),
        "metrics.within_r": called(metrics.within_r, prediction=values, truth=values, spot=[0, 0, 1, 1, 2, 2]),
        "metrics.normalized_within_r": called(
            metrics.normalized_within_r, prediction=values, truth=values, spot=[0, 0, 1, 1, 2, 2]
        ),
        "metrics.ks_distance": called(metrics.ks_distance, values=values, inside=np.arange(6) < 3),
        "metrics.coverage": called(metrics.coverage, truth=values, lower=values, upper=values),
        "metrics.pit": called(metrics.pit, truth=values, samples=draws),
        "metrics.central_coverage": called(metrics.central_coverage, pit=values / 12),
        "metrics.kmeans_ari": called(metrics.kmeans_ari, profiles=values, labels=np.arange(6) % 2),
        "metrics.compactness": called(metrics.compactness, positions=values, labels=np.arange(6) % 2),
        "metrics.morans_i": called(metrics.morans_i, values=values, positions=values, n_neighbors=2),
        "metrics.seam_index": called(metrics.seam_index, values=values, positions=values, spot=[0, 0, 1, 1, 2, 2]),
        "datasets.synthetic_section": called(datasets.synthetic_section, n_spots=20),
        "datasets.synthetic_components": datasets.synthetic_components,
    }


def cells(**columns):
    return pd.DataFrame(columns, index=[f"cell {i}" for i in range(len(next(iter(columns.values()))))])


NUMBER, WHOLE = "to be a number", "to be an integer"
BAD_ARGUMENTS = {
    ("tl.enhance", "n_subspots"): [
        (value, "`n_subspots` to be 'auto' or one of") for value in (0, -1, 2.5, 10**9, "nine")
    ],
    ("tl.enhance", "seed"): [
        (-1, "at least 0"),
        (10**400, "at most"),
        (1.5, WHOLE),
        ("a", WHOLE),
        (None, WHOLE),
        (2**70, "at most"),
    ],
    ("tl.enhance", "max_epochs"): [(0, "at least 1"), (-1, "at least 1"), (1.5, WHOLE), ("3", WHOLE)],
    ("tl.enhance", "n_samples"): [(-1, "at least 0"), (2.5, WHOLE), ("2", WHOLE), (True, WHOLE)],
    ("tl.enhance", "genes"): [
        ([], "at least one gene"),
        (["nope"], "1 of 1 are not: nope"),
        ([1, 2], r"names out of `adata.var_names`, found 1, int.*`adata.var_names\[...\]`"),
        (5, "found 5, int"),
        (np.array([True, False]), "found .*True"),
        (["noise_1", "noise_1"], "every gene once"),
    ],
    ("tl.enhance", "likelihood"): [
        (value, "`likelihood` to be one of") for value in ("zinb", None, 5, np.array(["nb"]))
    ],
    ("tl.enhance", "layer"): [
        (value, "`layer` to be one of .*`adata.layers` is empty")
        for value in ("nope", 5, ["counts"], {"rna": "counts"})
    ],
    ("tl.enhance", "library_key"): [(value, "column of `adata.obs`") for value in ("nope", 5, ["region"])],
    ("tl.enhance", "batch_key"): [("nope", "`batch_key` to be a column")],
    ("tl.enhance", "preset"): [("best", "`preset` to be one of")],
    ("tl.enhance", "sources"): [("all", "`sources` to be one of")],
    ("tl.enhance", "expectation"): [
        *((value, "`expectation` to be one of") for value in ("mean", 5, [], ["conditional", "mean"], [None])),
        (["denoised", "denoised"], "several different ones"),
    ],
    ("tl.enhance", "encoder"): [("resnet", "texture"), (5, "encoder")],
    ("tl.enhance", "image"): [
        ("nowhere.tif", "nowhere.tif"),
        (5, "Expected an image"),
        ({"a": 1}, "library_key"),
        (np.zeros((5, 5, 5, 5)), "2 or 3 dimensions"),
        (np.zeros((0, 5, 3), np.uint8), "shape"),
        (np.zeros((9, 9, 3), complex), "complex128"),
        (np.full((9, 9, 3), "a"), "<U1"),
    ],
    ("tl.validate", "factor"): [(1, "at least 2"), (7, "at most 6"), (2.5, WHOLE), ("a", WHOLE)],
    ("tl.validate", "n_samples"): [(1, "at least 2"), (2.5, WHOLE)],
    ("tl.validate", "key_added"): [(5, "`key_added` to be a string")],
    ("tl.validate", "genes"): [(["nope"], "1 of 1 are not: nope"), ([], "at least one gene")],
    ("tl.validate", "likelihood"): [
        ("zinb", "`likelihood` to be one of"),
        ({"rna": "nb"}, "`likelihood` to be one of"),
    ],
    ("tl.validate", "library_key"): [("nope", "column of `adata.obs`")],
    ("tl.validate", "layer"): [("nope", "`layer` to be one of")],
    ("tl.validate", "image"): [("nowhere.tif", "nowhere.tif"), (5, "Expected an image")],
    ("tl.validate", "n_subspots"): [(4, r"`enhance_kwargs` out of .*found \['n_subspots'\]")],
    ("tl.validate", "save_model"): [("model", r"`enhance_kwargs` out of .*found \['save_model'\]")],
    ("tl.validate", "train_kwargs"): [({"speed": 1}, "trainer takes on this machine"), (5, "dict of arguments")],
    ("tl.enhance", "image_scale"): [
        (0, "above 0"),
        (-1, "above 0"),
        (np.nan, "above 0"),
        (np.inf, "above 0"),
        ("a", NUMBER),
    ],
    ("tl.enhance", "features_kwargs"): [
        (5, "`features_kwargs` to be a dict of arguments"),
        ({"patch": 1}, r"`features_kwargs` out of .* found \['patch'\]"),
        ({"mode": "fast"}, "`mode` to be one of"),
        ({"batch_size": 0}, "at least 1"),
        ({"cache": 5}, "`cache` to be a path"),
        ({"cache": __file__}, "`cache` to be a folder"),
        *(({name: None}, rf"found \['{name}'\]") for name in ("adata", "encoder", "copy", "key_added", "library_key")),
    ],
    ("tl.enhance", "model_kwargs"): [
        (5, "`model_kwargs` to be a dict of arguments"),
        ({"likelihood": "nb"}, r"found \['likelihood'\]"),
        ({"adata": 1}, r"found \['adata'\]"),
        ({"n_graph_samples": 1}, "at least 2"),
        ({"latent": 1}, r"`model_kwargs` out of .* found \['latent'\]"),
        ({"n_latent": 0}, "at least 1"),
        ({"decoder": "x"}, "`decoder` to be one of"),
    ],
    ("tl.enhance", "train_kwargs"): [
        (5, "`train_kwargs` to be a dict of arguments"),
        ({"lr": -1}, "above 0"),
        ({"max_steps": 0}, "at least 1"),
        ({"self": 1}, r"found \['self'\]"),
        ({"resume": True}, r"found \['resume'\]"),
        ({"max_epochs": 2, "max_steps": 2}, "one of `max_epochs` and `max_steps`"),
        ({"early_stopping": True}, "held-out molecules"),
        ({"speed": 1}, "trainer takes on this machine, found .*speed=1"),
        ({"devices": 0}, "trainer takes on this machine, found .*devices=0"),
        ({"precision": "low"}, "precision='low'"),
        ({"callbacks": 5}, "callbacks=5"),
        ({"callbacks": [5]}, "5 is neither a callback nor a logger"),
        ({"logger": 6}, "6 is neither a callback nor a logger"),
    ],
    ("tl.enhance", "accelerator"): [("abacus", "accelerator='abacus'"), ("tpu", "accelerator='tpu'"), (5, "=5")],
    ("tl.enhance", "checkpoint_dir"): [
        (5, "`checkpoint_dir` to be a path"),
        (__file__, "`checkpoint_dir` to be a folder"),
    ],
    ("tl.enhance", "resume"): [(True, "Expected `checkpoint_dir`")],
    ("tl.enhance", "cells"): [
        (5, "`cells` to be"),
        (cells(a=[1]), "x"),
        (cells(x_centroid=[1.0], y_centroid=[1.0]), "Rename them: .*'x_centroid': 'x', 'y_centroid': 'y'"),
        (cells(X=[1.0], Y=[1.0]), "Rename them: .*'X': 'x', 'Y': 'y'"),
        (np.ones((5, 2)), "positions of cells as `pandas.DataFrame"),
        (cells(x=["a"], y=[1.0]), "positions of cells to be an array of real numbers"),
        (cells(x=[np.nan], y=[1.0]), "finite positions of cells"),
        (cells(x=[-1e6], y=[1.0]), "cells inside of the spots"),
        (cells(x=[1.0], y=[1.0]).set_axis([""]), "name for every cell"),
        (cells(x=[1.0], y=[1.0]).set_axis([np.nan]), "name for every cell"),
        (np.ones((5, 5)), "label mask of integers in `cells`, found an array of float64"),
        (np.ones((5, 5), bool), "Number its cells"),
        (np.ones((5, 5, 2), int), "Select one plane"),
        (-np.ones((5, 5), int), "at least 0 in `cells`, found -1"),
        (np.zeros((5, 5), int), "background .0. alone"),
        (np.ones((1, 1), int), "cells inside of the spots, .*Cells span x = 0.5 to 0.5"),
        ("nowhere.tif", "found none at 'nowhere.tif'"),
        ("cells.xlsx", "file that ends in .csv"),
        ({"a": np.ones((5, 5), int)}, "found dict. With `library_key`"),
    ],
    ("tl.enhance", "out"): [("nowhere/x.zarr", "folder that exists"), ("x.txt", "to end in"), (5, "to be a path")],
    ("tl.enhance", "save_model"): [
        (str(Path(__file__).parent), "new path"),
        (f"{__file__}/model", "to be a folder, found .* is a file"),
        (5, "to be a path"),
    ],
    ("tl.to_spatialdata", "image"): [(5, "Expected an image")],
    ("tl.to_spatialdata", "cells"): [(5, "`cells` to be"), (np.ones((5, 5), int), "outlines of all subspots")],
    ("pp.subspots", "geometry"): [("triangle", "`geometry` to be one of")],
    ("pp.subspots", "exposure"): [("size", "`exposure` to be one of")],
    ("pp.subspots", "spot_diameter"): [(-1, "above 0"), ("a", NUMBER), (5, "`cells` with")],
    ("pp.subspots", "positions"): [
        (np.zeros((3, 2)), "n_spots x n_subspots x 2"),
        (np.full((60, 3, 2), np.nan), "every spot to hold a subspot"),
        (np.full((60, 3, 2), "a"), "real numbers"),
        (np.full((60, 3, 2), np.inf), "finite x and y"),
        ("a", "real numbers"),
    ],
    ("pp.spot_graph", "n_neighbors"): [(0, "at least 1"), (2.5, WHOLE)],
    ("pp.spot_graph", "n_rings"): [(0, "at least 1"), ("a", WHOLE)],
    ("pp.spot_graph", "radius"): [(0, "above 0"), (np.nan, "above 0"), ("a", NUMBER)],
    ("pp.spot_graph", "strength"): [(1, "above 1"), (np.nan, "above 1"), ("a", NUMBER)],
    ("pp.spot_graph", "normalize"): [("raw", "`normalize` to be one of")],
    ("pp.spot_graph", "layer"): [("nope", "`layer` to be one of")],
    ("pp.spot_graph", "key_added"): [(5, "to be a string")],
    ("pp.spatial_genes", "n_genes"): [(0, "at least 1"), (2.5, WHOLE)],
    ("pp.spatial_genes", "n_candidates"): [(0, "at least 1")],
    ("im.features", "image"): [
        (5, "Expected an image"),
        (str(Path(__file__).parent), "found the folder"),
        ("nowhere.png", "nowhere.png"),
    ],
    ("im.features", "encoder"): [("resnet", "texture"), (5, "encoder")],
    ("im.features", "mode"): [("fast", "`mode` to be one of")],
    ("im.features", "batch_size"): [(0, "at least 1"), ("a", WHOLE)],
    ("im.features", "context"): [
        (1e9, "times as wide as the image"),
        (-1, "positive `context`"),
        (np.nan, "positive `context`"),
        ("a", "real numbers"),
    ],
    ("im.features", "context_um"): [(5, "pixel size"), ("a", "real numbers")],
    ("im.features", "image_scale"): [(0, "above 0"), ("a", NUMBER)],
    ("im.features", "key_added"): [(5, "to be a string")],
    ("im.features", "client"): [(5, "distributed.Client")],
    ("im.features_at", "positions"): [
        (np.zeros(3), "finite `positions`"),
        (np.zeros((0, 2)), "finite `positions`"),
        (np.full((3, 2), np.nan), "finite `positions`"),
        (cells(a=[1]), "columns 'x' and 'y'"),
        ("a", "real numbers"),
    ],
    ("im.features_at", "library_id"): [("nope", "`library_id` to be one of")],
    ("im.features_at", "key"): [("nope", "have recorded encoder and patch")],
    ("im.mask_subspots", "image_scale"): [(0, "above 0")],
    ("im.check_alignment", "image_scale"): [(0, "above 0")],
    ("im.check_coordinates", "image_scale"): [(0, "above 0"), (9, "outside")],
    ("im.open_image", "scale"): [(0, "above 0"), ("a", NUMBER), (np.nan, "above 0")],
    ("im.open_image", "channels"): [
        (value, "one to three of the channels") for value in ([], [5], [0, 1, 2, 0], "a", [0.5], 7)
    ],
    ("im.thumbnail", "source"): [(np.zeros((3, 3), np.uint8), "opened by `im.open_image`")],
    ("im.thumbnail", "size"): [(0, "at least 1"), ("a", WHOLE)],
    ("im.tissue_mask", "size"): [(0, "at least 1")],
    ("SoScope", "n_latent"): [(0, "at least 1"), ("a", WHOLE), (None, WHOLE)],
    ("SoScope", "n_layers"): [(0, "at least 1")],
    ("SoScope", "bandwidth"): [(0, "above 0")],
    ("SoScope", "sigma"): [(-1, "at least 0")],
    ("SoScope", "masked"): [(2, "at least 0 and at most 1")],
    ("SoScope", "image_shrinkage"): [(-1, "at least 0"), ("strong", "number or 'auto'")],
    ("SoScope", "library_size_noise"): [(-1, "at least 0"), ("none", "number or 'auto'")],
    ("SoScope", "similarity_strength"): [(1, "above 1")],
    ("SoScope", "n_graph_samples"): [(1, "at least 2")],
    ("SoScope", "aggregate"): [("max", "`aggregate` to be one of")],
    ("SoScope", "decoder"): [("deep", "`decoder` to be one of")],
    ("SoScope", "dispersion"): [("gene", "`dispersion` to be one of")],
    ("SoScope", "image_deviation"): [("absolute", "`image_deviation` to be one of")],
    ("SoScope", "loss_per"): [("gene", "`loss_per` to be one of")],
    ("SoScope", "likelihood"): [("zinb", "`likelihood` to be one of")],
    ("SoScope", "layer"): [("nope", "`layer` to be one of")],
    ("SoScope", "library_key"): [("nope", "`library_key` to be a column")],
    ("SoScope", "batch_key"): [("nope", "`batch_key` to be a column")],
    ("train", "max_epochs"): [(0, "at least 1")],
    ("train", "max_steps"): [(-1, "at least 1")],
    ("train", "pretrain_epochs"): [(-1, "at least 0")],
    ("train", "lr"): [(-1, "above 0"), (0, "above 0"), (np.nan, "above 0"), ("a", NUMBER)],
    ("train", "batch_size"): [(0, "at least 1"), (None, WHOLE)],
    ("train", "train_size"): [(0, "above 0 and at most 1"), (2, "at most 1")],
    ("train", "weight_decay"): [(-1, "at least 0")],
    ("train", "kl_weight"): [(np.inf, "at least 0")],
    ("train", "devices"): [(0, "devices=0"), ("two", "devices='two'"), (None, "devices=None"), ([], r"devices=\[\]")],
    ("train", "checkpoint_dir"): [(5, "`checkpoint_dir` to be a path")],
    ("get_enhanced", "n_samples"): [(-1, "at least 0"), (1.5, WHOLE)],
    ("get_enhanced", "batch_size"): [(0, "at least 1")],
    ("get_enhanced", "expectation"): [
        (value, "`expectation` to be one of") for value in ("mean", None, (), ("decoded", "decoded"))
    ],
    ("get_enhanced", "uns"): [(5, "`uns` to be a dict"), ({5: 1}, "`uns` to be a dict")],
    ("get_enhanced", "out"): [("x.csv", "to end in '.zarr' or '.h5ad'")],
    ("sample_enhanced", "n_samples"): [(0, "at least 1"), (1.5, WHOLE)],
    ("sample_enhanced", "out"): [("x.h5ad", "to end in '.zarr'")],
    ("predict", "positions"): [(np.zeros(3), "finite `positions`"), (5, "finite `positions`")],
    ("predict", "exposure"): [(0, "positive"), ("a", "real numbers"), ([1, 2], "positive, one number or 3")],
    ("predict", "library_id"): [("nope", "`library_id` to be one of the sections")],
    ("bench.simulate_low_resolution", "factor"): [(7, "left at 2"), ("a", "left at 2")],
    ("bench.simulate_low_resolution", "lattice"): [("cubic", "`lattice` to be one of")],
    ("bench.simulate_low_resolution", "aggregate"): [("max", "`aggregate` to be one of")],
    ("bench.compare", "methods"): [
        ("magic", "`methods` out of"),
        (5, "`methods` out of"),
        ([], "something to run"),
        ({"a": 5}, "functions or dicts"),
        ({"a": {"return_model": True}}, r"found \['return_model'\]"),
        ({"a": {"train_kwargs": 5}}, "`train_kwargs` to be a dict"),
        ({"a": lambda adata: None}, "to return n_targets x n_features"),
        ({"a": {"speed": 1}}, r"`methods` out of .* found \['speed'\]"),
    ],
    ("bench.compare", "seeds"): [([-1], "at least 0"), (["a"], WHOLE)],
    ("bench.compare", "enhance_kwargs"): [(5, "dict of arguments"), ({"speed": 1}, r"found \['speed'\]")],
    ("pl.compare", "genes"): [([], "at least one gene"), (["nope"], "nope"), (5, "found 5, int")],
    ("pl.compare", "layer"): [("nope", "`layer` to be one of")],
    ("pl.compare", "enhanced_layer"): [(value, "`layer` to be one of") for value in ("nope", 5)],
    ("pl.compare", "alpha"): [(2, "at most 1"), ("a", NUMBER)],
    ("pl.compare", "image_alpha"): [(-1, "at least 0"), (np.nan, "at least 0")],
    ("pl.compare", "ax"): [(np.empty((1, 2), object), "`ax` to be matplotlib Axes"), (5, "`ax` to be 1 x 2 Axes")],
    ("metrics.pearson", "prediction"): [
        (np.zeros((5, 2)), "matrices of one shape"),
        (np.full((6, 2), "a"), "real numbers"),
    ],
    ("metrics.normalized_pearson", "prediction"): [(np.zeros(3), "matrices of one shape")],
    ("metrics.mse", "truth"): [(np.zeros(3), "matrices of one shape")],
    ("metrics.within_r", "spot"): [([1], "one `spot` label")],
    ("metrics.within_r", "prediction"): [(5, "one `spot` label"), ([1, 2], "one `spot` label")],
    ("metrics.normalized_within_r", "spot"): [([1], "one `spot` label")],
    ("metrics.normalized_within_r", "prediction"): [([[1, 2]], "one `spot` label")],
    ("metrics.ks_distance", "inside"): [([1, 2, 3, 4, 5, 6], "booleans"), (np.ones(6, bool), "inside and outside")],
    ("metrics.coverage", "upper"): [(np.zeros((6, 2)), "`lower` <= `upper`")],
    ("metrics.pit", "samples"): [
        (np.zeros((6, 2)), "n_samples x n_targets"),
        (np.zeros((0, 6, 2)), "n_samples x n_targets"),
        (np.full((2, 6, 2), "a"), "real numbers"),
    ],
    ("metrics.pit", "seed"): [(-1, "at least 0")],
    ("metrics.central_coverage", "level"): [(2, "below 1"), ("a", "below 1")],
    ("metrics.central_coverage", "pit"): [(np.full((6, 2), 2), r"in \[0, 1\]"), ("a", "real numbers")],
    ("metrics.kmeans_ari", "labels"): [([1], "one label")],
    ("metrics.kmeans_ari", "profiles"): [(np.full((6, 2), np.nan), "finite profiles")],
    ("metrics.compactness", "labels"): [([1], "one label")],
    ("metrics.compactness", "positions"): [
        (np.full((6, 2), np.nan), "finite `positions`"),
        (np.zeros(6), "finite `positions`"),
    ],
    ("metrics.compactness", "n_sample"): [(0, "at least 1")],
    ("metrics.morans_i", "n_neighbors"): [(0, "at least 1"), (9, "`n_neighbors` < 6"), ("a", WHOLE)],
    ("metrics.morans_i", "positions"): [(np.full((6, 2), np.nan), "finite `positions`")],
    ("metrics.seam_index", "positions"): [
        (np.full((6, 2), np.nan), "finite `positions`"),
        (np.zeros((5, 2)), "one position for each of the 6 targets, found 5"),
    ],
    ("metrics.seam_index", "values"): [
        (np.full((6, 2), "a"), "real numbers"),
        (np.zeros((5, 2)), "one label for each"),
    ],
    ("metrics.seam_index", "spot"): [([0, 1], "one label for each of the 6 targets")],
    ("datasets.synthetic_section", "n_spots"): [(0, "at least 1"), (2.5, WHOLE)],
    ("datasets.synthetic_section", "seed"): [(-1, "at least 0"), ("a", WHOLE)],
    ("datasets.synthetic_section", "lattice"): [("cubic", "`lattice` to be one of")],
    ("datasets.synthetic_components", "n_beads"): [(0, "at least 1")],
    ("datasets.synthetic_components", "noise"): [(-1, "at least 0"), ("a", NUMBER)],
}
FUNCTIONS = sorted({function for function, _ in BAD_ARGUMENTS})


@pytest.mark.parametrize("function", FUNCTIONS)
def test_bad_arguments_are_refused_before_any_work(calls, function, monkeypatch, tmp_path):
    def no_work(*args, **kwargs):
        raise AssertionError("the work started")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lightning.pytorch.Trainer.fit", no_work)
    found = {}
    for (of, name), pairs in BAD_ARGUMENTS.items():
        for value, message in pairs if of == function else ():
            unseen = function == "tl.enhance" and name not in ("image", "encoder", "cells", "n_subspots")
            given = {name: value} | ({"image": Unreadable()} if unseen else {})
            text = fault(lambda _, given=given: calls[function](**given), None, message, (*REFUSED, FileNotFoundError))
            if text:
                found[f"{name}={value!r}"] = text
    assert found == {}
    assert not list(tmp_path.iterdir())


class Unreadable:
    """An image of the size of the section, no pixel of which is read."""

    shape, dtype = (400, 400, 3), np.dtype(np.uint8)

    def __getitem__(self, window):
        raise AssertionError("the image was read")


# ---- images -------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, image):
    """Writes images that are damaged or strange; returns their path."""

    def make(kind, how):
        path = tmp_path / f"section.{kind}"
        if kind == "tif":
            tifffile.imwrite(path, image, tile=(64, 64), compression="zlib")
        else:
            Image.fromarray(image).save(path)
        content = path.read_bytes()
        damage = {
            "empty": b"",
            "text": b"no image",
            "only its first bytes": content[:12],
            "half of it": content[: len(content) // 2],
            "all but its end": content[:-2000],
            "zeros in the middle": content[: len(content) // 3] + bytes(len(content) // 3) + content[-100:],
        }
        path.write_bytes(damage[how])
        return path

    return make


DAMAGE = ("empty", "text", "only its first bytes", "half of it", "all but its end", "zeros in the middle")


@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_images_name_their_file(prepared, files, kind, how):
    if (kind, how) == ("jpg", "zeros in the middle"):
        pytest.skip("a JPEG without part of its data decodes to grey")
    path = files(kind, how)
    as_before(lambda a: im.features(a, path), prepared, rf"Expected .*section\.{kind}")


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 1), np.uint8),
        ((1, 1, 3), np.uint8),
        ((1, 9, 3), np.uint16),
        ((9, 1, 4), np.uint8),
        ((9, 8), bool),
        ((9, 8, 3), np.float32),
        ((3, 9, 8), np.float64),
    ],
)
def test_small_images_of_all_types_are_read(shape, dtype):
    source = im.open_image(np.ones(shape, dtype))
    pixels = source.read(-3, source.height + 3, -3, source.width + 3)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (source.height + 6, source.width + 6, 3)
    assert (im.thumbnail(source)[0] == pixels[3, 3]).all()


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((9, 9), np.nan), "0..1, found values from nan"),
        (np.full((9, 9), 300.0), "0..1, found values from 300"),
        (np.full((9, 9), -1.0), "0..1, found values from -1"),
        (np.ones((9, 9), np.int64), "found int64"),
        (np.ones((9, 9), complex), "found complex128"),
        (np.ones((9, 9, 5), np.uint8), "5 channels"),
        (np.ones(9, np.uint8), "2 or 3 dimensions"),
        (np.ones((0, 9), np.uint8), r"shape \(0, 9\)"),
    ],
)
def test_arrays_that_are_no_images(pixels, message):
    with pytest.raises(ValueError, match=message):
        im.open_image(pixels).read(0, 9, 0, 9)


def test_a_header_that_promises_too_much_is_refused_before_it_is_decoded(tmp_path):
    """10^5 x 10^5 pixels in a file of some bytes."""
    width = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", width), (b"IDAT", zlib.compress(b"0")), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks]
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    with pytest.raises(ValueError, match=r"bomb\.png of \d+ bytes, which cannot hold the 100000 x 100000 pixels"):
        im.open_image(path)


# ---- sections, MuData, views, models --------------------------------------------------------------------------------


def test_sections_need_a_name_for_every_spot(prepared):
    prepared.obs["slide"] = pd.Categorical(["a"] * 59 + [None])
    for call in (pp.subspots, pp.spot_graph, tl.enhance, SoScope.setup_anndata):
        as_before(lambda a, call=call: call(a, library_key="slide"), prepared, "section for every spot.*found 1 NaN")
    as_before(lambda a: SoScope.setup_anndata(a, batch_key="slide"), prepared, "batch for every spot.*found 1 NaN")


@pytest.fixture
def mdata(prepared):
    parts = {"rna": prepared[:, :5].copy(), "prot": prepared[:, 5:].copy()}
    parts["prot"] = ad.AnnData(parts["prot"].X, obs=parts["prot"].obs[[]], var=parts["prot"].var)
    with columns_apart():
        return md.MuData(parts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "likelihood of each modality"),
        ({"likelihood": {}}, "likelihood of each modality"),
        ({"likelihood": {"dna": "nb"}}, r"modalities out of \['rna', 'prot'\], found \['dna'\]"),
        ({"likelihood": {"rna": "zinb"}}, "`likelihood` to be one of"),
        ({"likelihood": {"rna": "nb"}, "genes": ["a"]}, "`genes` of a MuData to be a dict"),
        ({"likelihood": {"rna": "nb"}, "layer": "counts"}, "`layer` of a MuData to be a dict"),
        ({"likelihood": {"rna": "nb"}, "layer": {"rna": "counts"}}, "`layer` to be one of"),
        ({"likelihood": {"rna": "nb"}, "out": "x.zarr"}, "`out` with AnnData only"),
    ],
)
def test_bad_mudata_are_refused_and_left_alone(mdata, image, options, message):
    as_before(lambda data: tl.enhance(data, image=image, **options), mdata, message)


def test_modalities_have_the_same_spots(prepared):
    data = md.MuData({"rna": prepared[:, :5].copy(), "prot": prepared[:50, 5:].copy()})
    with pytest.raises(ValueError, match="10 of 60 spots missing in 'prot'"):
        tl.enhance(data, likelihood={"rna": "nb", "prot": "nb"})


def test_one_kind_of_data_for_each_registration(mdata, prepared):
    as_before(SoScope.setup_anndata, mdata, "Expected an AnnData, found MuData")
    as_before(lambda a: SoScope.setup_mudata(a, {"rna": "nb"}), prepared, "Expected a MuData, found AnnData")
    as_before(lambda d: SoScope.setup_mudata(d, {"rna": "nb"}, batch_key="nope"), mdata, "`batch_key` to be a column")


def test_models_have_to_be_trained(prepared):
    SoScope.setup_anndata(prepared)
    model = SoScope(prepared)
    for ask in (model.get_enhanced, model.get_latent_representation, lambda: model.sample_enhanced(1)):
        with pytest.raises(ValueError, match="Expected a trained model"):
            ask()


def test_a_view_becomes_a_copy_with_a_warning(prepared):
    view = prepared[:50]
    with pytest.warns(UserWarning, match="Received a view"):
        pp.spot_graph(view)
    assert not view.is_view
    assert view.obsp["spot_graph"].shape == (50, 50)


def test_a_result_belongs_to_its_spots(prepared, enhanced):
    as_before(lambda a: check_spots_of_subspots(a, prepared), prepared, r"Expected a result with `enhanced.obs\['spot'")
    as_before(
        lambda a: check_spots_of_subspots(a, enhanced), prepared[5:].copy(), "5 of 60 are not .first: 'spot_0001'"
    )


def test_spots_and_subspots_are_not_mistaken(prepared, enhanced):
    with pytest.raises(ValueError, match="other way round"):
        pl.compare(enhanced, prepared, "noise_1")


def test_a_section_has_to_be_chosen(prepared):
    prepared.obs["slide"] = ["a", "b"] * 30
    for chosen in (None, "c"):
        message = rf"one of the sections \['a', 'b'\] in `adata.obs\['slide'\]`, found {chosen!r}"
        as_before(lambda a, chosen=chosen: rows_of_section(a, "slide", chosen), prepared, message)
    np.testing.assert_array_equal(rows_of_section(prepared, "slide", "b"), np.arange(1, 60, 2))
    assert len(rows_of_section(prepared, None, None)) == 60


def test_image_features_of_another_encoder_are_refused(prepared, model):
    prepared.uns["subspot_features"]["encoder"] = "inception_v3"
    as_before(model.get_enhanced, prepared, "another `encoder`: 'inception_v3' instead of 'texture'")


def test_results_are_not_written_over_unasked(model, tmp_path):
    (tmp_path / "x.h5ad").write_text("mine")
    with pytest.raises(ValueError, match="`out` to be a new path"):
        model.get_enhanced(out=tmp_path / "x.h5ad")
    assert (tmp_path / "x.h5ad").read_text() == "mine"


# ---- found by trying to break it ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "returned",
    [
        lambda n: (np.ones((n + 1, 2)), ["a", "b"]),
        lambda n: (np.ones((n, 2)), ["a"]),
        lambda n: (np.full((n, 2), np.nan), ["a", "b"]),
        lambda n: (np.ones((n, 0)), []),
        lambda n: (np.full((n, 1), "a"), ["a"]),
        lambda n: (np.ones((n, 1)), None),
        lambda n: None,
    ],
)
def test_what_an_encoder_returns_is_checked(prepared, image, returned):
    class Own(im.Encoder):
        name = "own"

        def encode(self, source, centres, width):
            return returned(len(centres))

    as_before(lambda a: im.features(a, image, encoder=Own()), prepared, "encoder 'own' to return finite features")


def test_a_method_cannot_spoil_the_next_one():
    low, truth = bench.simulate_low_resolution(datasets.synthetic_section(40, n_genes=3).adata)

    def spoils(adata):
        adata.X = adata.X * 0
        return np.ones(truth.shape)

    repeat = bench.BASELINES["repeat"]
    alone = bench.compare(low, truth, methods={"repeat": repeat}, progress=False)
    after = bench.compare(low, truth, methods={"spoils": spoils, "repeat": repeat}, progress=False)
    after = after[after["method"] == "repeat"]
    np.testing.assert_array_equal(after["value"], alone["value"])


def test_an_exact_observation_has_a_likelihood_of_its_own(prepared):
    SoScope.setup_anndata(prepared)
    with pytest.raises(ValueError, match="`sigma` above 0"):
        SoScope(prepared, observation="gaussian", sigma=0)


def test_metrics_take_lists():
    values = np.arange(12.0).reshape(6, 2)
    rows, inside = values.tolist(), [True, False] * 3
    np.testing.assert_array_equal(metrics.normalized_pearson(rows, rows), metrics.normalized_pearson(values, values))
    np.testing.assert_array_equal(metrics.ks_distance(rows, inside), metrics.ks_distance(values, inside))
    np.testing.assert_array_equal(metrics.pit(rows, [rows, rows]), metrics.pit(values, np.stack([values, values])))


def test_a_long_thin_image_has_a_thumbnail():
    small, scale = im.thumbnail(im.open_image(np.zeros((1, 3000, 3), np.uint8)))
    assert small.shape == (1, 3000, 3)
    assert scale == 1


def test_modalities_named_for_their_genes_have_to_be_there(mdata):
    with pytest.raises(ValueError, match=r"modalities out of .* found \['dna'\]"):
        tl.enhance(mdata, likelihood={"rna": "nb"}, genes={"dna": ["a"]})


def test_a_save_that_fails_leaves_no_folder(model, tmp_path):
    with pytest.raises(TypeError, match="speed"):
        model.save(tmp_path / "model", save_anndata=True, speed=1)
    assert not list(tmp_path.iterdir())


def test_other_kinds_of_data_and_paths_are_named(prepared, model):
    with pytest.raises(TypeError, match="Expected a SpatialData, found AnnData"):
        SoScope.setup_spatialdata(prepared)
    with pytest.raises(TypeError, match="`features_key` to be a string"):
        SoScope.setup_anndata(prepared, features_key=5)
    for call in (model.save, SoScope.load):
        with pytest.raises(TypeError, match="`dir_path` to be a path"):
            call(None)
    places = pd.DataFrame(prepared.obsm["spatial"][:2], columns=["x", "y"], index=["a", "a"])
    with pytest.raises(ValueError, match="unique names in the index of `positions`"):
        model.predict(places, prepared.obsm["subspot_features"][:2, 0])


@pytest.mark.parametrize(("name", "error"), [(5, TypeError), ("noise", ValueError), ("timm:own", ValueError)])
def test_names_of_encoders(name, error):
    with pytest.raises(error, match="name"):
        im.register_encoder(name)


def test_only_classes_of_encoders_are_registered():
    with pytest.raises(TypeError, match="a class of `Encoder` to register as 'mine'"):
        im.register_encoder("mine")(lambda tiles: tiles)
    assert "mine" not in im.encoder_names()


@pytest.mark.parametrize("noted", ["a", {"arguments": "{"}, {"arguments": "[1]"}, {"arguments": 5}])
def test_notes_of_a_run_that_were_changed(prepared, enhanced, tmp_path, noted):
    changed = enhanced.copy()
    changed.uns["soscope"] = noted
    with pytest.raises(REFUSED, match="soscope"):
        pl.report(changed, prepared, tmp_path / "report.html")
    with pytest.raises(REFUSED, match="soscope"):
        pl.history(changed)


def test_a_result_is_not_written_over_a_folder(model, tmp_path):
    (tmp_path / "result.h5ad").mkdir()
    with pytest.raises(ValueError, match="found the folder"):
        model.get_enhanced(out=tmp_path / "result.h5ad", overwrite=True)

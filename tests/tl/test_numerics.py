"""Extreme but legal input: results stay finite, non-negative and add up to the spots."""

import warnings
from functools import cache

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from dask.array import from_array
from scipy import sparse

from soscope_scverse import SoScope, datasets, pp, tl

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

FEW = {"max_steps": 4, "pretrain_epochs": 2, "enable_progress_bar": False}
QUICK = {"accelerator": "cpu", "n_samples": 3, "train_kwargs": FEW}


def with_x(change):
    def made(adata):
        adata.X = change(adata.X.toarray().astype(float))
        return adata

    return made


def with_xy(change):
    def made(adata):
        adata.obsm["spatial"] = change(np.array(adata.obsm["spatial"]))
        adata.obs = adata.obs.drop(columns=["array_row", "array_col"])
        return adata

    return made


def columns(adata, *factors):
    """Counts with genes times these factors."""
    x = adata.X.toarray().astype(float)
    x[:, : len(factors)] *= factors
    adata.X = x
    return adata


def one_far(xy):
    xy[0] = 1e6
    return xy


def duplicate(xy):
    xy[:3] = xy[3]
    return xy


def apart(xy):
    """Two pieces of tissue far from each other."""
    xy[30:] += 5000
    return xy


PROFILES = {
    "one gene": lambda a: a[:, :1].copy(),
    "one spot": lambda a: a[:1].copy(),
    "two spots": lambda a: a[:2].copy(),
    "three spots": lambda a: a[:3].copy(),
    "no counts": with_x(np.zeros_like),
    "a gene and a spot without counts": with_x(lambda x: x * (np.arange(8) > 0) * (np.arange(60) > 0)[:, None]),
    "a single molecule": with_x(lambda x: (np.arange(x.size) == 7).reshape(x.shape).astype(float)),
    "constant genes": with_x(lambda x: np.full_like(x, 5)),
    "counts up to 10^7": with_x(lambda x: np.round(x / x.max() * 1e7)),
    "one gene a thousand times the rest": lambda a: columns(a, 1000),
    "one spot a thousand times the rest": with_x(lambda x: x * np.where(np.arange(60) == 5, 1000, 1)[:, None]),
}
TYPES = {
    "int": lambda x: x.astype(np.int32),
    "uint8": lambda x: np.minimum(x, 255).astype(np.uint8),
    "uint16": lambda x: x.astype(np.uint16),
    "int64": lambda x: x.astype(np.int64),
    "bool": lambda x: x > 3,
    "float16": lambda x: x.astype(np.float16),
    "float32": lambda x: x.astype(np.float32),
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "dask": lambda x: from_array(x, chunks=(20, 3)),
    "masked, none hidden": lambda x: np.ma.masked_array(x, False),
}
PLACES = {
    "as they are": lambda xy: xy,
    "coordinates of 1e-6": lambda xy: xy * 1e-6,
    "coordinates of 1e7": lambda xy: xy * 1e7,
    "far from 0": lambda xy: xy + 1e7,
    "one spot far away": one_far,
    "spots at one position": duplicate,
    "two pieces": apart,
}


def divided(adata):
    """Subspots where no lattice has to be found: four around every spot."""
    xy = np.asarray(adata.obsm["spatial"])
    around = np.ptp(np.asarray(datasets.synthetic_section(9).adata.obsm["spatial"]), axis=0).max() / 40
    if len(xy) > 1:
        around = np.median(np.linalg.norm(np.diff(xy, axis=0), axis=1)) / 4
    pp.subspots(adata, positions=xy[:, None] + around * np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]]))
    return adata


def add_features(adata, kind):
    """Image features: some, or none that tell anything."""
    shape = (*adata.obsm["subspots"].shape[:2], 5)
    if kind == "constant":
        adata.obsm["subspot_features"] = np.ones(shape, np.float32)
    elif kind == "random":
        adata.obsm["subspot_features"] = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    elif kind == "huge":
        adata.obsm["subspot_features"] = (1e6 * np.random.default_rng(0).normal(size=shape)).astype(np.float32)
    return adata


def enhanced(adata, likelihood, features=None):
    """Enhance, and hold the result to what every result has to be."""
    adata = add_features(divided(adata), features)
    kwargs = {"sources": "positions"} if features is None else {"encoder": "precomputed"}
    kwargs["model_kwargs"] = {"image_strength": 1}
    result = tl.enhance(adata, likelihood=likelihood, **kwargs, **QUICK)
    x = adata.X.compute() if hasattr(adata.X, "compute") else adata.X
    x = x.toarray() if sparse.issparse(x) else np.asarray(x)
    of_spots = result.X.reshape(adata.n_obs, -1, adata.n_vars)
    assert np.isfinite(result.X).all()
    for layer in ("std", "q05", "q95"):
        assert np.isfinite(result.layers[layer]).all()
    if likelihood == "gaussian":
        np.testing.assert_allclose(of_spots.mean(axis=1), x, rtol=1e-4, atol=1e-4 * max(1, np.abs(x).max()))
        return result
    assert (result.X >= 0).all()
    np.testing.assert_allclose(of_spots.sum(axis=1), x, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(result.layers["sampled_counts"].reshape(of_spots.shape).sum(axis=1), x)
    assert (of_spots.transpose(0, 2, 1)[np.asarray(x) == 0] == 0).all()
    return result


@pytest.fixture
def adata(section):
    return section.adata


ALL = [(likelihood, features) for likelihood in ("nb", "poisson", "gaussian") for features in (None, "random")]
FIRST = [("nb", None), ("gaussian", "random")]
OTHERS = [pytest.param(*pair, marks=pytest.mark.slow) for pair in ALL if pair not in FIRST]


@pytest.mark.parametrize(("likelihood", "features"), [*FIRST, *OTHERS])
@pytest.mark.parametrize("case", PROFILES)
def test_extreme_profiles(adata, case, likelihood, features):
    enhanced(PROFILES[case](adata), likelihood, features)


def few_counts(adata, case):
    x = adata.X.toarray()
    return (x > 3).astype(float) if case == "bool" else np.minimum(x, 255).astype(float)


@pytest.fixture(scope="module")
def of_plain_counts(_section):
    """The result of plain counts, or of ones and zeros."""

    def result(is_binary):
        adata = _section.adata.copy()
        adata.X = few_counts(adata, "bool" if is_binary else "int")
        return enhanced(adata, "nb").X

    return cache(result)


@pytest.mark.parametrize("case", TYPES)
def test_types_of_profiles_do_not_change_the_result(adata, of_plain_counts, case):
    x = few_counts(adata, case)
    adata.X = x.astype(bool) if case == "bool" else TYPES[case](x)
    np.testing.assert_allclose(enhanced(adata, "nb").X, of_plain_counts(case == "bool"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("features", [pytest.param(None, marks=pytest.mark.slow), "random"])
@pytest.mark.parametrize("case", PLACES)
def test_extreme_places(adata, case, features):
    enhanced(with_xy(PLACES[case])(adata), "nb", features)


@pytest.mark.parametrize("features", ["constant", "huge"])
@pytest.mark.parametrize("likelihood", ["nb", "poisson", "gaussian"])
def test_image_features_that_tell_nothing(adata, likelihood, features):
    enhanced(adata, likelihood, features)


@pytest.mark.parametrize("likelihood", ["nb", "poisson", "gaussian"])
def test_one_subspot_for_every_spot(adata, likelihood):
    """A cell in each spot: nothing is divided, so the result is what was observed."""
    cells = pd.DataFrame(adata.obsm["spatial"], columns=["x", "y"], index=adata.obs_names)
    result = tl.enhance(adata, cells=cells, sources="positions", likelihood=likelihood, **QUICK)
    np.testing.assert_allclose(result.X, adata.X.toarray(), rtol=1e-5, atol=1e-3)
    assert np.isfinite(result.layers["std"]).all()


def test_profiles_on_disk(adata, tmp_path):
    adata.write_h5ad(tmp_path / "spots.h5ad")
    backed = divided(ad.read_h5ad(tmp_path / "spots.h5ad", backed="r"))
    in_memory = divided(adata)
    a, b = (tl.enhance(one, sources="positions", **QUICK).X for one in (backed, in_memory))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("lr", [10.0, pytest.param(1e6, marks=pytest.mark.slow)])
@pytest.mark.parametrize("likelihood", ["nb", "poisson", "gaussian"])
def test_a_learning_rate_far_too_high_ends_in_a_message_or_a_finite_result(prepared, likelihood, lr):
    SoScope.setup_anndata(prepared)
    model = SoScope(prepared, likelihood=likelihood)
    try:
        model.train(max_steps=30, lr=lr, accelerator="cpu", enable_progress_bar=False)
    except FloatingPointError as error:
        assert "diverged at epoch" in str(error)  # noqa: PT017
        assert "`lr=" in str(error)  # noqa: PT017
        return
    assert np.isfinite(model.get_enhanced().X).all()


def test_warnings_name_what_is_empty(adata):
    adata.X = adata.X.toarray() * (np.arange(8) > 0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        enhanced(adata, "nb")
    assert any("1 of 8 features have no counts" in str(warning.message) for warning in caught)

"""Properties that hold for every section: hypothesis draws lattice, division, profiles and moves of small ones.

``pytest`` tries a few examples of each, the same in every run; ``pytest -m slow`` tries 500.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, issparse
from scipy.spatial import cKDTree
from scipy.stats import kstest, nbinom

from soscope_scverse import SoScope, bench, im, metrics, pp, tl
from soscope_scverse._containers.mudata import columns_apart
from soscope_scverse.model._interpolation import interpolation_weights
from soscope_scverse.model.inference import posterior
from soscope_scverse.model.inference.result import result_rows
from soscope_scverse.module.likelihoods import LIKELIHOODS, Start, unmeasured_dispersions

pytestmark = pytest.mark.slow

QUIET: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
STEPS = 1e-2
"""What rounding makes of two steps: Adam takes a gradient near 0 for as good as any other."""
SEEDS = st.integers(0, 2**32 - 1)
KINDS = {"square": (4, 9), "quincunx": (4, 9), "hex": (7, 19)}
BASELINES = ("repeat", "linear", "linear_conserving", "gaussian_process", "image_linear", "kriging_image")


class Spots(NamedTuple):
    """A section (or two) that was drawn, and how to model it."""

    adata: AnnData
    """Spots without any slot of ours."""
    divide: Callable[..., None]
    """Call of ``pp.subspots`` on these spots, moved and in another order or not."""
    division: str
    """``"lattice"``, ``"padded"`` (some subspots are missing) or ``"cells"``."""
    library_key: str | None
    likelihood: str


class Motion(NamedTuple):
    """A turn or mirror image of the plane, another unit and a shift."""

    matrix: np.ndarray
    shift: np.ndarray
    mirrored: bool

    def __call__(self, xy: np.ndarray) -> np.ndarray:
        return xy @ self.matrix + self.shift


@st.composite
def motions(draw: st.DrawFn, *, mirror: bool = True) -> Motion:
    angle = np.radians(draw(st.integers(0, 359)))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    mirrored = mirror and draw(st.booleans())
    scale = draw(st.sampled_from([0.02, 1, 70]))
    shift = scale * np.array([draw(st.integers(-2000, 2000)) for _ in range(2)])
    return Motion(scale * np.diag([-1 if mirrored else 1, 1]) @ turn, shift, mirrored)


@st.composite
def lattices(draw: st.DrawFn) -> tuple[str, np.ndarray, np.ndarray]:
    """Kind of lattice, positions and array indices (col, row) of a section with holes."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    row, col = (grid.ravel() for grid in np.mgrid[: draw(st.integers(4, 6)), : draw(st.integers(4, 6))])
    steps = {"square": (1.0, 1.0), "quincunx": (0.5, 0.5), "hex": (0.5, np.sqrt(0.75))}[kind]
    if kind != "square":
        col = 2 * col + row % 2
    array = np.column_stack([col, row])
    stretch = np.array([draw(st.sampled_from([0.92, 1.0, 1.08])), 1.0])
    rng = np.random.default_rng(draw(SEEDS))
    kept = np.sort(rng.permutation(len(array))[draw(st.integers(0, len(array) // 8)) :])
    return kind, 20.0 * array[kept] * steps * stretch, array[kept]


EVERY = ("lattice", "padded", "cells", "captured")
"""Ways to partition spots; of the last one, spots capture a part."""


@st.composite
def sections(
    draw: st.DrawFn,
    *,
    likelihoods: tuple[str, ...] = ("nb", "poisson", "gaussian"),
    divisions: tuple[str, ...] = ("lattice", "padded", "cells"),
    indexed: bool | None = None,
    several: bool = True,
) -> Spots:
    """Spots of one section or two, as a user has them."""
    kind, xy, array = draw(lattices())
    rng = np.random.default_rng(draw(SEEDS))
    n, n_genes = len(xy), draw(st.integers(1, 5))
    likelihood = draw(st.sampled_from(likelihoods))
    library = np.full(n, "a")
    if several and draw(st.booleans()):  # a second one, turned, at the same place
        move = draw(motions(mirror=False))
        xy, array = np.vstack([xy, move(xy) - move.shift]), np.vstack([array, array])
        library = np.repeat(["a", "b"], n)
    x = rng.normal(size=(len(xy), n_genes)) * 10.0 ** rng.integers(-2, 3, n_genes) + rng.normal(size=n_genes)
    if likelihood != "gaussian":
        level = 10.0 ** rng.uniform(-1, 3, n_genes) * (rng.random(n_genes) > 0.1)
        x = rng.poisson(rng.gamma(2, 0.5, (len(xy), 1)) * level)
        x[rng.random(len(x)) < 0.03] = 0
    names = rng.permutation([f"spot{i}" for i in range(len(xy))])
    adata = AnnData(x.astype(np.float32), obs=pd.DataFrame({"library": library}, index=names))
    if likelihood != "gaussian" and draw(st.booleans()):
        adata.X = csr_matrix(adata.X)
    adata.obsm["spatial"] = xy
    if draw(st.booleans()) if indexed is None else indexed:
        adata.obs[["array_col", "array_row"]] = array
    library_key = "library" if library[-1] == "b" else None
    division = draw(st.sampled_from(divisions))
    divide = _division(adata, division, draw(st.sampled_from(KINDS[kind])), library_key, rng)
    return Spots(adata, divide, division, library_key, likelihood)


def _division(
    adata: AnnData, division: str, n_subspots: int, library_key: str | None, rng: np.random.Generator
) -> Callable[..., None]:
    if division == "lattice":
        return lambda spots, move=None: pp.subspots(spots, n_subspots, capture=None, library_key=library_key)
    if division == "captured":
        return lambda spots, move=None: pp.subspots(
            spots,
            n_subspots,
            capture=11.0 * (1 if move is None else abs(np.linalg.det(move.matrix)) ** 0.5),
            library_key=library_key,
        )
    if division == "padded":
        positions = pp.subspots(adata, n_subspots, capture=None, library_key=library_key, copy=True).obsm["subspots"]
        positions[:, 1:][rng.random((adata.n_obs, n_subspots - 1)) < 0.3] = np.nan

        def divide(spots: AnnData, move: Motion | None = None) -> None:
            places = positions[adata.obs_names.get_indexer(spots.obs_names)]
            pp.subspots(spots, positions=places if move is None else move(places), library_key=library_key)

        return divide
    spot = rng.integers(adata.n_obs, size=3 * adata.n_obs)
    places = adata.obsm["spatial"][spot] + rng.uniform(-7, 7, (len(spot), 2))
    cells = pd.DataFrame({"area": rng.uniform(0.5, 2, len(spot))}, index=[str(i) for i in range(len(spot))])
    cells["library"] = adata.obs["library"].to_numpy()[spot]
    exposure: Any = rng.choice(["equal", "area"])

    def partition_into_cells(spots: AnnData, move: Motion | None = None) -> None:
        cells[["x", "y"]] = places if move is None else move(places)
        pp.subspots(spots, cells=cells, exposure=exposure, capture=None, library_key=library_key)

    return partition_into_cells


@st.composite
def models(draw: st.DrawFn, **kwargs: Any) -> tuple[Spots, SoScope]:
    """A section and a small model of it after a few steps."""
    spots = draw(sections(**kwargs))
    return spots, fitted(prepared(spots, n_features=draw(st.sampled_from([0, 3]))), spots, **draw(forms()))


@st.composite
def forms(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of the model."""
    return {
        "decoder": draw(st.sampled_from(["shift", "joint"])),
        "interpolation": draw(st.sampled_from(["gaussian", "none"])),
        "dispersion": draw(st.sampled_from(["feature", "subspot", "shape"])),
        "observation": draw(st.sampled_from(["matched", "matched", "gaussian"])),
        "image_deviation": draw(st.sampled_from(["relative", "observed", "overall"])),
        "loss_per": draw(st.sampled_from(["feature", "spot"])),
        "n_graph_samples": draw(st.sampled_from([None, 8])),
    }


def prepared(spots: Spots, *, n_features: int = 3, rows: Any = None, move: Motion | None = None) -> AnnData:
    """Spots with all slots of the model, perhaps in another order or moved."""
    adata = spots.adata.copy() if rows is None else spots.adata[rows].copy()
    if move is not None:
        adata.obsm["spatial"] = move(adata.obsm["spatial"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of empty spots and cells outside
        spots.divide(adata, move)
        pp.spot_graph(adata, library_key=spots.library_key)
    if n_features:
        valid = np.isfinite(adata.obsm["subspots"][..., 0])
        every = np.random.default_rng(0).normal(size=(3 * valid.size, n_features)).astype(np.float32)
        number = valid.shape[1] * spots.adata.obs_names.get_indexer(adata.obs_names)[:, None] + range(valid.shape[1])
        if spots.division == "cells":  # their features are their own, however they are numbered
            number = pd.to_numeric(adata.obsm["subspot_names"].ravel(), errors="coerce").reshape(valid.shape)
        adata.obsm["subspot_features"] = every[np.nan_to_num(number).astype(int)] * valid[..., None]
    return adata


def fitted(adata: AnnData, spots: Spots, *, max_steps: int = 2, **form: Any) -> SoScope:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        SoScope.setup_anndata(adata, library_key=spots.library_key)
        form = {"likelihood": spots.likelihood, "n_hidden": 8, "n_latent": 4, "image_strength": 1, **form}
        model = SoScope(adata, **form)
        model.train(max_steps=max_steps, pretrain_epochs=1, logger=False, enable_checkpointing=False, **QUIET)
    return model


def possible_samples(model: SoScope) -> int:
    """Posterior samples to ask for: none where the loss measures no dispersion, they are refused there."""
    kind = (model.init_params_["non_kwargs"][name] for name in ("observation", "dispersion"))
    return 0 if unmeasured_dispersions(model._likelihoods, *kind) else 2


def seeded(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return function(*args, **kwargs)


def dense(x: Any) -> np.ndarray:
    return x.toarray() if issparse(x) else np.asarray(x)


def assert_close(found: Any, expected: Any, tolerance: float = 1e-4) -> None:
    """Equal but for rounding, measured by the largest value of every column."""
    found, expected = dense(found).astype(float), dense(expected).astype(float)
    scale = np.maximum(np.abs(expected).reshape(-1, expected.shape[-1]).max(axis=0, initial=0), 1e-3)
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=tolerance)


def assert_same(a: Any, b: Any) -> None:
    """Deep equality of AnnData, MuData, tables, arrays, dicts and plain values."""
    if isinstance(a, md.MuData):
        assert_same({name: a[name] for name in a.mod}, {name: b[name] for name in b.mod})
    if isinstance(a, AnnData):
        assert_same(a.X, b.X)
        assert_same(dict(a.layers), dict(b.layers))
    if isinstance(a, AnnData | md.MuData):
        assert_same(a.obs, b.obs)
        assert_same(a.var, b.var)
        for slot in ("obsm", "obsp", "uns"):
            assert_same(
                *({k: v for k, v in getattr(x, slot).items() if not str(k).startswith("_scvi")} for x in (a, b))
            )
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b, check_column_type=False, check_index_type=False)
    else:
        np.testing.assert_array_equal(dense(a), dense(b))


def totals(model: SoScope, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums (or means) over the subspots of the spots that are in a result, and the observed profiles of these."""
    rows = result_rows(model.adata)
    spot, subspot = np.nonzero(rows)
    weight = np.ones(len(spot))
    if model.module.likelihood.is_mean:
        weight = model.adata.obsm["subspot_exposure"][spot, subspot]
    members = csr_matrix((weight, (spot, np.arange(len(spot)))), shape=(len(rows), len(spot)))
    held = rows.any(axis=1)
    return (members @ values.astype(float))[held], dense(model.adata.X)[held]


# ----------------------------------------------------------------------------------------------- spots to subspots


@given(sections())
def test_exposures_are_shares_and_padding_has_no_place(spots):
    adata = prepared(spots)
    exposure, places = adata.obsm["subspot_exposure"], adata.obsm["subspots"]
    assert (exposure >= 0).all()
    np.testing.assert_allclose(exposure.sum(axis=1), 1)
    np.testing.assert_array_equal(np.isfinite(places).all(axis=2), exposure > 0)


@given(sections(divisions=("lattice",)))
def test_a_spot_is_the_middle_of_its_subspots(spots):
    adata = prepared(spots)
    np.testing.assert_allclose(adata.obsm["subspots"].mean(axis=1), adata.obsm["spatial"], atol=1e-6)


@given(sections(), motions())
def test_a_division_moves_with_the_spots(spots, move):
    """Cells, and subspots of spots without array indices, may be numbered otherwise."""
    indexed = "array_row" in spots.adata.obs
    places = prepared(spots).obsm["subspots"]
    moved = prepared(spots, move=move).obsm["subspots"]
    assume(indexed or not move.mirrored or places.shape[1] not in KINDS["hex"])  # flowers have a handedness
    tolerance = 1e-6 * np.nanmax(np.abs(moved))
    for found, expected in zip(moved, move(places), strict=True):
        found, expected = (x[np.isfinite(x[:, 0])] for x in (found, expected))
        distance, index = cKDTree(expected).query(found)
        assert distance.max() < tolerance
        np.testing.assert_array_equal(np.sort(index), np.arange(len(expected)))
        if indexed and spots.division != "cells":
            np.testing.assert_array_equal(index, np.arange(len(expected)))


@given(sections(), SEEDS)
def test_the_order_of_the_spots_does_not_matter_to_the_steps(spots, seed):
    rows = np.random.default_rng(seed).permutation(spots.adata.n_obs)
    straight, mixed = prepared(spots), prepared(spots, rows=rows)
    np.testing.assert_allclose(mixed.obsm["subspots"], straight.obsm["subspots"][rows], atol=1e-9)
    np.testing.assert_allclose(mixed.obsm["subspot_exposure"], straight.obsm["subspot_exposure"][rows])
    assert_close(mixed.obsp["spot_graph"], straight[rows].obsp["spot_graph"])


@given(sections(), motions())
def test_the_graph_does_not_see_where_the_section_lies(spots, move):
    assert_close(prepared(spots, move=move).obsp["spot_graph"], prepared(spots).obsp["spot_graph"])


@given(sections(), st.sampled_from([{}, {"n_rings": 2}, {"radius": 2.1}, {"n_neighbors": 3}]))
def test_a_graph_is_symmetric_and_joins_no_two_sections(spots, options):
    adata = spots.adata
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        pp.spot_graph(adata, library_key=spots.library_key, **options)
    graph = adata.obsp["spot_graph"]
    assert (graph != graph.T).nnz == 0
    assert graph.diagonal().sum() == 0
    assert (graph.data > 0).all()
    assert (graph.data <= 1).all()
    library = adata.obs["library"].to_numpy()
    i, j = graph.nonzero()
    assert (library[i] == library[j]).all()
    for name in np.unique(library):  # each is weighed as if it were alone
        alone = adata[library == name].copy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            pp.spot_graph(alone, **options)
        assert_close(alone.obsp["spot_graph"], graph[library == name][:, library == name])


@given(sections(divisions=("lattice", "padded")), motions(), SEEDS)
def test_latent_states_are_carried_to_the_same_places(spots, move, seed):
    """Interpolation reproduces constants, and neither place nor order of the spots matters."""
    adata = prepared(spots)
    library = adata.obs["library"].to_numpy()
    values = np.random.default_rng(seed).normal(size=adata.n_obs)

    def carried(xy, subspots, rows):
        index, weight = interpolation_weights(xy[rows], subspots[rows], library[rows])
        total = weight.sum(axis=2)
        np.testing.assert_allclose(total, np.isfinite(subspots[rows, :, 0]), atol=1e-5)
        found = np.empty_like(total)
        found[rows] = (weight * values[rows][index]).sum(axis=2)
        return found

    rows = np.random.default_rng(seed).permutation(adata.n_obs)
    expected = carried(adata.obsm["spatial"], adata.obsm["subspots"], np.arange(adata.n_obs))
    found = carried(move(adata.obsm["spatial"]), move(adata.obsm["subspots"]), rows)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@given(sections())
def test_a_step_done_twice_is_done_once(spots):
    adata = prepared(spots)
    once = adata.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        spots.divide(adata)
        pp.spot_graph(adata, library_key=spots.library_key)
    im.features(adata, encoder="precomputed")
    assert_same(adata.obsm["subspot_features"], once.obsm["subspot_features"])
    twice = im.features(adata, encoder="precomputed", copy=True)
    assert_same(twice, adata)
    del adata.uns["subspot_features"]
    assert_same(adata, once)


# -------------------------------------------------------------------------------------------------------- images


@st.composite
def images(draw: st.DrawFn) -> tuple[AnnData, np.ndarray]:
    """Spots with subspots in an image."""
    rng = np.random.default_rng(draw(SEEDS))
    pitch, side = draw(st.integers(6, 14)), draw(st.integers(3, 5))
    xy = pitch * (np.mgrid[:side, :side].reshape(2, -1).T + 1) + rng.uniform(-0.3, 0.3, 2)
    adata = AnnData(rng.poisson(3.0, (len(xy), 2)).astype(np.float32), obsm={"spatial": xy})
    pp.subspots(adata, draw(st.sampled_from(KINDS["square"])))
    shape = pitch * (side + 1) + draw(st.integers(0, 9)), pitch * (side + 1) + draw(st.integers(0, 9)), 3
    return adata, rng.integers(0, 256, shape, dtype=np.uint8)


def colours(tiles: np.ndarray) -> np.ndarray:
    """Features of tiles that do not see how they are turned."""
    return np.concatenate([tiles.mean(axis=(1, 2)), tiles.std(axis=(1, 2))], axis=1)


def described(adata: AnnData, image: np.ndarray, **options: Any) -> np.ndarray:
    return im.features(adata, image, copy=True, **options).obsm["subspot_features"]


@given(images())
def test_features_taken_twice_are_taken_once(pair):
    adata, image = pair
    before = adata.copy()
    im.features(adata, image)
    once = adata.copy()
    im.features(adata, image)
    assert_same(adata, once)
    del adata.obsm["subspot_features"], adata.uns["subspot_features"]
    assert_same(adata, before)


@given(images(), st.integers(0, 7))
def test_features_turn_and_mirror_with_the_image(pair, turns):
    adata, image = pair
    moved, seen = adata.copy(), image
    for slot in ("spatial", "subspots"):
        xy = moved.obsm[slot]
        for _ in range(turns % 4):  # as np.rot90: (x, y) to (y, width - x)
            xy = np.stack([xy[..., 1], -xy[..., 0]], axis=-1)
        moved.obsm[slot] = xy
    for _ in range(turns % 4):
        seen = np.rot90(seen)
    corner = np.array([[0, 0], [image.shape[1], image.shape[0]]])
    for _ in range(turns % 4):
        corner = np.stack([corner[:, 1], -corner[:, 0]], axis=-1)
    for slot in ("spatial", "subspots"):
        moved.obsm[slot] = moved.obsm[slot] - corner.min(axis=0)
        if turns >= 4:
            moved.obsm[slot] = moved.obsm[slot] * [-1, 1] + [seen.shape[1], 0]
    if turns >= 4:
        seen = seen[:, ::-1]
    context = 2.21  # of no pitch half a pixel more than whole ones, where rounding decides the size of the tiles
    assert_close(
        described(moved, seen, encoder=colours, context=context),
        described(adata, image, encoder=colours, context=context),
    )


@given(images(), st.integers(0, 40), st.integers(0, 40))
def test_features_move_with_the_image(pair, right, down):
    """By whole pixels, where the border of the image is continued as the reader mirrors it."""
    adata, image = pair
    reach = 60  # more than a patch
    seen = np.pad(image, ((reach + down, reach), (reach + right, reach), (0, 0)), mode="symmetric")
    moved = adata.copy()
    for slot in ("spatial", "subspots"):
        moved.obsm[slot] = moved.obsm[slot] + [reach + right, reach + down]
    for encoder in ("texture", colours):
        assert_close(described(moved, seen, encoder=encoder), described(adata, image, encoder=encoder))


@given(images(), SEEDS)
def test_the_order_of_spots_and_subspots_does_not_matter_to_features(pair, seed):
    adata, image = pair
    rng = np.random.default_rng(seed)
    rows, order = rng.permutation(adata.n_obs), rng.permutation(adata.obsm["subspots"].shape[1])
    mixed = adata[rows].copy()
    mixed.obsm["subspots"] = mixed.obsm["subspots"][:, order]
    assert_close(described(mixed, image), described(adata, image)[rows][:, order])


# ------------------------------------------------------------------------------------------------------- the model


@given(models())
def test_subspots_add_up_to_their_spot(drawn):
    spots, model = drawn
    enhanced = seeded(model.get_enhanced, n_samples=possible_samples(model))
    if not model.module.likelihood.sigma:
        found, observed = totals(model, enhanced.X)
        assert_close(found, observed)
    if spots.likelihood == "gaussian":
        assert np.isfinite(enhanced.X).all()
        return
    prior = model.get_enhanced(expectation="decoded").X
    assert (prior >= 0).all()
    assert np.isfinite(prior).all()
    assert (enhanced.X >= 0).all()
    if not possible_samples(model):
        return
    counts = enhanced.layers["sampled_counts"]
    assert (counts == counts.round()).all()
    assert (counts >= 0).all()
    found, observed = totals(model, counts)
    np.testing.assert_array_equal(found, observed)
    assert (enhanced.layers["q05"] <= enhanced.layers["q95"]).all()


@given(models(divisions=EVERY), st.integers(1, 20), st.integers(1, 20))
def test_a_tiling_changes_nothing(drawn, batch_size, latent_spots):
    _, model = drawn
    whole = seeded(model.get_enhanced, n_samples=possible_samples(model))
    latent = model.get_latent_representation()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(posterior, "_LATENT_SPOTS", latent_spots)
        tiled = seeded(model.get_enhanced, n_samples=possible_samples(model), batch_size=batch_size)
        assert_close(model.get_latent_representation(), latent)
    assert_close(tiled.X, whole.X)
    for name in whole.layers:
        assert np.isclose(tiled.layers[name], whole.layers[name], rtol=1e-3, atol=1e-3).mean() > 0.99
    assert_same(tiled.obs, whole.obs)


@given(models(likelihoods=("nb", "poisson"), divisions=("captured",)))
def test_what_was_captured_adds_up_to_the_spot(drawn):
    """Conditional less decoded profiles of what was not captured; gaps follow the latent states alone."""
    _, model = drawn
    enhanced, decoded = model.get_enhanced(), model.get_enhanced(expectation="decoded")
    measured = enhanced.obs["measured"].to_numpy()[:, None]
    found, observed = totals(model, enhanced.X - (1 - measured) * decoded.X)
    assert_close(found, observed)
    in_gap = measured.ravel() == 0
    assert_close(enhanced.X[in_gap], decoded.X[in_gap])


@given(models(divisions=EVERY), st.integers(1, 20))
def test_denoised_profiles_are_between_decoded_and_conditional_ones(drawn, batch_size):
    """By phi / (1 + phi) of the way; there is no such way where all variance is noise."""
    spots, model = drawn
    expectations = ("decoded", "denoised", "conditional")
    decoded, denoised, conditional = (
        model.get_enhanced(expectation=name, batch_size=batch_size).X.astype(float) for name in expectations
    )
    if spots.likelihood != "nb":
        assert_close(denoised, decoded)
        return
    assert (denoised >= 0).all()
    if not model.module.per_subspot_dispersion:
        phi = model.module.feature_parameters().log_dispersion.detach().exp().numpy()
        assert_close(denoised, decoded + phi / (1 + phi) * (conditional - decoded))
    low, high = np.minimum(decoded, conditional), np.maximum(decoded, conditional)
    assert ((denoised >= low * (1 - 1e-5)) & (denoised <= high * (1 + 1e-5))).all()


@given(models(divisions=EVERY), SEEDS)
def test_a_model_does_not_see_the_order_of_spots_genes_and_subspots(drawn, seed):
    _, model = drawn
    rng = np.random.default_rng(seed)
    adata = model.adata
    rows, genes = rng.permutation(adata.n_obs), rng.permutation(adata.n_vars)
    order = rng.permutation(adata.obsm["subspots"].shape[1])
    mixed = adata[rows][:, genes].copy()
    for slot in {"subspots", "subspot_features", *(key for key in mixed.obsm if key.startswith("subspot_"))}:
        if slot in mixed.obsm:
            mixed.obsm[slot] = mixed.obsm[slot][:, order]
    straight, found = model.get_enhanced(), model.get_enhanced(mixed)
    place = straight.obs.assign(row=range(straight.n_obs)).set_index(["spot", "subspot"])["row"]
    rows = place.loc[list(zip(found.obs["spot"], order[found.obs["subspot"]], strict=True))].to_numpy()
    assert list(found.var_names) == list(straight.var_names)
    np.testing.assert_allclose(found.obsm["spatial"], straight.obsm["spatial"][rows])
    assert_close(found.X, straight.X[rows])


@given(models(divisions=EVERY))
def test_a_section_does_not_see_the_others(drawn):
    spots, model = drawn
    assume(spots.library_key)
    together = model.get_enhanced()
    for name in ("a", "b"):
        alone = model.get_enhanced(model.adata[model.adata.obs["library"] == name].copy())
        of_it = (together.obs["library"] == name).to_numpy()
        assert list(alone.obs_names) == list(together.obs_names[of_it])
        assert_close(alone.X, together.X[of_it])


@given(sections(), forms(), SEEDS)
def test_training_does_not_see_the_order_of_the_spots(spots, form, seed):
    rows = np.random.default_rng(seed).permutation(spots.adata.n_obs)
    straight = fitted(prepared(spots), spots, **form).get_enhanced()
    mixed = fitted(prepared(spots, rows=rows), spots, **form).get_enhanced()
    assert set(mixed.obs_names) == set(straight.obs_names)
    assert_close(mixed[straight.obs_names].X, straight.X, tolerance=STEPS)


@given(sections(indexed=True, divisions=("lattice", "padded")), motions(), forms())
def test_training_does_not_see_where_the_section_lies(spots, move, form):
    straight = fitted(prepared(spots), spots, **form).get_enhanced()
    moved = fitted(prepared(spots, move=move), spots, **form).get_enhanced()
    assert list(moved.obs_names) == list(straight.obs_names)
    assert_close(moved.X, straight.X, tolerance=STEPS)


@given(sections(), forms())
def test_one_seed_gives_the_same_bits(spots, form):
    results = []
    for _ in range(2):
        model = fitted(prepared(spots), spots, **form)
        results.append(seeded(model.get_enhanced, n_samples=possible_samples(model)))
    assert_same(*results)


@given(sections(several=False, divisions=("lattice",)), SEEDS)
def test_the_one_call_repeats_itself_and_leaves_the_spots_alone(spots, seed):
    before = spots.adata.copy()
    options = {"seed": seed, "sources": "positions", "model_kwargs": {"n_hidden": 8}, "n_samples": 2}
    train = {"max_steps": 2, "logger": False, "enable_checkpointing": False} | QUIET
    del train["accelerator"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        a, b = (
            tl.enhance(spots.adata, likelihood=spots.likelihood, accelerator="cpu", train_kwargs=train, **options)
            for _ in range(2)
        )
    for one in (a, b):  # measured in every run
        for name in ("seconds", "peak_memory_gb"):
            one.uns["soscope"].pop(name, None)
    assert_same(a, b)
    assert_same(spots.adata, before)


@given(sections(likelihoods=("nb",)), forms())
def test_modalities_add_up_to_their_spots(spots, form):
    adata = prepared(spots)
    x = dense(adata.X).astype(float)
    protein = AnnData((x[:, :1] - x[:, :1].mean()) / 7, obs=adata.obs.copy(), var=pd.DataFrame(index=["protein"]))
    with columns_apart():
        mdata = md.MuData({"rna": adata, "prot": protein})
    form["observation"] = "matched"  # the other knows noise of the spots, which makes proteins add up to less or more
    with torch.random.fork_rng():
        torch.manual_seed(0)
        SoScope.setup_mudata(mdata, {"rna": "nb", "prot": "gaussian"}, library_key=spots.library_key)
        model = SoScope(mdata, n_hidden=8, n_latent=4, image_strength=1, aggregate="sum", **form)
        model.train(max_steps=2, logger=False, enable_checkpointing=False, **QUIET)
    enhanced = model.get_enhanced()
    spot = pd.Categorical(enhanced["rna"].obs["spot"], categories=adata.obs_names)
    held = np.isin(adata.obs_names, enhanced["rna"].obs["spot"])
    for name in ("rna", "prot"):
        total = pd.DataFrame(enhanced[name].X.astype(float)).groupby(spot, observed=False).sum().to_numpy()
        assert_close(total[held], dense(mdata[name].X)[held])
    with tempfile.TemporaryDirectory() as folder:
        enhanced.write_h5mu(Path(folder) / "enhanced.h5mu")
        with columns_apart():
            assert_same(md.read_h5mu(Path(folder) / "enhanced.h5mu"), enhanced)


# ---------------------------------------------------------------------------------------------------------- on disk


@given(models(), st.sampled_from(["h5ad", "zarr"]))
def test_what_is_written_is_read_again(drawn, suffix):
    spots, model = drawn
    enhanced = seeded(model.get_enhanced, n_samples=possible_samples(model))
    plain = spots.adata.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        spots.divide(plain)
        pp.spot_graph(plain, library_key=spots.library_key)
    with tempfile.TemporaryDirectory() as folder:
        for name, adata in {"spots": plain, "enhanced": enhanced}.items():
            path = Path(folder) / f"{name}.{suffix}"
            getattr(adata, f"write_{suffix}")(path)
            assert_same(getattr(ad, f"read_{suffix}")(path), adata)
        streamed = seeded(
            model.get_enhanced, n_samples=possible_samples(model), out=Path(folder) / f"streamed.{suffix}"
        )
        assert_same(streamed.to_memory(), enhanced)


@given(models())
def test_a_saved_model_gives_the_same_bits(drawn):
    _, model = drawn
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model", save_anndata=True)
        again = SoScope.load(f"{folder}/model", accelerator="cpu")
    np.testing.assert_array_equal(again.get_enhanced().X, model.get_enhanced().X)


# --------------------------------------------------------------------------------- likelihoods, baselines, metrics


@given(st.sampled_from(["nb", "poisson", "gaussian"]), SEEDS)
def test_conditional_means_and_draws_add_up(name, seed):
    rng = np.random.default_rng(seed)
    n_spots, n_subspots, n_genes = rng.integers(1, 6, 3)
    exposure = rng.dirichlet(np.ones(n_subspots), n_spots) * rng.uniform(0.2, 5, (n_spots, 1))
    exposure[:, 1:][rng.random((n_spots, n_subspots - 1)) < 0.2] = 0
    exposure = torch.as_tensor(exposure, dtype=torch.float32)
    likelihood = LIKELIHOODS[name]("sum")
    effect = torch.as_tensor(rng.normal(0, 3, (n_spots, n_subspots, n_genes)), dtype=torch.float32)
    x = torch.as_tensor(rng.poisson(10.0 ** rng.uniform(-1, 5, (n_spots, n_genes))), dtype=torch.float32)
    subspots = likelihood.parameters(effect, Start(*likelihood.start(x)), exposure)
    torch.manual_seed(seed % 2**31)
    for values in (likelihood.condition(x, subspots), likelihood.sample(subspots, x)):
        assert_close(values.sum(dim=1).numpy(), x.numpy())
        assert not values[exposure == 0].any()
        if name != "gaussian":
            assert (values >= 0).all()


@given(sections(likelihoods=("nb",), several=False), SEEDS)
def test_baselines_conserve_and_do_not_see_the_order(spots, seed):
    adata = prepared(spots)
    rng = np.random.default_rng(seed)
    rows, genes = rng.permutation(adata.n_obs), rng.permutation(adata.n_vars)
    spot = np.nonzero(adata.obsm["subspot_exposure"] > 0)[0]
    mixed = adata[rows][:, genes].copy()
    start = np.r_[0, np.bincount(spot).cumsum()]
    targets = np.concatenate([np.arange(start[i], start[i + 1]) for i in rows])
    for name in BASELINES:
        predicted = bench.BASELINES[name](adata)
        assert predicted.shape == (len(spot), adata.n_vars)
        assert (predicted >= 0).all()
        assert np.isfinite(predicted).all()
        if name in ("repeat", "linear_conserving", "kriging_image"):
            total = np.add.reduceat(predicted, start[:-1])
            assert_close(total, adata.X)
        if name not in ("linear", "linear_conserving"):  # triangles of a lattice depend on the order of its points
            assert_close(bench.BASELINES[name](mixed), predicted[targets][:, genes], tolerance=1e-3)


@given(lattices(), SEEDS, st.sampled_from(["sum", "mean"]))
def test_merged_spots_are_made_up_by_their_subspots(lattice, seed, aggregate):
    kind, xy, array = lattice
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(xy))
    adata = AnnData(rng.poisson(5.0, (len(xy), 3)).astype(np.float32), obsm={"spatial": xy})
    adata.obs[["array_col", "array_row"]] = array
    assume(kind != "quincunx")  # is read from columns of its own
    try:
        low, truth = bench.simulate_low_resolution(adata, aggregate=aggregate)
    except ValueError:  # too small for any block
        assume(False)
    n_subspots = low.obsm["subspots"].shape[1]
    values = dense(truth.X).reshape(low.n_obs, n_subspots, 3)
    np.testing.assert_allclose(dense(low.X), getattr(values, aggregate)(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(truth.obsm["spatial"], low.obsm["subspots"].reshape(-1, 2))
    again, _ = bench.simulate_low_resolution(adata[rows].copy(), aggregate=aggregate)
    assert {tuple(row) for row in again.obsm["spatial"].round(6)} == {
        tuple(row) for row in low.obsm["spatial"].round(6)
    }


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    """A generator, predictions and truth."""
    rng = np.random.default_rng(draw(SEEDS))
    shape = draw(st.integers(8, 60)), draw(st.integers(1, 4))
    truth = rng.poisson(10.0 ** rng.uniform(-0.5, 3, shape[1]), shape).astype(float)
    return rng, truth * rng.uniform(0.5, 1.5, shape) + rng.normal(0, 1, shape), truth


@given(predictions(), st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_correlations_do_not_see_scale_shift_and_order(drawn, scale, shift):
    rng, predicted, truth = drawn
    rows, genes = rng.permutation(len(truth)), rng.permutation(truth.shape[1])
    spot = rng.integers(0, max(2, len(truth) // 4), len(truth))
    for metric in (metrics.pearson, metrics.mse, lambda p, t: metrics.within_r(p, t, spot)):
        expected = metric(predicted, truth)
        np.testing.assert_allclose(metric(scale * predicted + shift, truth), expected, atol=1e-6)
        np.testing.assert_allclose(metric(predicted, scale * truth + shift), expected, atol=1e-6)
        np.testing.assert_allclose(metric(predicted[:, genes], truth[:, genes]), expected[genes], atol=1e-9)
        np.testing.assert_allclose(metric(csr_matrix(predicted), csr_matrix(truth)), expected, atol=1e-9)
    for metric in (metrics.pearson, metrics.mse, metrics.normalized_pearson):
        np.testing.assert_allclose(metric(predicted[rows], truth[rows]), metric(predicted, truth), atol=1e-9)
    np.testing.assert_allclose(metrics.pearson(-predicted, truth), -metrics.pearson(predicted, truth), atol=1e-9)
    of_spot = rng.normal(0, 5, (spot.max() + 1, truth.shape[1]))[spot]
    np.testing.assert_allclose(
        metrics.within_r(predicted + of_spot, truth, spot), metrics.within_r(predicted, truth, spot), atol=1e-6
    )
    perfect = metrics.pearson(truth, truth)
    np.testing.assert_allclose(perfect[~np.isnan(perfect)], 1)


@given(predictions())
def test_normalized_pearson_does_not_see_depth(drawn):
    rng, predicted, truth = drawn
    predicted = np.abs(predicted)
    depth = rng.uniform(0.1, 10, (len(truth), 1))
    expected = metrics.normalized_pearson(predicted, truth)
    np.testing.assert_allclose(metrics.normalized_pearson(depth * predicted, truth), expected, atol=1e-6)
    np.testing.assert_allclose(metrics.normalized_pearson(predicted, depth * truth), expected, atol=1e-6)


@given(predictions())
def test_ks_distance_sees_ranks_alone(drawn):
    rng, predicted, _ = drawn
    inside = rng.permutation(len(predicted)) < len(predicted) // 2
    expected = metrics.ks_distance(predicted, inside)
    np.testing.assert_allclose(metrics.ks_distance(np.arctan(predicted / 10), inside), expected)
    np.testing.assert_allclose(metrics.ks_distance(predicted, ~inside), expected)


@given(predictions(), motions(), st.floats(1e-2, 1e2), st.floats(-1e3, 1e3))
def test_structure_does_not_see_place_unit_and_names(drawn, move, scale, shift):
    rng, predicted, _ = drawn
    xy = rng.uniform(0, 100, (len(predicted), 2))
    labels = rng.integers(0, 3, len(xy))
    expected = metrics.morans_i(predicted, xy)
    np.testing.assert_allclose(metrics.morans_i(scale * predicted + shift, move(xy)), expected, atol=1e-6)
    unit = np.linalg.norm(move.matrix[0])
    spread = metrics.compactness(xy, labels)
    np.testing.assert_allclose(metrics.compactness(move(xy), np.array(["c", "a", "b"])[labels]), unit * spread)


@given(SEEDS, st.integers(2, 30), st.sampled_from([0.5, 0.9]))
def test_pit_of_a_true_model_is_uniform(seed, n_draws, level):
    """Truth and draws of one distribution, whatever it is: each target has its own."""
    rng = np.random.default_rng(seed)
    mean, size = 10.0 ** rng.uniform(-1.5, 3, (400, 5)), 10.0 ** rng.uniform(-1, 2, 5)
    values = nbinom.rvs(size, size / (size + mean), size=(n_draws + 1, 400, 5), random_state=rng)
    u = metrics.pit(values[0], values[1:], seed=seed + 1)
    assert kstest(u.ravel(), "uniform").pvalue > 1e-6
    inside = metrics.central_coverage(u, level)
    assert (np.abs(inside - level) < 6 * np.sqrt(level * (1 - level) / 400)).all()

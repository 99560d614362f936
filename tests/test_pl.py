"""Maps: what is drawn where, and in which colours."""

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from scipy.sparse import csr_matrix

from soscope_scverse import datasets, pl

GENES = ["region_1", "gradient_1"]


@pytest.fixture(autouse=True)
def _closed_figures():
    backend = mpl.get_backend()
    plt.switch_backend("Agg")
    yield
    plt.close("all")
    plt.switch_backend(backend)


@pytest.fixture(scope="module")
def small():
    return datasets.synthetic_section(30, lattice="square", n_subspots=4, n_genes=5)


def drawn(ax) -> PolyCollection:
    [shapes] = [artist for artist in ax.collections if isinstance(artist, PolyCollection)]
    return shapes


@pytest.mark.parametrize(("genes", "n_genes"), [("region_1", 1), (["region_1"], 1), (GENES, 2)])
def test_a_row_of_maps_for_each_gene(small, genes, n_genes):
    adata, _, truth = small
    for kwargs, n_maps in (({}, 2), ({"truth": truth}, 3)):
        axes = pl.compare(adata, truth, genes, **kwargs)
        assert axes.shape == (n_genes, n_maps)
        assert all(isinstance(ax, Axes) for ax in axes.ravel())
        assert len({ax.figure for ax in axes.ravel()}) == 1
        assert axes[0, 0].get_title() == "region_1: spots"


def width(ax) -> np.ndarray:
    return np.ptp(drawn(ax).get_paths()[0].vertices, axis=0)


def test_shapes_lie_on_the_spots_and_subspots(small):
    adata, _, truth = small
    axes = pl.compare(adata, truth, GENES)
    for ax, section in zip(axes[1], (adata, truth), strict=True):
        np.testing.assert_array_equal(drawn(ax).get_offsets(), section.obsm["spatial"])
        (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
        x, y = section.obsm["spatial"].T
        assert left < x.min() < x.max() < right
        assert top < y.min() < y.max() < bottom  # as in a picture
    np.testing.assert_allclose(width(axes[0, 0]), 36)
    np.testing.assert_allclose(width(axes[0, 1]), 18)


def test_subspots_are_drawn_as_whole_spots_on_one_colour_scale(small):
    adata, _, truth = small
    axes = pl.compare(adata, truth, GENES, truth=truth, truth_layer="mean", cmap="viridis")
    for row, gene in zip(axes, GENES, strict=True):
        values = [np.asarray(drawn(ax).get_array()) for ax in row]
        np.testing.assert_allclose(values[0], adata[:, gene].X.toarray().ravel())
        np.testing.assert_allclose(values[1], 4 * truth[:, gene].X.toarray().ravel())
        np.testing.assert_allclose(values[2], 4 * truth[:, gene].layers["mean"].ravel(), rtol=1e-6)
        top = max(np.quantile(value, 0.99) for value in values)
        for ax in row:
            assert drawn(ax).get_clim() == pytest.approx((0, top))
            assert drawn(ax).get_cmap().name == "viridis"
    assert drawn(axes[0, 0]).get_clim() != drawn(axes[1, 0]).get_clim()


def test_intensities_are_drawn_as_they_are(small):
    adata, _, truth = small
    axes = pl.compare(adata, truth, GENES, aggregate="mean")
    np.testing.assert_allclose(drawn(axes[0, 1]).get_array(), truth[:, GENES[0]].X.toarray().ravel())


def test_spots_with_different_numbers_of_subspots(small):
    adata, _, truth = small
    kept = truth[np.r_[0:2, 4:120]]  # the first spot has two subspots, the others four
    value = drawn(pl.compare(adata, kept, "region_1")[0, 1]).get_array()
    counts = kept[:, "region_1"].X.toarray().ravel()
    np.testing.assert_allclose(value, counts * np.r_[2, 2, np.full(116, 4)])


def test_the_layer_is_that_of_the_spots(small):
    adata, _, truth = small
    adata = adata.copy()
    adata.layers["half"] = adata.X * 0.5
    value = drawn(pl.compare(adata, truth, "region_1", layer="half")[0, 0]).get_array()
    np.testing.assert_allclose(value, adata[:, "region_1"].X.toarray().ravel() / 2)
    with pytest.raises(ValueError, match=r"`layer` to be one of \['half'\]"):
        pl.compare(adata, truth, "region_1", layer="whole")


@pytest.mark.parametrize("values", ["negative", "mixed", "empty"])
def test_any_values_can_be_drawn(small, values, tmp_path):
    adata, _, truth = (part.copy() for part in small)
    for section in (adata, truth):
        x = section.X.toarray().astype(float)
        section.X = {"negative": -x - 1, "mixed": x - x.mean(axis=0), "empty": csr_matrix(x.shape)}[values]
    axes = pl.compare(adata, truth, GENES, save=tmp_path / "maps.png")
    low, high = drawn(axes[0, 0]).get_clim()
    assert low < high
    assert (low < 0) == (values != "empty")
    assert drawn(axes[0, 1]).get_clim() == (low, high)


@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_the_figure_is_saved(small, suffix, tmp_path):
    adata, _, truth = small
    pl.compare(adata, truth, GENES, save=str(tmp_path / f"maps.{suffix}"))
    assert (tmp_path / f"maps.{suffix}").stat().st_size > 1000


@pytest.mark.parametrize("as_list", [False, True])
def test_drawing_on_given_axes(small, as_list, tmp_path):
    adata, _, truth = small
    figure, given = plt.subplots(1, 3, squeeze=False)
    before = plt.get_fignums()
    axes = pl.compare(
        adata, truth, "region_1", truth=truth, ax=given.tolist() if as_list else given, save=tmp_path / "a.png"
    )
    assert plt.get_fignums() == before
    assert (tmp_path / "a.png").exists()
    assert list(axes.ravel()) == list(given.ravel())
    assert all(ax.figure is figure for ax in axes.ravel())


@pytest.mark.parametrize("shape", [(1, 2), (2, 3), (2,), ()])
def test_axes_of_another_shape(small, shape):
    adata, _, truth = small
    given = np.empty(shape, dtype=object)
    with pytest.raises(ValueError, match=r"`ax` to be 2 x 2 Axes, found shape \("):
        pl.compare(adata, truth, GENES, ax=given)


@pytest.mark.parametrize("lacking", ["spots", "enhanced", "truth", "all"])
def test_a_missing_gene(small, lacking):
    adata, _, truth = small
    sections = {"spots": adata, "enhanced": truth, "truth": truth}
    for name in sections:
        if lacking in (name, "all"):
            sections[name] = sections[name][:, 1:]
    before = plt.get_fignums()
    with pytest.raises(ValueError, match="1 of 2 are not: region_1"):
        pl.compare(sections["spots"], sections["enhanced"], GENES, truth=sections["truth"])
    assert plt.get_fignums() == before


def test_genes_in_another_order(small):
    adata, _, truth = small
    axes = pl.compare(adata[:, ::-1], truth[:, [3, 0, 1]], ["region_1"])
    np.testing.assert_allclose(drawn(axes[0, 0]).get_array(), adata[:, "region_1"].X.toarray().ravel())
    np.testing.assert_allclose(drawn(axes[0, 1]).get_array(), 4 * truth[:, "region_1"].X.toarray().ravel())


@pytest.mark.parametrize(("genes", "message"), [([], "at least one gene"), (["region_1"] * 2, "every gene once")])
def test_faulty_lists_of_genes(small, genes, message):
    with pytest.raises(ValueError, match=message):
        pl.compare(small.adata, small.truth, genes)

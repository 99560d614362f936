"""What spots captured: it is outlined in maps, and decides what counts per spot area are."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import shapely
from matplotlib import pyplot as plt

from maps import drawn, outlines, result
from soscope_scverse import datasets, pl
from soscope_scverse.pp._outlines import capture_area

pytestmark = pytest.mark.usefixtures("closed_figures")


def section(lattice: str = "hex", n_spots: int = 30, turn: float = 0.0, size: float = 1.0) -> ad.AnnData:
    adata = datasets.synthetic_section(n_spots, lattice=lattice, n_genes=4).adata
    adata.obsm["spatial"] = size * adata.obsm["spatial"] @ [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
    return adata


def polygon(ax) -> shapely.Polygon:
    """Outline of a capture area, relative to its spot."""
    [drawn_outlines] = outlines(ax)
    return shapely.Polygon(drawn_outlines.get_paths()[0].vertices)


@pytest.mark.parametrize(("lattice", "n_subspots"), [("hex", 7), ("hex", 19), ("square", 4), ("square", 9)])
@pytest.mark.parametrize("capture", [11.0, 20.0, 40.0])
def test_circles_of_the_capture_diameter(lattice, n_subspots, capture):
    adata = section(lattice)
    enhanced = result(adata, n_subspots=n_subspots, capture=capture)
    for axes in (pl.compare(adata, enhanced, "region_1"), pl.uncertainty(enhanced, "region_1")):
        for ax in axes[0]:
            [drawn_outlines] = outlines(ax)
            np.testing.assert_allclose(drawn_outlines.get_offsets(), adata.obsm["spatial"])
            corners = drawn_outlines.get_paths()[0].vertices
            np.testing.assert_allclose(np.linalg.norm(corners, axis=1), capture / 2)
            assert drawn_outlines.get_zorder() >= drawn(ax).get_zorder()


@pytest.mark.parametrize("turn", [0.0, 0.3, 1.2])
@pytest.mark.parametrize("as_cells", [False, True])
def test_squares_lie_along_the_lattice(turn, as_cells):
    adata = section("square", turn=turn)
    cells = pd.DataFrame(adata.obsm["spatial"] + [3, 4], columns=["x", "y"]) if as_cells else None
    enhanced = result(adata, cells=cells, capture=18.0, capture_shape="square")
    if as_cells:  # one is outside, so that there is something in a gap
        enhanced.obs.loc[enhanced.obs_names[0], "measured"] = 0.0
    square = polygon(pl.compare(adata, enhanced, "region_1")[0, 1])
    assert square.area == pytest.approx(18.0**2)
    edges = np.diff(shapely.get_coordinates(square), axis=0)
    direction = np.array([np.cos(turn), np.sin(turn)])
    along = np.sort(np.abs(edges @ direction))
    np.testing.assert_allclose(along, [0, 0, 18, 18], atol=1e-6)


def test_nothing_is_outlined_where_spots_tile_the_tissue():
    adata = section()
    with pytest.warns(UserWarning, match="they tile the tissue"):
        wide = result(adata, capture=1000.0)
    for enhanced in (result(adata), result(adata, capture=None), wide):
        for ax in (*pl.compare(adata, enhanced, "region_1")[0], *pl.uncertainty(enhanced, "region_1")[0]):
            assert not outlines(ax)
    enhanced = result(adata, capture=20.0)
    axes = pl.compare(adata, enhanced, "region_1", show_capture=False)
    assert not any(outlines(ax) for ax in axes.ravel())
    assert not any(outlines(ax) for ax in pl.uncertainty(enhanced, "region_1", show_capture=False).ravel())
    with_old_result = enhanced.copy()
    del with_old_result.obs["measured"], with_old_result.uns["soscope"]
    assert not outlines(pl.compare(adata, with_old_result, "region_1")[0, 1])


@pytest.mark.parametrize("shape", ["circle", "square"])
def test_every_section_has_its_own(shape):
    """The record is that of the first section: the second has pixels of another size, the third no gaps."""
    parts = {"a": section("square"), "b": section("square", turn=0.4, size=2.5), "c": section("square")}
    made = {
        name: result(adata, capture=None if name == "c" else size, capture_shape=shape)
        for (name, adata), size in zip(parts.items(), (20.0, 50.0, 0.0), strict=True)
    }
    spots, enhanced = (ad.concat(given, label="section", index_unique="_", uns_merge=None) for given in (parts, made))
    enhanced.obs["spot"] = enhanced.obs["spot"].astype(str) + "_" + enhanced.obs["section"].astype(str)
    enhanced.uns["soscope"] = made["a"].uns["soscope"]
    sizes = {}
    for name in parts:
        axes = pl.compare(spots, enhanced, "region_1", library_key="section", library_id=name)[0]
        sizes[name] = [np.sqrt(polygon(ax).area) for ax in axes if outlines(ax)]
    unit = 20 if shape == "square" else np.sqrt(shapely.Point(0, 0).buffer(10, quad_segs=8).area)
    np.testing.assert_allclose(sizes["a"], unit, rtol=1e-6)
    np.testing.assert_allclose(sizes["b"], 2.5 * unit, rtol=1e-6)
    assert not sizes["c"]


def test_a_part_of_the_subspots():
    """Of spots that were cropped or masked, some parts are missing."""
    adata = section()
    enhanced = result(adata, capture=20.0)
    some = enhanced[enhanced.obs["subspot"].isin([0, 3])]
    some = some[5:]
    kept = adata.obs_names.isin(some.obs["spot"])
    for axes in (pl.compare(adata, some, "region_1"), pl.uncertainty(some, "region_1")):
        [drawn_outlines] = outlines(axes[0, 1])
        np.testing.assert_allclose(drawn_outlines.get_offsets(), adata.obsm["spatial"][kept], atol=1e-6)
    assert capture_area(some).diameter == 20.0


@pytest.mark.parametrize("lattice", ["hex", "square"])
def test_an_even_tissue_has_one_colour(lattice):
    """Parts that are as dense as what the spots captured have the colour of the spots, the truth as well."""
    adata = section(lattice)
    enhanced = result(adata, capture=15.0)
    basis = enhanced.uns["soscope"]["geometry"]["basis"]
    part = abs(np.linalg.det(basis)) / enhanced.uns["soscope"]["geometry"]["n_subspots"]
    adata.X = np.full(adata.shape, 6.0)
    enhanced.X = np.full(enhanced.shape, 6.0 * part / (np.pi * 7.5**2))
    truth = enhanced.copy()
    del truth.obs["measured"], truth.uns["soscope"]
    for ax in pl.compare(adata, enhanced, "region_1", truth=truth)[0]:
        np.testing.assert_allclose(drawn(ax).get_array(), 6.0)
    for ax in pl.compare(adata, enhanced, "region_1", aggregate="mean")[0, 1:]:
        np.testing.assert_allclose(drawn(ax).get_array(), enhanced.X[0, 0])


def test_cells_in_gaps():
    adata = section()
    rng = np.random.default_rng(0)
    xy = np.repeat(adata.obsm["spatial"], 6, axis=0)
    cells = pd.DataFrame(xy + rng.uniform(-15, 15, xy.shape), columns=["x", "y"])
    enhanced = result(adata, cells=cells, capture=22.0)
    axes = pl.compare(adata, enhanced, "region_1")[0]
    np.testing.assert_allclose(outlines(axes[1])[0].get_offsets(), adata.obsm["spatial"])
    assert np.isfinite(drawn(axes[1]).get_array()).all()
    seen = enhanced.obs["measured"].groupby(enhanced.obs["spot"], observed=True).transform("sum").to_numpy()
    expected = np.where(seen > 0, seen, np.nan) * enhanced[:, "region_1"].X.ravel()
    value = np.asarray(drawn(axes[1]).get_array())
    np.testing.assert_allclose(value[seen > 0], expected[seen > 0])
    # the positions of spots are not recorded beside cells
    assert not outlines(pl.uncertainty(enhanced, "region_1")[0, 0])


def test_lines_are_thin_where_spots_are_many():
    widths, opacities = [], []
    for n_spots in (7, 100, 3000):
        adata = section(n_spots=n_spots)
        [drawn_outlines] = outlines(pl.compare(adata, result(adata, capture=20.0), "region_1", image=False)[0, 1])
        widths += [drawn_outlines.get_linewidth()[0]]
        opacities += [drawn_outlines.get_alpha()]
        plt.close("all")
    assert widths[0] > widths[1] > widths[2]
    assert opacities[0] >= opacities[1] > opacities[2]


def test_thousands_of_outlines_do_not_hide_the_map():
    adata = section("square", 2500)
    enhanced = result(adata, capture=20.0)
    enhanced.X = np.ones(enhanced.shape)
    shades = []
    for show in (True, False):
        ax = pl.compare(adata, enhanced, "region_1", image=False, show_capture=show)[0, 1]
        ax.figure.canvas.draw()
        box = ax.get_window_extent().extents.astype(int)
        pixels = np.asarray(ax.figure.canvas.buffer_rgba())[::-1][box[1] : box[3], box[0] : box[2], :3]
        shades.append(pixels[40:-40, 40:-40].mean())
    assert abs(shades[0] - shades[1]) < 25


@pytest.mark.parametrize("capture", [None, 20.0])
def test_spots_beside_cells_have_the_shape_of_what_they_captured(capture):
    adata = section()
    xy = np.vstack([adata.obsm["spatial"], adata.obsm["spatial"] + [16, 0]])
    for enhanced in (
        result(adata, capture=capture),
        result(adata, cells=pd.DataFrame(xy, columns=["x", "y"]), capture=capture),
    ):
        for of_it in (adata, enhanced):
            of_it.obs["leiden"] = pd.Categorical(["0"] * of_it.n_obs)
        for ax in (pl.spatial_clusters(enhanced, spots=adata)[0], pl.compare(adata, enhanced, "region_1")[0, 0]):
            corners = drawn(ax).get_paths()[0].vertices[:-1]
            if capture is None or enhanced.uns["soscope"]["geometry"]["geometry"] == "hex":
                assert len(corners) == 6
            else:  # beside cells
                np.testing.assert_allclose(np.linalg.norm(corners, axis=1), capture / 2)

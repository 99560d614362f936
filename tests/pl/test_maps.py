"""Maps: what is drawn where, in which shapes and colours."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import shapely
from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar
from scipy.sparse import csr_matrix

from maps import colours, drawn, outlines, result
from soscope_scverse import datasets, im, pl

pytestmark = pytest.mark.usefixtures("closed_figures")


GENES = ["region_1", "gradient_1"]


def corners(ax) -> np.ndarray:
    return drawn(ax).get_paths()[0].vertices[:-1]


def polygons(ax) -> np.ndarray:
    """What is drawn, in data units."""
    paths, offsets = drawn(ax).get_paths(), np.asarray(drawn(ax).get_offsets())
    if len(paths) == 1:
        return shapely.polygons(offsets[:, None] + corners(ax))
    return np.array([shapely.Polygon(path.vertices[:-1] + offset) for path, offset in zip(paths, offsets, strict=True)])


@pytest.mark.parametrize(("genes", "n_genes"), [("region_1", 1), (["region_1"], 1), (GENES, 2)])
def test_a_row_of_maps_for_each_gene(small, genes, n_genes):
    adata, _, truth = small
    for kwargs, n_maps in (({}, 2), ({"truth": truth}, 3)):
        axes = pl.compare(adata, truth, genes, **kwargs)
        assert axes.shape == (n_genes, n_maps)
        assert all(isinstance(ax, Axes) for ax in axes.ravel())
        assert len({ax.figure for ax in axes.ravel()}) == 1
        assert axes[0, 0].get_title() == "region_1: spots"


def test_shapes_lie_on_the_spots_and_subspots(small):
    adata, _, truth = small
    axes = pl.compare(adata, truth, GENES)
    for ax, section in zip(axes[1], (adata, truth), strict=True):
        np.testing.assert_array_equal(drawn(ax).get_offsets(), section.obsm["spatial"])
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in axes.ravel()}) == 1
    (left, right), (bottom, top) = axes[0, 0].get_xlim(), axes[0, 0].get_ylim()
    x, y = np.concatenate([polygon.exterior.coords for polygon in polygons(axes[0, 0])]).T
    assert left < x.min() < x.max() < right
    assert top < y.min() < y.max() < bottom  # as in an image


@pytest.mark.parametrize("lattice", ["square", "hex"])
@pytest.mark.parametrize("turn", [0.0, 0.3])
def test_subspots_tile_the_cells_of_their_spots(lattice, turn):
    adata = datasets.synthetic_section(30, lattice=lattice, n_genes=4).adata
    adata.obsm["spatial"] = adata.obsm["spatial"] @ [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
    enhanced = result(adata)
    [[spots, subspots]] = pl.compare(adata, enhanced, "region_1")
    assert len(polygons(subspots)) == enhanced.n_obs
    basis = enhanced.uns["soscope"]["geometry"]["basis"]
    cell = abs(np.linalg.det(basis))
    area = shapely.area(polygons(subspots))
    np.testing.assert_allclose(area.sum(), adata.n_obs * cell)
    np.testing.assert_allclose(shapely.union_all(polygons(subspots)).area, area.sum(), rtol=1e-6)
    # the spots leave no gaps, and are cells as well
    np.testing.assert_allclose(shapely.area(polygons(spots)), cell)


def test_subspots_show_no_seams():
    enhanced = result(datasets.synthetic_section(30, lattice="hex", n_genes=4).adata)
    enhanced.X[:] = 1
    figure, ax = plt.subplots(1, 2, figsize=(6.1, 3.3))
    pl.uncertainty(enhanced, "region_1", ax=[ax], alpha=0.5)
    figure.canvas.draw()
    middle = enhanced.obsm["spatial"].mean(axis=0)
    (x, y) = ax[0].transData.transform(middle).astype(int)
    pixels = np.asarray(figure.canvas.buffer_rgba())[::-1][y - 20 : y + 20, x - 20 : x + 20]
    assert (pixels == pixels[0, 0]).all()
    assert (pixels[0, 0, :3] < 255).any()


def test_spots_beside_tiles_are_tiles_and_circles_of_their_diameter_otherwise(small):
    adata, _, truth = small
    adata = adata.copy()
    adata.uns["spatial"]["synthetic"]["scalefactors"]["spot_diameter_fullres"] = 20.0
    np.testing.assert_allclose(np.ptp(corners(pl.compare(adata, truth, "region_1")[0, 0]), axis=0), 36)
    xy = pd.DataFrame(adata.obsm["spatial"], columns=["x", "y"])
    cells = result(adata, cells=xy)
    np.testing.assert_allclose(np.linalg.norm(corners(pl.compare(adata, cells, "region_1")[0, 0]), axis=1), 10)
    del adata.uns["spatial"]  # as wide as they are apart, which leaves no gaps
    np.testing.assert_allclose(np.ptp(corners(pl.compare(adata, cells, "region_1")[0, 0]), axis=0), 36)


@pytest.mark.parametrize(("lattice", "n_corners"), [("square", 4), ("hex", 6)])
@pytest.mark.parametrize("n_spots", [1, 2, 5])
def test_a_few_spots_are_tiles_as_well(lattice, n_corners, n_spots):
    adata = datasets.synthetic_section(40, lattice=lattice, n_genes=4).adata
    enhanced = result(adata)
    adata = adata[:n_spots]
    enhanced = enhanced[enhanced.obs["spot"].isin(adata.obs_names)]
    spots, subspots = (polygons(ax) for ax in pl.compare(adata, enhanced, "region_1")[0])
    assert [len(shapely.get_coordinates(tile)) for tile in spots] == [n_corners + 1] * n_spots
    assert shapely.area(spots).sum() == pytest.approx(shapely.area(subspots).sum())


@pytest.mark.parametrize("lattice", ["square", "hex"])
@pytest.mark.parametrize("off", [0.003, 0.02, 0.1, 0.17])
def test_tiles_close_where_spots_lie_off_their_lattice(lattice, off):
    adata = datasets.synthetic_section(100, lattice=lattice, n_genes=4).adata
    rng = np.random.default_rng(0)
    adata.obsm["spatial"] = adata.obsm["spatial"] + rng.uniform(-off, off, (adata.n_obs, 2)) * 36 / 2**0.5
    adata = adata[np.r_[:44, 45:100]].copy()  # where a spot is missing a gap remains
    enhanced = result(adata)
    for ax in pl.compare(adata, enhanced, "region_1")[0]:
        np.testing.assert_array_equal(
            drawn(ax).get_offsets(), (adata, enhanced)[ax is not ax.figure.axes[0]].obsm["spatial"]
        )
        tiles = polygons(ax)
        assert shapely.is_valid(tiles).all()
        area = shapely.area(tiles)
        tissue = shapely.union_all(tiles)
        assert area.sum() == pytest.approx(tissue.area, rel=0.08 if off < 0.01 else 1e-6)  # no overlaps
        holes = [shapely.Polygon(hole).area for part in shapely.get_parts(tissue) for hole in part.interiors]
        assert len(holes) == 1
        cell = abs(np.linalg.det(enhanced.uns["soscope"]["geometry"]["basis"]))
        assert 0.4 * cell < holes[0] < 1.3 * cell
        assert area.max() < 2 * np.median(area)
        assert tissue.area == pytest.approx(adata.n_obs * cell, rel=0.08)


def test_cells_are_circles():
    rng = np.random.default_rng(0)
    adata = datasets.synthetic_section(30, lattice="square", n_genes=4).adata
    xy = adata.obsm["spatial"]
    cells = pd.DataFrame(rng.uniform(xy.min(axis=0), xy.max(axis=0), (200, 2)), columns=["x", "y"])
    with pytest.warns(UserWarning, match="cell"):
        enhanced = result(adata, cells=cells)
    ax = pl.uncertainty(enhanced, "region_1")[0, 0]
    assert len(drawn(ax).get_offsets()) == enhanced.n_obs
    diameter = enhanced.uns["soscope"]["geometry"]["subspot_diameter"]
    np.testing.assert_allclose(np.linalg.norm(corners(ax), axis=1), diameter / 2)
    # true cells come without a division: they look like the enhanced ones
    truth = AnnData(
        enhanced.X, obs=enhanced.obs[["spot"]], var=enhanced.var, obsm={"spatial": enhanced.obsm["spatial"]}
    )
    row = pl.compare(adata, enhanced, "region_1", truth=truth)[0]
    np.testing.assert_array_equal(corners(row[2]), corners(row[1]))


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


def test_equal_values_have_equal_colours(small):
    adata, _, truth = small
    spots, subspots = adata.copy(), truth.copy()
    spots.X, subspots.X = np.full(adata.shape, 8.0), np.full(truth.shape, 2.0)
    spots.X[0] = 100
    axes = pl.compare(spots, subspots, "region_1")
    of_spots, of_subspots = colours(axes[0, 0]), colours(axes[0, 1])
    assert (of_subspots == of_spots[1]).all()
    assert (of_spots[0] != of_spots[1]).any()


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


def test_denoised_subspots_are_shown_and_conditional_ones_on_request(small):
    """A spot without counts is black in the conditional map only."""
    adata, _, truth = small
    enhanced = truth.copy()
    enhanced.X = truth.to_df().to_numpy().copy()
    enhanced.X[:4] = 0
    enhanced.layers["denoised"] = enhanced.X + 1.0
    for kwargs, title, values in (
        ({}, "denoised", enhanced.layers["denoised"]),
        ({"enhanced_layer": "denoised"}, "denoised", enhanced.layers["denoised"]),
        ({"enhanced_layer": None}, "enhanced", enhanced.X),
    ):
        [[_, subspots]] = pl.compare(adata, enhanced, GENES[0], **kwargs)
        assert subspots.get_title() == f"{GENES[0]}: {title}"
        gene = enhanced.var_names.get_loc(GENES[0])
        np.testing.assert_allclose(drawn(subspots).get_array(), 4 * values[:, gene])
        assert (drawn(subspots).get_array()[:4] == 0).all() == (title == "enhanced")
    del enhanced.layers["denoised"]
    assert pl.compare(adata, enhanced, GENES[0])[0, 1].get_title() == f"{GENES[0]}: enhanced"


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


@pytest.fixture(scope="module")
def two_sections(small):
    """Spots and subspots of two sections; the second is turned, has other profiles and another image."""
    second = small.adata.copy()
    second.obsm["spatial"] = second.obsm["spatial"] @ [[0.8, 0.6], [-0.6, 0.8]] + [200, 0]
    second.X = second.X * 10
    spots = ad.concat({"a": small.adata, "b": second}, label="library", index_unique="-")
    scales = {"tissue_hires_scalef": 0.5, "spot_diameter_fullres": 36.0}
    spots.uns["spatial"] = {
        name: {"images": {"hires": np.full((120, 200, 3), shade, np.uint8)}, "scalefactors": scales}
        for name, shade in (("a", 100), ("b", 200))
    }
    return spots, result(spots, library_key="library")


def test_sections_do_not_mix(two_sections):
    spots, enhanced = two_sections
    for name, shade in (("a", 100), ("b", 200)):
        axes = pl.compare(spots, enhanced, "region_1", library_key="library", library_id=name)
        for ax, section in zip(axes[0], two_sections, strict=True):
            of_it = section[section.obs["library"] == name]
            np.testing.assert_array_equal(drawn(ax).get_offsets(), of_it.obsm["spatial"])
            [image] = ax.get_images()
            assert (np.asarray(image.get_array()) == shade).all()
            assert image.get_extent() == pytest.approx([0, 400, 240, 0])
        alone = spots[spots.obs["library"] == name].copy()
        np.testing.assert_allclose(drawn(axes[0, 0]).get_array(), alone[:, "region_1"].X.toarray().ravel())
        both = polygons(axes[0, 1])  # the lattice is that of the section
        np.testing.assert_allclose(shapely.union_all(both).area, shapely.area(both).sum(), rtol=1e-6)
    one = pl.uncertainty(enhanced[enhanced.obs["library"] == "b"], "region_1", library_key="library")[0, 0]
    assert (np.asarray(one.get_images()[0].get_array()) == 200).all()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, r"Expected `library_key`.* found None with the sections \['a', 'b'\]"),
        ({"library_id": "a"}, "Expected `library_key`.* found None with `library_id` 'a'"),
        (
            {"library_key": "library"},
            r"`library_id` to be one of the sections \['a', 'b'\] in `adata\.obs\['library'\]`, found None",
        ),
        ({"library_key": "library", "library_id": "c"}, "found 'c'"),
        ({"library_key": "slide"}, "`library_key` to be a column of `adata.obs`, found 'slide'"),
    ],
)
def test_a_section_has_to_be_chosen(two_sections, kwargs, message):
    spots, enhanced = two_sections
    spots, enhanced = spots.copy(), enhanced.copy()
    for section in (spots, enhanced):
        section.obs["leiden"] = "0"
    for call in (
        lambda: pl.compare(spots, enhanced, "region_1", **kwargs),
        lambda: pl.uncertainty(enhanced, "region_1", **kwargs),
        lambda: pl.spatial_clusters(enhanced, **kwargs),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert not plt.get_fignums()


def test_the_image_below(small):
    adata, image, truth = small
    assert not pl.compare(adata, truth, "region_1")[0, 0].get_images()
    for kwargs, scale in (({"image": image}, 1), ({"image": image[::2, ::2], "image_scale": 0.5}, 1)):
        for ax in pl.compare(adata, truth, "region_1", **kwargs)[0]:
            [drawn_image] = ax.get_images()
            height, width = image.shape[:2]
            assert drawn_image.get_extent() == pytest.approx([0, width * scale, height * scale, 0], abs=2)
            assert drawn_image.get_zorder() < drawn(ax).get_zorder()
    # a crop lies where it was cut out
    crop = im.ImageSource(image[30:90, 50:150], "yxc", offset=(-50.0, -30.0))
    [drawn_image] = pl.compare(adata, truth, "region_1", image=crop)[0, 0].get_images()
    assert drawn_image.get_extent() == pytest.approx([50, 150, 90, 30])
    np.testing.assert_array_equal(drawn_image.get_array(), image[30:90, 50:150])


def test_the_image_within(small):
    adata, image, truth = small
    with_image = truth.copy()
    with_image.uns["spatial"]["synthetic"]["images"] = {"hires": image}
    assert pl.compare(adata, with_image, "region_1")[0, 0].get_images()
    assert not pl.compare(adata, with_image, "region_1", image=False)[0, 0].get_images()


def test_dicts_of_images(two_sections):
    spots, enhanced = two_sections
    images = {name: np.full((240, 400), shade, np.uint8) for name, shade in (("a", 1), ("b", 2))}
    options = {"library_key": "library", "library_id": "b"}
    axes = pl.compare(spots, enhanced, "region_1", image=images, **options)
    assert (np.asarray(axes[0, 0].get_images()[0].get_array()) == 2).all()
    with pytest.raises(ValueError, match="Expected an image of section 'b' in `image`, found only"):
        pl.compare(spots, enhanced, "region_1", image={"a": images["a"]}, **options)


def beside(axes) -> list:
    """Panels that are no maps and no colour bars."""
    maps_and_bars = {*axes.ravel(), *(drawn(ax).colorbar.ax for ax in axes.ravel() if drawn(ax).colorbar)}
    return [ax for ax in axes[0, 0].figure.axes if ax not in maps_and_bars]


def test_the_image_alone_comes_first(small):
    adata, image, truth = small
    axes = pl.compare(adata, truth, GENES, image=image)
    assert axes.shape == (2, 2)
    alone = beside(axes)
    assert [ax.get_title() for ax in alone] == ["image"] * 2
    axes[0, 0].figure.canvas.draw()
    for ax, row in zip(alone, axes, strict=True):
        assert not ax.collections
        assert ax.get_xlim() == row[0].get_xlim()
        assert ax.get_position().x1 < row[0].get_position().x0
        assert ax.get_images()[0].get_alpha() == 1
    assert not beside(pl.compare(adata, truth, GENES))
    assert not beside(pl.compare(adata, truth, GENES, image=image, ax=plt.subplots(2, 2)[1]))


@pytest.mark.parametrize(("alpha", "expected"), [(None, 0.6), (1.0, 1.0), (0.2, 0.2)])
def test_the_image_is_visible_below_the_maps(small, alpha, expected):
    adata, image, truth = small
    dark = np.zeros_like(image)
    shades = {}
    for name, below in (("white", dark + 255), ("black", dark)):
        ax = pl.compare(adata, truth, "region_1", image=below, image_alpha=1, alpha=alpha)[0, 1]
        ax.figure.canvas.draw()
        x, y = ax.transData.transform(truth.obsm["spatial"][50]).astype(int)
        shades[name] = np.asarray(ax.figure.canvas.buffer_rgba())[::-1][y, x, :3].astype(int)
        assert drawn(ax).colorbar.solids.get_alpha() == expected
    np.testing.assert_allclose(shades["white"] - shades["black"], 255 * (1 - expected), atol=3)
    assert drawn(pl.compare(adata, truth, "region_1")[0, 1]).colorbar.solids.get_alpha() == 1


def scale_bar(ax) -> tuple[float, str] | None:
    """Length in pixels, and label."""
    bars = [artist for artist in ax.artists if isinstance(artist, AnchoredSizeBar)]
    assert len(bars) < 2
    return (bars[0].size_bar.get_children()[0].get_width(), bars[0].txt_label.get_text()) if bars else None


@pytest.mark.parametrize(
    ("diameter", "microns", "of_image", "expected"),
    [
        (None, None, None, None),
        (36.0, None, None, None),
        (0.55 * 36, None, None, None),  # not what Space Ranger writes
        (0.65 * 36, None, None, 100 / 36),
        (0.7 * 36, None, None, 100 / 36),
        (0.6 * 36, None, None, 100 / 36),
        (0.65 * 36, 0.5, 3.0, 0.5),
        (36.0, None, 3.0, 3.0),
        (36.0, 20.0, None, 20.0),
    ],
)
def test_a_scale_bar_where_the_pixel_size_is_known(diameter, microns, of_image, expected):
    adata, image, _ = datasets.synthetic_section(60, n_genes=4)
    entry = {} if diameter is None else {"spot_diameter_fullres": diameter}
    entry |= {} if microns is None else {"microns_per_pixel": microns}
    adata.uns["spatial"] = {"synthetic": {"images": {}, "scalefactors": entry}}
    enhanced = result(adata)
    source = im.ImageSource(image, "yxc", microns=of_image)
    axes = pl.compare(adata, enhanced, "region_1", image=source)
    [first] = beside(axes)
    found = scale_bar(first)
    assert not any(scale_bar(ax) for ax in axes[0])
    if expected is None:
        assert found is None
        return
    length, unit = found[1].split()
    assert found[0] * expected == pytest.approx(float(length) * {"µm": 1, "mm": 1000}[unit])
    assert length.strip("0.") in ("1", "2", "5")
    width = first.get_xlim()[1] - first.get_xlim()[0]
    assert 0.08 * width < found[0] <= 0.25 * width
    # without an image it is in the first map
    if of_image is None:
        assert scale_bar(pl.compare(adata, enhanced, "region_1", image=False)[0, 0]) == found


def test_the_scale_bar_of_an_image_of_another_size(small):
    adata, image, truth = small
    source = im.ImageSource(image[::2, ::2], "yxc", scale=0.5, microns=4.0)
    [first] = beside(pl.compare(adata, truth, "region_1", image=source))
    length, label = scale_bar(first)
    assert length * 2 == pytest.approx(float(label.split()[0]))  # 2 um a pixel of full resolution


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_the_figure_is_saved(small, suffix, tmp_path):
    adata, _, truth = small
    pl.compare(adata, truth, GENES, save=str(tmp_path / f"maps.{suffix}"))
    assert (tmp_path / f"maps.{suffix}").stat().st_size > 1000


@pytest.mark.parametrize("suffix", ["pdf", "svg"])
def test_vector_files_stay_small(suffix, tmp_path):
    u, v = np.meshgrid(np.arange(60.0), np.arange(60.0))
    adata = AnnData(np.ones((3600, 1)), obsm={"spatial": np.column_stack([u.ravel(), v.ravel()]) * 30})
    enhanced = result(adata, n_subspots=9)
    assert enhanced.n_obs == 32_400
    pl.uncertainty(enhanced, enhanced.var_names[0], save=tmp_path / f"maps.{suffix}")
    assert (tmp_path / f"maps.{suffix}").stat().st_size < 400_000


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


def test_drawing_on_a_subfigure(small, tmp_path):
    adata, _, truth = small
    part, _ = plt.figure().subfigures(1, 2)
    pl.compare(adata, truth, "region_1", ax=part.subplots(1, 2, squeeze=False), save=tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize("shape", [(1, 2), (2, 3), (2,), ()])
def test_axes_of_another_shape(small, shape):
    adata, _, truth = small
    given = np.empty(shape, dtype=object)
    with pytest.raises(ValueError, match=r"`ax` to be 2 x 2 Axes, found shape \("):
        pl.compare(adata, truth, GENES, ax=given)
    with pytest.raises(ValueError, match=r"`ax` to be 2 x 2 Axes, found shape \("):
        pl.uncertainty(result(adata), GENES, ax=given)


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


def test_other_objects_and_options(small):
    adata, _, truth = small
    with pytest.raises(TypeError, match="Expected an AnnData, found str"):
        pl.compare(adata, "enhanced.h5ad", "region_1")
    with pytest.raises(ValueError, match=r"`enhanced.var_names` .* are not: region_2\. Did you mean region_1"):
        pl.compare(adata, truth[:, ["region_1"]], "region_2")
    with pytest.raises(ValueError, match="`aggregate` to be one of"):
        pl.compare(adata, truth, "region_1", aggregate="max")


@pytest.mark.parametrize(
    ("kwargs", "expected", "title"),
    [
        ({}, 2.5, "relative 90 % interval"),
        ({"measure": "std"}, 0.25, "relative std"),
        ({"relative": False}, None, "90 % interval"),
    ],
)
def test_uncertainty(small, kwargs, expected, title):
    enhanced = result(small.adata)
    axes = pl.uncertainty(enhanced, GENES, **kwargs)
    assert axes.shape == (2, 2)
    for row, gene in zip(axes, GENES, strict=True):
        x = enhanced[:, gene].X.ravel()
        np.testing.assert_allclose(drawn(row[0]).get_array(), x)
        spread = drawn(row[1]).get_array()
        assert row[1].get_title() == f"{gene}: {title}"
        unit = "fraction of the expectation" if kwargs.get("relative", True) else "per subspot"
        assert [drawn(panel).colorbar.ax.get_ylabel() for panel in row] == ["per subspot", unit]
        # where nothing is expected there is nothing to relate it to
        assert (np.ma.getmaskarray(spread) == ((x == 0) & (expected is not None))).all()
        np.testing.assert_allclose(spread[x > 0], 2.5 * x[x > 0] if expected is None else expected)


def test_uncertainty_leaves_out_what_the_draws_do_not_tell(small):
    enhanced = result(small.adata)
    enhanced.layers["q05"][:5] = enhanced.layers["q95"][:5] = 0
    spread = drawn(pl.uncertainty(enhanced, GENES[0])[0, 1]).get_array()
    assert np.ma.getmaskarray(spread)[:5].all()


def test_uncertainty_needs_draws(small):
    enhanced = result(small.adata)
    del enhanced.layers["q05"], enhanced.layers["q95"]
    with pytest.raises(
        ValueError, match=r"the layers \['q05', 'q95'\] of posterior samples.* found \['std'\].*n_samples=100"
    ):
        pl.uncertainty(enhanced, "region_1")
    with pytest.raises(ValueError, match="`measure` to be one of"):
        pl.uncertainty(enhanced, "region_1", measure="variance")


def test_alignment_needs_axes_for_each_section(small):
    alignment = im.check_alignment(small.adata, small.image)
    with pytest.raises(ValueError, match=r"`ax` to be 1 Axes, found shape \(2,\)"):
        pl.alignment(alignment, ax=plt.subplots(1, 2)[1])


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("folder", "name", "image", "kind"),
    [
        ("mouse_ob", "MOB1", "MOB1_HE.jpg", "square"),
        ("her2st", "C2", "C2_HE.jpg", "square"),
        ("embryo", "embryo", "colour_x5_from_lowres.jpg", "hex"),
    ],
)
def test_real_sections(folder, name, image, kind, data_dir):
    adata = ad.read_h5ad(data_dir / folder / f"{name}.h5ad")[:, :2].copy()
    enhanced = result(adata)
    [[spots, subspots]] = pl.compare(adata, enhanced, adata.var_names[0], image=data_dir / folder / image)
    # real spots lie off their lattice: tiles are extended, or cut where they would overlap
    assert enhanced.uns["soscope"]["geometry"]["geometry"] == kind
    for ax, section in ((spots, adata), (subspots, enhanced)):
        tiles = polygons(ax)
        assert shapely.within(shapely.points(section.obsm["spatial"]), tiles).all()
        assert shapely.union_all(tiles).area == pytest.approx(shapely.area(tiles).sum(), rel=1e-3)
    assert len(outlines(subspots)) == (folder == "embryo")  # Visium is recognised
    assert spots.get_images()[0].get_extent() == subspots.get_images()[0].get_extent()
    (left, right), (bottom, top) = subspots.get_xlim(), subspots.get_ylim()
    x0, x1, y1, y0 = subspots.get_images()[0].get_extent()
    assert x0 <= (left + right) / 2 <= x1
    assert y0 <= (top + bottom) / 2 <= y1

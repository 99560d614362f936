import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata as sd
from anndata import AnnData
from scipy.spatial import cKDTree
from shapely.geometry import box
from spatialdata.models import Image2DModel, Labels2DModel, ShapesModel, TableModel
from spatialdata.transformations import Affine, Identity, Scale, get_transformation, set_transformation

from soscope_scverse import datasets, im, pp, tl

QUICK = {"max_epochs": 2, "accelerator": "cpu", "train_kwargs": {"enable_progress_bar": False}}
HIRES = 0.5


def picture(image, **kwargs):
    return Image2DModel.parse(np.moveaxis(np.asarray(image), 2, 0), dims=("c", "y", "x"), **kwargs)


def visium(section, radius=10.0):
    """As `spatialdata_io.visium` makes it: names, instances, coordinate systems, transformations."""
    table = section.adata.copy()
    table.obs["spot_id"] = np.arange(table.n_obs)
    table.obs["region"] = pd.Categorical(["visium"] * table.n_obs)
    del table.uns["spatial"]
    circles = ShapesModel.parse(
        table.obsm["spatial"],
        geometry=0,
        radius=radius,
        index=table.obs["spot_id"].copy(),
        transformations={
            "visium": Identity(),
            "visium_downscaled_hires": Scale([HIRES, HIRES], axes=("y", "x")),
            "visium_downscaled_lowres": Scale([HIRES / 2, HIRES / 2], axes=("y", "x")),
        },
    )
    half = np.asarray(section.image)[: section.image.shape[0] // 4 * 4, : section.image.shape[1] // 4 * 4]
    shrunk = [half.reshape(half.shape[0] // n, n, -1, n, 3).mean(axis=(1, 3)).astype(np.uint8) for n in (2, 4)]
    return sd.SpatialData(
        images={
            "visium_full_image": picture(section.image, scale_factors=[2, 2], transformations={"visium": Identity()}),
            "visium_hires_image": picture(shrunk[0], transformations={"visium_downscaled_hires": Identity()}),
            "visium_lowres_image": picture(shrunk[1], transformations={"visium_downscaled_lowres": Identity()}),
        },
        shapes={"visium": circles},
        tables={"table": TableModel.parse(table, region="visium", region_key="region", instance_key="spot_id")},
    )


def centres(shapes):
    return np.column_stack([shapes.geometry.centroid.x, shapes.geometry.centroid.y])


@pytest.fixture
def sdata(section):
    return visium(section)


def test_visium_goes_in_and_comes_out(section, sdata):
    before = sd.deepcopy(sdata)
    expected = tl.enhance(section.adata, image=section.image, **QUICK)
    result = tl.enhance(sdata, image_key="visium_full_image", **QUICK)
    assert result is sdata
    table, shapes = sdata["enhanced"], sdata["enhanced_subspots"]
    np.testing.assert_allclose(table.X, expected.X, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(table.obsm["spatial"], expected.obsm["spatial"])

    # shapes: hexagons of the same size around the subspots, named and placed as these and the spots are
    assert shapes.index.tolist() == table.obs_names.tolist()
    np.testing.assert_allclose(centres(shapes), table.obsm["spatial"])
    assert (shapely.get_num_coordinates(shapes.geometry) == 7).all()
    np.testing.assert_allclose(shapes.area, shapes.area.iloc[0])
    assert shapes.union_all().area == pytest.approx(shapes.area.sum())  # no overlap
    assert get_transformation(shapes, get_all=True) == get_transformation(sdata["visium"], get_all=True)

    # the table annotates them
    matched = sd.match_table_to_element(sdata, "enhanced_subspots", table_name="enhanced")
    assert matched.obs_names.tolist() == table.obs_names.tolist()

    # the rest is as it was
    left = sdata.subset(list(before.tables) + list(before.shapes) + list(before.images))
    assert left.shapes.keys() == before.shapes.keys()
    for name, image in before.images.items():
        now, then = (sd.get_pyramid_levels(one, n=0) if "full" in name else one for one in (left.images[name], image))
        np.testing.assert_array_equal(now, then)
        assert get_transformation(left.images[name], get_all=True) == get_transformation(image, get_all=True)
    assert set(left["table"].obsm) == set(before["table"].obsm)
    assert set(left["table"].uns) == set(before["table"].uns)
    assert left["table"].obs.equals(before["table"].obs)
    assert left["visium"].equals(before["visium"])


def test_a_smaller_picture_is_found_through_its_coordinate_system(section, sdata):
    tl.enhance(sdata, image_key="visium_hires_image", **QUICK)
    pp.subspots(section.adata)
    hires = sdata["visium_hires_image"].to_numpy().transpose(1, 2, 0)
    im.features(section.adata, hires, image_scale=HIRES)
    expected = section.adata.obsm["subspot_features"].reshape(420, -1)
    np.testing.assert_allclose(sdata["enhanced"].obsm["image_features"], expected, rtol=1e-4, atol=1e-4)


def test_what_has_to_be_chosen_is_named(sdata):
    with pytest.raises(ValueError, match=r"visium_full_image.*visium_hires_image.*visium_lowres_image"):
        tl.enhance(sdata, **QUICK)
    with pytest.raises(ValueError, match=r"`image_key` to be one of .*visium_full_image.*found 'full'"):
        tl.enhance(sdata, image_key="full")
    with pytest.raises(ValueError, match=r"`table_key` to be one of \['table'\], found 'counts'"):
        tl.enhance(sdata, table_key="counts")
    with pytest.raises(ValueError, match=r"`shapes_key` to be one of \['visium'\], found 'cells'"):
        tl.enhance(sdata, shapes_key="cells")
    with pytest.raises(ValueError, match=r"`coordinate_system` to be one of .*visium_downscaled_hires.*'global'"):
        tl.enhance(sdata, coordinate_system="global")
    with pytest.raises(ValueError, match="'visium_hires_image' in a coordinate system of the spots"):
        tl.enhance(sdata, image_key="visium_hires_image", coordinate_system="visium")
    set_transformation(sdata["visium_hires_image"], Identity(), "visium")
    with pytest.raises(ValueError, match="Say which with `coordinate_system=`"):
        tl.enhance(sdata, image_key="visium_hires_image")
    with pytest.raises(ValueError, match=r"found \['shapes/visium'\]. Choose another `key_added`\."):
        tl.enhance(sdata, key_added="visium")
    with pytest.raises(ValueError, match="alphanumeric"):
        tl.enhance(sdata, key_added="a b")
    with pytest.raises(ValueError, match="`out` with AnnData only"):
        tl.enhance(sdata, out="a.zarr")
    with pytest.raises(TypeError, match="image_key"):
        tl.enhance(sdata["table"], image_key="visium_full_image")
    del sdata["table"].uns["spatialdata_attrs"]
    with pytest.raises(ValueError, match="annotates nothing"):
        tl.enhance(sdata)


@pytest.mark.parametrize("angle", [0.0, 0.5])
def test_squares_lie_in_their_bins_under_any_affine(angle):
    section = datasets.synthetic_section(49, lattice="square", n_genes=4)
    xy = section.adata.obsm["spatial"]
    pitch = np.diff(np.unique(xy[:, 0].round(6))).min()
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    place = Affine(np.vstack([np.column_stack([3 * turn, [40, -7]]), [0, 0, 1]]), ("x", "y"), ("x", "y"))
    # bins of Visium HD are polygons; the picture is in the coordinate system alone
    bins = gpd.GeoDataFrame(
        geometry=[box(x - pitch / 2, y - pitch / 2, x + pitch / 2, y + pitch / 2) for x, y in xy],
        index=np.arange(100, 149),
    )
    table = section.adata.copy()
    table.obs["location_id"], table.obs["region"] = bins.index.to_numpy(), pd.Categorical(["bins"] * 49)
    del table.obsm["spatial"]
    sdata = sd.SpatialData(
        images={"he": picture(section.image, transformations={"global": place})},
        shapes={"bins": ShapesModel.parse(bins, transformations={"global": place})},
        tables={
            "square_008um": TableModel.parse(table, region="bins", region_key="region", instance_key="location_id")
        },
    )
    tl.enhance(sdata, table_key="square_008um", n_subspots=4, **QUICK)
    inside = sd.transform(sdata["enhanced_subspots"], to_coordinate_system="global")
    around = sd.transform(sdata["bins"], to_coordinate_system="global")
    rows = section.adata.obs_names.get_indexer(sdata["enhanced"].obs["spot"])
    holder = around.geometry.iloc[rows].buffer(1e-6).to_numpy()
    assert shapely.contains(holder, inside.geometry.to_numpy()).all()
    assert inside.area.sum() == pytest.approx(around.area.sum())
    # the picture is seen as it is without transformations
    pp.subspots(section.adata, 4)
    im.features(section.adata, section.image)
    expected = section.adata.obsm["subspot_features"].reshape(196, -1)
    np.testing.assert_allclose(sdata["enhanced"].obsm["image_features"], expected, rtol=1e-3, atol=1e-3)


def test_a_turned_picture_is_seen_where_it_is(section, sdata):
    # the picture is mirrored at the diagonal and halved; its transformation puts it back
    pixels = np.asarray(section.image)
    turned = Affine(np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]]), ("x", "y"), ("x", "y"))
    sdata["turned"] = picture(pixels.transpose(1, 0, 2), transformations={"visium": turned})
    tl.enhance(sdata, image_key="turned", **QUICK)
    tl.enhance(sdata, image_key="visium_full_image", key_added="upright", **QUICK)
    a, b = (sdata[name].obsm["image_features"] for name in ("enhanced", "upright"))
    means = [i for i, name in enumerate(_feature_names(sdata)) if "mean" in name]
    assert means
    np.testing.assert_allclose(a[:, means], b[:, means], rtol=1e-3, atol=1e-3)
    # subspots lie nearest to their own spots
    for system in get_transformation(sdata["visium"], get_all=True):
        spots = sd.transform(sdata["visium"], to_coordinate_system=system)
        subspots = sd.transform(sdata["enhanced_subspots"], to_coordinate_system=system)
        nearest = cKDTree(centres(spots)).query(centres(subspots))[1]
        assert (section.adata.obs_names[nearest] == sdata["enhanced"].obs["spot"]).all()


def test_coordinates_may_be_negative(section, sdata):
    shift = Affine(np.array([[1.0, 0, -5000], [0, 1, -5000], [0, 0, 1]]), ("x", "y"), ("x", "y"))
    index, moved = sdata["visium"].index, section.adata.obsm["spatial"] - 5000
    sdata["visium"] = ShapesModel.parse(moved, geometry=0, radius=10.0, index=index)
    sdata["he"] = picture(section.image, transformations={"global": shift})
    tl.enhance(sdata, **QUICK)
    pp.subspots(section.adata)
    im.features(section.adata, section.image)
    expected = section.adata.obsm["subspot_features"].reshape(420, -1)
    np.testing.assert_allclose(sdata["enhanced"].obsm["image_features"], expected, rtol=1e-3, atol=1e-3)
    # the check of the alignment finds the same
    here = im.check_alignment(section.adata, section.image)
    section.adata.obsm["spatial"] -= 5000
    there = im.check_alignment(section.adata, sdata["he"])
    pd.testing.assert_frame_equal(there.table, here.table)


def _feature_names(sdata):
    return list(sdata["enhanced"].uns["soscope"]["encoder"]["feature_names"])


def test_cells_keep_their_shapes(section, sdata):
    rng = np.random.default_rng(0)
    xy = section.adata.obsm["spatial"].repeat(3, axis=0) + rng.uniform(-5, 5, (180, 2))
    # cells in micrometres, as Xenium has them: half a micrometre is a pixel
    cells = gpd.GeoDataFrame(
        geometry=shapely.buffer(shapely.points(xy / 2), 0.5), index=[f"cell{i}" for i in range(180)]
    )
    scale = {"visium": Scale([2, 2], axes=("x", "y"))}
    sdata["cell_boundaries"] = ShapesModel.parse(cells, transformations=scale)
    with pytest.raises(ValueError, match=r"`cells` to be one of \['visium', 'cell_boundaries'\]"):
        tl.enhance(sdata, sources="positions", cells="nuclei")
    tl.enhance(sdata, sources="positions", cells="cell_boundaries", **QUICK)
    shapes = sdata["enhanced_subspots"]
    assert set(shapes.index) == set(cells.index)
    np.testing.assert_allclose(shapes.area, cells.area.loc[shapes.index] * 4)
    np.testing.assert_allclose(centres(shapes), sdata["enhanced"].obsm["spatial"])
    assert set(get_transformation(shapes, get_all=True)) == set(get_transformation(sdata["visium"], get_all=True))

    table = pd.DataFrame(xy, columns=["x", "y"], index=cells.index)
    tl.enhance(sdata, sources="positions", cells=table, key_added="round", **QUICK)
    assert (sdata["round_subspots"]["radius"] > 0).all()


def test_spots_may_be_labels(section):
    xy = section.adata.obsm["spatial"]
    labels = np.zeros(section.image.shape[:2], int)
    for i, (x, y) in enumerate(xy.round().astype(int), start=1):
        labels[y - 3 : y + 3, x - 3 : x + 3] = i
    table = section.adata.copy()
    table.obs["cell_id"], table.obs["region"] = np.arange(1, 61), pd.Categorical(["spots"] * 60)
    sdata = sd.SpatialData(
        labels={"spots": Labels2DModel.parse(labels, transformations={"um": Scale([0.5, 0.5], axes=("x", "y"))})},
        tables={"table": TableModel.parse(table, region="spots", region_key="region", instance_key="cell_id")},
    )
    tl.enhance(sdata, sources="positions", **QUICK)
    spots = sdata["enhanced"].obsm["spatial"].reshape(60, 7, 2).mean(axis=1)
    assert np.abs(spots - xy).max() < 1


def test_a_part_of_a_table_can_be_enhanced(section, sdata):
    circles = sdata["visium"]
    sdata["other"] = circles.iloc[30:].copy()
    sdata["visium"] = circles.iloc[:30].copy()
    table = sdata["table"].copy()
    table.obs["region"] = pd.Categorical(["visium"] * 30 + ["other"] * 30)
    del table.uns["spatialdata_attrs"]
    sdata["table"] = TableModel.parse(table, region=["visium", "other"], region_key="region", instance_key="spot_id")
    with pytest.raises(ValueError, match=r"`shapes_key` to be one of \['visium', 'other'\], found None"):
        tl.enhance(sdata, sources="positions")
    tl.enhance(sdata, sources="positions", shapes_key="other", **QUICK)
    assert set(sdata["enhanced"].obs["spot"]) == set(section.adata.obs_names[30:])
    with pytest.raises(ValueError, match="annotates other shapes too"):
        pp.subspots(sdata, shapes_key="other")


def test_on_disk_both_elements_or_none(sdata, tmp_path, monkeypatch):
    options = {"image_key": "visium_lowres_image", **QUICK}
    sdata.write(tmp_path / "a.zarr")
    sdata = sd.read_zarr(tmp_path / "a.zarr")
    sdata, model = tl.enhance(sdata, return_model=True, **options)
    again = sd.read_zarr(tmp_path / "a.zarr")
    np.testing.assert_array_equal(again["enhanced"].X, sdata["enhanced"].X)
    assert again["enhanced"].obs.equals(sdata["enhanced"].obs)
    assert again["enhanced_subspots"].geometry.geom_equals(sdata["enhanced_subspots"].geometry).all()
    assert (
        get_transformation(again["enhanced_subspots"], get_all=True).keys()
        == get_transformation(sdata["visium"], get_all=True).keys()
    )
    assert again["enhanced"].uns["soscope"]["spatialdata"]["image_key"] == "visium_lowres_image"
    assert model.is_trained_

    with pytest.raises(ValueError, match="overwrite=True"):
        tl.enhance(again, **options)
    tl.enhance(again, overwrite=True, **{**options, "max_epochs": 3})
    third = sd.read_zarr(tmp_path / "a.zarr")
    np.testing.assert_array_equal(third["enhanced"].X, again["enhanced"].X)
    assert not np.array_equal(third["enhanced"].X, sdata["enhanced"].X)

    def full_disk(*args, **kwargs):
        raise OSError("disk is full")

    monkeypatch.setattr("spatialdata._io.io_table.write_adata", full_disk)
    with pytest.raises(OSError, match="disk is full"):
        tl.enhance(third, key_added="second", **options)
    monkeypatch.undo()
    for left in (third, sd.read_zarr(tmp_path / "a.zarr")):
        assert not {"second", "second_subspots"} & {name for _, name, _ in left.gen_elements()}
    tl.enhance(third, key_added="second", **options)
    assert "second" in sd.read_zarr(tmp_path / "a.zarr").tables


def test_steps_write_to_the_table(section, sdata):
    pp.subspots(sdata)
    im.features(sdata, image_key="visium_full_image")
    expected = pp.subspots(section.adata, copy=True)
    im.features(expected, section.image)
    for slot in ("subspots", "subspot_features"):
        np.testing.assert_allclose(sdata["table"].obsm[slot], expected.obsm[slot], rtol=1e-3, atol=1e-3)
    assert "spatialdata_attrs" in sdata["table"].uns
    # what is done already is not done again, so no picture has to be chosen
    tl.enhance(sdata, **QUICK)
    assert "encoder" in sdata["enhanced"].uns["soscope"]
    with pytest.raises(ValueError, match="`copy=False` with SpatialData"):
        pp.subspots(sdata, copy=True)


def test_anndata_becomes_spatialdata(section, tmp_path):
    enhanced = tl.enhance(section.adata, image=section.image, **QUICK)
    before = enhanced.copy()
    sdata = tl.to_spatialdata(enhanced[5:], section.image)
    assert list(enhanced.obs) == list(before.obs)
    np.testing.assert_array_equal(sdata["enhanced_image"].to_numpy(), np.moveaxis(np.asarray(section.image), 2, 0))
    assert (shapely.get_num_coordinates(sdata["enhanced_subspots"].geometry) == 7).all()
    sdata.write(tmp_path / "b.zarr")
    assert sd.read_zarr(tmp_path / "b.zarr")["enhanced"].n_obs == 415

    # the small picture within is taken where none is given, and lies over the subspots
    small = tl.to_spatialdata(enhanced, key_added="fine")
    extent = sd.get_extent(small["fine_image"])
    assert extent["x"][1] == pytest.approx(section.image.shape[1], rel=0.05)
    with pytest.raises(TypeError, match="Expected an AnnData"):
        tl.to_spatialdata(small)


def test_outlines_need_no_more_than_positions():
    rng = np.random.default_rng(0)
    adata = AnnData(np.ones((20, 2), np.float32), obsm={"spatial": rng.uniform(0, 100, (20, 2))})
    assert (tl.to_spatialdata(adata)["enhanced_subspots"]["radius"] > 0).all()


@pytest.mark.realdata
@pytest.mark.slow
def test_embryo_as_visium(data_dir, tmp_path):
    import anndata as ad

    folder = data_dir / "embryo"
    adata = ad.read_h5ad(next(folder.glob("*.h5ad")))
    pixels = im.open_image(next(p for p in folder.iterdir() if p.suffix in (".png", ".jpg", ".tif")))
    image = pixels.read(0, pixels.height, 0, pixels.width)
    sdata = visium(datasets.SyntheticSection(adata, image, adata), radius=5.9)
    genes = adata.var_names[np.argsort(-np.asarray(adata.X.sum(axis=0)).ravel())[:5]].tolist()
    tl.enhance(sdata, image_key="visium_full_image", genes=genes, **QUICK)
    sdata.write(tmp_path / "embryo.zarr")
    again = sd.read_zarr(tmp_path / "embryo.zarr")
    np.testing.assert_array_equal(again["enhanced"].X, sdata["enhanced"].X)
    assert again["enhanced"].n_obs == 7 * adata.n_obs
    nearest = cKDTree(adata.obsm["spatial"]).query(centres(again["enhanced_subspots"]))[1]
    assert (adata.obs_names[nearest] == again["enhanced"].obs["spot"]).mean() > 0.999

import signal
import subprocess
import sys

import anndata as ad
import geopandas as gpd
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata as sd
import tifffile
from anndata import AnnData
from scipy.spatial import cKDTree
from shapely.geometry import box
from spatialdata.models import Image2DModel, Labels2DModel, ShapesModel, TableModel
from spatialdata.transformations import Affine, Identity, Scale, get_transformation, set_transformation

from soscope_scverse import SoScope, bench, datasets, im, pp, tl

QUICK = {"max_epochs": 2, "accelerator": "cpu", "train_kwargs": {"enable_progress_bar": False}}


def image(image, **kwargs):
    return Image2DModel.parse(np.moveaxis(np.asarray(image), 2, 0), dims=("c", "y", "x"), **kwargs)


def centres(shapes):
    return np.column_stack([shapes.geometry.centroid.x, shapes.geometry.centroid.y])


@pytest.fixture
def sdata(section, as_visium):
    return as_visium(section)


def test_visium_goes_in_and_comes_out(section, sdata):
    before = sd.deepcopy(sdata)
    expected = tl.enhance(section.adata, image=section.image, capture=None, **QUICK)
    result = tl.enhance(sdata, image_key="visium_full_image", capture=None, **QUICK)
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


def test_a_table_of_any_name_is_found_beside_results(sdata):
    sdata.tables["counts"] = sdata.tables.pop("table")
    first = tl.enhance(sdata, image_key="visium_full_image", **QUICK)["enhanced"].copy()
    again = tl.enhance(sdata, image_key="visium_full_image", overwrite=True, **QUICK)["enhanced"]
    np.testing.assert_array_equal(again.X, first.X)
    sdata.tables["other"] = sdata.tables["counts"].copy()
    with pytest.raises(ValueError, match=r"`table_key` to be one of \[.*'counts'.*'other'.*\], found 'table'"):
        tl.enhance(sdata, image_key="visium_full_image", overwrite=True, **QUICK)


def test_images_in_other_coordinate_systems_are_named(sdata, caplog):
    for name in sdata.images:
        set_transformation(sdata[name], {"slide": Identity()}, set_all=True)
    with caplog.at_level("WARNING", logger="soscope_scverse"), pytest.warns(UserWarning, match="No image given"):
        tl.enhance(sdata, **QUICK)
    assert "is in a coordinate system of the spots 'visium': none is used" in caplog.text


def test_the_circles_of_visium_are_recognised(section, sdata):
    """Their radius is half of `spot_diameter_fullres`, not of the 55 um that a spot captures."""
    pp.subspots(sdata)
    assert sdata["table"].uns["subspots"]["capture"] == pytest.approx(0.55 * 36, rel=0.01)
    assert sdata["table"].obsm["subspot_measured"].mean() == pytest.approx(0.274, abs=0.01)


def test_a_smaller_image_is_found_through_its_coordinate_system(section, sdata):
    tl.enhance(sdata, image_key="visium_hires_image", **QUICK)
    pp.subspots(section.adata)
    hires = sdata["visium_hires_image"].to_numpy().transpose(1, 2, 0)
    im.features(section.adata, hires, image_scale=0.5)
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
        tl.enhance(sdata, image_key="visium_hires_image", coordinate_system="visium_downscaled_lowres")
    set_transformation(sdata["visium_hires_image"], Identity(), "visium")
    with pytest.raises(ValueError, match="Choose one with `coordinate_system=`"):
        tl.enhance(sdata, image_key="visium_hires_image")
    with pytest.raises(ValueError, match=r"found \['shapes/visium'\]. Choose another `key_added`\."):
        tl.enhance(sdata, key_added="visium")
    with pytest.raises(ValueError, match=r"`key_added` to be the name of an element .*'a b': .*alphanumeric"):
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
    # bins of Visium HD are polygons; the image is in the coordinate system alone
    bins = gpd.GeoDataFrame(
        geometry=[box(x - pitch / 2, y - pitch / 2, x + pitch / 2, y + pitch / 2) for x, y in xy],
        index=np.arange(100, 149),
    )
    table = section.adata.copy()
    table.obs["location_id"], table.obs["region"] = bins.index.to_numpy(), pd.Categorical(["bins"] * 49)
    del table.obsm["spatial"]
    sdata = sd.SpatialData(
        images={"he": image(section.image, transformations={"global": place})},
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
    # the image is seen as it is without transformations
    pp.subspots(section.adata, 4)
    im.features(section.adata, section.image)
    expected = section.adata.obsm["subspot_features"].reshape(196, -1)
    np.testing.assert_allclose(sdata["enhanced"].obsm["image_features"], expected, rtol=1e-3, atol=1e-3)


def test_a_turned_image_is_seen_where_it_is(section, sdata):
    # the image is mirrored at the diagonal and halved; its transformation puts it back
    pixels = np.asarray(section.image)
    turned = Affine(np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]]), ("x", "y"), ("x", "y"))
    sdata["turned"] = image(pixels.transpose(1, 0, 2), transformations={"visium": turned})
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
    sdata["he"] = image(section.image, transformations={"global": shift})
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


@pytest.fixture
def nuclei(section):
    """Label mask of a square of pixels around each subspot, half as wide as the image: two coordinates are a pixel."""
    mask = np.zeros([side // 2 for side in section.image.shape[:2]], np.uint16)
    for label, (x, y) in enumerate(section.truth.obsm["spatial"] / 2, start=1):
        mask[max(0, int(y) - 1) : int(y) + 2, max(0, int(x) - 1) : int(x) + 2] = label
    return mask


@pytest.mark.parametrize("scale_factors", [None, [2]])
def test_cells_may_be_labels(sdata, nuclei, scale_factors):
    """By name or as the element, with their transformation; the result has their outlines."""
    scale = {"visium": Scale([2, 2], axes=("x", "y"))}
    sdata["nuclei"] = labels = Labels2DModel.parse(
        nuclei, dims=("y", "x"), transformations=scale, scale_factors=scale_factors
    )
    with pytest.raises(ValueError, match=r"`cells` to be one of \['visium', 'nuclei'\], found 'cells'"):
        pp.subspots(sdata, cells="cells")
    pp.subspots(sdata, cells=labels)
    names = np.asarray(sdata["table"].obsm["subspot_names"])
    pp.subspots(sdata, cells="nuclei")
    np.testing.assert_array_equal(names, sdata["table"].obsm["subspot_names"])
    del sdata["table"].obsm["subspots"]
    tl.enhance(sdata, sources="positions", cells="nuclei", **QUICK)
    shapes = sdata["enhanced_subspots"]
    size = np.bincount(nuclei.ravel())
    np.testing.assert_allclose(shapes.area, 4 * size[shapes.index.astype(int)])
    row, column = np.nonzero(nuclei)
    for axis, at in enumerate((column, row)):
        mean = np.bincount(nuclei[row, column], 2 * at + 1.0) / np.maximum(size, 1)
        np.testing.assert_allclose(sdata["enhanced"].obsm["spatial"][:, axis], mean[shapes.index.astype(int)])
    assert len(shapes) > 300


def test_masks_over_spatialdata(section, sdata, nuclei, tmp_path):
    """Arrays and files are in the coordinates of the spots, as tables are."""
    mask = np.kron(nuclei, np.ones((2, 2), np.uint16))
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, mask)
    expected = pp.subspots(section.adata, cells=mask, copy=True)
    for cells in (mask, path, str(path)):
        pp.subspots(sdata, cells=cells)
        np.testing.assert_array_equal(sdata["table"].obsm["subspot_names"], expected.obsm["subspot_names"])
    with pytest.raises(FileNotFoundError, match=r"found none at 'nowhere.tif'"):
        tl.enhance(sdata, sources="positions", cells="nowhere.tif")


def test_labels_of_several_sections_have_the_same_numbers(two):
    sections, sdata = two
    for name, section in sections.items():
        mask = np.zeros(section.image.shape[:2], int)
        for label, (x, y) in enumerate(section.truth.obsm["spatial"].astype(int), start=1):
            mask[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = label
        sdata[f"labels_{name}"] = Labels2DModel.parse(mask, dims=("y", "x"), transformations={name: Identity()})
    pp.subspots(sdata, cells={"a": "labels_a", "b": "labels_b"})
    names = sdata["table"].obsm["subspot_names"]
    for name in sections:
        own = names[(sdata["table"].obs["region"] == name).to_numpy()]
        assert all(cell.endswith(f"-{name}") for cell in own[own != ""])
        assert (own != "").sum() > 300


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


@pytest.fixture
def two(as_visium):
    """Two sections as one reads them one by one and puts them together; they lie over each other."""
    sections = {name: datasets.synthetic_section(50, n_genes=6, seed=i) for i, name in enumerate(("a", "b"))}
    parts = {name: as_visium(section, name=name) for name, section in sections.items()}
    for name, part in parts.items():
        part["table"].obs_names = [f"{spot}_{name}" for spot in part["table"].obs_names]
    return sections, sd.concatenate(list(parts.values()), concatenate_tables=True)


def test_all_elements_of_a_table_are_sections(two, tmp_path):
    sections, sdata = two
    adata = ad.concat(
        {name: section.adata for name, section in sections.items()},
        label="region",
        index_unique="_",
        uns_merge="unique",
    )
    images = {name: section.image for name, section in sections.items()}
    options = {"model_kwargs": {"image_strength": 1}, **QUICK}
    expected = tl.enhance(adata, image=images, library_key="region", **options)
    sdata.write(tmp_path / "two.zarr")
    tl.enhance(sdata, image_key={name: f"{name}_full_image" for name in images}, **options)
    sdata = sd.read_zarr(tmp_path / "two.zarr")
    table = sdata["enhanced"]
    np.testing.assert_allclose(table.X, expected.X, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(table.obsm["spatial"], expected.obsm["spatial"])
    names = [f"enhanced_{name}_subspots" for name in expected.obs["region"]]
    assert table.obs["region"].tolist() == names
    assert table.uns["spatialdata_attrs"]["region"] == sorted(set(names))
    for name, section in sections.items():
        shapes = sdata[f"enhanced_{name}_subspots"]
        assert get_transformation(shapes, get_all=True).keys() == get_transformation(sdata[name], get_all=True).keys()
        rows = (expected.obs["region"] == name).to_numpy()
        assert shapes.index.tolist() == table.obs_names[rows].tolist()
        np.testing.assert_allclose(centres(shapes), expected.obsm["spatial"][rows])
        assert shapes.union_all().area == pytest.approx(shapes.area.sum())
        assert len(shapes) == 7 * section.adata.n_obs

    with pytest.raises(ValueError, match=r"`image_key` by the elements of the table \['a', 'b'\], found \['a'\]"):
        tl.enhance(sdata, image_key={"a": "a_full_image"}, key_added="again")
    with pytest.raises(ValueError, match="`library_key` to be 'region'"):
        tl.enhance(sdata, sources="positions", library_key="slide", key_added="again")
    with pytest.raises(ValueError, match="'shapes/enhanced_a_subspots'"):
        tl.enhance(sdata, sources="positions")


def test_cells_of_several_sections(two):
    sections, sdata = two
    for name, section in sections.items():
        circles = shapely.buffer(shapely.points(section.truth.obsm["spatial"]), 2)
        cells = gpd.GeoDataFrame(geometry=circles, index=[f"{name}{i}" for i in range(len(circles))])
        sdata[f"cells_{name}"] = ShapesModel.parse(cells, transformations={name: Identity()})
    tl.enhance(sdata, sources="positions", cells={"a": "cells_a", "b": "cells_b"}, **QUICK)
    for name in sections:
        shapes = sdata[f"enhanced_{name}_subspots"]
        assert shapes.geometry.geom_equals(sdata[f"cells_{name}"].geometry.loc[shapes.index]).all()
        assert len(shapes) > 300


def test_a_part_of_a_table_can_be_enhanced(two):
    sections, sdata = two
    tl.enhance(sdata, shapes_key="b", image_key="b_full_image", **QUICK)
    assert set(sdata["enhanced"].obs["spot"]) == {f"{name}_b" for name in sections["b"].adata.obs_names}
    assert set(sdata["enhanced"].obs["region"]) == {"enhanced_subspots"}
    with pytest.raises(ValueError, match=r"`shapes_key` to be one of \['a', 'b'\], found 'c'"):
        tl.enhance(sdata, sources="positions", shapes_key="c")
    with pytest.raises(ValueError, match="all that the table 'table' annotates"):
        pp.subspots(sdata, shapes_key="b")
    with pytest.raises(ValueError, match=r"`shapes_key` to be one of \['a', 'b'\], found None"):
        bench.simulate_low_resolution(sdata)


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

    # a write that fails leaves the store and the object as they were, without leftovers
    monkeypatch.setattr("spatialdata._io.io_table.write_adata", full_disk)
    for key in ("second", "enhanced"):
        with pytest.raises(OSError, match="disk is full"):
            tl.enhance(third, key_added=key, overwrite=True, **options)
    monkeypatch.undo()
    for left in (third, sd.read_zarr(tmp_path / "a.zarr")):
        assert not {"second", "second_subspots"} & {name for _, name, _ in left.gen_elements()}
        np.testing.assert_array_equal(left["enhanced"].X, again["enhanced"].X)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]
    tl.enhance(third, key_added="second", **options)
    assert "second" in sd.read_zarr(tmp_path / "a.zarr").tables


KILLED = """
import os, pathlib, signal, sys
import spatialdata as sd
from soscope_scverse import tl

def kill(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def rename(path, target):  # the last one moves the table in
    kill() if path.parent.name == "tables" and "new" in path.parts else os.rename(path, target)

for moment in ("writing", "moving"):  # a process for each, forked, since imports take longer than the rest
    process = os.fork()
    if process == 0:
        if moment == "writing":
            from spatialdata._io import io_table
            io_table.write_adata = kill
        else:
            pathlib.Path.rename = rename
        sdata = sd.read_zarr(pathlib.Path(sys.argv[1], f"{moment}.zarr"))
        options = {"accelerator": "cpu", "max_epochs": 1, "train_kwargs": {"enable_progress_bar": False}}
        tl.enhance(sdata, sources="positions", n_subspots=19, overwrite=True, **options)
        os._exit(0)
    print(moment, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def killed(_section, as_visium, tmp_path_factory):
    """A result, and the stores of it that killed processes left that were to write another one over it."""
    folder = tmp_path_factory.mktemp("killed")
    for moment in ("writing", "moving"):
        as_visium(_section).write(folder / f"{moment}.zarr")
        sdata = tl.enhance(sd.read_zarr(folder / f"{moment}.zarr"), sources="positions", **QUICK)
    command = [sys.executable, "-W", "ignore", "-c", KILLED, folder]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    expected = [f"{moment} {-signal.SIGKILL}" for moment in ("writing", "moving")]
    assert ended.stdout.splitlines() == expected, ended.stderr
    return sdata, folder


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["writing", "moving"])
def test_a_killed_process_leaves_a_store_that_reads(killed, moment):
    sdata, folder = killed
    store = folder / f"{moment}.zarr"
    left = sd.read_zarr(store)
    assert left["table"].n_obs == 60
    assert left["visium"].equals(sdata["visium"])
    if moment == "writing":
        np.testing.assert_array_equal(left["enhanced"].X, sdata["enhanced"].X)
        assert left["enhanced_subspots"].equals(sdata["enhanced_subspots"])
    else:
        assert "enhanced" not in left.tables
    tl.enhance(left, sources="positions", overwrite=True, **QUICK)
    np.testing.assert_array_equal(sd.read_zarr(store)["enhanced"].X, sdata["enhanced"].X)


@pytest.mark.filterwarnings("ignore:SpatialData is not stored in the most current format:UserWarning")
def test_stores_of_zarr_2_stay_so(sdata, tmp_path):
    from spatialdata._io.format import SpatialDataContainerFormatV01

    store = tmp_path / "old.zarr"
    sdata.write(store, sdata_formats=SpatialDataContainerFormatV01())
    for _ in range(2):
        tl.enhance(sd.read_zarr(store), sources="positions", overwrite=True, **QUICK)
    left = sd.read_zarr(store)
    assert left["enhanced"].n_obs == len(left["enhanced_subspots"]) == 420
    assert (store / "tables" / "enhanced" / ".zgroup").exists()
    assert (store / ".zmetadata").exists()


def test_steps_write_to_the_table(section, sdata):
    del sdata["table"].obsm["spatial"]
    pp.subspots(sdata)
    pp.spot_graph(sdata)
    im.features(sdata, image_key="visium_full_image")
    expected = section.adata
    pp.subspots(expected)
    pp.spot_graph(expected)
    im.features(expected, section.image)
    table = sdata["table"]
    for slot in ("spatial", "subspots", "subspot_features"):
        np.testing.assert_allclose(table.obsm[slot], expected.obsm[slot], rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(table.obsp["spot_graph"].toarray(), expected.obsp["spot_graph"].toarray())
    assert "spatialdata_attrs" in table.uns
    assert "spatial" not in table.uns
    with pytest.raises(ValueError, match="`copy=False` with SpatialData"):
        pp.subspots(sdata, copy=True)

    SoScope.setup_spatialdata(sdata)
    model = SoScope(table)
    model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    assert model.get_enhanced().n_obs == 420
    # what is done already is not done again, so no image has to be chosen
    tl.enhance(sdata, **QUICK)
    assert "encoder" in sdata["enhanced"].uns["soscope"]
    at = pd.DataFrame(expected.obsm["spatial"][:5], columns=["x", "y"])
    np.testing.assert_allclose(
        im.features_at(sdata, at, image_key="visium_full_image"),
        im.features_at(expected, at, section.image),
        rtol=1e-3,
        atol=1e-3,
    )


def test_steps_know_the_sections(two):
    sections, sdata = two
    pp.subspots(sdata)
    pp.spot_graph(sdata)
    im.features(sdata, image_key={name: f"{name}_full_image" for name in sections})
    table = sdata["table"]
    for name, section in sections.items():
        alone, rows = section.adata, (table.obs["region"] == name).to_numpy()
        alone.uns["spatial"] = {name: {"scalefactors": {"spot_diameter_fullres": 20.0}}}
        pp.subspots(alone)
        pp.spot_graph(alone)
        im.features(alone, section.image)
        np.testing.assert_allclose(table.obsm["subspots"][rows], alone.obsm["subspots"])
        np.testing.assert_allclose(table.obsm["subspot_features"][rows], alone.obsm["subspot_features"], atol=1e-3)
        graph = table.obsp["spot_graph"]
        np.testing.assert_allclose(graph[rows][:, rows].toarray(), alone.obsp["spot_graph"].toarray())
        assert graph[rows][:, ~rows].nnz == 0
    SoScope.setup_spatialdata(sdata)
    assert SoScope(table).registry["setup_args"]["library_key"] == "region"


def test_what_is_deleted_is_deleted_in_the_table(section, sdata):
    cells = pd.DataFrame(section.truth.obsm["spatial"], columns=["x", "y"])
    pp.subspots(sdata, cells=cells, capture=None)
    pp.subspots(sdata, cells=cells.iloc[::2], capture=None)
    expected = pp.subspots(section.adata, cells=cells.iloc[::2], capture=None, copy=True)
    pd.testing.assert_series_equal(sdata["table"].obs["relative_cell_number"], expected.obs["relative_cell_number"])
    pp.subspots(sdata)
    assert "subspot_names" not in sdata["table"].obsm
    assert "relative_cell_number" not in sdata["table"].obs


def test_what_asks_of_the_spots_takes_spatialdata(section, sdata):
    assert pp.spatial_genes(sdata, 3) == pp.spatial_genes(section.adata, 3)
    here = im.check_alignment(section.adata, section.image)
    there = im.check_alignment(sdata, image_key="visium_full_image")
    given = (slice(None), "as given")
    np.testing.assert_allclose(there.table.loc[given, "on_tissue"], here.table.loc[given, "on_tissue"])

    # the task is in the coordinates of the spots, and so is the image
    low, truth = bench.simulate_low_resolution(sdata)
    expected = bench.simulate_low_resolution(section.adata)
    np.testing.assert_array_equal(low.X.toarray(), expected.adata.X.toarray())
    np.testing.assert_allclose(truth.obsm["spatial"], expected.truth.obsm["spatial"])
    shift = Affine(np.array([[1.0, 0, 30], [0, 1, -20], [0, 0, 1]]), ("x", "y"), ("x", "y"))
    for element in (sdata["visium"], sdata["visium_full_image"]):
        set_transformation(element, shift, "moved")
    source = im.open_image(sdata, image_key="visium_full_image", coordinate_system="moved")
    np.testing.assert_allclose(source.matrix, np.eye(3), atol=1e-9)
    table = bench.compare(low, truth, source, methods=["repeat", "image_linear"], progress=False)
    assert set(table["method"]) == {"repeat", "image_linear"}
    with pytest.raises(ValueError, match="no `scale` with SpatialData"):
        im.open_image(sdata, image_key="visium_full_image", scale=1.0)


@pytest.mark.parametrize("size", ["full", "hires"])
def test_spatialdata_plot_draws_the_table_over_the_image(sdata, size):
    pytest.importorskip("spatialdata_plot")
    tl.enhance(sdata, sources="positions", **QUICK)
    gene = sdata["enhanced"].var_names[0]
    _, ax = plt.subplots()
    images = sdata.pl.render_images(f"visium_{size}_image")
    shapes = images.pl.render_shapes("enhanced_subspots", color=gene, table_name="enhanced", method="matplotlib")
    system = {"full": "visium", "hires": "visium_downscaled_hires"}[size]
    shapes.pl.show(coordinate_systems=system, ax=ax)
    (drawn,) = (patches for patches in ax.collections if len(patches.get_paths()) == 420)
    green = drawn.get_facecolors()[:, 1]  # of viridis grows with the value
    assert np.corrcoef(green, sdata["enhanced"].to_df()[gene])[0, 1] > 0.98
    middle = [path.vertices[:6].mean(axis=0) for path in drawn.get_paths()]
    scale = {"full": 1, "hires": 0.5}[size]
    np.testing.assert_allclose(middle, scale * sdata["enhanced"].obsm["spatial"], atol=1e-6)
    extent = sd.get_extent(sdata[f"visium_{size}_image"], coordinate_system=system)
    shown = ax.images[0].get_extent()
    np.testing.assert_allclose(sorted(shown), sorted([*extent["x"], *extent["y"]]), atol=0.5)
    plt.close(ax.figure)


def test_anndata_becomes_spatialdata(section, tmp_path):
    enhanced = tl.enhance(section.adata, image=section.image, **QUICK)
    before = enhanced.copy()
    sdata = tl.to_spatialdata(enhanced[5:], section.image)
    assert list(enhanced.obs) == list(before.obs)
    np.testing.assert_array_equal(sdata["enhanced_image"].to_numpy(), np.moveaxis(np.asarray(section.image), 2, 0))
    assert (shapely.get_num_coordinates(sdata["enhanced_subspots"].geometry) == 7).all()
    sdata.write(tmp_path / "b.zarr")
    assert sd.read_zarr(tmp_path / "b.zarr")["enhanced"].n_obs == 415

    # the small image within is taken where none is given, and lies over the subspots
    small = tl.to_spatialdata(enhanced, key_added="fine")
    extent = sd.get_extent(small["fine_image"])
    assert extent["x"][1] == pytest.approx(section.image.shape[1], rel=0.05)
    with pytest.raises(TypeError, match="Expected an AnnData"):
        tl.to_spatialdata(small)


def test_a_table_of_a_spatialdata_becomes_one_of_its_own(section):
    enhanced = tl.enhance(section.adata, image=section.image, **QUICK)
    first = tl.to_spatialdata(enhanced)
    again = tl.to_spatialdata(first["enhanced"], key_added="again")
    assert again["again"].uns["spatialdata_attrs"]["region"] == ["again_subspots"]
    assert first["enhanced"].uns["spatialdata_attrs"]["region"] == ["enhanced_subspots"]


def test_outlines_need_no_more_than_positions():
    rng = np.random.default_rng(0)
    adata = AnnData(np.ones((20, 2), np.float32), obsm={"spatial": rng.uniform(0, 100, (20, 2))})
    assert (tl.to_spatialdata(adata)["enhanced_subspots"]["radius"] > 0).all()


def test_a_result_is_given_the_outlines_of_its_cells():
    mask = np.zeros((40, 40), int)
    mask[5:9, 5:7], mask[20:22, 30:39], mask[30:, :3] = 1, 2, 3
    adata = AnnData(np.ones((2, 1)), obs=pd.DataFrame(index=["2", "1"]))
    adata.obsm["spatial"] = np.array([[34.5, 21], [6, 7]])
    shapes = tl.to_spatialdata(adata, cells=mask)["enhanced_subspots"]
    assert shapes.area.to_dict() == {"2": 18, "1": 8}
    adata.obs_names = ["2", "7"]
    with pytest.raises(ValueError, match=r"outlines of all subspots in `cells`, found 1 of 2 without .first: '7'"):
        tl.to_spatialdata(adata, cells=mask)


@pytest.mark.realdata
@pytest.mark.slow
def test_embryo_as_visium(as_visium, data_dir, tmp_path):
    folder = data_dir / "embryo"
    adata = ad.read_h5ad(next(folder.glob("*.h5ad")))
    pixels = im.open_image(next(p for p in folder.iterdir() if p.suffix in (".png", ".jpg", ".tif")))
    image = pixels.read(0, pixels.height, 0, pixels.width)
    sdata = as_visium(datasets.SyntheticSection(adata, image, adata), radius=5.9)
    genes = adata.var_names[np.argsort(-np.asarray(adata.X.sum(axis=0)).ravel())[:5]].tolist()
    tl.enhance(sdata, image_key="visium_full_image", genes=genes, **QUICK)
    sdata.write(tmp_path / "embryo.zarr")
    again = sd.read_zarr(tmp_path / "embryo.zarr")
    np.testing.assert_array_equal(again["enhanced"].X, sdata["enhanced"].X)
    assert again["enhanced"].n_obs == 7 * adata.n_obs
    nearest = cKDTree(adata.obsm["spatial"]).query(centres(again["enhanced_subspots"]))[1]
    assert (adata.obs_names[nearest] == again["enhanced"].obs["spot"]).mean() > 0.999

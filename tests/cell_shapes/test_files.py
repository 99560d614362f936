"""Files of cells: QuPath, Space Ranger, masks, and what is wrong with others."""

import json
import os
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile

from soscope_scverse._cell_shapes.reading import read_cells

LABELS = np.zeros((40, 50), np.uint16)
LABELS[3:9, 5:10], LABELS[20:, 30:] = 7, 300


def square(x, width=4):
    corners = [[x, 0], [x + width, 0], [x + width, width], [x, width], [x, 0]]
    return {"type": "Polygon", "coordinates": [corners]}


def feature(x, geometry=None, *, name=None, **properties):
    named = {} if name is None else {"id": name}
    return {"type": "Feature", **named, "geometry": geometry or square(x), "properties": properties}


def of_qupath(x, name, kind="cell"):
    made = feature(x, name=name, objectType=kind, classification={"name": "Tumor", "color": [1, 2, 3]})
    made["properties"]["measurements"] = {"Nucleus: Area": 1.5, "Cell: Mean": float("nan")}
    return made | ({"nucleusGeometry": square(x + 1, 2)} if kind == "cell" else {})


def collection(*features):
    return {"type": "FeatureCollection", "features": list(features)}


def written(tmp_path, content, name="cells.geojson"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


UUIDS = [f"26b95b92-4e88-468c-bf38-6179e49e86b{i}" for i in range(3)]
QUPATH = [of_qupath(10 * i, name) for i, name in enumerate(UUIDS)]
OLD = [feature(0, name="PathCellObject"), feature(9, name="PathCellObject")]


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (collection(*QUPATH), UUIDS),
        (QUPATH, UUIDS),
        ("\ufeff \n" + json.dumps(QUPATH), UUIDS),
        (collection(*OLD), ["0", "1"]),
        (OLD, ["0", "1"]),
        (collection(feature(0, cell_id=3), feature(9, cell_id=1)), ["3", "1"]),
        (collection(feature(0, cell_id="aaab-1", id="x"), feature(9, cell_id="aaac-1", id="x")), ["aaab-1", "aaac-1"]),
        (collection(feature(0, name=7), feature(9, name=3)), ["7", "3"]),
        (collection(feature(0, name="a"), feature(9, name="b")), ["a", "b"]),
        (collection(feature(0), feature(9)), ["0", "1"]),
        (feature(0, name="alone"), ["alone"]),
    ],
)
@pytest.mark.parametrize("suffix", [".geojson", ".json", ".GeoJSON"])
def test_geojson(tmp_path, content, names, suffix):
    path = written(tmp_path, content, f"cells{suffix}")
    for given in (path, str(path)):
        cells = read_cells(given)
        assert cells.index.astype(str).tolist() == names
        assert (cells.area == 16).all()
        assert cells.crs is None


@pytest.mark.parametrize(
    ("others", "found"),
    [
        ([of_qupath(0, "t", "annotation"), of_qupath(0, "u", "tile")], "2 of 5 objects .*'annotation', .*'tile'"),
        ([of_qupath(0, "n", "detection")], "1 of 4 objects .* 1 of type 'detection'"),
        ([feature(0, {"type": "Point", "coordinates": [0, 0]}, name="p", objectType="annotation")], "1 of 4 objects"),
    ],
)
def test_of_qupath_only_cells_are_cells(tmp_path, others, found):
    """Annotations hold cells, detections among cells are parts of them, points mark the image."""
    with pytest.warns(UserWarning, match=found):
        assert read_cells(written(tmp_path, [*others, *QUPATH])).index.tolist() == UUIDS
    nuclei = [of_qupath(10 * i, name, "detection") for i, name in enumerate(UUIDS)]
    assert read_cells(written(tmp_path, nuclei)).index.tolist() == UUIDS


def test_old_objects_of_qupath_have_their_kind_as_id(tmp_path):
    path = written(tmp_path, [*OLD, feature(0, square(0, 900), name="PathAnnotationObject")])
    with pytest.warns(UserWarning, match="1 of 3 objects .* 1 of type 'annotation'"):
        assert (read_cells(path).area == 16).all()


@pytest.mark.parametrize("suffix", [".gpkg", ".shp", ".parquet", ".geoparquet"])
@pytest.mark.parametrize("column", ["cell_id", "id"])
def test_other_outlines(tmp_path, suffix, column):
    shapes = gpd.GeoDataFrame(
        {column: ["x", "y"], "section": ["a", "b"]}, geometry=[shapely.box(0, 0, 1, 2), shapely.box(5, 0, 6, 3)]
    )
    path = tmp_path / f"cells{suffix}"
    _write(shapes, path)
    cells = read_cells(path, "section")
    assert cells.index.tolist() == ["x", "y"]
    assert cells.area.tolist() == [2, 3]
    assert cells["section"].tolist() == ["a", "b"]


def _write(shapes, path):
    shapes.to_parquet(path) if "parquet" in path.suffix else shapes.set_crs(3857).to_file(path)


def test_an_index_is_kept(tmp_path):
    shapes = gpd.GeoDataFrame({"id": [1, 1]}, geometry=[shapely.box(0, 0, 1, 2)] * 2, index=["x", "y"])
    shapes.to_parquet(tmp_path / "cells.parquet")
    assert read_cells(tmp_path / "cells.parquet").index.tolist() == ["x", "y"]


def test_circles(tmp_path):
    circles = gpd.GeoDataFrame({"radius": [1.0, 2.0]}, geometry=gpd.points_from_xy([0, 9], [0, 9]), index=["x", "y"])
    circles.to_parquet(tmp_path / "cells.parquet")
    assert read_cells(tmp_path / "cells.parquet")["radius"].tolist() == [1, 2]


TIFFS = {
    "plain": {},
    "compressed": {"compression": "zlib"},
    "tiles": {"tile": (16, 16), "compression": "zlib"},
    "big": {"bigtiff": True, "byteorder": ">"},
    "ome": {"ome": True},
}


@pytest.mark.parametrize("kind", TIFFS)
@pytest.mark.parametrize("suffix", [".tif", ".tiff"])
def test_tiff(tmp_path, kind, suffix):
    path = tmp_path / f"mask{suffix}"
    tifffile.imwrite(path, LABELS, **TIFFS[kind])
    _assert_labels(read_cells(path))


def test_pyramid_of_ome_tiff(tmp_path):
    path = tmp_path / "mask.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(LABELS[None, None, None], subifds=1, tile=(16, 16), metadata={"axes": "TCZYX"})
        file.write(LABELS[::2, ::2], subfiletype=1, tile=(16, 16))
    _assert_labels(read_cells(path))


def test_npy(tmp_path):
    np.save(tmp_path / "mask.npy", LABELS)
    _assert_labels(read_cells(tmp_path / "mask.npy"))


def _assert_labels(cells):
    assert cells.area.to_dict() == {"7": 30, "300": 400}
    assert cells.loc["7"].geometry.bounds == (5, 3, 10, 9)


def test_csv(tmp_path):
    table = pd.DataFrame({"x": [1.0, 2.0], "y": [3.0, 4.0]}, index=["a", "b"])
    table.to_csv(tmp_path / "cells.csv")
    pd.testing.assert_frame_equal(read_cells(tmp_path / "cells.csv"), table)


def test_other_paths(tmp_path):
    path = written(tmp_path, QUPATH)

    class Elsewhere(os.PathLike):
        def __fspath__(self):
            return str(path)

    assert len(read_cells(Elsewhere())) == 3


LINE = {"type": "LineString", "coordinates": [[0, 0], [1, 1]]}
POINT = {"type": "Point", "coordinates": [0, 0]}
UNCLOSED = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [2, 2]]]}
BAD_GEOJSON = {
    "no feature": (collection(), "polygons of cells .* found no feature"),
    "empty list": ([], "found no feature"),
    "points": (collection(feature(0, POINT), feature(0, POINT)), "polygons of cells .* found 2 Point"),
    "null": (collection({**feature(0), "geometry": None}), "found 1 without geometry"),
    "annotations": ([of_qupath(0, "a", "annotation")], "found 1 of type 'annotation'"),
    "some names": (collection(feature(0, cell_id=1), feature(5)), "a 'cell_id' for every cell .* 1 of 2 without"),
    "no name": (collection(feature(0, cell_id=""), feature(5, cell_id="a")), "1 of 2 without"),
    "repeated": (collection(feature(0, name=7), feature(5, name=7)), "unique ids of cells"),
    "unclosed": (collection(feature(0, UNCLOSED)), "cannot be read: .*closed linestring"),
    "other JSON": ({"a": 1}, "to be GeoJSON, .* but it cannot be read"),
    "text": ("hello", "but it cannot be read"),
    "nothing": ("", "but it cannot be read"),
    "truncated": (json.dumps(collection(*QUPATH))[:-80], "but it cannot be read"),
    "truncated list": (json.dumps(QUPATH)[:-80], "but it cannot be read"),
}


@pytest.mark.parametrize("case", BAD_GEOJSON)
@pytest.mark.filterwarnings("ignore:Non closed ring:RuntimeWarning")
def test_geojson_without_cells(tmp_path, case):
    content, message = BAD_GEOJSON[case]
    with pytest.raises(ValueError, match=message) as error:
        read_cells(written(tmp_path, content))
    assert "cells.geojson" in str(error.value)


@pytest.mark.parametrize("other", [LINE, POINT, None])
def test_what_has_no_area_is_ignored(tmp_path, other):
    content = collection(*QUPATH, {**of_qupath(0, "line"), "geometry": other})
    with pytest.warns(UserWarning, match="1 of 4 features .* have no polygon and are ignored"):
        assert read_cells(written(tmp_path, content)).index.tolist() == UUIDS


def _objects(path):
    np.save(path, {"masks": LABELS}, allow_pickle=True)


BAD_FILES = {
    "objects.npy": (_objects, "one array without Python objects .of Cellpose"),
    "text.npy": (lambda path: path.write_text("hello"), "but it cannot be read"),
    "float.npy": (lambda path: np.save(path, LABELS / 2), "integers in .*float.npy, found an array of float64"),
    "negative.npy": (lambda path: np.save(path, -LABELS.astype(int)), "at least 0 in .*negative.npy, found -300"),
    "text.tif": (lambda path: path.write_text("hello"), "text.tif to be a TIFF file, but it cannot be read"),
    "planes.tif": (lambda path: tifffile.imwrite(path, np.stack([LABELS] * 2)), "height x width .* Select one plane"),
    "rgb.tif": (lambda path: tifffile.imwrite(path, np.zeros((9, 9, 3), "u1"), photometric="rgb"), "height x width"),
    "float.tif": (lambda path: tifffile.imwrite(path, LABELS.astype("f4")), "array of float32"),
    "black.tif": (lambda path: tifffile.imwrite(path, LABELS * 0), "black.tif, found background .0. alone"),
    "plain.parquet": (lambda path: pd.DataFrame({"a": [1]}).to_parquet(path), "GeoParquet .* cannot be read"),
    "text.gpkg": (lambda path: path.write_text("hello"), "cannot be read"),
    "empty.csv": (lambda path: path.write_text(""), "a CSV table .* cannot be read"),
    "cells.xlsx": (lambda path: path.write_text(""), "file that ends in .csv, .npy"),
    "cells": (lambda path: path.write_text(""), "file that ends in .csv, .npy"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_that_cannot_be_read(tmp_path, name):
    make, message = BAD_FILES[name]
    make(tmp_path / name)
    with pytest.raises((ValueError, TypeError), match=message):
        read_cells(tmp_path / name)


def test_a_truncated_mask(tmp_path):
    path = tmp_path / "mask.tif"
    labels = np.random.default_rng(0).integers(0, 9, (300, 300), dtype=np.uint16)
    tifffile.imwrite(path, labels, compression="zlib")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"mask.tif to be a whole mask, found rows from 0 that cannot be read"):
        read_cells(path)


@pytest.mark.parametrize("name", ["nowhere.tif", Path("nowhere.geojson"), "folder.tif"])
def test_files_that_are_not_there(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("folder.tif").mkdir()
    with pytest.raises(FileNotFoundError, match="`cells` to be a file, found none at"):
        read_cells(name)

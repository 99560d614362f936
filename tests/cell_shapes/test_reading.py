"""Cells of every kind: what is taken, repaired and refused."""

import anndata as ad
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import xarray as xr
from scipy.sparse import csr_matrix
from spatialdata.models import Labels2DModel
from spatialdata.transformations import Affine, Scale

from soscope_scverse._cell_shapes.reading import read_cells

LABELS = np.zeros((20, 30), int)
LABELS[2:6, 3:9], LABELS[10:, 20:] = 4, 9
BOW = shapely.Polygon([(0, 0), (4, 4), (4, 0), (0, 4)])
FLAT = shapely.Polygon([(0, 0), (1, 1), (2, 2)])


def shapes(*geometries, **options):
    return gpd.GeoDataFrame(geometry=list(geometries), index=[f"c{i}" for i in range(len(geometries))], **options)


def test_tables_are_returned_as_they_are():
    table = pd.DataFrame({"x": [1], "y": [2]})
    adata = ad.AnnData(np.ones((2, 1)))
    outlines = shapes(shapely.box(0, 0, 1, 1), shapely.box(2, 0, 3, 1))
    circles = shapes(shapely.Point(0, 0)).assign(radius=2.0)
    for cells in (table, adata, outlines, circles):
        assert read_cells(cells) is cells


@pytest.mark.parametrize("crs", [4326, 3857])
def test_a_reference_system_is_dropped(crs):
    """As geopandas gives one to all GeoJSON, and warns of areas in degrees."""
    cells = read_cells(shapes(shapely.box(0, 0, 1, 1), crs=crs))
    assert cells.crs is None
    assert cells.geometry.centroid.x.tolist() == [0.5]


def test_a_series_of_outlines():
    assert read_cells(shapes(shapely.box(0, 0, 1, 2)).geometry).area.to_dict() == {"c0": 2}


def test_outlines_that_cross_themselves_are_repaired():
    inner = shapely.Polygon([(0, 0), (6, 0), (6, 6), (0, 6)], [[(1, 1), (8, 1), (1, 3)]])
    given = shapes(BOW, shapely.box(0, 0, 2, 2), inner)
    with pytest.warns(UserWarning, match=r"2 of 3 cells .first: 'c0'. have outlines that are not valid"):
        cells = read_cells(given)
    assert cells.is_valid.all()
    assert cells.area[:2].tolist() == [8, 4]
    assert not given.is_valid.all()


def test_collections_keep_what_has_an_area():
    with pytest.warns(UserWarning, match="1 of 1 cells"):
        cells = read_cells(shapes(shapely.GeometryCollection([shapely.box(0, 0, 2, 2), shapely.Point(9, 9)])))
    assert cells.geom_type.tolist() == ["Polygon"]
    assert cells.area.tolist() == [4]


def test_cells_without_an_area_are_ignored():
    with pytest.warns(UserWarning, match=r"1 of 2 cells .first: 'c0'. have no area and are ignored"):
        assert read_cells(shapes(FLAT, shapely.box(0, 0, 2, 2))).index.tolist() == ["c1"]
    with pytest.raises(ValueError, match="found none among 2"), pytest.warns(UserWarning, match="2 of 2 cells"):
        read_cells(shapes(FLAT, FLAT))


def test_heights_are_dropped():
    cells = read_cells(shapes(shapely.Polygon([(0, 0, 5), (1, 0, 5), (1, 1, 5)])))
    assert not cells.has_z.any()
    assert cells.area.tolist() == [0.5]


@pytest.mark.parametrize("dims", [("y", "x"), ("row", "column")])
def test_arrays_with_dimensions(dims):
    expected = read_cells(LABELS)
    assert read_cells(xr.DataArray(LABELS, dims=dims)).geometry.geom_equals(expected.geometry).all()
    turned = xr.DataArray(LABELS.T, dims=("x", "y"))
    assert read_cells(turned).geometry.geom_equals(expected.geometry).all()
    layered = xr.DataArray(LABELS[:, :, None, None], dims=("y", "x", "z", "channels"))  # of squidpy
    assert read_cells(layered).geometry.geom_equals(expected.geometry).all()


@pytest.mark.parametrize("scale_factors", [None, [2]])
def test_labels_of_spatialdata(scale_factors):
    """Placed in "global", as images are, from their full resolution."""
    matrix = np.array([[0, 2, 5], [3, 0, -1], [0, 0, 1]])
    for transformations, area in (
        ({"elsewhere": Scale([3, 3], axes=("x", "y"))}, 1),
        ({"global": Affine(matrix, ("x", "y"), ("x", "y"))}, 6),
    ):
        labels = Labels2DModel.parse(
            LABELS, dims=("y", "x"), transformations=transformations, scale_factors=scale_factors
        )
        cells = read_cells(labels)
        assert cells.area.to_dict() == {"4": 24 * area, "9": 100 * area}
    assert cells.loc["4"].geometry.bounds == (2 * 2 + 5, 3 * 3 - 1, 2 * 6 + 5, 3 * 9 - 1)


def test_a_dict_by_section():
    cells = read_cells({"a": LABELS, "b": shapes(shapely.box(0, 0, 1, 1))}, "section", ["a", "b"])
    assert cells["section"].to_dict() == {"4": "a", "9": "a", "c0": "b"}
    cells = read_cells({"a": LABELS, 2: LABELS}, "section", ["a", "2"])  # names would repeat
    assert cells["section"].to_dict() == {"4-a": "a", "9-a": "a", "4-2": "2", "9-2": "2"}
    tables = {name: pd.DataFrame({"x": [1.0], "y": [2.0]}, index=[name]) for name in "ab"}
    assert read_cells(tables, "section", "ab")["section"].tolist() == ["a", "b"]
    with pytest.raises(ValueError, match=r"`cells` by the sections \['a', 'b'\] of 'section', found \['a'\]"):
        read_cells({"a": LABELS}, "section", ["a", "b"])
    with pytest.raises(TypeError, match=r"for all sections, found \['DataFrame', 'outlines'\]"):
        read_cells({"a": LABELS, "b": tables["b"]}, "section", ["a", "b"])


@pytest.mark.parametrize(
    ("cells", "error", "message"),
    [
        (5, TypeError, "`cells` to be an AnnData, .* found int"),
        ([[1, 2]], TypeError, "found list"),
        (csr_matrix(LABELS), TypeError, "found csr_matrix"),
        (shapely.box(0, 0, 1, 1), TypeError, "found Polygon"),
        ({"a": LABELS}, TypeError, "found dict. With `library_key`"),
        (xr.DataArray(LABELS[None], dims=("c", "y", "x")).isel(c=[0, 0]), ValueError, "height x width"),
        (xr.DataArray(LABELS / 2, dims=("y", "x")), TypeError, "integers"),
        (shapes(shapely.LineString([(0, 0), (1, 1)])), ValueError, "found 1 of 1 others .1 LineString"),
        (shapes(shapely.Point(0, 0), shapely.box(0, 0, 1, 1)), ValueError, "found 1 of 2 others .1 Point"),
        (shapes(shapely.MultiPoint([(0, 0), (1, 1)])), ValueError, "1 MultiPoint"),
    ],
)
def test_other_things_are_no_cells(cells, error, message):
    with pytest.raises(error, match=message):
        read_cells(cells)

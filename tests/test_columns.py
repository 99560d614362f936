"""What columns of tables mean: positions by names, marks by values."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattices import hexagonal, spots, square
from soscope_scverse import SoScope, _read, pp
from soscope_scverse._columns import marks, xy_columns

NAMED = [  # x first
    ("x", "y"),
    ("X", "Y"),
    ("pxl_col_in_fullres", "pxl_row_in_fullres"),
    ("imagecol", "imagerow"),
    ("imageCol", "imageRow"),
    ("x_centroid", "y_centroid"),
    ("xcoord", "ycoord"),
    ("CenterX_global_px", "CenterY_global_px"),
    ("Centroid X µm", "Centroid Y µm"),
    ("x [px]", "y [px]"),
    ("center_x", "center_y"),
    ("pos.x", "pos.y"),
    ("col", "row"),
    ("spatial1", "spatial2"),
    (0, 1),
]
BESIDE = ["in_tissue", "array_row", "array_col", "barcode", "area", "cluster"]
DTYPES = ["float64", "float32", "int64", "int32", "uint16", "object", "Float64", "Int64"]


@given(
    st.sampled_from(NAMED),
    st.permutations(["x", "y", *BESIDE]),
    st.sampled_from(DTYPES),
    st.booleans(),
    st.sampled_from(["F", "C"]),
)
def test_positions_of_any_order_and_dtype_are_read_by_their_names(named, order, dtype, alone, layout):
    xy = np.asarray(square(5, 7)[0] + [3, 100], order=layout)
    columns = {"x": (named[0], xy[:, 0]), "y": (named[1], xy[:, 1])}
    numbered = named[0] in (0, "spatial1")  # two columns alone
    table = {
        **{name: np.full(len(xy), "a") for name in order if name in BESIDE and not (alone or numbered)},
        **{columns[axis][0]: columns[axis][1] for axis in order if axis in columns},
    }
    adata = spots(xy)
    frame = pd.DataFrame(table, index=adata.obs_names)
    ordered = sorted(frame, key=lambda name: order.index("xy"[named.index(name)] if name in named else name))
    frame = frame[ordered].astype(dict.fromkeys(named, dtype))
    adata.obsm["spatial"] = frame
    np.testing.assert_array_equal(_read.positions(adata), xy)
    np.testing.assert_array_equal(_read.xy(frame), xy)


@given(st.sampled_from(DTYPES[:5]), st.sampled_from("FC"), st.booleans())
def test_positions_of_an_array_keep_their_order(dtype, layout, big_endian):
    xy = np.asarray(square(4, 6)[0], order=layout).astype(dtype)
    adata = spots(xy)
    adata.obsm["spatial"] = xy.astype(xy.dtype.newbyteorder(">")) if big_endian else xy
    found = _read.positions(adata)
    assert found.dtype == float
    np.testing.assert_array_equal(found, xy)


REFUSED_COLUMNS = {
    "unknown names": (["a", "b"], r"found \['a', 'b'\]"),
    "array indices": (["array_row", "array_col"], "indices are no positions"),
    "three axes": (["x", "y", "z"], r"flat: keep \['x', 'y'\]"),
    "several pairs": (["x", "y", "pixel_x", "pixel_y"], r"\['x', 'y'\] and \['pixel_x', 'pixel_y'\]"),
    "one axis twice": (["x", "X", "y"], r"\['x', 'y'\] and \['X', 'y'\]"),
    "one axis": (["x", "area"], "columns 'x' and 'y'"),
    "numbers apart": (["pc1", "pc3"], "columns 'x' and 'y'"),
}


@pytest.mark.parametrize("case", REFUSED_COLUMNS)
def test_columns_that_may_be_anything_are_refused(case):
    names, message = REFUSED_COLUMNS[case]
    adata = spots(square()[0])
    adata.obsm["spatial"] = pd.DataFrame(1.0, index=adata.obs_names, columns=names)
    with pytest.raises(ValueError, match=message):
        pp.subspots(adata)


def test_positions_beside_array_indices_of_the_same_kind():
    table = pd.DataFrame(columns=["tissue", "row", "col", "imagerow", "imagecol"])  # of Seurat
    assert xy_columns(table, "positions") == ["imagecol", "imagerow"]


def test_a_model_reads_positions_by_their_names(prepared):
    plain = prepared.copy()
    xy = prepared.obsm["spatial"]
    prepared.obsm["spatial"] = pd.DataFrame({"imagerow": xy[:, 1], "imagecol": xy[:, 0]}, index=prepared.obs_names)
    sections = []
    for adata in (plain, prepared):
        SoScope.setup_anndata(adata)
        sections.append(SoScope(adata)._inputs.section())
    np.testing.assert_array_equal(sections[0].spatial, sections[1].spatial)


def test_messages_point_at_positions():
    adata = spots(hexagonal()[0])
    adata.obsm["spatial"] = np.column_stack([adata.obsm["spatial"], np.zeros(adata.n_obs)])
    with pytest.raises(ValueError, match=r"found shape \(90, 3\).*\[:, :2\]"):
        pp.subspots(adata)
    xy = adata.obsm.pop("spatial")
    adata.obsm["spatial_fullres"] = xy[:, :2]
    with pytest.raises(ValueError, match=r"obsm\['spatial_fullres'\]` may hold them"):
        pp.subspots(adata)
    adata.obs["pxl_row_in_fullres"], adata.obs["pxl_col_in_fullres"] = xy[:, 1], xy[:, 0]
    with pytest.raises(ValueError, match=r"adata.obs\[\['pxl_col_in_fullres', 'pxl_row_in_fullres'\]\]"):
        pp.subspots(adata)


MARKED = {
    "booleans": [True, False, True],
    "missing booleans": [True, None, True],
    "nullable": pd.array([True, pd.NA, True], dtype="boolean"),
    "words": ["True", "nan", "TRUE"],
    "categories": pd.Categorical(["true", "false", "true"]),
    "numbers": [1.0, np.nan, 1.0],
    "integers": [1, 0, 1],
    "numbers as words": ["1", "0", "1.0"],
}


@pytest.mark.parametrize("case", MARKED)
def test_marks_of_genes(case):
    adata = spots(square()[0], x=np.ones((90, 3)))
    adata.var["highly_variable"] = MARKED[case]
    assert _read.highly_variable(adata) == ["0", "2"]
    found = marks(adata.var["highly_variable"])
    assert found[[0, 2]].tolist() == [1, 1]
    assert found[1] != 1


@pytest.mark.parametrize("column", [["a", "b", "c"], [2, 1, 0], [0.5, 0, 1], ["yes", "no", "yes"]])
def test_marks_that_are_none(column):
    adata = spots(square()[0], x=np.ones((90, 3)))
    adata.var["highly_variable"] = column
    assert marks(column) is None
    with pytest.raises(TypeError, match="to be booleans, found"):
        _read.highly_variable(adata)

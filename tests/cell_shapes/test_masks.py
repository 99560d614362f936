"""Outlines of the cells of label masks: exact along the edges of pixels, however a mask is stored."""

import dask.array as da
import numpy as np
import pytest
import shapely
import zarr

from soscope_scverse._cell_shapes import masks
from soscope_scverse._cell_shapes.masks import mask_outlines

HOLES = np.zeros((12, 14), int)
HOLES[1:9, 2:10] = 1
HOLES[3:7, 4:8] = 0
HOLES[4, 5] = 1  # an island of the same cell in its hole
HOLES[10, 0] = HOLES[11, 1] = 2  # pixels that touch in a corner
HOLES[10, 1] = HOLES[11, 0] = 3
HOLES[0, 12:] = HOLES[11, 12:] = 40  # two pieces at the borders


def random_masks():
    rng = np.random.default_rng(0)
    for n_labels in (1, 2, 5):
        for shape in ((1, 1), (7, 1), (1, 9), (13, 17), (30, 30)):
            mask = rng.integers(0, n_labels + 1, shape)
            mask.flat[0] = n_labels
            yield mask


def assert_exact(outlines, mask):
    """All pixels of a label lie in its outline, whose area is their number."""
    labels = outlines.index.astype(np.uint64).to_numpy()
    np.testing.assert_array_equal(labels, np.setdiff1d(mask, [0]))
    assert outlines.index.map(type).unique().tolist() == [str]
    assert outlines.is_valid.all()
    assert outlines.geom_type.isin(["Polygon", "MultiPolygon"]).all()
    np.testing.assert_array_equal(outlines.area, [(mask == label).sum() for label in labels])
    row, column = np.nonzero(mask)
    pixels = shapely.box(column, row, column + 1, row + 1)
    assert shapely.covers(outlines.geometry.loc[mask[row, column].astype(str)].to_numpy(), pixels).all()


@pytest.mark.parametrize("strip", [1, 20, 2**24])
def test_outlines_follow_the_pixels(monkeypatch, strip):
    monkeypatch.setattr(masks, "_STRIP", strip)
    assert_exact(mask_outlines(HOLES), HOLES)
    for mask in random_masks():
        assert_exact(mask_outlines(mask), mask)


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", ">i4", "i8", "u8"])
def test_all_integers_are_labels(dtype):
    mask = HOLES.astype(dtype)
    mask[mask == 3] = largest = np.iinfo(mask.dtype).max
    assert str(largest) in mask_outlines(mask).index
    assert_exact(mask_outlines(mask), mask)


def test_a_corner_has_as_few_points_as_it_needs():
    square = mask_outlines(np.ones((50, 70), int)).geometry.iloc[0]
    assert shapely.get_num_coordinates(square) == 5
    assert square.bounds == (0, 0, 70, 50)


def test_arrays_are_read_in_strips_of_their_chunks(monkeypatch, tmp_path):
    read = []

    class Watched:
        shape, dtype, chunks = HOLES.shape, HOLES.dtype, (4, 14)

        def __getitem__(self, window):
            read.append((window.start, window.stop))
            return HOLES[window]

    monkeypatch.setattr(masks, "_STRIP", 4 * 14)
    assert_exact(mask_outlines(Watched()), HOLES)
    assert read == [(0, 4), (4, 8), (8, 12)]
    stored = zarr.create_array(tmp_path / "mask.zarr", data=HOLES, chunks=(5, 3))
    for mask in (da.from_array(HOLES, chunks=(5, 3)), stored):
        assert_exact(mask_outlines(mask), HOLES)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (HOLES.astype(float), TypeError, "array of float64 of shape .12, 14.. Convert it with"),
        (HOLES > 0, TypeError, r"array of bool .* Number its cells: `skimage.measure.label"),
        (HOLES.astype(complex), TypeError, "label mask of integers"),
        (
            HOLES[None],
            ValueError,
            r"height x width in `cells`, found an array of shape \(1, 12, 14\). Select one plane",
        ),
        (HOLES[0], ValueError, r"height x width in `cells`, found an array of shape \(14,\)"),
        (HOLES[:0], ValueError, r"found an array of shape \(0, 14\)"),
        (HOLES - 1, ValueError, "labels of at least 0 in `cells`, found -1"),
        (HOLES * 0, ValueError, "found background .0. alone"),
        (np.ma.masked_equal(HOLES, 2), ValueError, "without masked values"),
    ],
)
def test_what_is_no_label_mask(mask, error, message):
    with pytest.raises(error, match=message):
        mask_outlines(mask)


def test_a_mask_that_cannot_be_read():
    def fail(block):
        raise OSError("disk on fire")

    mask = da.from_array(HOLES, chunks=4).map_blocks(fail, dtype=int, meta=np.empty((0, 0), int))
    with pytest.raises(ValueError, match="rows from 0 that cannot be read: disk on fire"):
        mask_outlines(mask)

"""Capture areas: exposures by overlap, recognised platforms, cells in gaps."""

import logging

import anndata as ad
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from lattices import PITCH, hexagonal, rotation, spots, square
from soscope_scverse import pp

LATTICES = {"square": square, "hex": hexagonal}
SPACE_RANGER_UM = (65, 70, 60)
"""Diameters that Space Ranger writes for a spot of 55 um."""


def visium(spot_um=65, **obs):
    adata = spots(*hexagonal(), **obs)
    um = PITCH / 100
    scales = {"spot_diameter_fullres": spot_um * um, "fiducial_diameter_fullres": 105 * um, "tissue_hires_scalef": 0.1}
    adata.uns["spatial"] = {"V1": {"images": {}, "scalefactors": scales}}
    return adata


def parts(adata, kind, degrees):
    """Outlines of the subspots of the first spot: squares, or the points nearest to each of them (Voronoi cells)."""
    centre = adata.obsm["spatial"][0]
    own = adata.obsm["subspots"][0] - centre
    if kind == "square":
        half, upright = PITCH / len(own) ** 0.5 / 2, own @ rotation(-degrees)  # the disc is the same at every angle
        return shapely.box(*(upright - half).T, *(upright + half).T)
    near = np.linalg.norm(adata.obsm["spatial"] - centre, axis=1) < 2.5 * PITCH
    points = shapely.MultiPoint(adata.obsm["subspots"][near].reshape(-1, 2) - centre)
    cells = shapely.get_parts(shapely.voronoi_polygons(points))
    return np.array([next(cell for cell in cells if cell.contains(shapely.Point(point))) for point in own])


@pytest.mark.parametrize("degrees", [0, 17])
@pytest.mark.parametrize(
    ("kind", "k"), [("square", 4), ("square", 9), ("square", 25), ("square", 36), ("hex", 7), ("hex", 19), ("hex", 37)]
)
@pytest.mark.parametrize("share", [0.3, 0.55, 0.8])
def test_exposures_are_the_overlaps_with_the_disc(kind, k, degrees, share):
    xy, array = LATTICES[kind]()
    middle = np.linalg.norm(xy - xy.mean(axis=0), axis=1).argsort()  # the first spot has all neighbours
    adata = spots((xy @ rotation(degrees))[middle], array[middle])
    pp.subspots(adata, k, capture=share * PITCH)
    disc = shapely.Point(0, 0).buffer(share * PITCH / 2, quad_segs=4096)
    overlap = shapely.area(shapely.intersection(parts(adata, kind, degrees), disc))
    np.testing.assert_allclose(adata.obsm["subspot_exposure"][0], overlap / overlap.sum(), atol=1e-6)
    area = PITCH**2 * (1 if kind == "square" else np.sqrt(0.75)) / k
    np.testing.assert_allclose(adata.obsm["subspot_measured"][0], overlap / area, atol=1e-6)
    assert (adata.obsm["subspot_exposure"] == adata.obsm["subspot_exposure"][0]).all()


def test_square_capture_area_in_closed_form():
    """DBiT-seq: channels of half the pitch; of 3 x 3 parts the middle one wholly, a sixth of its neighbours' width."""
    adata = spots(*square())
    pp.subspots(adata, 9, capture=PITCH / 2, capture_shape="square")
    width = np.array([1 / 4, 1, 1 / 4])
    np.testing.assert_allclose(adata.obsm["subspot_measured"][0], np.outer(width, width).ravel(), atol=1e-9)
    np.testing.assert_allclose(adata.obsm["subspot_exposure"][0].sum(), 1)


@pytest.mark.parametrize("kind", ["square", "hex"])
def test_a_capture_area_that_covers_the_cell_is_none(kind):
    tiled, covered = spots(*LATTICES[kind]()), spots(*LATTICES[kind]())
    pp.subspots(tiled, capture=None)
    with pytest.warns(UserWarning, match="wider than the pitch.*Check the unit"):
        pp.subspots(covered, capture=2 * PITCH)
    for slot in ("subspots", "subspot_exposure", "subspot_measured"):
        np.testing.assert_array_equal(tiled.obsm[slot], covered.obsm[slot])
    assert (tiled.obsm["subspot_measured"] == 1).all()
    assert "capture" not in covered.uns["subspots"]


@pytest.mark.parametrize("spot_um", SPACE_RANGER_UM)
def test_visium_is_recognised_whatever_diameter_space_ranger_wrote(spot_um):
    adata = visium(spot_um)
    pp.subspots(adata)
    assert adata.uns["subspots"]["capture"] == pytest.approx(0.55 * PITCH)
    assert adata.obsm["subspot_measured"][0].round(3).tolist() == [0.153] * 3 + [1] + [0.153] * 3


def test_visium_lattice_without_metadata_is_recognised(caplog):
    adata = spots(*hexagonal())
    with caplog.at_level(logging.INFO):
        pp.subspots(adata, 19)
    assert adata.uns["subspots"]["capture"] == pytest.approx(0.55 * PITCH)
    assert (adata.obsm["subspot_measured"][0] == 0).sum() == 6  # corners of the flower lie wholly in the gap
    assert "capture=None" in caplog.text


@pytest.mark.parametrize("kind", ["square", "hex"])
def test_spots_as_wide_as_their_pitch_tile_the_tissue(kind, caplog):
    adata = spots(*LATTICES[kind]())
    adata.uns["spatial"] = {"bins": {"images": {}, "scalefactors": {"spot_diameter_fullres": PITCH}}}
    with caplog.at_level(logging.INFO):
        pp.subspots(adata)
    assert (adata.obsm["subspot_measured"] == 1).all()
    assert not caplog.text


def test_what_is_assumed_of_other_arrays_is_in_the_log(caplog):
    adata = spots(*square())
    adata.uns["spatial"] = {"ST": {"images": {}, "scalefactors": {"spot_diameter_fullres": PITCH / 2}}}
    pp.subspots(adata)
    assert (adata.obsm["subspot_measured"] == 1).all()
    assert caplog.text.count("capture=None is assumed") == 1
    assert "0.50 pitches" in caplog.text


def test_positions_have_no_capture_area():
    adata = visium()
    positions = adata.obsm["spatial"][:, None] + [[-1.0, 0.0], [1.0, 0.0]]
    pp.subspots(adata, positions=positions)
    assert (adata.obsm["subspot_measured"] == 1).all()
    with pytest.raises(ValueError, match="no `capture` with `positions`"):
        pp.subspots(adata, positions=positions, capture=10.0)


def cells_of(adata, *, rows=(0, 1)):
    """Three cells in each of some spots: in the middle, and on both sides of the border of a disc of .55 pitches."""
    centre = adata.obsm["spatial"][list(rows)]
    offsets = PITCH * np.array([[0, 0], [0.2, 0], [0.4, 0]])
    xy = (centre[:, None] + offsets).reshape(-1, 2)
    return pd.DataFrame(xy, columns=["x", "y"], index=[f"c{i}" for i in range(len(xy))])


@pytest.mark.filterwarnings("ignore:.*hold no cell")
def test_cells_in_the_disc_share_the_spot_and_others_are_in_the_gap():
    adata = visium()
    pp.subspots(adata, cells=cells_of(adata))
    names = adata.obsm["subspot_names"]
    for row in (0, 1):
        order = [names[row].tolist().index(f"c{3 * row + i}") for i in range(3)]
        assert adata.obsm["subspot_exposure"][row, order].tolist() == [0.5, 0.5, 0]
        assert adata.obsm["subspot_measured"][row, order].tolist() == [1, 1, 0]
    size = adata.obs["relative_cell_number"]
    assert size.iloc[0] == pytest.approx(2 * size.iloc[5])  # a spot without cells counts as one


@pytest.mark.filterwarnings("ignore:.*hold no cell")
def test_a_spot_with_cells_in_its_gap_alone():
    adata = visium()
    cells = cells_of(adata).iloc[[0, 1, 2, 5]]  # the second spot has the cell in the gap only
    with pytest.warns(UserWarning, match=r"1 of 90 spots captured no cell \(first: 's1'\)"):
        pp.subspots(adata, cells=cells)
    own = adata.obsm["subspot_names"][1].tolist()
    assert own[0] == "c5"
    assert adata.obsm["subspot_exposure"][1, :2].tolist() == [0, 1]
    assert np.isfinite(adata.obsm["subspots"][1, :2]).all()


@pytest.mark.filterwarnings("ignore:.*hold no cell")
def test_cells_that_the_border_cuts_count_by_area():
    adata = visium()
    table = cells_of(adata)
    radius = 0.05 * PITCH
    border = adata.obsm["spatial"][0] + [0.275 * PITCH, 0]
    shapes = [*shapely.points(table[["x", "y"]].to_numpy()), shapely.Point(border)]
    cells = gpd.GeoDataFrame(geometry=[s.buffer(radius, quad_segs=64) for s in shapes], index=[*table.index, "cut"])
    pp.subspots(adata, cells=cells, exposure="area")
    own = adata.obsm["subspot_names"][0].tolist()
    measured = dict(zip(own, adata.obsm["subspot_measured"][0], strict=True))
    disc = shapely.Point(adata.obsm["spatial"][0]).buffer(0.275 * PITCH, quad_segs=4096)
    expected = cells.geometry["cut"].intersection(disc).area / cells.geometry["cut"].area
    assert measured["cut"] == pytest.approx(expected, abs=1e-5)
    assert 0.4 < measured["cut"] < 0.5
    area = dict(zip(own, adata.obsm["subspot_area"][0], strict=True))
    total = 2 + expected
    assert area["c2"] == pytest.approx(1 / total, rel=1e-4)
    assert adata.obsm["subspot_exposure"][0, own.index("cut")] == pytest.approx(expected / total, rel=1e-4)


def test_slots_survive_a_file(tmp_path):
    adata = visium()
    pp.subspots(adata, 19)
    adata.write_h5ad(tmp_path / "a.h5ad")
    read = ad.read_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(read.obsm["subspot_measured"], adata.obsm["subspot_measured"])
    assert read.uns["subspots"]["capture_shape"] == "circle"

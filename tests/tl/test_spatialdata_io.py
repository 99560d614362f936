"""Objects as the readers of spatialdata-io make them, from folders as the instruments write them."""

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata as sd
from shapely.geometry import box
from spatialdata.models import ShapesModel
from spatialdata.transformations import Scale, get_transformation

from outs import PIXEL, write_visium, write_visium_hd, write_xenium
from soscope_scverse import datasets, im, pp, tl

sdio = pytest.importorskip("spatialdata_io")

QUICK = {"max_epochs": 2, "accelerator": "cpu", "train_kwargs": {"enable_progress_bar": False}}


@pytest.fixture
def visium(section, tmp_path):
    return write_visium(tmp_path / "visium", section)


def test_visium(section, visium, tmp_path):
    sdata = sdio.visium(visium, fullres_image_file="full.tif")
    sdata.write(tmp_path / "a.zarr")
    sdata = sd.read_zarr(tmp_path / "a.zarr")
    features = {}
    for size in ("full", "hires", "lowres"):
        tl.enhance(sdata, image_key=f"mouse_{size}_image", key_added=size, **QUICK)
        features[size] = sdata[size].obsm["image_features"]
    section.adata.uns["spatial"] = {"mouse": {"scalefactors": {"spot_diameter_fullres": 20.0}}}
    expected = tl.enhance(section.adata, image=section.image, **QUICK)
    again = sd.read_zarr(tmp_path / "a.zarr")
    np.testing.assert_allclose(again["full"].X, expected.X, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(features["full"], expected.obsm["image_features"], rtol=1e-4, atol=1e-4)
    # smaller images show the same tissue
    mean = [i for i, name in enumerate(expected.uns["soscope"]["encoder"]["feature_names"]) if "mean" in name]
    assert np.corrcoef(features["hires"][:, mean].ravel(), features["full"][:, mean].ravel())[0, 1] > 0.95
    systems = {"mouse", "mouse_downscaled_hires", "mouse_downscaled_lowres"}
    assert set(get_transformation(again["full_subspots"], get_all=True)) == systems
    for system in systems:
        inside, around = (sd.transform(again[name], to_coordinate_system=system) for name in ("full_subspots", "mouse"))
        rows = section.adata.obs_names.get_indexer(again["full"].obs["spot"])
        pitch = {"mouse": 36, "mouse_downscaled_hires": 18, "mouse_downscaled_lowres": 9}[system]
        distance = inside.geometry.centroid.distance(
            gpd.GeoSeries(around.geometry.iloc[rows].to_numpy(), index=inside.index)
        )
        assert distance.max() < pitch / 2


def test_visium_hd(tmp_path):
    section = datasets.synthetic_section(64, lattice="square", n_genes=4)
    folder = tmp_path / "hd"
    width = write_visium_hd(folder, section)
    options = {"load_segmentations_only": False}
    sdata = sdio.visium_hd(folder, **options)
    # bins of 8 micrometres become bins of 2
    tl.enhance(sdata, table_key="square_008um", image_key="mouse_full_image", n_subspots=16, **QUICK)
    table, fine, bins = sdata["enhanced"], sdata["enhanced_subspots"], sdata["mouse_square_008um"]
    rows = section.adata.obs_names.get_indexer(table.obs["spot"])
    assert shapely.contains(bins.geometry.iloc[rows].buffer(1e-6).to_numpy(), fine.geometry.to_numpy()).all()
    np.testing.assert_allclose(fine.area, width**2 / 16)
    assert get_transformation(fine, get_all=True).keys() == get_transformation(bins, get_all=True).keys()

    labelled = sdio.visium_hd(folder, annotate_table_by_labels=True, **options)
    tl.enhance(labelled, table_key="square_008um", sources="positions", n_subspots=16, **QUICK)
    # labels of rasterized bins lie half a bin off their bins (spatialdata 0.7.3), and so do their subspots
    own, fine = (
        sd.get_extent(labelled[name], coordinate_system="mouse")
        for name in ("mouse_square_008um_labels", "enhanced_subspots")
    )
    np.testing.assert_allclose([own["x"], own["y"]], [fine["x"], fine["y"]])


@pytest.fixture
def xenium(tmp_path):
    return write_xenium(tmp_path / "xenium")


def test_xenium_binned(xenium):
    sdata = sdio.xenium(xenium, nucleus_boundaries=False, nucleus_labels=False)
    bins = [box(x, y, x + 30, y + 30) for y in range(0, 180, 30) for x in range(0, 150, 30)]
    place = Scale([1 / PIXEL] * 2, axes=("x", "y"))
    bins = ShapesModel.parse(gpd.GeoDataFrame(geometry=bins), transformations={"global": place})
    binned = sd.aggregate(sdata["transcripts"], bins, value_key="feature_name", agg_func="count", table_name="bins")
    sdata["by_bins"], sdata["bins"] = bins, binned["bins"]
    sdata["bins"].obs["region"] = pd.Categorical(["by_bins"] * sdata["bins"].n_obs)
    sdata.set_table_annotates_spatialelement("bins", "by_bins", "region", "instance_id")
    stain = im.open_image(sdata, table_key="bins", image_key="morphology_focus", channels=[0])
    np.testing.assert_allclose(stain.matrix, np.diag([1 / PIXEL, 1 / PIXEL, 1]))
    tl.enhance(sdata, table_key="bins", image=stain, cells="cell_boundaries", key_added="by_cells", **QUICK)
    assert set(sdata["by_cells"].obs_names) <= set(sdata["cell_boundaries"].index)
    own = sdata["cell_boundaries"].geometry.loc[sdata["by_cells_subspots"].index]
    assert own.geom_equals_exact(sdata["by_cells_subspots"].geometry, 1e-6).all()

    # the table of the reader annotates labels
    pp.subspots(sdata, positions=np.zeros((300, 2, 2)))
    np.testing.assert_allclose(
        sdata["table"].obsm["spatial"] * PIXEL,
        np.column_stack([sdata["cell_boundaries"].centroid.x, sdata["cell_boundaries"].centroid.y]),
        atol=PIXEL,
    )

"""Objects as the readers of spatialdata-io make them, from folders as the instruments write them."""

import json

import geopandas as gpd
import h5py
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata as sd
import tifffile
import zarr
from PIL import Image
from scipy.sparse import csc_matrix
from shapely.geometry import box
from spatialdata.models import ShapesModel
from spatialdata.transformations import Scale, get_transformation

from soscope_scverse import datasets, im, pp, tl

sdio = pytest.importorskip("spatialdata_io")

QUICK = {"max_epochs": 2, "accelerator": "cpu", "train_kwargs": {"enable_progress_bar": False}}
HIRES, LOWRES = 0.5, 0.25


def write_counts(path, adata):
    """Matrix of features x barcodes, as Cell Ranger and its kin write it."""
    counts = csc_matrix(adata.X.T)
    names = adata.var_names.to_numpy().astype("S")
    with h5py.File(path, "w") as file:
        file.attrs["library_ids"] = np.array([b"library"])
        matrix = file.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            matrix[name] = getattr(counts, name)
        matrix["shape"] = np.array(counts.shape)
        matrix["barcodes"] = adata.obs_names.to_numpy().astype("S")
        matrix["features/id"] = matrix["features/name"] = names
        matrix["features/feature_type"] = np.full(len(names), b"Gene Expression")
        matrix["features/genome"] = np.full(len(names), b"mm10")


def write_spatial(folder, section, **scales):
    """Images, scale factors, and what both kinds of Visium call the places of spots."""
    folder.mkdir(parents=True)
    image = Image.fromarray(np.asarray(section.image))
    for name, scale in (("hires", HIRES), ("lowres", LOWRES)):
        image.resize([round(scale * size) for size in image.size]).save(folder / f"tissue_{name}_image.png")
    scales = {"tissue_hires_scalef": HIRES, "tissue_lowres_scalef": LOWRES, **scales}
    (folder / "scalefactors_json.json").write_text(json.dumps(scales))
    xy = section.adata.obsm["spatial"]
    places = section.adata.obs[["array_row", "array_col"]].rename_axis("barcode")
    places.insert(0, "in_tissue", 1)
    return places.assign(pxl_row_in_fullres=xy[:, 1], pxl_col_in_fullres=xy[:, 0])


@pytest.fixture
def visium(section, tmp_path):
    folder = tmp_path / "visium"
    write_spatial(folder / "spatial", section, spot_diameter_fullres=20.0).to_csv(
        folder / "spatial" / "tissue_positions.csv"
    )
    write_counts(folder / "mouse_filtered_feature_bc_matrix.h5", section.adata)
    tifffile.imwrite(folder / "full.tif", np.asarray(section.image))
    return folder


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
    xy = section.adata.obsm["spatial"]
    width = float(np.diff(np.unique(xy[:, 0].round(6))).min())
    folder = tmp_path / "hd"
    bins = folder / "binned_outputs" / "square_008um"
    places = write_spatial(
        bins / "spatial", section, spot_diameter_fullres=width, bin_size_um=8.0, microns_per_pixel=8.0 / width
    )
    places.reset_index().to_parquet(bins / "spatial" / "tissue_positions.parquet")
    write_counts(bins / "filtered_feature_bc_matrix.h5", section.adata)
    (folder / "microscope_image").mkdir()
    tifffile.imwrite(folder / "microscope_image" / "full.tif", np.asarray(section.image))
    layout = json.dumps({"file_format": "1.0"})
    with h5py.File(folder / "mouse_feature_slice.h5", "w") as file:
        file.attrs["metadata_json"] = json.dumps({"hd_layout_json": layout})
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


PIXEL = 0.5  # micrometres


@pytest.fixture
def xenium(tmp_path):
    """300 cells and their molecules; positions in micrometres."""
    folder = tmp_path / "xenium"
    (folder / "morphology_focus").mkdir(parents=True)
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(15), np.arange(20)), axis=-1).reshape(-1, 2)
    cells = 10 * grid + 5 + rng.uniform(-1, 1, (300, 2))
    prefixes = np.arange(300, dtype=np.uint32)
    letters = str.maketrans("0123456789abcdef", "abcdefghijklmnop")
    names = np.array([f"{prefix:08x}".translate(letters) + "-1" for prefix in prefixes])
    adata = datasets.synthetic_section(300, lattice="square", n_genes=4).adata[:300].copy()
    adata.obs_names = names
    write_counts(folder / "cell_feature_matrix.h5", adata)
    summary = {"x_centroid": cells[:, 0], "y_centroid": cells[:, 1], "cell_area": 36.0}
    pd.DataFrame({"cell_id": names, **summary}).to_parquet(folder / "cells.parquet")
    corners = cells[:, None] + np.array([[-3, -3], [3, -3], [3, 3], [-3, 3], [-3, -3]])
    pd.DataFrame(
        {
            "cell_id": np.repeat(names, 5),
            "vertex_x": corners[..., 0].ravel(),
            "vertex_y": corners[..., 1].ravel(),
            "label_id": np.repeat(prefixes + 1, 5),
        }
    ).to_parquet(folder / "cell_boundaries.parquet")
    counts = adata.X.toarray()
    cell, gene = (np.repeat(index, counts.ravel()) for index in np.indices(counts.shape).reshape(2, -1))
    at = cells[cell] + rng.uniform(-3, 3, (len(cell), 2))
    pd.DataFrame(
        {
            "transcript_id": np.arange(len(cell)),
            "cell_id": names[cell],
            "feature_name": adata.var_names.to_numpy()[gene],
            "x_location": at[:, 0],
            "y_location": at[:, 1],
            "z_location": 0.0,
        }
    ).to_parquet(folder / "transcripts.parquet")
    labels = np.zeros((400, 300), np.uint32)
    for i, (x, y) in enumerate((cells / PIXEL).round().astype(int), start=1):
        labels[y - 6 : y + 6, x - 6 : x + 6] = i
    with zarr.storage.ZipStore(folder / "cells.zarr.zip", mode="w") as store:
        group = zarr.create_group(store, zarr_format=2)
        group["cell_id"] = np.column_stack([prefixes, np.ones(300, np.uint32)])
        group["masks/1"] = labels
        group["polygon_sets/0/cell_index"] = group["polygon_sets/1/cell_index"] = prefixes
        group["cell_summary"] = np.zeros((300, 1))
        group["cell_summary"].attrs["column_names"] = ["z_level"]
    stain = np.where(labels > 0, rng.integers(2000, 3000, labels.shape), 100).astype(np.uint16)
    tifffile.imwrite(folder / "morphology_focus" / "morphology_focus_0000.ome.tif", stain)
    specs = {"analysis_sw_version": "xenium-3.0.0.10", "pixel_size": PIXEL}
    (folder / "experiment.xenium").write_text(json.dumps(specs))
    return folder


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

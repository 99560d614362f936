"""Folders as the instruments of 10x Genomics write them, of synthetic sections."""

import json

import h5py
import numpy as np
import pandas as pd
import tifffile
import zarr
from PIL import Image
from scipy.sparse import csc_matrix

from soscope_scverse import datasets

HIRES, LOWRES = 0.5, 0.25
PIXEL = 0.5  # micrometres, of Xenium


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


def write_visium(folder, section, prefix="mouse_"):
    """The folder ``outs`` of Space Ranger 2, and a full-resolution image beside its files."""
    places = write_spatial(folder / "spatial", section, spot_diameter_fullres=20.0)
    places.to_csv(folder / "spatial" / "tissue_positions.csv")
    write_counts(folder / f"{prefix}filtered_feature_bc_matrix.h5", section.adata)
    tifffile.imwrite(folder / "full.tif", np.asarray(section.image))
    return folder


def write_bins(folder, section, size=8):
    """The folder of the bins of one size, of Visium HD."""
    xy = section.adata.obsm["spatial"]
    width = float(np.diff(np.unique(xy[:, 0].round(6))).min())
    places = write_spatial(
        folder / "spatial",
        section,
        spot_diameter_fullres=width,
        bin_size_um=float(size),
        microns_per_pixel=size / width,
    )
    places.reset_index().to_parquet(folder / "spatial" / "tissue_positions.parquet")
    write_counts(folder / "filtered_feature_bc_matrix.h5", section.adata)
    return width


def write_visium_hd(folder, section, prefix="mouse_"):
    """The folder ``outs`` of Visium HD with bins of 8 micrometres; returns their width in pixels."""
    width = write_bins(folder / "binned_outputs" / "square_008um", section)
    (folder / "microscope_image").mkdir()
    tifffile.imwrite(folder / "microscope_image" / "full.tif", np.asarray(section.image))
    layout = json.dumps({"file_format": "1.0"})
    with h5py.File(folder / f"{prefix}feature_slice.h5", "w") as file:
        file.attrs["metadata_json"] = json.dumps({"hd_layout_json": layout})
    return width


def write_xenium(folder):
    """300 cells and their molecules; positions in micrometres."""
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

"""`sos.read` and the command line on what instruments write; anything else is refused by what it is."""

import json
import shutil
from importlib import util

import anndata as ad
import h5py
import mudata as md
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from click.testing import CliRunner
from PIL import Image
from scipy.io import mmwrite

import soscope_scverse as sos
from helpers import QUICK, as_visium
from outs import HIRES, PIXEL, write_bins, write_counts, write_visium, write_visium_hd, write_xenium
from soscope_scverse import datasets
from soscope_scverse._containers.mudata import columns_apart
from soscope_scverse.cli import main
from soscope_scverse.cli._kinds import check_storable

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:Element"),
    pytest.mark.filterwarnings("ignore:Variable names", "ignore:Transforming"),
]
FAST = ("--max-epochs", 1, "--accelerator", "cpu")


@pytest.fixture
def bins():
    return datasets.synthetic_section(49, lattice="square", n_genes=4)


@pytest.fixture
def outs(section, tmp_path):
    """The folder of a run of Space Ranger."""
    return write_visium(tmp_path / "A 1" / "outs", section, prefix="")


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def check_visium(sdata, section):
    """Counts, positions and the larger image are those of the section."""
    (name,) = sdata.shapes
    np.testing.assert_allclose(
        np.column_stack([sdata[name].geometry.x, sdata[name].geometry.y]), section.adata.obsm["spatial"], rtol=1e-6
    )
    np.testing.assert_array_equal(sdata["table"].X.toarray(), section.adata.X.toarray())
    assert list(sdata.images) == [f"{name}_hires_image"]
    np.testing.assert_allclose(sos.im.open_image(sdata).matrix, np.diag([HIRES, HIRES, 1]), atol=1e-9)


# ---- Space Ranger ---------------------------------------------------------------------------------------------------


def test_visium_through_all_its_paths(section, outs):
    pytest.importorskip("spatialdata_io")
    for path in (outs, outs.parent, str(outs), outs / "filtered_feature_bc_matrix.h5"):
        sdata = sos.read(path)
        check_visium(sdata, section)
        assert list(sdata.shapes) == ["A_1"]
    sos.tl.enhance(sdata, **QUICK)
    assert sdata["enhanced"].n_obs == 7 * section.adata.n_obs


@pytest.mark.parametrize("prefix", ["V1_Human_", "sample.a-"])
def test_names_with_prefixes_and_positions_without_header(section, tmp_path, prefix):
    pytest.importorskip("spatialdata_io")
    folder = write_visium(tmp_path / "old", section, prefix=prefix)
    positions = folder / "spatial" / "tissue_positions.csv"
    pd.read_csv(positions).to_csv(folder / "spatial" / "tissue_positions_list.csv", header=False, index=False)
    positions.unlink()
    check_visium(sos.read(folder), section)


def test_counts_as_text(section, outs):
    pytest.importorskip("spatialdata_io")
    counts = outs / "filtered_feature_bc_matrix"
    counts.mkdir()
    (outs / "filtered_feature_bc_matrix.h5").unlink()
    mmwrite(counts / "matrix.mtx", section.adata.X.T.astype(int))
    names = section.adata.var_names
    pd.DataFrame({0: names, 1: names, 2: "Gene Expression"}).to_csv(
        counts / "features.tsv.gz", sep="\t", header=False, index=False
    )
    pd.Series(section.adata.obs_names).to_csv(counts / "barcodes.tsv.gz", header=False, index=False)
    pd.Series((counts / "matrix.mtx").read_text().splitlines()).to_csv(
        counts / "matrix.mtx.gz", header=False, index=False
    )
    (counts / "matrix.mtx").unlink()
    check_visium(sos.read(outs), section)


@pytest.mark.parametrize("alone", [False, True])
def test_visium_hd_through_all_its_paths(bins, tmp_path, alone):
    """Also without the file that describes the capture area, which is offered for download separately."""
    pytest.importorskip("spatialdata_io")
    outs = tmp_path / "brain" / "outs"
    width = write_visium_hd(outs, bins)
    if alone:
        (outs / "mouse_feature_slice.h5").unlink()
    binned = outs / "binned_outputs"
    for path in (outs, outs.parent, binned, binned / "square_008um"):
        sdata = sos.read(path)
        (table,), (image,), (shapes,) = sdata.tables, sdata.images, sdata.shapes
        assert image.endswith("hires_image" if alone else "full_image")
        np.testing.assert_allclose(sos.im.open_image(sdata, table_key=table).matrix[0, 0], HIRES if alone else 1)
    sos.tl.enhance(sdata, n_subspots=4, **QUICK)
    np.testing.assert_allclose(sdata["enhanced_subspots"].area, width**2 / 4)
    assert sdata["enhanced"].n_obs == 4 * len(sdata[shapes])


def test_one_of_several_sizes_of_bins(bins, tmp_path):
    pytest.importorskip("spatialdata_io")
    outs = tmp_path / "outs"
    write_visium_hd(outs, bins)
    coarse = datasets.synthetic_section(16, lattice="square", n_genes=4)
    write_bins(outs / "binned_outputs" / "square_016um", coarse, size=16)
    assert sos.read(outs)["square_008um"].n_obs == bins.adata.n_obs
    sdata = sos.read(outs / "binned_outputs" / "square_016um")
    assert list(sdata.tables) == ["square_016um"]
    assert sdata["square_016um"].n_obs == coarse.adata.n_obs
    shutil.move(outs / "binned_outputs" / "square_008um", outs / "binned_outputs" / "square_002um")
    with pytest.raises(ValueError, match=r"bins of 8 um .*\['square_002um', 'square_016um'\]"):
        sos.read(outs)


@pytest.mark.filterwarnings("ignore:The spots may be misplaced", "ignore:The image has practically no effect")
def test_xenium(tmp_path):
    pytest.importorskip("spatialdata_io")
    folder = write_xenium(tmp_path / "run")
    for path in (folder, folder / "cell_feature_matrix.h5", folder / "experiment.xenium"):
        sdata = sos.read(path)
        assert sdata["table"].n_obs == 300
        assert list(sdata.images) == ["morphology_focus"]
        assert not sdata.points
    matrix = sos.im.open_image(sdata).matrix
    np.testing.assert_allclose(matrix, np.diag([1 / PIXEL, 1 / PIXEL, 1]))
    sos.tl.enhance(sdata, n_subspots=4, **QUICK)
    assert sdata["enhanced"].n_obs == 1200


# ---- files of scverse -----------------------------------------------------------------------------------------------


def test_files_of_scverse(section, tmp_path):
    adata = section.adata
    adata.write_h5ad(tmp_path / "a.h5ad")
    shutil.copy(tmp_path / "a.h5ad", tmp_path / "a.h5")
    adata.write_zarr(tmp_path / "a.zarr")
    with columns_apart():
        md.MuData({"rna": adata[:, :5].copy(), "prot": adata[:, 5:].copy()}).write_h5mu(tmp_path / "a.h5mu")
    as_visium(section).write(tmp_path / "b.zarr")
    kinds = {
        "a.h5ad": ad.AnnData,
        "a.h5": ad.AnnData,
        "a.zarr": ad.AnnData,
        "a.h5mu": md.MuData,
        "b.zarr": sd.SpatialData,
    }
    for name, kind in kinds.items():
        assert isinstance(sos.read(tmp_path / name), kind)
    assert sos.read(tmp_path / "a.h5ad", backed=True).isbacked


def test_a_home_folder(section, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    section.adata.write_h5ad(tmp_path / "a.h5ad")
    assert sos.read("~/a.h5ad").shape == section.adata.shape


# ---- anything else --------------------------------------------------------------------------------------------------

FILES = {
    "a.csv": "a table", "a.tsv.gz": "a table", "a.parquet": "a table", "a.tif": "an image", "a.ome.tiff": "an image",
    "a.PNG": "an image", "a.rds": "an object of R", "a.loom": "a loom file", "a.gef": "Stereo-seq",
    "a.gem.gz": "Stereo-seq", "a.tar.gz": "an archive; unpack it",
    "a.zip": "an archive", "a.cloupe": "Loupe", "notes": "a file of 6 bytes",
}  # fmt: skip
FOLDERS = {
    "S1_exprMat_file.csv": "spatialdata_io.cosmx", "detected_transcripts.csv": "spatialdata_io.merscope",
    "SS200.gef": "spatialdata_io.stereoseq", "A_anndata.h5ad": "spatialdata_io.curio",
    "cell_feature_matrix.h5": "Xenium without `experiment.xenium`", "ovary_cell_by_gene.csv": "spatialdata_io.merscope",
    "matrix.mtx.gz": "name the folder of Space Ranger", "tissue_positions.csv": "name the folder above it",
    "what.txt": "a folder with 'what.txt'",
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_other_files_are_refused_by_what_they_are(tmp_path, name):
    (tmp_path / name).write_text("hello\n")
    with pytest.raises(ValueError, match=f"Expected AnnData .*Space Ranger.*{FILES[name]}"):
        sos.read(tmp_path / name)


@pytest.mark.parametrize("name", FOLDERS)
def test_other_folders_are_refused_by_what_they_are(tmp_path, name):
    (tmp_path / name).write_text("hello\n")
    with pytest.raises(ValueError, match=f"Expected AnnData .*{FOLDERS[name]}"):
        sos.read(tmp_path)


def test_other_hdf5_files_and_no_files(section, tmp_path):
    write_counts(tmp_path / "counts.h5", section.adata)
    with h5py.File(tmp_path / "molecules.h5", "w") as file:
        file["barcode_idx"] = file["umi"] = np.arange(3)
    shutil.copy(tmp_path / "counts.h5", tmp_path / "cell_feature_matrix.h5")
    with pytest.raises(ValueError, match=r"counts of Xenium without `experiment\.xenium` beside them"):
        sos.read(tmp_path / "cell_feature_matrix.h5")
    with pytest.raises(ValueError, match="an HDF5 file with 'barcode_idx', 'umi'"):
        sos.read(tmp_path / "molecules.h5")
    with pytest.raises(ValueError, match=r"without the folder `spatial` beside them.*read_10x_h5"):
        sos.read(tmp_path / "counts.h5")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="an empty folder"):
        sos.read(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match=r"no .*nowhere.h5ad"):
        sos.read(tmp_path / "nowhere.h5ad")
    with pytest.raises(TypeError, match="`path` to be a path, found 3"):
        sos.read(3)


def test_missing_and_damaged_files_of_space_ranger(outs):
    pytest.importorskip("spatialdata_io")
    spatial = outs / "spatial"
    scales = json.loads((spatial / "scalefactors_json.json").read_text())
    for text, message in (
        ("{", "as JSON"),
        ("3", "as JSON"),
        (json.dumps({"tissue_hires_scalef": 1}), r"found no \['spot_diameter_fullres', 'tissue_lowres_scalef'\]"),
    ):
        (spatial / "scalefactors_json.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            sos.read(outs)
    (spatial / "scalefactors_json.json").write_text(json.dumps(scales))
    (outs / "filtered_feature_bc_matrix.h5").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"to be read by `spatialdata_io\.visium`, but it cannot be read: "):
        sos.read(outs)
    (outs / "filtered_feature_bc_matrix.h5").unlink()
    (spatial / "tissue_positions.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"found no counts .* and no positions .*Copy these files"):
        sos.read(outs)


def test_counts_of_several_sections_and_without_compression(section, outs):
    counts = outs / "filtered_feature_bc_matrix.h5"
    for name in ("A1", "B1"):
        shutil.copy(counts, outs / f"{name}_{counts.name}")
    counts.unlink()
    with pytest.raises(ValueError, match=r"counts of one section in .*'A1_filtered.*'B1_filtered.*Name one of these"):
        sos.read(outs)
    check_visium(sos.read(outs / f"B1_{counts.name}"), section)
    for path in outs.glob("*.h5"):
        path.unlink()
    (outs / "filtered_feature_bc_matrix").mkdir()
    (outs / "filtered_feature_bc_matrix" / "matrix.mtx").write_text(
        "%%MatrixMarket matrix coordinate integer general\n"
    )
    with pytest.raises(ValueError, match=r"found 'filtered_feature_bc_matrix/matrix.mtx'. Call `gzip`"):
        sos.read(outs)


@pytest.mark.parametrize("reader", ["visium", "visium_hd", "xenium"])
def test_without_spatialdata_io(section, bins, tmp_path, monkeypatch, reader):
    folder = tmp_path / "outs"
    writers = {
        "visium": lambda: write_visium(folder, section),
        "visium_hd": lambda: write_visium_hd(folder, bins),
        "xenium": lambda: write_xenium(folder),
    }
    writers[reader]()
    find = util.find_spec
    monkeypatch.setattr(
        "soscope_scverse._io.instruments.find_spec", lambda name: None if name == "spatialdata_io" else find(name)
    )
    with pytest.raises(ImportError, match=rf"spatialdata_io\.{reader}.*`pip install 'soscope-scverse\[io\]'"):
        sos.read(folder)
    result = run("enhance", folder, "--out", tmp_path / "a.zarr")
    assert result.exit_code == 2
    assert "soscope-scverse[io]" in result.stderr


# ---- the command line -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".zarr", ".h5ad"])
def test_from_outs_to_a_result(section, outs, tmp_path, suffix):
    pytest.importorskip("spatialdata_io")
    out = tmp_path / f"enhanced{suffix}"
    result = run("enhance", outs, "--out", out, "--report", tmp_path / "report.html", *FAST)
    assert result.exit_code == 0, result.output
    assert f"60 spots -> 420 subspots x 8 genes: {out}" in result.stderr
    found = sos.read(out)
    subspots = found if suffix == ".h5ad" else found["enhanced"]
    assert subspots.shape == (420, 8)
    assert subspots.uns["spatial"]["A_1"]["images"]["hires"].shape[2] == 3
    assert (tmp_path / "report.html").stat().st_size > 1000
    again = () if suffix == ".zarr" else (outs,)
    assert run("report", out, *again, "--out", tmp_path / "other.html", "--n-genes", 1).exit_code == 0
    if suffix == ".zarr":
        assert set(found.images) == {"A_1_hires_image"}


def test_features_of_outs_and_of_bins(section, outs, bins, tmp_path):
    pytest.importorskip("spatialdata_io")
    image = tmp_path / "section.png"
    Image.fromarray(section.image).save(image)
    result = run("features", outs, "--image", image, "--out", tmp_path / "a.zarr")
    assert result.exit_code == 0, result.output
    assert sos.read(tmp_path / "a.zarr")["table"].obsm["subspot_features"].shape[:2] == (60, 7)
    write_visium_hd(tmp_path / "hd", bins)
    result = run("features", tmp_path / "hd", "--n-subspots", 4, "--out", tmp_path / "b.zarr")
    assert result.exit_code == 0, result.output
    assert sos.read(tmp_path / "b.zarr")["square_008um"].obsm["subspot_features"].shape[:2] == (49, 4)


def test_what_no_store_can_hold_is_named_before_the_training(section, tmp_path):
    sdata = as_visium(section)
    sdata["visium"]["when"] = pd.Categorical([1, "a"] * 30).astype(object)
    sdata["table"].uns["spatial"] = {}
    with pytest.raises(ValueError, match=r"`--out`, found shapes\['visium'\]\['when'\] \(values of type int, str"):
        check_storable(sdata, {}, None, tmp_path / "a.zarr")


@pytest.mark.filterwarnings("default:.* cannot be written")
def test_a_result_that_cannot_be_written_lies_beside(section, tmp_path, monkeypatch):
    as_visium(section).write(tmp_path / "in.zarr")

    def failing(self, path, *args, **kwargs):
        raise RuntimeError("this writer is broken")

    monkeypatch.setattr(sd.SpatialData, "write", failing)
    arguments = ("--image-key", "visium_full_image", "--out", tmp_path / "a.zarr", *FAST)
    result = run("enhance", tmp_path / "in.zarr", *arguments)
    assert result.exit_code == 0, result.output
    assert "a.zarr cannot be written (this writer is broken)" in result.stderr
    assert f"420 subspots x 8 genes: {tmp_path / 'a_subspots.h5ad'}" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a_subspots.h5ad", "in.zarr"]
    assert ad.read_h5ad(tmp_path / "a_subspots.h5ad").shape == (420, 8)

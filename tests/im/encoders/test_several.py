"""Several encoders whose features are concatenated."""

import json

import anndata as ad
import numpy as np
import pytest
import torch

import soscope_scverse.im as im
from helpers import QUICK
from images import computed, mean_colour, section, tissue
from soscope_scverse import tl


def darkest(tiles):
    return tiles.min(axis=(1, 2))


class Map(torch.nn.Module):
    """Mean colours of blocks of four pixels."""

    def forward(self, tiles):
        return torch.nn.functional.avg_pool2d(tiles.float(), 4)


@pytest.mark.parametrize("kind", [list, tuple])
def test_features_of_several_encoders_are_concatenated(kind):
    image, adata = tissue(), section()
    im.features(adata, image, encoder=kind(["texture", mean_colour, Map()]), context=4)
    alone = [computed(section(), image, encoder=one, context=4) for one in ("texture", mean_colour, Map())]
    np.testing.assert_array_equal(adata.obsm["subspot_features"], np.concatenate(alone, axis=2))
    record = adata.uns["subspot_features"]
    assert list(record["encoder"]) == ["texture", "mean_colour", "Map"]
    assert len(set(record["feature_names"])) == 76 + 3 + 3
    assert [record["parts"][str(i)]["encoder"] for i in range(3)] == ["texture", "mean_colour", "Map"]
    assert record["parts"]["0"]["patch_pixels"] == [40]


def test_one_of_a_list_is_that_one():
    listed, alone = section(), section()
    im.features(listed, tissue(), encoder=["texture"])
    im.features(alone, tissue(), encoder="texture")
    np.testing.assert_array_equal(listed.obsm["subspot_features"], alone.obsm["subspot_features"])
    assert listed.uns["subspot_features"]["encoder"] == "texture"
    assert "parts" not in listed.uns["subspot_features"]


def test_several_widths_of_several_encoders():
    adata = section()
    im.features(adata, tissue(), encoder=[mean_colour, darkest], context=[2, 4])
    assert adata.obsm["subspot_features"].shape[2] == 12
    assert list(adata.uns["subspot_features"]["feature_names"][[0, 3, 6, 9]]) == [
        "mean_colour_0@2",
        "mean_colour_0@4",
        "darkest_0@2",
        "darkest_0@4",
    ]
    np.testing.assert_array_equal(
        adata.obsm["subspot_features"][..., 9:], computed(section(), tissue(), encoder=darkest, context=4)
    )


def test_options_go_to_the_encoders_that_have_them():
    seen = []

    def watched(tiles):
        seen.append(len(tiles))
        return tiles.mean(axis=(1, 2))

    im.features(section(), tissue(), encoder=["texture", watched], batch_size=40)
    assert seen == [40, 8]
    with pytest.raises(ValueError, match=r"\['weights'\] with encoder 'texture', <function"):
        im.features(section(), tissue(), encoder=["texture", watched], weights="a.pth")
    with pytest.raises(ValueError, match="one encoder that takes `weights`"):
        im.features(section(), tissue(), encoder=["inception_v3", "timm:resnet18"], weights="a.pth")


@pytest.mark.parametrize(
    ("encoders", "message"),
    [
        ([], "found none"),
        (["texture", "texture"], r"found \['texture'\] more than once"),
        ([mean_colour, mean_colour], r"found \['mean_colour'\] more than once"),
        (["texture", "noise"], "found 'noise'. It cannot be combined"),
        (["precomputed", "texture"], "found 'precomputed'. It cannot be combined"),
        (["texture", "nosuch"], "found 'nosuch'"),
    ],
)
def test_lists_that_are_no_encoders_are_refused(encoders, message):
    adata = section()
    with pytest.raises(ValueError, match=message):
        im.features(adata, tissue(), encoder=encoders)
    assert "subspot_features" not in adata.obsm
    with pytest.raises(TypeError, match="found list"):
        im.features(adata, tissue(), encoder=["texture", ["texture"]])


def test_dense_mode_needs_a_map_of_every_encoder():
    assert computed(section(), tissue(), encoder=[Map()], mode="dense").shape[2] == 3
    with pytest.raises(ValueError, match="found 'texture'"):
        im.features(section(), tissue(), encoder=["texture", Map()], mode="dense")


@im.register_encoder("brightness")
class Brightness(im.PatchEncoder):
    """Scaled mean; an option that is recorded."""

    def __init__(self, weights="1"):
        super().__init__()
        self.weights = float(weights)

    def describe(self, patches):
        return self.weights * patches.mean(axis=(1, 2, 3))[:, None]


def test_records_are_read_again(tmp_path):
    adata, image = section(), tissue()
    im.features(adata, image, encoder=["texture", "brightness"], weights="3", context=4)
    adata.write_h5ad(tmp_path / "a.h5ad")
    read = ad.read_h5ad(tmp_path / "a.h5ad")
    again = im.features_at(read, read.obsm["subspots"].reshape(-1, 2), image)
    np.testing.assert_array_equal(again.reshape(*adata.obsm["subspot_features"].shape), adata.obsm["subspot_features"])
    with pytest.raises(ValueError, match="Expected no `weights` with the encoders"):
        im.features_at(read, read.obsm["spatial"], image, weights="2")


def test_enhance_records_a_list_and_reproduces_it(section):
    first = tl.enhance(section.adata, image=section.image, encoder=["texture", "brightness"], **QUICK)
    arguments = json.loads(first.uns["soscope"]["arguments"])
    assert arguments["encoder"] == ["texture", "brightness"]
    again = tl.enhance(section.adata, image=section.image, **{**arguments, **QUICK})
    np.testing.assert_array_equal(first.X, again.X)
    assert first.obsm["image_features"].shape[1] == 77
    objects = tl.enhance(section.adata, image=section.image, encoder=["texture", Brightness()], **QUICK)
    assert json.loads(objects.uns["soscope"]["inputs"])["encoder"] == ["texture", "Brightness"]
    with pytest.raises(ValueError, match="more than once"):
        tl.enhance(section.adata, image=section.image, encoder=["texture", "texture"], **QUICK)

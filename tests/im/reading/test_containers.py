"""Layers and sections of squidpy's ImageContainer."""

import anndata as ad
import numpy as np
import pytest

from helpers import QUICK
from images import HEIGHT, WIDTH, tissue
from soscope_scverse import datasets, im, pp, tl

pytestmark = pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::FutureWarning")


def read(source):
    return source.read(0, HEIGHT, 0, WIDTH)


@pytest.fixture
def container():
    from squidpy.im import ImageContainer

    container = ImageContainer(tissue(), layer="image", scale=0.5)
    container.add_img(255 - tissue(), layer="negative")
    return container


def test_a_layer_is_chosen_by_its_name(container):
    np.testing.assert_array_equal(read(im.open_image(container)), tissue())
    negative = im.open_image(container, layer="negative")
    np.testing.assert_array_equal(read(negative), 255 - tissue())
    assert negative.scale == 0.5


def test_what_has_no_such_layer_is_refused(container):
    with pytest.raises(ValueError, match=r"one of the layers \['image', 'negative'\] .* found 'nope'"):
        im.open_image(container, layer="nope")
    with pytest.raises(TypeError, match="`layer` to be a string"):
        im.open_image(container, layer=2)
    with pytest.raises(TypeError, match="`layer` with an ImageContainer of squidpy only, found ndarray"):
        im.open_image(tissue(), layer="image")


def test_sections_of_a_container_are_those_of_the_spots():
    from squidpy.im import ImageContainer

    a, b = (datasets.synthetic_section(20, n_genes=4, seed=seed) for seed in (0, 1))
    height, width = np.minimum(a.image.shape, b.image.shape)[:2]
    pixels = np.stack([one.image[:height, :width] for one in (a, b)], axis=2)
    container = ImageContainer(pixels, dims=("y", "x", "z", "channels"), library_id=["a", "b"], layer="image")
    opened = im.open_image(container)
    assert list(opened) == ["a", "b"]
    both = ad.concat({"a": a.adata, "b": b.adata}, label="section", index_unique="_", merge="same")
    pp.subspots(both, library_key="section")
    im.features(both, container, library_key="section")
    found = both.obsm["subspot_features"].copy()
    im.features(both, opened, library_key="section")
    np.testing.assert_array_equal(found, both.obsm["subspot_features"])
    with pytest.raises(ValueError, match=r"`library_key`, .*\['a', 'b'\]"):
        im.features(both, container)
    with pytest.raises(ValueError, match=r"one section, found \['a', 'b'\].*open_image\(container\)"):
        im.features(both, {"a": container, "b": container}, library_key="section")


def test_a_container_goes_through_the_whole_call(section):
    from squidpy.im import ImageContainer

    container = ImageContainer(section.image, layer="image")
    expected = tl.enhance(section.adata, image=section.image, **QUICK)
    np.testing.assert_array_equal(tl.enhance(section.adata, image=container, **QUICK).X, expected.X)
    layer = im.open_image(container, layer="image")
    np.testing.assert_array_equal(tl.enhance(section.adata, image=layer, **QUICK).X, expected.X)

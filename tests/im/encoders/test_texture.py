"""The encoder without weights: closed forms, and what its features depend on."""

import numpy as np
import pytest
from skimage.color import hed_from_rgb

import soscope_scverse.im as im
from images import HEIGHT, WIDTH, column, computed, section, tissue


def test_constant_image_has_its_colour_and_no_texture():
    colour = np.array([200, 100, 150])
    adata = section()
    im.features(adata, np.full((HEIGHT, WIDTH, 3), colour, dtype=np.uint8))
    density = -np.log10(colour / 255)
    for window in ("0.125", "0.25", "0.5", "1"):
        np.testing.assert_allclose(column(adata, f"red_mean_{window}"), 200 / 255, rtol=1e-5)
        np.testing.assert_allclose(column(adata, f"blue_mean_{window}"), 150 / 255, rtol=1e-5)
        np.testing.assert_allclose(column(adata, f"darkness_mean_{window}"), density.mean(), rtol=1e-5)
        np.testing.assert_allclose(
            column(adata, f"haematoxylin_mean_{window}"), density @ hed_from_rgb[:, 0], rtol=1e-4
        )
    for name in adata.uns["subspot_features"]["feature_names"]:
        if "mean" not in name:
            np.testing.assert_allclose(column(adata, name), 0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("value", [0, 1, 255])
def test_extreme_images_stay_finite(value):
    assert np.isfinite(computed(section(), np.full((HEIGHT, WIDTH), value, dtype=np.uint8))).all()


def test_windows_average_exactly_what_they_cover():
    image = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    image[:, 90:] = 255
    adata = section([(90.0, 75.0), (95.0, 75.0), (60.0, 75.0), (120.0, 75.0)], n_side=1)
    im.features(adata, image, context=4)  # 40 pixels; windows of 5, 10, 20 and 40
    np.testing.assert_allclose(column(adata, "red_mean_1")[:, 0], [0.5, 25 / 40, 0, 1], atol=1e-6)
    np.testing.assert_allclose(column(adata, "red_mean_0.5")[:, 0], [0.5, 15 / 20, 0, 1], atol=1e-6)
    np.testing.assert_allclose(column(adata, "red_mean_0.25")[:, 0], [0.5, 1, 0, 1], atol=1e-6)
    np.testing.assert_allclose(column(adata, "red_std_0.5")[:, 0], [0.5, np.sqrt(3) / 4, 0, 0], atol=1e-4)
    edges = column(adata, "darkness_edges0_0.5")[:, 0]
    assert edges[0] > 0
    assert edges[2] == edges[3] == 0


def test_fine_texture_survives_the_reduction():
    adata = section([(200.0, 300.0), (600.0, 300.0)], n_side=1)
    image = np.full((600, 800), 128, dtype=np.uint8)
    image[:, 400:] = np.indices((600, 400)).sum(axis=0) % 2 * 255
    im.features(adata, image, context=25.6)  # 256 pixels: blocks of 4 x 4
    np.testing.assert_allclose(column(adata, "red_std_0.5")[:, 0], [0, 0.5], atol=1e-3)
    np.testing.assert_allclose(column(adata, "red_mean_0.5")[:, 0], [128 / 255, 0.5], atol=1e-3)
    assert column(adata, "darkness_edges0_0.5")[1, 0] > 1
    np.testing.assert_allclose(column(adata, "darkness_coarse_std_0.5"), 0, atol=1e-3)


def test_shifting_image_and_coordinates_changes_nothing():
    image = tissue(900, 900)
    adata, moved = section([(400.0, 420.0), (460.0, 470.0)]), section([(363.0, 399.0), (423.0, 449.0)])
    kwargs = {"context": 26.0}  # 260 pixels: blocks of 4 x 4
    np.testing.assert_array_equal(computed(adata, image, **kwargs), computed(moved, image[21:, 37:], **kwargs))


def test_features_depend_on_the_tissue_nearby_only():
    image, other = tissue(), tissue()
    other[:, 120:] = 0
    adata = section([(45.0, 75.0), (135.0, 75.0)])
    first, second = computed(adata, image), computed(adata, other)
    np.testing.assert_allclose(first[0], second[0], rtol=1e-5, atol=1e-5)
    assert np.abs(first[1] - second[1]).max() > 0.1


def test_borders_are_mirrored():
    image = tissue()
    adata, moved = section([(5.0, 3.0), (35.0, 3.0)]), section([(105.0, 103.0), (135.0, 103.0)])
    mirrored = np.pad(image, ((100, 100), (100, 100), (0, 0)), mode="symmetric")
    np.testing.assert_array_equal(computed(adata, image), computed(moved, mirrored))
    np.testing.assert_array_equal(
        im.open_image(image).read(-100, HEIGHT + 100, -100, WIDTH + 100),
        mirrored,
    )


def test_positions_that_are_described_together_or_alone():
    """All over an image that is read strip by strip."""
    source = im.open_image(tissue(1300, 1100))
    centres = np.stack(np.meshgrid([40.3, 530.0, 1020.0], [50.0, 333.3, 640.0, 1210.0]), axis=-1).reshape(-1, 2)
    encoder = im.get_encoder("texture").anchored(centres.min(axis=0))
    together, names = encoder.encode(source, centres, 20.0)
    for centre, expected in zip(centres, together, strict=True):
        alone, same = encoder.encode(source, centre[None], 20.0)
        assert same == names
        np.testing.assert_allclose(alone[0], expected, rtol=1e-4, atol=1e-5)

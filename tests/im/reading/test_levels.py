"""Images with several resolutions, several channels, or a place of their own."""

import anndata as ad
import dask.array as da
import numpy as np
import pytest
import tifffile

import soscope_scverse.im as im

HEIGHT, WIDTH = 401, 601  # The levels cannot halve this exactly.
SMOOTH = np.add.outer(np.arange(HEIGHT) // 3, np.arange(WIDTH) // 6)


def pixels():
    """A smooth image: its levels show the same colours."""
    return np.dstack([SMOOTH, 255 - SMOOTH, SMOOTH // 2]).astype(np.uint8)


def section(image_scale=1.0):
    """Spots in coordinates that are `1 / image_scale` times the pixels of the image."""
    spots = np.stack(np.meshgrid([200.0, 300.0, 400.0], [150.0, 250.0]), axis=-1).reshape(-1, 2) / image_scale
    adata = ad.AnnData(np.ones((len(spots), 1), dtype=np.float32))
    adata.obsm["spatial"] = spots
    adata.obsm["subspots"] = spots[:, None] + np.array([[-20.0, 0.0], [20.0, 0.0]]) / image_scale
    diameter = 50.0 / image_scale
    adata.uns["spatial"] = {"s1": {"images": {}, "scalefactors": {"spot_diameter_fullres": diameter}}}
    return adata


def halved(image, n):
    """Every 2^n-th pixel, as many as fit, from the middle of the pixels that one stands for."""
    step, half = 2**n, 2 ** (n - 1)
    return image[half : HEIGHT // step * step : step, half : WIDTH // step * step : step]


def ome_tiff(path, image, **metadata):
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        file.write(image, tile=(64, 64), photometric="rgb", subifds=2, metadata={"axes": "YXS"} | metadata)
        for n in (1, 2):
            file.write(halved(image, n), tile=(64, 64), photometric="rgb", subfiletype=1)
    return path


def svs(path, image):
    with tifffile.TiffWriter(path) as file:
        kwargs = {"photometric": "rgb", "metadata": None}
        file.write(
            image, tile=(64, 64), description="Aperio Image Library v12\r\n601x401|AppMag = 20|MPP = 0.5", **kwargs
        )
        file.write(image[::9, ::9], description="Aperio Image Library v12\r\nthumbnail", **kwargs)
        for n in (1, 2):
            file.write(halved(image, n), tile=(64, 64), description="Aperio Image Library v12\r\nlevel", **kwargs)
        file.write(image[:40, :40], description="Aperio Image Library v12\r\nlabel 40x40", subfiletype=1, **kwargs)
    return path


def element(image, **kwargs):
    from spatialdata.models import Image2DModel

    return Image2DModel.parse(np.moveaxis(image, 2, 0), dims=("c", "y", "x"), **kwargs)


PYRAMIDS = {
    "OME-TIFF": lambda f: ome_tiff(f / "a.ome.tif", pixels()),
    "SVS": lambda f: svs(f / "a.svs", pixels()),
    "SpatialData": lambda f: element(pixels(), scale_factors=[2, 2]),
}


@pytest.fixture(params=PYRAMIDS)
def pyramid(request, tmp_path):
    return PYRAMIDS[request.param](tmp_path)


def seen_by(image, adata, *, wanted=float("inf"), context=4):
    """Tiles that an encoder sees that wants so many pixels across the patch, by subspot."""

    class Looking(im.PatchEncoder):
        name = "looking"
        pixels = wanted

        def describe(self, tiles):
            return tiles.reshape(len(tiles), -1)

    im.features(adata, image, encoder=Looking(), context=context)
    seen = adata.obsm["subspot_features"]
    size = round(adata.uns["subspot_features"]["patch_pixels"][0])
    return seen.reshape(*seen.shape[:2], size, size, 3)


# Levels


def test_the_full_resolution_is_that_of_the_finest_level(pyramid):
    source = im.open_image(pyramid)
    assert (source.height, source.width, source.scale) == (HEIGHT, WIDTH, 1)
    np.testing.assert_array_equal(source.read(0, HEIGHT, 0, WIDTH), pixels())
    assert im.open_image(pixels()).coarsened(100).width == WIDTH


@pytest.mark.parametrize(
    ("factor", "width"), [(0.5, 601), (1, 601), (1.9, 601), (2, 300), (3.9, 300), (4, 150), (99, 150)]
)
def test_the_coarsest_level_that_suffices(pyramid, factor, width):
    level = im.open_image(pyramid, scale=0.5).coarsened(factor)
    assert level.width == width
    assert level.scale == 0.5 / round(WIDTH / width)


def test_encoders_read_the_level_that_they_can_use(pyramid):
    adata = section()
    for wanted, size in ((float("inf"), 100), (100, 100), (99, 100), (50, 50), (26, 50), (25, 25), (1, 25)):
        tiles = seen_by(pyramid, adata, wanted=wanted)
        assert tiles.shape[2] == size
        centre = tiles[:, :, size // 2 - 1 : size // 2 + 1, size // 2 - 1 : size // 2 + 1, 0].mean(axis=(2, 3))
        x, y = np.moveaxis(adata.obsm["subspots"], 2, 0).astype(int)
        np.testing.assert_allclose(centre, SMOOTH[y, x], atol=3)  # Odd sizes shift the levels of SpatialData a little.


def test_coarse_levels_only_are_read_where_they_suffice():
    class Unread:
        shape, dtype = (1600, 2400, 3), np.dtype(np.uint8)

        def __getitem__(self, window):
            raise AssertionError

    level = np.full((400, 600, 3), 100, dtype=np.uint8)
    source = im.ImageSource(Unread(), "yxc", levels=(level,))
    adata = section(0.25)
    im.features(adata, source, context=50)
    assert np.isfinite(adata.obsm["subspot_features"]).all()
    small, scale = im.thumbnail(source, 300)
    assert (small.shape, scale) == ((200, 300, 3), 0.125)


def test_texture_of_a_pyramid_is_that_of_the_level_it_takes(pyramid, tmp_path):
    coarse = im.open_image(pyramid).coarsened(2)
    expected = im.features(section(), coarse.read(0, 200, 0, 300), image_scale=0.5, context=22, copy=True)
    adata = section()
    im.features(adata, pyramid, context=22)  # 550 pixels, of which 256 are wanted.
    found, expected = (one.obsm["subspot_features"] for one in (adata, expected))
    np.testing.assert_array_equal(found[..., : expected.shape[2]], expected)
    # the slide records .25 um, so that it shows cells
    assert (found.shape[2] > expected.shape[2]) == (getattr(pyramid, "suffix", "") == ".svs")
    np.testing.assert_allclose(adata.uns["subspot_features"]["patch_pixels"], 275)


# Outlines


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_crops_of_an_image_container_keep_their_place():
    from squidpy.im import ImageContainer

    whole = ImageContainer(pixels(), layer="image", scale=0.5)
    expected = seen_by(whole, section(0.5))
    crop = whole.crop_corner(60, 90, size=(300, 450))
    assert im.open_image(crop).offset == (-90, -60)
    np.testing.assert_array_equal(seen_by(crop, section(0.5)), expected)
    np.testing.assert_array_equal(seen_by(crop.crop_corner(10, 10, size=(285, 430)), section(0.5)), expected)
    over_the_edge = whole.crop_corner(-30, -20, size=(HEIGHT + 60, WIDTH + 60))
    assert im.open_image(over_the_edge).offset == (0, 0)
    np.testing.assert_array_equal(seen_by(over_the_edge, section(0.5)), expected)
    with pytest.raises(ValueError, match=r"times 0\.5 plus \(-90\.0, -60\.0\)"):
        im.check_coordinates(section(0.1), crop)


@pytest.mark.parametrize("levels", [{}, {"scale_factors": [2, 2]}])
def test_elements_are_placed_by_their_transformation(levels):
    from spatialdata.transformations import Scale, Sequence, Translation

    expected = seen_by(pixels(), section())
    crop = pixels()[40:, 70:]
    steps = [Translation([70, 40], axes=("x", "y")), Scale([4, 4], axes=("x", "y"))]
    placed = element(crop, transformations={"global": Sequence(steps)}, **levels)
    source = im.open_image(placed)
    assert source.scale == 0.25
    assert source.offset == pytest.approx((-70, -40))
    np.testing.assert_array_equal(seen_by(placed, section(0.25)), expected)


def test_elements_that_are_turned_are_read_in_their_own_pixels():
    from spatialdata.transformations import Affine

    # pixel (x, y) lies at (3 - 2 y, 2 x + 5): turned by a right angle, twice as wide, moved
    matrix = np.array([[0.0, -2, 3], [2, 0, 5], [0, 0, 1]])
    turned = element(pixels(), transformations={"global": Affine(matrix, ("x", "y"), ("x", "y"))})
    source = im.open_image(turned)
    assert source.scale == pytest.approx(0.5)
    places = np.array([[10.0, 20], [7, 3]])
    coordinates = np.column_stack([3 - 2 * places[:, 1], 2 * places[:, 0] + 5])
    np.testing.assert_allclose(source.to_pixels(coordinates), places)
    np.testing.assert_allclose(source.matrix, np.linalg.inv(matrix), atol=1e-12)
    source = im.open_image(turned, scale=0.5)
    assert (source.scale, source.offset, source.turn) == (0.5, (0, 0), None)


def test_thumbnails_of_turned_images_lie_along_the_coordinates():
    shown = pixels()[:200, :160]
    # the image mirrored at the diagonal: rows are x
    source = im.open_image(shown).placed(np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]]))
    small, scale = im.thumbnail(source, 200)
    assert scale == 1
    np.testing.assert_array_equal(small, shown.transpose(1, 0, 2))


def test_thumbnails_begin_where_coordinates_do():
    whole = im.ImageSource(pixels(), "yxc")
    small, scale = im.thumbnail(whole, 150)
    crop = im.ImageSource(pixels()[40:, 80:], "yxc", offset=(-80.0, -40.0))
    placed, same = im.thumbnail(crop, 150)
    assert scale == same
    assert placed.shape == small.shape
    np.testing.assert_array_equal(placed[8:, 16:], small[8:, 16:])
    assert (placed[:8] == 255).all()
    assert (placed[:, :16] == 255).all()
    wide = np.pad(pixels(), ((40, 0), (80, 0), (0, 0)))
    np.testing.assert_array_equal(im.thumbnail(im.ImageSource(wide, "yxc", offset=(80.0, 40.0)), 150)[0], small)


# Channels


def fluorescence(dtype=np.uint16):
    """Five channels; number 2 is the smooth one, in a small part of the range of its type."""
    noise = np.random.default_rng(0).integers(0, 50, (5, HEIGHT, WIDTH))
    noise[2] = 1000 + 10 * SMOOTH
    return noise.astype(dtype)


def fluorescence_tiff(path):
    image = fluorescence()
    with tifffile.TiffWriter(path) as file:
        file.write(image, tile=(64, 64), photometric="minisblack", subifds=1, metadata={"axes": "CYX"})
        file.write(image[:, 1::2, 1::2], tile=(64, 64), photometric="minisblack", subfiletype=1)
    return path


FLUORESCENCE = {
    "array": lambda f: fluorescence(),
    "int32": lambda f: fluorescence(np.int32),
    "channels last": lambda f: np.moveaxis(fluorescence(), 0, 2),
    "dask": lambda f: da.from_array(fluorescence(np.float32), chunks=(1, 100, 100)),
    "OME-TIFF": lambda f: fluorescence_tiff(f / "a.ome.tif"),
    "SpatialData": lambda f: element(np.moveaxis(fluorescence(), 0, 2), scale_factors=[2]),
}


@pytest.mark.parametrize("kind", FLUORESCENCE)
def test_channels_are_stretched_over_grey(kind, tmp_path):
    image = FLUORESCENCE[kind](tmp_path)
    with pytest.raises(ValueError, match=r"channels=\[0\]"):
        im.open_image(image)
    read = im.open_image(image, channels=[2]).read(0, HEIGHT, 0, WIDTH)
    assert (read.min(), read.max()) == (0, 255)
    assert (read == read[..., :1]).all()
    slope, intercept = np.polyfit(SMOOTH.ravel(), read[..., 0].ravel(), 1)
    assert slope == pytest.approx(255 / SMOOTH.max(), rel=0.05)
    np.testing.assert_allclose(slope * SMOOTH + intercept, read[..., 0], atol=8)
    adata = section()
    im.features(adata, im.open_image(image, channels=[2]))
    assert np.isfinite(adata.obsm["subspot_features"]).all()


def test_two_and_three_channels_become_colours():
    one = [im.open_image(fluorescence(), channels=[c]).read(0, 50, 0, 60)[..., 0] for c in (2, 0, 4)]
    two = im.open_image(fluorescence(), channels=[2, 0]).read(0, 50, 0, 60)
    np.testing.assert_array_equal(two, np.dstack([*one[:2], np.zeros_like(one[0])]))
    np.testing.assert_array_equal(im.open_image(fluorescence(), channels=[2, 0, 4]).read(0, 50, 0, 60), np.dstack(one))


def test_dark_and_flat_channels():
    dapi = (fluorescence()[2] // 16).astype(np.uint16)
    dapi[0, 0] = 40_000  # values of 16 bits
    assert im.open_image(dapi).read(1, HEIGHT, 0, WIDTH).max() < 2
    assert im.open_image(dapi, channels=[0]).read(0, HEIGHT, 0, WIDTH).max() == 255
    assert (im.open_image(np.full((30, 30), 7), channels=[0]).read(0, 30, 0, 30) == 0).all()


@pytest.mark.parametrize("channels", [[], [5], [-1], [0, 1, 2, 3]])
def test_channels_that_are_not_there_are_refused(channels):
    with pytest.raises(ValueError, match="one to three of the channels 0 to 4"):
        im.open_image(fluorescence(), channels=channels)


# Micrometres, and several widths


def recorded(image, adata=None, **kwargs):
    adata = section() if adata is None else adata
    im.features(adata, image, **kwargs)
    return adata.obsm["subspot_features"], adata.uns["subspot_features"]


def test_context_in_micrometres_of_the_file(tmp_path):
    micrometres = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm"}
    nanometres = {"PhysicalSizeX": 500, "PhysicalSizeXUnit": "nm"}
    images = [
        ome_tiff(tmp_path / "a.ome.tif", pixels(), **micrometres),
        ome_tiff(tmp_path / "b.ome.tif", pixels(), **nanometres),
        svs(tmp_path / "a.svs", pixels()),
    ]
    for image in images:
        expected, _ = recorded(image, context=4)
        features, told = recorded(image, context_um=50)
        np.testing.assert_array_equal(features, expected)
        assert told["context_um"] == 50
        assert "context" not in told
        assert told["patch_pixels"] == pytest.approx([100])
        scaled = im.open_image(image, scale=0.5)
        assert recorded(scaled, section(0.5), context_um=50)[1]["patch_pixels"] == pytest.approx([100])
        assert im.open_image(image).coarsened(2).microns == 1


def test_context_in_micrometres_of_the_scale_factors(tmp_path):
    adata = section()
    with pytest.raises(ValueError, match="'microns_per_pixel'"):
        recorded(pixels(), adata, context_um=50)
    adata.uns["spatial"]["s1"]["scalefactors"]["microns_per_pixel"] = 2.0
    assert recorded(pixels(), adata, context_um=50)[1]["patch_pixels"] == pytest.approx([25])
    with pytest.raises(ValueError, match="one of `context` and `context_um`"):
        recorded(pixels(), adata, context=4, context_um=50)
    with pytest.raises(ValueError, match="positive `context_um` in micrometres, found -1"):
        recorded(pixels(), adata, context_um=-1)


def test_several_widths_are_concatenated(tmp_path):
    image = ome_tiff(tmp_path / "a.ome.tif", pixels())
    wide, narrow = recorded(image, context=22), recorded(image, context=4)
    adata = section()
    both, told = recorded(image, adata, context=[22, 4])
    np.testing.assert_array_equal(both, np.concatenate([wide[0], narrow[0]], axis=2))
    assert told["feature_names"][0] == wide[1]["feature_names"][0] + "@22"
    assert told["feature_names"][-1] == narrow[1]["feature_names"][-1] + "@4"
    assert len(set(told["feature_names"])) == both.shape[2]
    np.testing.assert_allclose(told["patch_pixels"], [[275, 100]])
    adata.write_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(ad.read_h5ad(tmp_path / "a.h5ad").uns["subspot_features"]["context"], [22, 4])
    for wrong in ([], [4, 0], [[4]]):
        with pytest.raises(ValueError, match="positive `context`"):
            recorded(image, context=wrong)

"""Do spots and tissue fit?"""

import warnings

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

import soscope_scverse.im as im
from soscope_scverse import pl

HEIGHT, WIDTH = 600, 800


def slide():
    """Purple tissue in the form of a comma on white glass, and how dark it is."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    head = (x - 260) ** 2 + (y - 200) ** 2 < 150**2
    tail = (np.abs(x - 330) < 60) & (y > 200) & (y < 520)
    darkness = (head | tail) * (0.4 + 0.6 * x / WIDTH) * (1 - 0.5 * y / HEIGHT)
    image = 250 - darkness[..., None] * np.array([110.0, 170.0, 70.0])
    return image.astype(np.uint8), darkness


def section(seed=0):
    """Spots on the tissue, deeper where it is darker."""
    image, darkness = slide()
    spots = np.stack(np.meshgrid(np.arange(10.0, WIDTH, 20), np.arange(10.0, HEIGHT, 20)), axis=-1).reshape(-1, 2)
    dark = darkness[spots[:, 1].astype(int), spots[:, 0].astype(int)]
    spots, dark = spots[dark > 0], dark[dark > 0]
    counts = np.random.default_rng(seed).poisson(200 * dark[:, None] ** 2, (len(spots), 4))
    adata = ad.AnnData(counts.astype(np.float32))
    adata.obsm["spatial"] = spots
    adata.uns["spatial"] = {"s1": {"images": {}, "scalefactors": {"spot_diameter_fullres": 12.0}}}
    return adata, image


def moved(adata, change):
    wrong = adata.copy()
    wrong.obsm["spatial"] = change(adata.obsm["spatial"])
    return wrong


WRONG = {
    "x and y exchanged": lambda xy: xy[:, ::-1],
    "x mirrored": lambda xy: np.column_stack([WIDTH - xy[:, 0], xy[:, 1]]),
    "y mirrored": lambda xy: np.column_stack([xy[:, 0], HEIGHT - xy[:, 1]]),
    "turned by 180 degrees": lambda xy: np.array([WIDTH, HEIGHT]) - xy,
    "image_scale=2": lambda xy: xy / 2,
}


def test_spots_in_their_place_raise_no_suspicion():
    adata, image = section()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = im.check_alignment(adata, image).table
    given = table.loc[("", "as given")]
    assert given["inside"] == 1
    assert given["on_tissue"] > 0.95
    assert given["correlation"] > 0.9
    assert given["scale"] == 1
    assert not table["suspected"].any()


@pytest.mark.parametrize("mistake", WRONG)
def test_misplaced_spots_are_reported_with_what_fits(mistake):
    adata, image = section()
    with pytest.warns(UserWarning, match=f"may be misplaced.*{mistake}"):
        table = im.check_alignment(moved(adata, WRONG[mistake]), image).table
    assert table["suspected"].sum() == 1
    right = table[table["suspected"]].iloc[0]
    assert right["on_tissue"] > 0.95
    assert right["correlation"] > 0.9


def test_coordinates_of_another_resolution_name_its_factor():
    adata, image = section()
    adata.uns["spatial"]["s1"]["scalefactors"]["tissue_hires_scalef"] = 0.25
    wrong = moved(adata, lambda xy: xy * 4)
    with pytest.warns(UserWarning, match=r"image_scale=0\.25"):
        table = im.check_alignment(wrong, image).table
    assert table.loc[("", "as given"), "inside"] < 0.5
    assert table.loc[("", "tissue_hires_scalef"), "on_tissue"] > 0.95
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        im.check_alignment(wrong, image, image_scale=0.25)


def test_tissue_of_grey_images_is_found_by_darkness():
    adata, image = section()
    grey = image.mean(axis=2).astype(np.uint8)
    assert im.check_alignment(adata, grey).table.loc[("", "as given"), "on_tissue"] > 0.95


def test_uninformative_library_sizes():
    adata, image = section()
    adata.layers["flat"] = np.ones(adata.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = im.check_alignment(adata, image, layer="flat").table
    assert table["correlation"].isna().all()


def test_sections_crops_and_the_image():
    mpl.use("Agg")
    (good, image), (bad, _) = section(), section(1)
    bad = moved(bad, WRONG["x mirrored"])
    both = ad.concat([good, bad], keys=["a", "b"], label="library", index_unique="-")
    both.uns["spatial"] = dict.fromkeys(("a", "b"), good.uns["spatial"]["s1"])
    crop = im.ImageSource(image[30:, 50:], "yxc", offset=(-50.0, -30.0))
    with pytest.warns(UserWarning, match="of section 'b'"):
        alignment = im.check_alignment(both, {"a": crop, "b": image}, library_key="library")
    assert isinstance(alignment.table, pd.DataFrame)
    assert alignment.table.index.get_level_values("section").unique().tolist() == ["a", "b"]
    assert alignment.table.loc[("a", "as given"), "on_tissue"] > 0.95
    first, second = pl.alignment(alignment)
    assert "on tissue" in first.get_title()
    assert len(second.collections[0].get_offsets()) == bad.n_obs


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["her2st/C2.h5ad", "her2st/C3.h5ad", "her2st/C4.h5ad"])
def test_real_sections(data_dir, name):
    path = data_dir / name
    adata = ad.read_h5ad(path)
    source = im.open_image(path.with_name(f"{path.stem}_HE.jpg"))
    image, scale = im.thumbnail(source)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        im.check_alignment(adata, image, image_scale=scale)
    for words, change in {
        "x and y exchanged": lambda xy: xy[:, ::-1],
        "x mirrored": lambda xy: np.column_stack([source.width - xy[:, 0], xy[:, 1]]),
        "image_scale=": lambda xy: xy / 2,
    }.items():
        with pytest.warns(UserWarning, match=words):
            im.check_alignment(moved(adata, change), image, image_scale=scale)


# ---- few spots on tissue, other signs and resolutions, fluorescence -------------------------------------------------

FACTORS = {"tissue_hires_scalef": 0.3, "tissue_lowres_scalef": 0.02}


def flat(adata):
    """The section with equal library sizes: nothing correlates with the staining."""
    adata.X = np.ones(adata.shape, dtype=np.float32)
    return adata


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("of_counts", [True, False])
def test_positions_in_pixels_of_another_resolution(factor, of_counts):
    adata, image = section()
    adata.uns["spatial"]["s1"]["scalefactors"] |= FACTORS
    wrong = moved(adata if of_counts else flat(adata), lambda xy: xy * FACTORS[factor])
    with pytest.warns(UserWarning, match=rf"image_scale={1 / FACTORS[factor]:.3g}` \(1 / {factor}\)") as told:
        table = im.check_alignment(wrong, image).table
    assert ("0%" if of_counts else "0 of") in str(told[0].message)
    assert table.loc[("", f"1 / {factor}"), "on_tissue"] > 0.95
    small = image[::4, ::4]
    with pytest.warns(UserWarning, match=rf"image_scale={0.25 / FACTORS[factor]:.3g}`"):
        im.check_alignment(wrong, small, image_scale=0.25)


def test_a_far_scale_without_factors_is_found():
    adata, image = section()
    with pytest.warns(UserWarning, match=r"image_scale=\d+") as told:
        im.check_alignment(moved(adata, lambda xy: xy / 60), image)
    assert float(str(told[0].message).split("image_scale=")[1].split("`")[0]) == pytest.approx(60, rel=0.1)


@pytest.mark.parametrize(
    ("signs", "name"), [((-1, 1), "x negated"), ((1, -1), "y negated"), ((-1, -1), "x and y negated")]
)
@pytest.mark.parametrize("of_counts", [True, False])
def test_negated_positions(signs, name, of_counts):
    adata, image = section()
    wrong = moved(adata if of_counts else flat(adata), lambda xy: xy * signs)
    with pytest.warns(UserWarning, match=f"with the spots with {name}"):
        table = im.check_alignment(wrong, image).table
    assert table.loc[("", name), "on_tissue"] > 0.95
    names = im.check_alignment(adata, image).table.loc[""].index
    assert not any("negated" in other for other in names)


def test_spots_off_the_tissue_are_reported_where_nothing_fits():
    adata, image = section()
    adata = moved(flat(adata), lambda xy: np.array([60.0, 560.0]) + (xy - [400, 300]) * [0.5, 0.02])
    with pytest.warns(UserWarning, match=r"^0 of \d+ spots lie on tissue \(0%\)\. No other scale"):
        im.check_alignment(adata, image)


def test_some_spots_beside_the_tissue_are_usual():
    """All spots of a slide, of which the tissue takes a quarter; and an image of one colour, which has no tissue."""
    adata, image = section()
    x, y = np.meshgrid(np.arange(10.0, WIDTH, 20), np.arange(10.0, HEIGHT, 20))
    spots = ad.AnnData(np.ones((x.size, 2), dtype=np.float32))
    spots.obsm["spatial"] = np.column_stack([x.ravel(), y.ravel()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = im.check_alignment(spots, image).table
        im.check_alignment(adata, np.full_like(image, 240))
    assert table.loc[("", "as given"), "on_tissue"] < 0.25


@pytest.mark.parametrize("kind", ["grey", "channels", "crop"])
def test_fluorescence_is_aligned_by_its_brightness(kind):
    adata, image = section()
    grey = (250 - image.mean(axis=2)).astype(np.uint8)
    shown = {
        "grey": grey,
        "channels": im.open_image(np.stack([grey // 2, grey]), channels=[1]),
        "crop": im.ImageSource(grey[20:, 40:], "yx", offset=(-40.0, -20.0)),
    }[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        given = im.check_alignment(adata, shown).table.loc[("", "as given")]
    assert given["on_tissue"] > 0.95
    assert given["correlation"] > 0.6
    with pytest.warns(UserWarning, match="correlation of brightness with library size.*x and y exchanged"):
        im.check_alignment(moved(adata, WRONG["x and y exchanged"]), shown)

"""Do coordinates and image belong together?"""

import numpy as np
import pytest

import soscope_scverse.im as im
from images import HEIGHT, PITCH, WIDTH, computed, section, tissue


def test_coordinates_may_poke_out_by_a_pitch():
    adata = section([(0.0, 0.0), (PITCH, 0.0), (2 * PITCH, 0.0)])
    im.check_coordinates(adata, tissue())
    assert np.isfinite(computed(adata, tissue())).all()
    adata.obsm["subspots"] -= PITCH
    with pytest.raises(ValueError, match="of 12 outside"):
        im.check_coordinates(adata, tissue())


@pytest.mark.parametrize("has_subspots", [True, False])
def test_wrong_scale_names_the_factor_that_fits(has_subspots):
    adata = section()
    adata.uns["spatial"]["s1"]["scalefactors"] |= {"tissue_hires_scalef": 0.1, "tissue_lowres_scalef": 0.05}
    if not has_subspots:
        del adata.obsm["subspots"]
    small = np.zeros((HEIGHT // 10, WIDTH // 10, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"image_scale=0\.1`, the `tissue_hires_scalef`") as error:
        im.check_coordinates(adata, small)
    assert "19 wide and 15 high" in str(error.value)
    im.check_coordinates(adata, small, image_scale=0.1)


def test_wrong_scale_without_factors_is_estimated():
    adata = section([(1000.0, 1000.0), (1900.0, 1500.0)], uns=False)
    with pytest.raises(ValueError, match=r"`image_scale`.*at most 0\.099"):
        im.check_coordinates(adata, tissue(), image_scale=1)


def test_exchanged_axes_are_reported():
    adata = section([(75.0, 10.0), (75.0, 40.0), (75.0, 780.0)])
    with pytest.raises(ValueError, match="exchange x and y"):
        im.check_coordinates(adata, tissue(150, 800))


@pytest.mark.parametrize(("signs", "name"), [((-1, 1), "x"), ((1, -1), "y"), ((-1, -1), "x and y")])
@pytest.mark.parametrize("has_subspots", [True, False])
def test_negated_positions_are_reported(signs, name, has_subspots):
    adata = section()
    adata.obsm["spatial"] = adata.obsm["spatial"] * signs
    adata.obsm["subspots"] = adata.obsm["subspots"] * signs
    if not has_subspots:
        del adata.obsm["subspots"]
    with pytest.raises(ValueError, match=f"What to do: change the sign of {name}, which would fit"):
        im.check_coordinates(adata, tissue())


@pytest.mark.parametrize("change", [lambda xy: xy[:, ::-1], lambda xy: xy * [1, -1]])
def test_two_mistakes_at_once_are_reported(change):
    adata = section([(300.0, 20.0), (300.0, 140.0), (1500.0, 140.0)])
    adata.uns["spatial"]["s1"]["scalefactors"] |= {"tissue_hires_scalef": 0.1}
    del adata.obsm["subspots"]
    adata.obsm["spatial"] = change(adata.obsm["spatial"])
    with pytest.raises(ValueError, match=r"(exchange x and y|change the sign of y) and pass `image_scale=0\.1`"):
        im.check_coordinates(adata, tissue(20, 160))


def test_features_checks_before_reading():
    class Unreadable:
        shape, dtype = (15, 19, 3), np.dtype(np.uint8)

        def __getitem__(self, window):
            raise AssertionError

    with pytest.raises(ValueError, match="outside"):
        im.features(section(), Unreadable())

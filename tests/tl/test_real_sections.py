"""Sections as they come from instruments, with and without the mistakes of their users."""

import warnings

import anndata as ad
import numpy as np
import pytest

from helpers import QUICK
from soscope_scverse import im, pp, tl

pytestmark = pytest.mark.realdata


@pytest.mark.parametrize(
    ("name", "path", "options", "shape"),
    [
        ("her2st/C2", "her2st/C2_HE.jpg", {"n_subspots": 9}, (1683, 20)),
        ("mouse_ob/MOB1", "mouse_ob/MOB1_HE.jpg", {}, (3411, 20)),
        ("embryo/embryo", "embryo/colour_x5_from_lowres.jpg", {"capture": None}, (20286, 20)),
    ],
)
@pytest.mark.filterwarnings("ignore:.*(no counts|no neighbour)")
def test_real_sections(data_dir, name, path, options, shape):
    adata = ad.read_h5ad(data_dir / f"{name}.h5ad")
    genes = pp.spatial_genes(adata, 20)
    enhanced = tl.enhance(adata, image=data_dir / path, genes=genes, **QUICK | options)
    assert enhanced.shape == shape
    assert np.isfinite(enhanced.X).all()
    assert (enhanced.X >= 0).all()
    total = enhanced.X.reshape(adata.n_obs, -1, 20).sum(axis=1)
    np.testing.assert_allclose(total, adata[:, genes].X.toarray(), rtol=1e-4)


@pytest.mark.realdata
@pytest.mark.filterwarnings("ignore:.*(no counts|no neighbour|No image)")
def test_what_visium_captured_adds_up(data_dir):
    adata = ad.read_h5ad(data_dir / "embryo/embryo.h5ad")[:, :20].copy()
    enhanced, model = tl.enhance(adata, genes=list(adata.var_names), return_model=True, **QUICK)
    share = enhanced.obs["measured"].to_numpy()[:, None]
    assert share.mean() == pytest.approx(0.274, abs=0.003)  # a disc of 55 um in a hexagon of 100 um
    captured = enhanced.X - (1 - share) * model.get_enhanced(expectation="decoded").X
    np.testing.assert_allclose(captured.reshape(2898, 7, 20).sum(axis=1), adata.X.toarray(), rtol=1e-4, atol=1e-4)


class Coloured(im.PatchEncoder):
    """Stands in for a network that was trained on images in colour."""

    name = "coloured"
    needs_colour = True

    def describe(self, tiles):
        return tiles.mean(axis=(1, 2))


@pytest.mark.filterwarnings("ignore:The spots may be misplaced")  # in the image of another section, by chance
@pytest.mark.filterwarnings("ignore:The image has practically no effect")
def test_wrong_images_and_coordinates_are_named(data_dir):
    """The mistakes that users make, on a section and its image that fit."""
    adata = ad.read_h5ad(data_dir / "her2st" / "C2.h5ad")
    path = data_dir / "her2st" / "C2_HE.jpg"
    genes = pp.spatial_genes(adata, 20)
    small, scale = im.thumbnail(im.open_image(path))

    def moved(change):
        other = adata.copy()
        other.obsm["spatial"] = change(np.asarray(adata.obsm["spatial"], dtype=float))
        return other

    def enhanced(spots, image, **options):
        return tl.enhance(spots, image=image, genes=genes, **QUICK | {"max_epochs": 1} | options)

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(misplaced|practically no effect|grey)")
        enhanced(adata, path)
    with pytest.raises(ValueError, match=r"outside.*image_scale"):  # a smaller path, full-resolution coordinates
        enhanced(adata, small)
    with pytest.warns(UserWarning, match="x and y exchanged"):
        enhanced(moved(lambda xy: xy[:, ::-1]), small, image_scale=scale)
    with pytest.warns(UserWarning, match=r"misplaced.*`image_scale="):  # micrometres for pixels
        enhanced(moved(lambda xy: xy * 200 / 291), small, image_scale=scale)
    with pytest.warns(UserWarning, match="image of this section"):
        enhanced(adata, data_dir / "her2st" / "C3_HE.jpg")
    grey = small.mean(axis=2).astype(np.uint8)
    with pytest.warns(UserWarning, match="this one is grey"):
        enhanced(adata, grey, image_scale=scale, encoder=Coloured())

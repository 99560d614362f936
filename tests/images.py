"""An image of noise, and spots on it."""

import anndata as ad
import numpy as np

from soscope_scverse import im

HEIGHT, WIDTH = 150, 190
PITCH, DIAMETER = 30.0, 20.0


def section(spots=None, *, n_side=2, uns=True):
    """Spots on a square lattice of 30 pixels, each divided into n_side x n_side subspots."""
    if spots is None:
        spots = [(x, y) for y in (45.0, 75.0, 105.0) for x in (45.0, 75.0, 105.0, 135.0)]
    spots = np.array(spots, dtype=float)
    steps = (np.arange(n_side) - (n_side - 1) / 2) * PITCH / n_side
    offsets = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    adata = ad.AnnData(np.ones((len(spots), 1), dtype=np.float32))
    adata.obsm["spatial"] = spots
    adata.obsm["subspots"] = spots[:, None] + offsets
    if uns:
        adata.uns["spatial"] = {"s1": {"images": {}, "scalefactors": {"spot_diameter_fullres": DIAMETER}}}
    return adata


def tissue(height=HEIGHT, width=WIDTH, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def computed(adata, image, **kwargs):
    return im.features(adata, image, copy=True, **kwargs).obsm["subspot_features"]


def column(adata, name):
    return adata.obsm["subspot_features"][..., list(adata.uns["subspot_features"]["feature_names"]).index(name)]


def mean_colour(tiles):
    return tiles.mean(axis=(1, 2))


def halved(image):
    return image.reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)

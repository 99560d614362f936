"""What tests of several folders use: short trainings, results of one seed, objects of other libraries."""

from functools import wraps

import numpy as np
import torch

from soscope_scverse import SoScope, bench
from soscope_scverse.module.vae import SoScopeVAE

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}
QUICK = {"max_epochs": 4, "accelerator": "cpu", "train_kwargs": {"enable_progress_bar": False}}
"""Arguments of `tl.enhance` for a result that need not be good."""
FAST = {"max_epochs": 1, "accelerator": "cpu"}
"""The same for `bench.compare`, which sets the progress bar itself."""


def train(adata, max_epochs=20, seed=0, *, train_options=None, setup=None, image_strength=1, **options):
    """A model after a few steps; eight genes on 60 spots are no evidence for an image, so it is not tested."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        SoScope.setup_anndata(adata, **setup or {})
        model = SoScope(adata, image_strength=image_strength, **options)
        model.train(max_epochs, **QUIET | (train_options or {}))
    return model


def few_steps(train):
    """The method with three training steps unless their number is given."""

    @wraps(train)
    def trained(self, max_epochs=None, *, max_steps=None, **options):
        return train(self, max_epochs, max_steps=3 if max_epochs is None else max_steps, **options)

    return trained


def seeded(function, *args, seed=0, **kwargs):
    """What a function returns with torch's generator at a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return function(*args, **kwargs)


def clustered(adata, n_neighbors=15, n_comps=5):
    """What most tutorials do first."""
    import scanpy as sc

    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.pca(adata, n_comps=n_comps)
    sc.pp.neighbors(adata, n_neighbors=n_neighbors)
    sc.tl.leiden(adata, flavor="igraph", n_iterations=2, resolution=0.5)
    return adata


def flat(values):
    """Values of subspots, n_spots x n_subspots x ..., one row for each."""
    return values.reshape(-1, *values.shape[2:])


def by_spot(values, n_spots=60):
    """Rows of subspots, as many in each spot, by spot."""
    return values.reshape(n_spots, -1, values.shape[-1])


def image_element(image, **kwargs):
    """An array, height x width x channels, as an image of SpatialData."""
    from spatialdata.models import Image2DModel

    return Image2DModel.parse(np.moveaxis(np.asarray(image), 2, 0), dims=("c", "y", "x"), **kwargs)


def as_visium(section, radius=10.0, name="visium"):
    """As `spatialdata_io.visium` makes it: names, instances, coordinate systems, transformations."""
    import pandas as pd
    import spatialdata as sd
    from spatialdata.models import ShapesModel, TableModel
    from spatialdata.transformations import Identity, Scale

    table = section.adata.copy()
    table.obs["spot_id"] = np.arange(table.n_obs)
    table.obs["region"] = pd.Categorical([name] * table.n_obs)
    del table.uns["spatial"]
    shrink = {"hires": 2, "lowres": 4}
    smaller = {size: Scale([1 / n, 1 / n], axes=("y", "x")) for size, n in shrink.items()}
    systems = {name: Identity(), **{f"{name}_downscaled_{size}": scale for size, scale in smaller.items()}}
    full = image_element(section.image, scale_factors=[2, 2], transformations={name: Identity()})
    images = {f"{name}_full_image": full}
    height, width = (length // 4 * 4 for length in section.image.shape[:2])
    for size, n in shrink.items():
        blocks = np.asarray(section.image)[:height, :width].reshape(height // n, n, width // n, n, 3)
        images[f"{name}_{size}_image"] = image_element(
            blocks.mean(axis=(1, 3)).astype(np.uint8),
            transformations={f"{name}_downscaled_{size}": Identity(), name: smaller[size].inverse()},
        )
    circles = ShapesModel.parse(
        table.obsm["spatial"], geometry=0, radius=radius, index=table.obs["spot_id"].copy(), transformations=systems
    )
    table = TableModel.parse(table, region=name, region_key="region", instance_key="spot_id")
    return sd.SpatialData(images=images, shapes={name: circles}, tables={"table": table})


def chain(n=12, k=3, n_features=5, n_image_features=2):
    """Spots in a row, each joined to the next, k subspots each."""
    i = torch.arange(n - 1)
    m = torch.arange(n * k - 1)
    return {
        "x": torch.poisson(torch.full((n, n_features), 6.0)),
        "size": torch.ones(n, 1),
        "edge_index": torch.cat([torch.stack([i, i + 1]), torch.stack([i + 1, i])], dim=1),
        "edge_weight": torch.rand(2 * n - 2),
        "own": torch.arange(n),
        "edge_density": torch.tensor(2 / n),
        "exposure": torch.full((n, k), 1 / k),
        "neighbors": torch.arange(n).view(n, 1, 1).expand(n, k, 1).contiguous(),
        "neighbor_weights": torch.ones(n, k, 1),
        "valid": torch.arange(n * k),
        "features": torch.randn(n, k, n_image_features),
        "image_edge_index": torch.stack([m, m + 1]),
        "image_edge_weight": torch.rand(n * k - 1),
        "image_edge_density": torch.tensor(2 / (n * k)),
        "n_targets": torch.tensor(float(n * k)),
    }


def compare(low, truth, image=None, **kwargs):
    """`bench.compare` with short trainings."""
    return bench.compare(low, truth, image, progress=False, **{"enhance_kwargs": FAST, **kwargs})


VAE_OPTIONS = {
    "aggregate": None,
    "sigma": None,
    "dispersion": "feature",
    "observation": "matched",
    "n_latent": 4,
    "n_hidden": 16,
    "n_layers": 3,
    "decoder": "shift",
    "uses_latent": True,
    "n_image_components": 128,
    "feature_dropout": 0.5,
    "masked": 0.3,
    "image_weight": 1.0,
    "n_graph_samples": None,
}


def vae(tile, likelihood="nb", **options):
    """A module of the size of a tile."""
    n_image_features = tile["features"].shape[-1] if "features" in tile else 0
    module = SoScopeVAE([(likelihood, tile["x"].shape[1])], n_image_features, **VAE_OPTIONS | options)
    module.start_from(tile["x"], tile["size"])
    return module

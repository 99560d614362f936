import os
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from hypothesis import settings
from matplotlib import pyplot as plt
from PIL import Image
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Identity, Scale

from soscope_scverse import datasets, im, pp

settings.register_profile("few", max_examples=10, derandomize=True, deadline=None, database=None)
settings.register_profile("many", max_examples=500, deadline=None, print_blob=True)


def pytest_configure(config):
    """``pytest -m slow`` tries many examples of each property."""
    settings.load_profile("many" if config.option.markexpr == "slow" else "few")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real sections; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("SOSCOPE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real sections at {folder}: set SOSCOPE_TEST_DATA")
    return folder


@pytest.fixture
def closed_figures():
    """Draw without windows, and leave no figures."""
    backend = mpl.get_backend()
    plt.switch_backend("Agg")
    yield
    plt.close("all")
    plt.switch_backend(backend)


@pytest.fixture(scope="module")
def spots():
    """A section for the command line."""
    return datasets.synthetic_section(30, lattice="square", n_subspots=4, n_genes=5)


@pytest.fixture
def folder(spots, tmp_path, monkeypatch):
    """A working directory with ``in.h5ad`` and ``section.png``."""
    monkeypatch.chdir(tmp_path)
    spots.adata.write_h5ad("in.h5ad")
    Image.fromarray(spots.image).save("section.png")
    return tmp_path


@pytest.fixture(scope="session")
def _section() -> datasets.SyntheticSection:
    return datasets.synthetic_section(60, n_genes=8)


@pytest.fixture
def section(_section):
    """A small synthetic section; tests may write to its spots."""
    return datasets.SyntheticSection(_section.adata.copy(), _section.image, _section.truth)


@pytest.fixture(scope="session")
def _prepared(_section):
    adata = _section.adata.copy()
    pp.subspots(adata)
    pp.spot_graph(adata)
    im.features(adata, _section.image)
    return adata


@pytest.fixture
def prepared(_prepared):
    """Spots with all slots that the model needs."""
    return _prepared.copy()


@pytest.fixture(scope="session")
def inception(tmp_path_factory):
    """Inception without its head, with random weights and features of ordinary size, and the file of its weights."""
    import torch
    from torchvision.models import inception_v3

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = inception_v3(weights=None, init_weights=False, transform_input=True)
        for layer in network.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = None
        with torch.no_grad():
            network.train()(torch.randn(2, 3, 299, 299))
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(network.state_dict(), path)
    network.fc = torch.nn.Identity()
    return network.eval(), path


def _image(image, **kwargs):
    return Image2DModel.parse(np.moveaxis(np.asarray(image), 2, 0), dims=("c", "y", "x"), **kwargs)


def _as_visium(section, radius=10.0, name="visium"):
    """As `spatialdata_io.visium` makes it: names, instances, coordinate systems, transformations."""
    table = section.adata.copy()
    table.obs["spot_id"] = np.arange(table.n_obs)
    table.obs["region"] = pd.Categorical([name] * table.n_obs)
    del table.uns["spatial"]
    shrink = {"hires": 2, "lowres": 4}
    smaller = {size: Scale([1 / n, 1 / n], axes=("y", "x")) for size, n in shrink.items()}
    place = {name: Identity(), **{f"{name}_downscaled_{size}": scale for size, scale in smaller.items()}}
    images = {f"{name}_full_image": _image(section.image, scale_factors=[2, 2], transformations={name: Identity()})}
    height, width = (length // 4 * 4 for length in section.image.shape[:2])
    for size, n in shrink.items():
        blocks = np.asarray(section.image)[:height, :width].reshape(height // n, n, width // n, n, 3)
        images[f"{name}_{size}_image"] = _image(
            blocks.mean(axis=(1, 3)).astype(np.uint8),
            transformations={f"{name}_downscaled_{size}": Identity(), name: smaller[size].inverse()},
        )
    circles = ShapesModel.parse(
        table.obsm["spatial"], geometry=0, radius=radius, index=table.obs["spot_id"].copy(), transformations=place
    )
    table = TableModel.parse(table, region=name, region_key="region", instance_key="spot_id")
    return sd.SpatialData(images=images, shapes={name: circles}, tables={"table": table})


@pytest.fixture
def as_visium():
    """A function that makes of a section what `spatialdata_io.visium` makes of its files."""
    return _as_visium

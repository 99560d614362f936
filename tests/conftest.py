"""Sections, images and models that many tests share, and how the tests run.

Every worker has one thread: several that wait for each other on the same cores are slower than one. This has to be set
before numpy and torch are imported, and the processes that tests start inherit it.
"""

import os

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_threads] = "1"
os.environ.setdefault("MPLBACKEND", "agg")

from pathlib import Path

import numpy as np
import pytest


def pytest_configure(config):
    """``pytest -m slow`` tries many examples of each property."""
    from hypothesis import settings

    settings.register_profile("few", max_examples=10, derandomize=True, deadline=None, database=None)
    settings.register_profile("many", max_examples=500, deadline=None, print_blob=True)
    settings.load_profile("many" if config.option.markexpr == "slow" else "few")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Of torch, and of numba, which a plugin of pytest may have imported before: those of numba set those of torch."""
    import numba
    import torch

    numba.set_num_threads(1)
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the repository."""
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def data_dir(root) -> Path:
    """Folder of the real sections; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("SOSCOPE_TEST_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real sections at {folder}: set SOSCOPE_TEST_DATA")
    return folder


@pytest.fixture
def closed_figures():
    """Draw without windows, and leave no figures."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    backend = mpl.get_backend()
    plt.switch_backend("Agg")
    yield
    plt.close("all")
    plt.switch_backend(backend)


@pytest.fixture
def _seeded():
    """Random numbers of torch from one seed."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


# ------------------------------------------------------------------------------------------------------------ sections


@pytest.fixture(scope="session")
def _section():
    from soscope_scverse import datasets

    return datasets.synthetic_section(60, n_genes=8)


@pytest.fixture
def section(_section):
    """A small synthetic section; tests may write to its spots."""
    return _section._replace(adata=_section.adata.copy())


@pytest.fixture
def task(section):
    """Spots with known subspots, their truth, and the image."""
    from soscope_scverse import pp

    pp.subspots(section.adata)
    return section.adata, section.truth, section.image


@pytest.fixture(scope="session")
def _prepared(_section):
    from soscope_scverse import im, pp

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
def spots():
    """A section for the command line."""
    from soscope_scverse import datasets

    return datasets.synthetic_section(30, lattice="square", n_subspots=4, n_genes=5)


@pytest.fixture
def folder(spots, tmp_path, monkeypatch):
    """A working directory with ``in.h5ad`` and ``section.png``."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    spots.adata.write_h5ad("in.h5ad")
    Image.fromarray(spots.image).save("section.png")
    return tmp_path


# -------------------------------------------------------------------------------------------------------------- models


@pytest.fixture(scope="session")
def trained(_prepared):
    """A trained model of `prepared`; tests leave it as it is."""
    from helpers import train

    return train(_prepared.copy(), max_epochs=60)


@pytest.fixture(scope="session")
def enhanced(trained):
    """What the trained model gives; tests leave it as it is."""
    return trained.get_enhanced()


@pytest.fixture(scope="session")
def padded(_prepared):
    """A trained model of spots some of which have fewer subspots; tests leave it as it is."""
    from helpers import train
    from soscope_scverse import pp

    adata = _prepared.copy()
    positions, features = adata.obsm["subspots"].copy(), adata.obsm["subspot_features"]
    positions[::3, 4:] = np.nan
    pp.subspots(adata, positions=positions)
    adata.obsm["subspot_features"] = features
    return train(adata, max_epochs=5)


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


@pytest.fixture(scope="session")
def as_visium():
    """A function that makes of a section what `spatialdata_io.visium` makes of its files."""
    from helpers import as_visium

    return as_visium

import os
from pathlib import Path

import pytest

from soscope_scverse import datasets, im, pp


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real sections; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("SOSCOPE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real sections at {folder}: set SOSCOPE_TEST_DATA")
    return folder


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

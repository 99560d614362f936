import pytest

from soscope_scverse import datasets


@pytest.fixture(scope="session")
def small():
    """A section to draw; tests leave it as it is."""
    return datasets.synthetic_section(30, lattice="square", n_subspots=4, n_genes=5)

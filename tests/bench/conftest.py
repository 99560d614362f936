import pytest

from merging import SECTIONS
from soscope_scverse import bench


@pytest.fixture(params=SECTIONS)
def merged(request):
    """A section, and what it is when merged."""
    adata, arguments = SECTIONS[request.param]
    return adata, bench.simulate_low_resolution(adata, **arguments)

from . import bench, datasets, im, metrics, model, pl, pp, tl
from ._io import read
from .model import SoScope

__all__ = ["SoScope", "bench", "datasets", "im", "metrics", "model", "pl", "pp", "read", "tl"]
__version__: str

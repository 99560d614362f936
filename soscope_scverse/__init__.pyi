from . import bench, datasets, im, metrics, model, pl, pp, tl
from .model import SoScope

__all__ = ["SoScope", "bench", "datasets", "im", "metrics", "model", "pl", "pp", "tl"]
__version__: str

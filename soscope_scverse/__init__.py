"""Resolution enhancement of spatial omics with soScope, for AnnData.

Namespaces load when first used, so that importing the package stays light and does not import torch.
"""

from importlib.metadata import version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = version("soscope-scverse")

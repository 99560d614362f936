"""AnnData that `anndata.experimental.read_lazy` opened: their slots are read, their profiles stay on disk."""

from __future__ import annotations

import pandas as pd
from anndata import AnnData

from soscope_scverse._arrays import layers_of


def is_lazy(data: object) -> bool:
    """Whether the columns of an AnnData are still on disk."""
    return isinstance(data, AnnData) and not isinstance(data.obs, pd.DataFrame)


def opened(data: AnnData) -> AnnData:
    """Return an AnnData with all slots in memory but ``X`` and layers, which are dask arrays of the file."""
    slots = {name: dict(getattr(data, name)) for name in ("obsm", "varm", "obsp", "varp", "uns")}
    shell = AnnData(obs=data.obs, var=data.var, **slots).to_memory()
    shell.X = data.X
    for name, values in layers_of(data).items():
        shell.layers[name] = values
    return shell

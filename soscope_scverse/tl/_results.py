"""What a run leaves: what a file cannot hold is found before the training, and a failed writer loses no result."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from mudata import MuData

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse._containers.mudata import spots_of
from soscope_scverse._storable import check_storable
from soscope_scverse.model import SoScope
from soscope_scverse.model.inference._carried import carried_columns, check_tables


def check_files(chosen: AnnData | MuData, options: Mapping[str, Any], enhanced: AnnData | MuData) -> None:
    """Raise a ValueError if ``save_model`` or ``out`` of :func:`~soscope_scverse.tl.enhance` could not be written.

    Parameters
    ----------
    chosen
        Spots with the features that the model is trained on, which are saved with it.
    options
        Arguments of :func:`~soscope_scverse.tl.enhance`.
    enhanced
        Spots with the features of the result.
    """
    check_tables(spots_of(chosen), options["obsm_keys"])
    if options["save_model"] is not None:
        check_storable("save_model", chosen, ".h5mu" if isinstance(chosen, MuData) else ".h5ad")
        check_result("save_model", spots_of(chosen), options["library_key"], ".h5ad")
    if options["out"] is not None:
        check_result("out", enhanced, options["library_key"], Path(options["out"]).suffix)


def check_result(name: str, spots: AnnData, library_key: str | None, suffix: str) -> None:
    """Raise a ValueError if a file cannot hold what a result has of its spots.

    Parameters
    ----------
    name
        Argument that names the file.
    spots
        The spots.
    library_key
        Column with the sections.
    suffix
        Of the file.
    """
    # a result has an entry for every section
    names = [] if library_key is None else np.unique(read.sections(spots, library_key)).tolist()
    own = () if library_key is None else (library_key,)
    obs = spots.obs[list(own)].astype("category").join(carried_columns(spots.obs, own)).rename_axis(index=None)
    libraries = {**{name: {part: {} for part in read.PARTS_OF_SECTION} for name in names}, **read.libraries(spots)}
    check_storable(name, AnnData(obs=obs, var=spots.var, uns={keys.SPATIAL: libraries}), suffix)


def save(model: SoScope, path: str | PathLike) -> None:
    """Save the model and its spots, with their latent states, from the first process; warn if that fails."""
    model.adata.obsm[keys.LATENT] = model.get_latent_representation()
    if not (model.trainer and model.trainer.is_global_zero):
        return
    try:
        model.save(str(path), save_anndata=True)
    except Exception as error:  # of the disk, or of the writers of other packages
        kept = "without its spots: load it with `SoScope.load(path, adata)`"
        try:
            model.save(str(path))
        except Exception:
            kept = "not at all: pass `return_model=True` to get it, and save it elsewhere"
        warnings.warn(
            f"The model could not be saved to {str(path)!r} ({error or type(error).__name__}). It is saved {kept}.",
            UserWarning,
            stacklevel=4,
        )


def enhanced(
    enhance: Callable[..., AnnData | MuData], model: SoScope, out: str | PathLike | None, **options: Any
) -> AnnData | MuData:
    """Return what a method of the model does; in memory, with a warning, where it cannot be written."""
    try:
        return enhance(out=out, **options)
    except Exception as error:  # of the disk, or of the writers of other packages
        if out is None or (model.trainer is not None and model.trainer.world_size > 1):
            raise
        warnings.warn(
            f"The result could not be written to {str(out)!r} ({error or type(error).__name__}). It is returned in "
            "memory: write it elsewhere.",
            UserWarning,
            stacklevel=4,
        )
    return enhance(**options)

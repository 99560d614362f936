"""Brings the spots of other sections to the form that a model was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from anndata import AnnData
from mudata import MuData

from soscope_scverse import _validation as check
from soscope_scverse._arrays import columns, layers_of
from soscope_scverse._containers.mudata import joined, modality, spots_of


def like_trained(
    data: AnnData | MuData, trained: AnnData | MuData, setup: Mapping[str, Any], *, needs_features: bool
) -> AnnData | MuData:
    """Spots with the features that a model was trained on, found by name; `data` is not changed.

    Parameters
    ----------
    data
        Spots of any section with the slots that the model needs.
    trained
        Spots that the model was trained on.
    setup
        Arguments of ``setup_anndata`` or ``setup_mudata``.
    needs_features
        Whether the model looks at the image.

    Raises
    ------
    TypeError, ValueError
        If slots or features are missing.
    """
    if isinstance(trained, MuData):
        check.mudata(data, setup["modalities"], setup["layer"])
        parts = {name: _with_trained(modality(data, name), trained.mod[name].var_names) for name in setup["modalities"]}
        like: AnnData | MuData = joined(parts)
    else:
        check.profiles(check.anndata(data), setup["layer"])
        like = _with_trained(data, trained.var_names)
    found = spots_of(like).obsm
    if needs_features and setup["features_key"] not in found:
        msg = (
            f"Expected image features in `adata.obsm[{setup['features_key']!r}]`, as the model was trained with a "
            f"image, found {sorted(found)}. Call `im.features(adata, image)` with the encoder of the training."
        )
        raise ValueError(msg)
    return like


def _with_trained(adata: AnnData, names: pd.Index) -> AnnData:
    missing = names.difference(adata.var_names, sort=False)
    if len(missing):
        msg = (
            f"Expected the {len(names)} features that the model was trained on in `adata.var_names`, {len(missing)} "
            f"are missing: {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}. "
            "Train on the features that all sections have."
        )
        raise ValueError(msg)
    return with_features(adata, names)


def with_features(adata: AnnData, names: Sequence[str]) -> AnnData:
    """A new AnnData in memory with these features; whatever is not of features is shared, not copied."""
    if adata.is_view:
        adata = adata.to_memory()
    index = adata.var_names.get_indexer(names)
    return AnnData(
        None if adata.X is None else columns(adata.X, index),
        obs=adata.obs.copy(),
        var=adata.var.iloc[index].copy(),
        layers={name: columns(values, index) for name, values in layers_of(adata).items()},
        obsm=dict(adata.obsm),
        obsp=dict(adata.obsp),
        uns=dict(adata.uns),
    )

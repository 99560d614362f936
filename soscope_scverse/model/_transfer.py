"""Spots of other sections in the form that a model was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from anndata import AnnData
from mudata import MuData
from scvi.data import AnnDataManager

from soscope_scverse import _read as read
from soscope_scverse._arrays import columns, layers_of
from soscope_scverse._containers.mudata import joined, modality, spots_of
from soscope_scverse._upstream import SCVI_SLOTS
from soscope_scverse._validators import check_profiles
from soscope_scverse.model._inputs import Inputs, model_fields
from soscope_scverse.module.likelihoods import count_likelihoods


def transferred(data: AnnData | MuData, trained: Inputs, likelihoods: Sequence[str], *, needs_features: bool) -> Inputs:
    """Register spots with the fields and features that a model was trained on; no store keeps the registry.

    Parameters
    ----------
    data
        Spots of any section with the slots that the model needs; not changed.
    trained
        Spots that the model was trained on.
    likelihoods
        Likelihood of every modality.
    needs_features
        Whether the model uses the image.

    Raises
    ------
    TypeError, ValueError
        If slots or features are missing, or profiles do not fit the likelihood.
    """
    registry = trained.manager.registry
    setup = registry["setup_args"]
    spots = like_trained(data, trained.data, setup, needs_features=needs_features)
    known = {field.registry_key for field in trained.manager.fields}
    fields = [field for field in model_fields(spots, setup) if field.registry_key in known]
    manager = AnnDataManager(fields=fields, setup_method_args={"setup_args": setup})
    manager.register_fields(spots, registry)
    inputs = trained._replace(manager=manager)
    for x, name, advice in zip(inputs.profiles(), likelihoods, inputs.advice_on_counts(), strict=True):
        check_profiles(x, name, count_likelihoods(), advice)
    return inputs


def like_trained(
    data: AnnData | MuData, trained: AnnData | MuData, setup: Mapping[str, Any], *, needs_features: bool
) -> AnnData | MuData:
    """Return spots with the features that a model was trained on, found by name; `data` is not changed.

    Parameters
    ----------
    data
        Spots of any section with the slots that the model needs.
    trained
        Spots that the model was trained on.
    setup
        Arguments of ``setup_anndata`` or ``setup_mudata``.
    needs_features
        Whether the model uses the image.

    Raises
    ------
    TypeError, ValueError
        If slots or features are missing.
    """
    if isinstance(trained, MuData):
        read.read_mudata(data, setup["modalities"], setup["layer"])
        parts = {name: _with_trained(modality(data, name), trained.mod[name].var_names) for name in setup["modalities"]}
        like: AnnData | MuData = joined(parts)
    else:
        read.profiles(data, setup["layer"])
        like = _with_trained(data, trained.var_names)
    found = spots_of(like).obsm
    if needs_features and setup["features_key"] not in found:
        msg = (
            f"Expected image features in `adata.obsm[{setup['features_key']!r}]`, as the model was trained with an "
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
    """Return a new AnnData in memory with these features; slots of the spots are shared, not copied.

    It has no registry of scvi-tools: that of `adata` stays valid.

    Parameters
    ----------
    adata
        Spots, perhaps file-backed.
    names
        Features out of ``adata.var_names``, in this order.
    """
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
        uns={key: value for key, value in adata.uns.items() if key not in SCVI_SLOTS},
    )

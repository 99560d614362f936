"""Brings the spots of other sections to the form that a model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anndata import AnnData

from soscope_scverse import _validation as check
from soscope_scverse._arrays import columns


def like_trained(adata: AnnData, names: Sequence[str], setup: dict[str, Any], *, needs_features: bool) -> AnnData:
    """Spots in the form that a model was trained on, after the checks of ``setup_anndata``; `adata` is not changed.

    Parameters
    ----------
    adata
        Spots of any section with the slots that the model needs.
    names
        Features that the model was trained on.
    setup
        Arguments of ``setup_anndata``.
    needs_features
        Whether the model looks at the picture.

    Raises
    ------
    ValueError
        If slots or features are missing.
    """
    check.anndata(adata)
    check.positions(adata)
    check.profiles(adata, setup["layer"])
    check.sections(adata, setup["library_key"])
    check.model_slots(adata, setup["features_key"])
    if needs_features and setup["features_key"] not in adata.obsm:
        msg = (
            f"Expected image features in `adata.obsm[{setup['features_key']!r}]`, as the model was trained with a "
            f"picture, found {sorted(adata.obsm)}. Call `im.features(adata, image)` with the encoder of the training."
        )
        raise ValueError(msg)
    missing = [name for name in names if name not in adata.var_names]
    if missing:
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
        layers={name: columns(values, index) for name, values in adata.layers.items()},
        obsm=dict(adata.obsm),
        obsp=dict(adata.obsp),
        uns=dict(adata.uns),
    )

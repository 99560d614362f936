"""What the model is given: the fields that scvi-tools registers, and the section that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from anndata import AnnData
from mudata import MuData
from scipy.sparse import csr_matrix, hstack, issparse
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data.fields import BaseAnnDataField, MuDataWrapper

from soscope_scverse import _keys as keys
from soscope_scverse import _validation as check
from soscope_scverse._arrays import Matrix, dense, in_memory
from soscope_scverse._containers.mudata import spots_of
from soscope_scverse.model._fields import BatchField, FeaturesField, ProfileField, SlotField
from soscope_scverse.model._tiles import Section, batch_shares
from soscope_scverse.model.estimates.image_projection import Projection
from soscope_scverse.module.likelihoods import LIKELIHOODS

_ModalityField = MuDataWrapper(ProfileField)


def profile_fields(data: AnnData | MuData, setup: Mapping[str, Any]) -> list[BaseAnnDataField]:
    """Fields of the profiles, one for each modality.

    Parameters
    ----------
    data
        The spots.
    setup
        Arguments of ``setup_anndata`` or ``setup_mudata``.
    """
    if "modalities" not in setup:
        check.profiles(check.anndata(data), setup["layer"])
        return [ProfileField(REGISTRY_KEYS.X_KEY, setup["layer"], is_count_data=False)]
    layers = check.by_modality("layer", setup["layer"])
    check.mudata(data, setup["modalities"], layers)
    return [
        _ModalityField(_x_key(name), layers.get(name), is_count_data=False, mod_key=name, mod_required=True)
        for name in setup["modalities"]
    ]


def spot_fields(data: AnnData | MuData, setup: Mapping[str, Any]) -> list[BaseAnnDataField]:
    """Fields of the slots of the spots, after checking these; what the modalities of a MuData say goes to its top."""
    features_key, batch_key = setup["features_key"], setup["batch_key"]
    spots = spots_of(data)
    check.positions(spots)
    check.sections(spots, setup["library_key"])
    check.model_slots(spots, features_key)
    if batch_key is not None:
        check.labels(spots, "batch_key", batch_key, "batch")
    fields: list[SlotField] = [SlotField(key, "obsm", key) for key in (keys.SPATIAL, keys.SUBSPOTS, keys.EXPOSURE)]
    fields.append(SlotField(keys.SPOT_GRAPH, "obsp", keys.SPOT_GRAPH))
    if features_key is not None and features_key in spots.obsm:
        fields.append(FeaturesField(keys.FEATURES, features_key))
        if features_key in spots.uns:
            data.uns[features_key] = spots.uns[features_key]
    if batch_key is not None:
        fields.append(BatchField(REGISTRY_KEYS.BATCH_KEY, batch_key))
    if isinstance(data, MuData):
        for field in fields:
            getattr(data, field.attr_name)[field.attr_key] = getattr(spots, field.attr_name)[field.attr_key]
    return fields


def profiles(manager: AnnDataManager) -> list[Matrix]:
    """Profiles of every modality, in memory, rows as those of the data."""
    data, get = manager.adata, manager.get_from_registry
    if isinstance(data, AnnData):
        return [in_memory(get(REGISTRY_KEYS.X_KEY))]
    rows = {name: data.mod[name].obs_names.get_indexer(data.obs_names) for name in modalities_of(manager)}
    return [in_memory(get(_x_key(name)))[rows[name]] for name in rows]


def modalities_of(manager: AnnDataManager) -> Mapping[str, str]:
    """Likelihood of each modality of a MuData; none of an AnnData."""
    return manager.registry["setup_args"].get("modalities", {})


def check_profiles(matrices: Sequence[Matrix], likelihoods: Sequence[str]) -> None:
    """Raise unless the profiles of all modalities are finite and, where they have to be, counts."""
    for x, likelihood in zip(matrices, likelihoods, strict=True):
        check.one_of("likelihood", likelihood, list(LIKELIHOODS))
        if LIKELIHOODS[likelihood].is_counts:
            check.counts(x, likelihood)
        check.finite(x)


def read_section(
    manager: AnnDataManager, rows: np.ndarray, projection: Projection | None, batches: Sequence[str]
) -> Section:
    """Everything that the model knows of some spots.

    Parameters
    ----------
    manager
        Registry of the spots.
    rows
        Which spots, in this order.
    projection
        Of the image features; None looks at none.
    batches
        Batches that were trained on.
    """
    get, setup = manager.get_from_registry, manager.registry["setup_args"]
    spots = spots_of(manager.adata)
    exposure = np.asarray(get(keys.EXPOSURE), dtype=np.float32)
    if keys.RELATIVE_CELL_NUMBER in spots.obs:
        exposure = exposure * spots.obs[keys.RELATIVE_CELL_NUMBER].to_numpy(np.float32)[:, None]
    labels = check.labels(spots, "batch_key", setup["batch_key"], "batch") if len(batches) else None
    return Section(
        x=_side_by_side(profiles(manager))[rows],
        graph=csr_matrix(get(keys.SPOT_GRAPH))[rows][:, rows],
        spatial=np.asarray(get(keys.SPATIAL), dtype=float)[rows],
        subspots=np.asarray(get(keys.SUBSPOTS), dtype=float)[rows],
        exposure=exposure[rows],
        features=None if projection is None else projection(np.asarray(get(keys.FEATURES)), rows),
        sections=check.sections(spots, setup["library_key"])[rows],
        batches=None if labels is None else batch_shares(labels[rows], batches),
    )


def _x_key(modality: str) -> str:
    return f"{REGISTRY_KEYS.X_KEY}_{modality}"


def _side_by_side(matrices: list[Matrix]) -> Matrix:
    if len(matrices) == 1:
        return matrices[0]
    return hstack(matrices, format="csr") if all(map(issparse, matrices)) else np.hstack(list(map(dense, matrices)))

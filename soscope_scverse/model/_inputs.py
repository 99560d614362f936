"""Inputs of a model: their registration with scvi-tools, and the section that is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from anndata import AnnData
from mudata import MuData
from scipy.sparse import hstack, issparse
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data.fields import BaseAnnDataField, MuDataWrapper

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse._arrays import Matrix, dense, in_memory, undirected
from soscope_scverse._containers.mudata import spots_of
from soscope_scverse._counts import advice_on_counts
from soscope_scverse.model._fields import BatchField, FeaturesField, ProfileField, SizeField, SlotField
from soscope_scverse.model._section import Section, batch_shares
from soscope_scverse.model.estimates.image_projection import Projection

_ModalityField = MuDataWrapper(ProfileField)
_SPOT_KEYS = ("features_key", "library_key", "batch_key", "graph_key", "size_factor_key")
"""Arguments of the setup that name slots of the spots."""


def registered(
    data: AnnData | MuData, setup_method_args: Mapping[str, Any], kwargs: Mapping[str, Any]
) -> AnnDataManager:
    """Read and register the inputs of a model.

    Parameters
    ----------
    data
        The spots.
    setup_method_args
        Those of ``setup_anndata`` or ``setup_mudata``, as scvi-tools collects them.
    kwargs
        Further arguments of ``AnnDataManager.register_fields``.

    Raises
    ------
    TypeError, ValueError
        If an input is missing or not of the expected kind and shape.
    """
    setup = setup_method_args["setup_args"]
    manager = AnnDataManager(fields=model_fields(data, setup), setup_method_args=dict(setup_method_args))
    manager.register_fields(data, **kwargs)
    return manager


def model_fields(data: AnnData | MuData, setup: Mapping[str, Any]) -> list[BaseAnnDataField]:
    """Read all inputs of a model once and return their fields.

    Parameters
    ----------
    data
        The spots.
    setup
        Arguments of ``setup_anndata`` or ``setup_mudata``.
    """
    return [*_profile_fields(data, setup), *_spot_fields(data, setup)]


def _profile_fields(data: AnnData | MuData, setup: Mapping[str, Any]) -> list[BaseAnnDataField]:
    """Fields of the profiles, one for each modality."""
    if "modalities" not in setup:
        read.profiles(data, setup["layer"])
        return [ProfileField(REGISTRY_KEYS.X_KEY, setup["layer"], is_count_data=False)]
    layers = read.by_modality("layer", setup["layer"])
    read.read_mudata(data, setup["modalities"], layers)
    return [
        _ModalityField(_x_key(name), layers.get(name), is_count_data=False, mod_key=name, mod_required=True)
        for name in setup["modalities"]
    ]


def _spot_fields(data: AnnData | MuData, setup: Mapping[str, Any]) -> list[BaseAnnDataField]:
    """Fields of the slots of the spots; those in modalities of a MuData are written to its top."""
    features_key, batch_key = setup["features_key"], setup["batch_key"]
    by = {name: setup[name] for name in _SPOT_KEYS}
    spots = read.read_model_spots(spots_of(data), **by)
    fields: list[SlotField] = [SlotField(key, "obsm", key) for key in (keys.SPATIAL, keys.SUBSPOTS, keys.EXPOSURE)]
    fields.append(SlotField(keys.SPOT_GRAPH, "obsp", setup["graph_key"]))
    if features_key is not None and features_key in spots.obsm:
        fields.append(FeaturesField(keys.FEATURES, features_key))
        if features_key in spots.uns:
            data.uns[features_key] = spots.uns[features_key]
    if batch_key is not None:
        fields.append(BatchField(REGISTRY_KEYS.BATCH_KEY, batch_key))
    if setup["size_factor_key"] is not None:
        fields.append(SizeField(REGISTRY_KEYS.SIZE_FACTOR_KEY, setup["size_factor_key"]))
    if isinstance(data, MuData):
        for field in fields:
            getattr(data, field.attr_name)[field.attr_key] = getattr(spots, field.attr_name)[field.attr_key]
    return fields


class Inputs(NamedTuple):
    """Registered spots as a model reads them; they were checked by the registration."""

    manager: AnnDataManager
    """Registry of the spots."""
    uses_image: bool
    """Whether the model uses image features where they are registered."""
    batches: Sequence[str]
    """Batches that the model was trained on; empty without a batch covariate."""

    @property
    def data(self) -> AnnData | MuData:
        """The data that were registered."""
        return self.manager.adata

    @property
    def modalities(self) -> Mapping[str, str]:
        """Likelihood of each modality of a MuData; empty for an AnnData."""
        return self._setup.get("modalities", {})

    @property
    def library_key(self) -> str | None:
        """Column of ``obs`` with the sections."""
        return self._setup["library_key"]

    @property
    def features_key(self) -> str | None:
        """Slot of ``obsm`` with the image features that the model uses."""
        registry = self.manager.data_registry
        return registry[keys.FEATURES].attr_key if self.uses_image and keys.FEATURES in registry else None

    @property
    def has_image_features(self) -> bool:
        """Whether image features are registered, even if the model does not use them."""
        return keys.FEATURES in self.manager.data_registry

    @property
    def n_image_features(self) -> int:
        """Width of the image features; 0 if the model uses none."""
        return np.shape(self._get(keys.FEATURES))[-1] if self.features_key else 0

    @property
    def n_subspots(self) -> int:
        """Largest number of subspots of a spot."""
        return np.shape(self._get(keys.EXPOSURE))[1]

    def likelihoods(self, likelihood: str | None) -> list[str]:
        """Likelihood of every modality: those of a MuData, else `likelihood`, by default ``"nb"``."""
        if self.modalities and likelihood is not None:
            msg = f"Expected no `likelihood` beside those given to `setup_mudata`, found {likelihood!r}. Omit it."
            raise ValueError(msg)
        return list(self.modalities.values()) or [likelihood or "nb"]

    def spots(self) -> AnnData:
        """Slots of the spots, with the features of all modalities, without profiles."""
        return spots_of(self.data, self.modalities or None)

    def order(self) -> np.ndarray:
        """Rows of the spots by name: results are invariant to the order of the rows, random numbers included."""
        return np.argsort(self.data.obs_names.to_numpy(str), kind="stable")

    def profiles(self) -> list[Matrix]:
        """Profiles of every modality, in memory, in the order of the spots."""
        if isinstance(self.data, AnnData):
            return [in_memory(self._get(REGISTRY_KEYS.X_KEY))]
        rows = {name: self.data.mod[name].obs_names.get_indexer(self.data.obs_names) for name in self.modalities}
        return [in_memory(self._get(_x_key(name)))[rows[name]] for name in rows]

    def advice_on_counts(self) -> list[Callable[[], str]]:
        """For every modality a function that returns where its counts are, if its profiles are none."""
        layer = self._setup["layer"]
        if isinstance(self.data, AnnData):
            return [partial(advice_on_counts, self.data, layer)]
        layers = read.by_modality("layer", layer)
        return [partial(advice_on_counts, self.data.mod[name], layers.get(name)) for name in self.modalities]

    def image_features(self) -> np.ndarray:
        """Image features before their projection, n_spots x n_subspots x n_image_features."""
        return np.asarray(self._get(keys.FEATURES))

    def is_subspot(self) -> np.ndarray:
        """Which subspots are no padding, n_spots x n_subspots."""
        return self._areas()[1] > 0

    def section(self, projection: Projection | None = None, rows: np.ndarray | None = None) -> Section:
        """Return the spots as arrays.

        Parameters
        ----------
        projection
            Of the image features; None omits them.
        rows
            Which spots, in this order; None is all.
        """
        rows = np.arange(self.data.n_obs) if rows is None else rows
        spots = spots_of(self.data)
        exposure, area = (np.asarray(values, dtype=np.float32) for values in self._areas())
        size = self._sizes(spots)
        if size is not None:
            exposure, area = exposure * size[:, None], area * size[:, None]
        exposure, area = exposure[rows], area[rows]
        batches = None
        if len(self.batches):
            labels = read.labels(spots, "batch_key", self._setup["batch_key"], "batch")
            batches = batch_shares(labels[rows], self.batches)
        return Section(
            x=_side_by_side(self.profiles())[rows],
            graph=undirected(self._get(keys.SPOT_GRAPH))[rows][:, rows],
            spatial=read.positions(spots)[rows],
            subspots=np.asarray(self._get(keys.SUBSPOTS), dtype=float)[rows],
            exposure=exposure,
            features=None if projection is None else projection(self.image_features(), rows),
            sections=read.sections(spots, self.library_key)[rows],
            batches=batches,
            gapped_area=None if (area == exposure).all() else area,
        )

    def labels(self) -> list[list[str]]:
        """Section and batch of every spot, as far as there are columns of them."""
        spots = spots_of(self.data)
        columns = [self._setup[name] for name in ("library_key", "batch_key") if self._setup[name] is not None]
        return [spots.obs[column].astype(str).tolist() for column in columns]

    def _sizes(self, spots: AnnData) -> np.ndarray | None:
        """Relative sizes of the spots: size factors, else numbers of cells, else None for equal ones."""
        key = self._setup["size_factor_key"]
        if key is not None:
            mean = self.manager.get_state_registry(REGISTRY_KEYS.SIZE_FACTOR_KEY)[SizeField.MEAN]
            return (read.size_factors(spots, key) / mean).astype(np.float32)
        if keys.RELATIVE_CELL_NUMBER in spots.obs:
            return spots.obs[keys.RELATIVE_CELL_NUMBER].to_numpy(np.float32)
        return None

    def _areas(self) -> tuple[np.ndarray, np.ndarray]:
        """Exposures and areas of the subspots, n_spots x n_subspots each."""
        exposure = np.asarray(self._get(keys.EXPOSURE))
        return exposure, read.areas(spots_of(self.data), exposure)

    @property
    def _setup(self) -> Mapping[str, Any]:
        return self.manager.registry["setup_args"]

    def _get(self, key: str) -> Any:
        return self.manager.get_from_registry(key)


def _x_key(modality: str) -> str:
    return f"{REGISTRY_KEYS.X_KEY}_{modality}"


def _side_by_side(matrices: list[Matrix]) -> Matrix:
    if len(matrices) == 1:
        return matrices[0]
    return hstack(matrices, format="csr") if all(map(issparse, matrices)) else np.hstack(list(map(dense, matrices)))

"""Fields of scvi-tools' registry for slots that it has none for: ``obsp``, and arrays of ``obsm``.

A field records properties of the spots that a model was trained on; other spots have to agree with them.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
from anndata import AnnData
from scvi.data.fields import BaseAnnDataField, LayerField

from soscope_scverse import _read as read
from soscope_scverse._validators import check_same_image_features


class SlotField(BaseAnnDataField):
    """An array in ``adata.obsm`` or ``adata.obsp``, or a column of ``adata.obs``, unchanged.

    Parameters
    ----------
    registry_key
        Name in the registry.
    attr_name
        ``"obsm"``, ``"obsp"`` or ``"obs"``.
    attr_key
        Key in the slot.
    """

    def __init__(self, registry_key: str, attr_name: Literal["obsm", "obsp", "obs"], attr_key: str) -> None:
        super().__init__()
        self._registry_key = registry_key
        self._attr_name = attr_name
        self._attr_key = attr_key

    @property
    def registry_key(self) -> str:
        """Name in the registry."""
        return self._registry_key

    @property
    def attr_name(self) -> str:
        """``"obsm"``, ``"obsp"`` or ``"obs"``."""
        return self._attr_name

    @property
    def attr_key(self) -> str:
        """Key in the slot."""
        return self._attr_key

    @property
    def is_empty(self) -> bool:
        """Never."""
        return False

    def validate_field(self, adata: AnnData) -> None:
        """Raise a ValueError if the array is missing."""
        super().validate_field(adata)
        slot = getattr(adata, self.attr_name)
        if self.attr_key not in slot:
            msg = f"Expected `adata.{self.attr_name}[{self.attr_key!r}]`, found only {sorted(slot)}."
            raise ValueError(msg)

    def register_field(self, adata: AnnData) -> dict:
        """Validate; there is no state to record."""
        return super().register_field(adata)

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """Register the same key of another AnnData."""
        super().transfer_field(state_registry, adata_target, **kwargs)
        return self.register_field(adata_target)

    def get_summary_stats(self, state_registry: dict) -> dict:
        """Return no statistics."""
        return {}

    def view_state_registry(self, state_registry: dict) -> None:
        """Show nothing."""
        return None


class ProfileField(LayerField):
    """Profiles; those of other spots must have the same features in the same order.

    See scvi-tools' ``LayerField`` for its parameters.
    """

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """Register the profiles of another AnnData."""
        trained = state_registry[self.COLUMN_NAMES_KEY]
        if not np.array_equal(trained, adata_target.var_names):
            msg = (
                f"Expected the {len(trained)} features that the model was trained on, in their order, in "
                f"`adata.var_names`, found {adata_target.n_vars}, or others. Take `adata[:, names]`, or load the model "
                "with its own spots and pass `adata` to `get_enhanced`, which finds features by name."
            )
            raise ValueError(msg)
        return super().transfer_field(state_registry, adata_target, **kwargs)


class FeaturesField(SlotField):
    """Image features; those of other spots must be of the same kind.

    Parameters
    ----------
    registry_key
        Name in the registry.
    attr_key
        Key in ``adata.obsm``.
    """

    def __init__(self, registry_key: str, attr_key: str) -> None:
        super().__init__(registry_key, "obsm", attr_key)

    def register_field(self, adata: AnnData) -> dict:
        """Record how the features were computed, as far as :func:`~soscope_scverse.im.features` recorded it."""
        super().register_field(adata)
        made = adata.uns.get(self.attr_key, {})
        known = ("encoder", "mode", "context", "context_um", "feature_names")
        return {"n_image_features": adata.obsm[self.attr_key].shape[2]} | {k: made[k] for k in known if k in made}

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """Register the image features of another AnnData."""
        found = super().transfer_field(state_registry, adata_target, **kwargs)
        check_same_image_features(state_registry, found, self.attr_key)
        return found


class ColumnField(SlotField):
    """Column of ``obs`` with a value for every spot.

    Parameters
    ----------
    registry_key
        Name in the registry.
    attr_key
        Column of ``adata.obs``.
    """

    def __init__(self, registry_key: str, attr_key: str) -> None:
        super().__init__(registry_key, "obs", attr_key)


class SizeField(ColumnField):
    """Column of ``obs`` with the library size of every spot; records the mean of the spots that a model was trained on.

    See :class:`ColumnField` for its parameters.
    """

    MEAN = "mean"
    """Key of the state: size factors are relative to it."""

    def register_field(self, adata: AnnData) -> dict:
        """Record the mean."""
        super().register_field(adata)
        return {self.MEAN: float(read.size_factors(adata, self.attr_key).mean())}

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """Keep the mean of the spots that the model was trained on."""
        super().transfer_field(state_registry, adata_target, **kwargs)
        return state_registry


class BatchField(ColumnField):
    """Column of ``obs`` with the batch of every spot; records the batches that a model was trained on.

    See :class:`ColumnField` for its parameters.
    """

    BATCHES = "batches"

    def register_field(self, adata: AnnData) -> dict:
        """Record the batches."""
        super().register_field(adata)
        return {self.BATCHES: np.unique(self.labels(adata))}

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """Keep the batches that the model was trained on, and warn of others."""
        trained = np.asarray(state_registry[self.BATCHES])
        unknown = np.setdiff1d(self.labels(adata_target), trained)
        if len(unknown):
            warnings.warn(
                f"Batches {unknown.tolist()} of `adata.obs[{self.attr_key!r}]` were not trained on, only "
                f"{trained.tolist()}; they are represented by the average of these.",
                UserWarning,
                stacklevel=2,
            )
        return state_registry

    def labels(self, adata: AnnData) -> np.ndarray:
        """Batch of every spot."""
        return read.labels(adata, "batch_key", self.attr_key, "batch")

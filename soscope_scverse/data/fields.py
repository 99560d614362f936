"""Registers slots with scvi-tools, which has no field for ``obsp`` and only tables for ``obsm``."""

from __future__ import annotations

from typing import Any, Literal

import rich.table
from anndata import AnnData
from scvi.data.fields import BaseAnnDataField


class SlotField(BaseAnnDataField):
    """An array in ``adata.obsm`` or ``adata.obsp``, handed to the model as it is.

    Parameters
    ----------
    registry_key
        Name under which the model asks for it.
    attr_name
        ``"obsm"`` or ``"obsp"``.
    attr_key
        Key in the slot.
    """

    def __init__(self, registry_key: str, attr_name: Literal["obsm", "obsp"], attr_key: str) -> None:
        super().__init__()
        self._registry_key = registry_key
        self._attr_name = attr_name
        self._attr_key = attr_key

    @property
    def registry_key(self) -> str:
        """Name under which the model asks for it."""
        return self._registry_key

    @property
    def attr_name(self) -> str:
        """``"obsm"`` or ``"obsp"``."""
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
        """Validate; there is no state to keep."""
        return super().register_field(adata)

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """Register the same key of another AnnData."""
        super().transfer_field(state_registry, adata_target, **kwargs)
        return self.register_field(adata_target)

    def get_summary_stats(self, state_registry: dict) -> dict:
        """Nothing to tell."""
        return {}

    def view_state_registry(self, state_registry: dict) -> rich.table.Table | None:
        """Nothing to show."""
        return None

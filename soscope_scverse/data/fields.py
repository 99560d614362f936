"""Registers an ``obsp`` slot with scvi-tools, which has no field for it."""

from __future__ import annotations

import rich.table
from anndata import AnnData
from scvi.data.fields import BaseAnnDataField


class ObspField(BaseAnnDataField):
    """A pairwise matrix in ``adata.obsp``.

    Parameters
    ----------
    registry_key
        Name under which the model asks for it.
    attr_key
        Key in ``obsp``.
    """

    def __init__(self, registry_key: str, attr_key: str) -> None:
        super().__init__()
        self._registry_key = registry_key
        self._attr_key = attr_key

    @property
    def registry_key(self) -> str:
        """Name under which the model asks for it."""
        return self._registry_key

    @property
    def attr_name(self) -> str:
        """Always ``"obsp"``."""
        return "obsp"

    @property
    def attr_key(self) -> str:
        """Key in ``obsp``."""
        return self._attr_key

    @property
    def is_empty(self) -> bool:
        """Never."""
        return False

    def validate_field(self, adata: AnnData) -> None:
        """Raise a ValueError if the slot is missing."""
        super().validate_field(adata)
        if self.attr_key not in adata.obsp:
            msg = (
                f"Expected a graph in `adata.obsp[{self.attr_key!r}]`, found {sorted(adata.obsp)}. "
                "Call `soscope_scverse.pp.spot_graph(adata)`."
            )
            raise ValueError(msg)

    def register_field(self, adata: AnnData) -> dict:
        """Validate; there is no state to keep."""
        return super().register_field(adata)

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: object) -> dict:
        """Register the same key on another AnnData."""
        super().transfer_field(state_registry, adata_target, **kwargs)
        return self.register_field(adata_target)

    def get_summary_stats(self, state_registry: dict) -> dict:
        """Nothing to tell."""
        return {}

    def view_state_registry(self, state_registry: dict) -> rich.table.Table | None:
        """Nothing to show."""
        return None

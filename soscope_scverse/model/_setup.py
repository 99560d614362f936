"""Setup of a model: registration of its inputs with scvi-tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from anndata import AnnData
from mudata import MuData
from scvi import REGISTRY_KEYS

from soscope_scverse import _keys as keys
from soscope_scverse._containers.spatialdata import SpatialSpots
from soscope_scverse.model._inherited import InheritedModel
from soscope_scverse.model._inputs import Inputs, registered

if TYPE_CHECKING:
    from spatialdata import SpatialData


class RegisteredModel(InheritedModel):
    """A model of scvi-tools whose inputs are registered in an AnnData, a MuData or a table of a SpatialData.

    See scvi-tools' ``BaseModelClass`` for its parameters.
    """

    init_params_: dict[str, Any]

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        features_key: str | None = keys.FEATURES,
        library_key: str | None = None,
        batch_key: str | None = None,
        graph_key: str = keys.SPOT_GRAPH,
        size_factor_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Register the inputs of the model in `adata`.

        Parameters
        ----------
        adata
            Spots after :func:`~soscope_scverse.pp.subspots`, :func:`~soscope_scverse.pp.spot_graph` and, with an
            image, :func:`~soscope_scverse.im.features`.
        layer
            Layer with the profiles; None is ``X``.
        features_key
            Slot of ``obsm`` with the image features; None, or a slot that does not exist, for a model without an image.
        library_key
            Column of ``obs`` with the sections.
        batch_key
            Column of ``obs`` with the batches, such as slides or donors: each has its own effect on every feature, and
            is an input of the encoder. Spots of an unknown batch get the average of the trained batches.
        graph_key
            Slot of ``obsp`` with the graph of the spots, written by ``pp.spot_graph(key_added=)`` or
            :func:`squidpy.gr.spatial_neighbors`: n_spots x n_spots weights between 0 and 1. An edge has the larger
            weight of its two directions; loops are ignored.
        size_factor_key
            Column of ``obs`` with the library size of every spot, or another size factor above 0: expected counts of a
            spot are proportional to it, and differences in it are not attributed to the tissue. It replaces
            ``obs["relative_cell_number"]``. Default: library sizes vary with the tissue, and by the library-size noise.
        **kwargs
            Of scvi-tools' ``AnnDataManager.register_fields``.

        Raises
        ------
        TypeError, ValueError
            If an input is missing or not of the expected kind and shape.
        """
        cls.register_manager(registered(adata, cls._get_setup_method_args(**locals()), kwargs))

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        modalities: Mapping[str, Literal["nb", "poisson", "gaussian"]],
        layer: Mapping[str, str | None] | None = None,
        features_key: str | None = keys.FEATURES,
        library_key: str | None = None,
        batch_key: str | None = None,
        graph_key: str = keys.SPOT_GRAPH,
        size_factor_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Register the inputs of the model in `mdata`, several modalities of the same spots.

        Parameters
        ----------
        mdata
            Spots prepared as for :meth:`setup_anndata`, with their slots at the top or in a modality.
        modalities
            Likelihood of each modality to model, as ``{"rna": "nb", "prot": "poisson"}``.
        layer
            Layers with the profiles, by modality; ``X`` of the others.
        features_key, library_key, batch_key, graph_key, size_factor_key, **kwargs
            See :meth:`setup_anndata`.

        Raises
        ------
        TypeError, ValueError
            As :meth:`setup_anndata`, or if modalities hold different spots.
        """
        cls.register_manager(registered(mdata, cls._get_setup_method_args(**locals()), kwargs))

    @classmethod
    def setup_spatialdata(cls, sdata: SpatialData, table_key: str = "table", **kwargs: Any) -> None:
        """Register the inputs of the model in a table of `sdata`; the model then is that of ``sdata[table_key]``.

        Parameters
        ----------
        sdata
            SpatialData prepared as for :meth:`setup_anndata`.
        table_key
            The table with the profiles.
        **kwargs
            See :meth:`setup_anndata`. If the table annotates several elements, `library_key` is their column.

        Raises
        ------
        TypeError, ValueError
            If there is no such table, it annotates nothing, or as :meth:`setup_anndata`.
        """
        spots = SpatialSpots(sdata, table_key=table_key)
        cls.setup_anndata(spots.table, **{"library_key": spots.library_key, **kwargs})

    @property
    def _arguments(self) -> Mapping[str, Any]:
        """Arguments of the model by name."""
        return self.init_params_["non_kwargs"]

    @property
    def _inputs(self) -> Inputs:
        """Registered spots of the model."""
        batches = self.registry["field_registries"].get(REGISTRY_KEYS.BATCH_KEY)
        trained_on = [] if batches is None else batches["state_registry"]["batches"]
        return Inputs(self.adata_manager, self._arguments["sources"] != "positions", trained_on)

"""Application of a trained model to spots: those that it was trained on, or others in the same form."""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData
from mudata import MuData
from torch import distributed

from soscope_scverse._validators import check_samples, check_trained
from soscope_scverse.model._inputs import Inputs
from soscope_scverse.model._section import Section
from soscope_scverse.model._setup import RegisteredModel
from soscope_scverse.model._tiles import Tiles
from soscope_scverse.model._transfer import transferred
from soscope_scverse.model.estimates.image_projection import projection_of
from soscope_scverse.model.inference.posterior import Posterior
from soscope_scverse.model.inference.processes import Processes
from soscope_scverse.module.likelihoods import unmeasured_dispersions


class AppliedModel(RegisteredModel):
    """A registered model that can be applied to spots.

    See scvi-tools' ``BaseModelClass`` for its parameters.
    """

    module: Any
    trainer: Any
    _likelihoods: list[str]

    def _check_samples(self, n_samples: int) -> None:
        """Raise a ValueError for posterior samples if nothing measured the dispersions."""
        kind = (self._arguments[name] for name in ("observation", "dispersion"))
        check_samples(n_samples, unmeasured_dispersions(self._likelihoods, *kind))

    def _posterior(self, adata: AnnData | MuData | None) -> Posterior:
        """The trained module with the spots of the model, or with others in the same form."""
        check_trained(self.is_trained_)
        inputs = self._inputs
        if adata is None or adata is self.adata:
            inputs.manager.validate()
        else:
            inputs = transferred(adata, inputs, self._likelihoods, needs_features=self.module.uses_image)
        together = self.trainer is not None and self.trainer.world_size > 1 and distributed.is_initialized()
        processes = Processes.of_group(self.device) if together else Processes()
        return Posterior(self.module, inputs, self._tiles(self._section(inputs)), processes)

    def _section(self, inputs: Inputs, order: np.ndarray | None = None) -> Section:
        """Spots as arrays, in this order, with image features as inputs of the networks."""
        return inputs.section(projection_of(self.module) if inputs.features_key else None, order)

    def _tiles(self, section: Section, similarity_strength: float | None = None) -> Tiles:
        """Batches of a section; only training needs the image similarity."""
        return Tiles(
            section,
            interpolation=self._arguments["interpolation"],
            bandwidth=self._arguments["bandwidth"],
            similarity_strength=similarity_strength,
            n_hops=len(self.module.encoder.layers),
        )

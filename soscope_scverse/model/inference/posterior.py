"""A trained module applied to spots: their latent states, and samplers of their subspots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from anndata import AnnData
from mudata import MuData

from soscope_scverse._containers.mudata import split
from soscope_scverse.model._inputs import Inputs
from soscope_scverse.model._kriging import with_kriged
from soscope_scverse.model._threads import torch_threads
from soscope_scverse.model._tiles import Tiles, contiguous_groups
from soscope_scverse.model.inference.processes import Processes
from soscope_scverse.model.inference.sampler import Expectation, LatentStates, Sampler
from soscope_scverse.module.vae import SoScopeVAE

_LATENT_SPOTS = 2048


class Posterior(NamedTuple):
    """A trained module, the spots that it is applied to, and the processes that share the work."""

    module: SoScopeVAE
    """The trained module."""
    inputs: Inputs
    """Registered spots of any section."""
    tiles: Tiles
    """Batches of these spots."""
    processes: Processes
    """Processes that share the work."""

    @torch_threads()
    @torch.inference_mode()
    def latent_states(self) -> LatentStates:
        """Latent states of all spots, tile by tile, on the device of the module."""
        self.module.eval()
        device = next(self.module.parameters()).device
        section = self.tiles.section
        states = np.zeros((2, self.tiles.n_spots, self.module.encoder.mean.out_features), np.float32)
        for turn, group in enumerate(contiguous_groups(section.spatial, section.sections, _LATENT_SPOTS)):
            if self.processes.takes(turn):
                own = np.sort(group)
                tile = {name: value.to(device) for name, value in self.tiles.tile(own).items()}
                qz = self.module.inference(tile)["qz"]
                states[0, own], states[1, own] = (part[tile["own"]].cpu().numpy() for part in (qz.loc, qz.scale))
        return LatentStates(*torch.as_tensor(self.processes.add_up(states), device=device))

    def sampler(self, expectation: Expectation | Sequence[Expectation], n_samples: int) -> Sampler:
        """Sampler of the subspots, seeded by torch's global generator of the first process.

        Parameters
        ----------
        expectation
            One or several, see :meth:`SoScope.get_enhanced`.
        n_samples
            Posterior samples; 0 draws nothing from the generator.
        """
        seed = np.zeros(1, dtype=np.int64)
        if n_samples:
            seed[:] = torch.randint(2**62, (1,)).item()
            self.processes.from_first(seed)
        return Sampler(
            self.module,
            self.tiles.of(with_kriged(self.module, self.tiles.section)),
            self.latent_states(),
            self.inputs.order(),
            n_samples=n_samples,
            expectations=[expectation] if isinstance(expectation, str) else expectation,
            seed=int(seed[0]),
        )

    def like_inputs(self, result: AnnData) -> AnnData | MuData:
        """Return a result as a MuData if the spots are one."""
        data = self.inputs.data
        return split(result, data, self.inputs.modalities) if isinstance(data, MuData) else result

"""Results for any features: heads of those that the model was not trained on are fitted, and decoded in blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from anndata import AnnData
from mudata import MuData
from scipy.sparse import csc_matrix, csr_matrix, issparse

from soscope_scverse import _keys as keys
from soscope_scverse._arrays import Matrix
from soscope_scverse._containers.mudata import split, spots_of
from soscope_scverse._progress import progress_bar
from soscope_scverse._storable import check_storable
from soscope_scverse._validators import Choice, Rules
from soscope_scverse.model._threads import torch_threads
from soscope_scverse.model.estimates.heads import BLOCK, Fitted, Readout
from soscope_scverse.model.estimates.kriging import FurtherGains
from soscope_scverse.model.inference.fitted_heads import FittedHeads
from soscope_scverse.model.inference.posterior import Posterior
from soscope_scverse.model.inference.result import (
    ENHANCED_RULES,
    SomeRows,
    block_spots,
    fill_profiles,
    profile_slots,
    result_frame,
    result_rows,
    with_profiles,
)
from soscope_scverse.model.inference.sampler import Expectation, Sampler
from soscope_scverse.model.inference.store import Arrays
from soscope_scverse.module.further_features import FurtherFeatures, Heads
from soscope_scverse.module.likelihoods import Start

GENES_RULES: Rules = {**ENHANCED_RULES, "dtype": Choice(("float32", "float16"))}
"""Of :meth:`SoScope.enhance_genes`."""


class Profiles(NamedTuple):
    """Features to enhance, by modality."""

    data: AnnData | MuData
    """The spots with these features, in memory."""
    x: list[Matrix]
    """n_spots x n_features of every modality."""

    @property
    def parts(self) -> list[AnnData]:
        """The modalities, in the order of `x`."""
        return [self.data] if isinstance(self.data, AnnData) else list(self.data.mod.values())

    def blocks(self) -> Iterator[Block]:
        """Features that are fitted and decoded together."""
        first = 0
        for modality, x in enumerate(self.x):
            x = csc_matrix(x) if issparse(x) else x
            for start in range(0, x.shape[1], BLOCK):
                own = slice(start, min(start + BLOCK, x.shape[1]))
                block = csr_matrix(x[:, own]) if issparse(x) else x[:, own]
                yield Block(modality, own, slice(first + own.start, first + own.stop), block)
            first += x.shape[1]


class Block(NamedTuple):
    """Some features of one modality."""

    modality: int
    """Number of the modality."""
    own: slice
    """Their columns in the profiles of the modality."""
    columns: slice
    """Their columns in the result."""
    x: Matrix
    """n_spots x n_features."""


@torch_threads()
def genes_profiles(
    posterior: Posterior,
    profiles: Profiles,
    saved: FittedHeads,
    *,
    expectation: Expectation | Sequence[Expectation],
    n_samples: int,
    batch_size: int | None,
    out: Path | None,
    dtype: str,
    uns: Mapping[str, Any],
    obsm_keys: Sequence[str],
) -> AnnData | MuData:
    """Enhanced profiles of all subspots for any features, see :meth:`SoScope.enhance_genes`.

    Parameters
    ----------
    posterior
        The spots with the features that the model was trained on.
    profiles
        The same spots with the features to enhance.
    saved
        Heads that were fitted before.
    expectation, n_samples, batch_size
        See :meth:`SoScope.enhance_genes`.
    out
        Path that can be written to; None is memory.
    dtype
        Of the profiles.
    uns
        Further entries of ``uns``.
    obsm_keys
        Slots of ``obsm`` of the spots, see :meth:`SoScope.get_enhanced`.
    """
    inputs, tiles, processes = posterior.inputs, posterior.tiles, posterior.processes
    spots = _with_features(inputs.spots(), profiles.data)
    frame = result_frame(
        spots, features_key=inputs.features_key, library_key=inputs.library_key, uns=uns, obsm_keys=obsm_keys
    )
    if out is not None:
        check_storable("out", frame, out.suffix)
    sampler, blocks = posterior.sampler(expectation, n_samples), list(profiles.blocks())
    fitted = fit_blocks(posterior, sampler, profiles, blocks, saved)
    frame.var = spots_of(profiles.data).var
    size = batch_size or block_spots(tiles, BLOCK, n_samples)
    kept = result_rows(spots)[tiles.section.is_subspot]
    if posterior.module.uses_latent:
        frame.obsm[keys.LATENT] = sampler.latent_states()[kept]

    def fill(arrays: Arrays) -> None:
        turns = progress_bar(blocks, shown=processes.is_first, desc="Enhancing genes", unit="block", delay=5)
        for number, block in enumerate(turns):
            module = FurtherFeatures(posterior.module, block.modality, fitted[number].heads)
            own = {slot: SomeRows(_SomeColumns(array, block.columns), kept) for slot, array in arrays.items()}
            fill_profiles(own, sampler.of_features(module, block.x, number), size, processes)

    slots = profile_slots(sampler)
    chunks = size * tiles.section.exposure.shape[1], BLOCK
    result = with_profiles(frame, out, slots, chunks, fill, processes, dtype)
    return split(result, profiles.data, inputs.modalities) if isinstance(profiles.data, MuData) else result


def fit_blocks(
    posterior: Posterior, sampler: Sampler, profiles: Profiles, blocks: Sequence[Block], saved: FittedHeads
) -> list[Fitted]:
    """Fit the heads of all blocks, and write what is known of every feature to ``var`` of the profiles.

    Parameters
    ----------
    posterior
        The spots.
    sampler
        Of their subspots.
    profiles
        The features to enhance.
    blocks
        Those of the profiles.
    saved
        Heads that were fitted before; it gets the others.
    """
    trained = [part.var_names for part in _trained_parts(posterior)]
    readouts: dict[int, Readout] = {}
    with saved:
        for block in progress_bar(blocks[len(saved.blocks) :], desc="Fitting genes", unit="block", delay=5):
            if block.modality not in readouts:
                readouts[block.modality] = Readout(posterior.module, sampler.tiles, sampler.states.mean, block.modality)
            readout = readouts[block.modality]
            names = profiles.parts[block.modality].var_names[block.own]
            saved.add(_with_trained(readout, readout.fit(block.x), trained[block.modality].get_indexer(names)))
    for modality, part in enumerate(profiles.parts):
        own = [one for one, block in zip(saved.blocks, blocks, strict=True) if block.modality == modality]
        part.var[keys.TRAINED] = part.var_names.isin(trained[modality])
        part.var[keys.EVIDENCE] = torch.cat([one.evidence for one in own]).numpy()
    if posterior.inputs.features_key and posterior.module.kriged.is_set:
        _set_image_gains(posterior, profiles, blocks, saved.blocks)
    return saved.blocks


def _set_image_gains(
    posterior: Posterior, profiles: Profiles, blocks: Sequence[Block], fitted: Sequence[Fitted]
) -> None:
    """Write the share of every feature that the image explains to ``var``; those of the model keep theirs."""
    module = posterior.module
    further, of_model = FurtherGains(module, posterior.tiles.section), module.kriged.image_gain.cpu().numpy()
    gains: list[list[np.ndarray]] = [[] for _ in profiles.parts]
    for block, one in zip(blocks, fitted, strict=True):
        likelihood = module.likelihood.parts[block.modality]
        gains[block.modality].append(further.of(likelihood, block.x, one.heads.start.unit))
    for part, columns, model_part, own in zip(
        profiles.parts, module.features, _trained_parts(posterior), gains, strict=True
    ):
        index = model_part.var_names.get_indexer(part.var_names)
        part.var[keys.IMAGE_GAIN] = np.where(index >= 0, of_model[columns][index], np.concatenate(own))


def _trained_parts(posterior: Posterior) -> list[AnnData]:
    """The features that the model was trained on, by modality."""
    data = posterior.inputs.data
    return [data] if isinstance(data, AnnData) else [data.mod[name] for name in posterior.inputs.modalities]


def _with_trained(readout: Readout, fitted: Fitted, index: np.ndarray) -> Fitted:
    """Replace what was fitted for features of the model by what it was trained to; `index` is -1 for others."""
    here = torch.as_tensor(np.flatnonzero(index >= 0))
    if not len(here):
        return fitted
    own = torch.as_tensor(index[index >= 0])
    there = readout.trained.start + own
    heads, start = fitted.heads, readout.module.feature_parameters()
    chosen = torch.zeros(len(own), heads.weight.shape[1]).scatter(1, own[:, None], 1.0)
    loadings = heads.loadings.clone()
    loadings[:, here] = readout.module.residual_loadings[:, there]
    batch_effect = None if heads.batch_effect is None else heads.batch_effect.clone().index_fill(1, here, 0.0)
    replaced = Heads(
        _put(heads.weight, here, chosen),
        heads.bias.index_fill(0, here, 0.0),
        Start(*(_put(old, here, new[there]) for old, new in zip(heads.start, start, strict=True))),
        batch_effect,
        loadings,
    )
    return fitted._replace(heads=replaced)


def _put(values: torch.Tensor, rows: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    values = values.clone()
    values[rows] = new.detach().to(values)
    return values


def _with_features(spots: AnnData, data: AnnData | MuData) -> AnnData:
    """The slots of the spots, with the features to enhance."""
    return AnnData(obs=spots.obs, var=spots_of(data).var, obsm=dict(spots.obsm), uns=dict(spots.uns))


class _SomeColumns:
    """Columns of an array as an array that rows can be assigned to.

    Parameters
    ----------
    array
        n_targets x n_features.
    columns
        Which of the features.
    """

    def __init__(self, array: Any, columns: slice) -> None:
        self.array = array
        self.columns = columns

    def __setitem__(self, where: tuple, values: np.ndarray) -> None:
        *_, rows, _ = where
        self.array[rows, self.columns] = values

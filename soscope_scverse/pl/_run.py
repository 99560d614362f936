"""A run as a report sees it: what was noted of it, and the spots and subspots of each modality."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from anndata import AnnData
from mudata import MuData

from soscope_scverse import _keys as keys
from soscope_scverse import _validation as check
from soscope_scverse import pp
from soscope_scverse._arrays import columns
from soscope_scverse._containers.mudata import modality

_DRAWS = (keys.STD, keys.Q05, keys.Q95)


class Record(NamedTuple):
    """What :func:`~soscope_scverse.tl.enhance` notes in ``uns["soscope"]``; empty if the result was made otherwise."""

    entries: Mapping[str, Any]
    arguments: Mapping[str, Any]

    @classmethod
    def of(cls, enhanced: AnnData | MuData) -> Record:
        """Read it from a result."""
        entries = check.noted(enhanced, keys.RESULT)
        with suppress(TypeError, ValueError):
            arguments = json.loads(entries.get("arguments", "{}"))
            if isinstance(arguments, Mapping):
                return cls(entries, arguments)
        msg = f"Expected `uns['{keys.RESULT}']['arguments']` as `tl.enhance` writes it, found another text. Delete it."
        raise ValueError(msg)

    @property
    def library_key(self) -> str | None:
        """Column that tells the sections."""
        return self.arguments.get("library_key")

    @property
    def warnings(self) -> list[str]:
        """What was warned of."""
        return [str(message) for message in self.entries.get("warnings", [])]

    def of_modality(self, argument: str, name: str) -> Any:
        """An argument that is one for all modalities or one for each."""
        value = self.arguments.get(argument)
        return value.get(name) if isinstance(value, Mapping) else value


class Part(NamedTuple):
    """A modality of the run; an AnnData is one without a name."""

    name: str
    spots: AnnData
    """With the features of the result, in ``X``."""
    subspots: AnnData
    """With the features to draw."""
    n_features: int
    aggregate: Any


def run_parts(
    enhanced: AnnData | MuData,
    adata: AnnData | MuData,
    genes: Sequence[str] | Mapping[str, Sequence[str]] | None,
    n_genes: int,
) -> tuple[Record, list[Part]]:
    """The record of a run and its modalities; arguments as of :func:`~soscope_scverse.pl.report`."""
    pairs, record = _pairs(enhanced, adata), Record.of(enhanced)
    chosen: Mapping[str, Any] = check.by_modality("genes", genes) if isinstance(enhanced, MuData) else {"": genes}
    return record, [_part(name, *pair, chosen.get(name), n_genes, record) for name, pair in pairs.items()]


def _pairs(enhanced: AnnData | MuData, adata: AnnData | MuData) -> dict[str, tuple[AnnData, AnnData]]:
    """Subspots and spots of each modality."""
    if type(enhanced) is not type(adata):
        msg = f"Expected two of a kind, found {type(enhanced).__name__} and {type(adata).__name__}."
        raise TypeError(msg)
    if isinstance(enhanced, MuData):
        check.mudata(adata, dict.fromkeys(enhanced.mod, ""), None)
        return {name: (modality(enhanced, name), modality(adata, name)) for name in enhanced.mod}
    return {"": (check.anndata(enhanced), check.anndata(adata))}


def _part(
    name: str, enhanced: AnnData, adata: AnnData, genes: Sequence[str] | None, n_genes: int, record: Record
) -> Part:
    spots = _features(adata, check.genes(adata, enhanced.var_names), record.of_modality("layer", name))
    check.spots_of_subspots(spots, enhanced)
    if genes is None:
        genes = pp.spatial_genes(spots, n_genes, library_key=record.library_key)
    drawn = _features(enhanced, check.genes(enhanced, genes, of="enhanced"), None, _DRAWS)
    by_mean = record.of_modality("likelihood", name) == "gaussian"
    aggregate = record.arguments.get("model_kwargs", {}).get("aggregate") or ("mean" if by_mean else "sum")
    return Part(name, spots, drawn, enhanced.n_vars, aggregate)


def _features(adata: AnnData, names: Sequence[str], layer: str | None, layers: Iterable[str] = ()) -> AnnData:
    """Some features in memory, and of the rest what is drawn; of a file-backed AnnData only these are read."""
    index = adata.var_names.get_indexer(names)
    return AnnData(
        columns(check.profiles(adata, layer), index),
        obs=adata.obs.copy(),
        var=adata.var.iloc[index].copy(),
        layers={name: columns(adata.layers[name], index) for name in layers if name in adata.layers},
        obsm={keys.SPATIAL: check.positions(adata)},
        uns=dict(adata.uns),
    )

"""Contents of a report: the record of the run, and spots and subspots of each modality."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from anndata import AnnData
from mudata import MuData

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse._arrays import columns
from soscope_scverse._containers.mudata import modality
from soscope_scverse._validators import check_spots_of_subspots
from soscope_scverse.pp import spatial_genes
from soscope_scverse.pp._capture import CaptureArea
from soscope_scverse.pp._outlines import capture_area, measured_of

_PLOTTED_LAYERS = (keys.DENOISED, keys.STD, keys.Q05, keys.Q95)


class Record(NamedTuple):
    """Record of :func:`~soscope_scverse.tl.enhance` in ``uns["soscope"]``; empty for other results."""

    entries: Mapping[str, Any]
    """All entries."""
    arguments: Mapping[str, Any]
    """Arguments of the call."""
    given: Mapping[str, Any]
    """Those that the user gave."""
    inputs: Mapping[str, Any]
    """Those that are objects, in a few words."""

    @classmethod
    def of(cls, enhanced: AnnData | MuData) -> Record:
        """Read the record of a result."""
        entries = read.record(enhanced, keys.RESULT)
        return cls(entries, *(_from_json(entries, name) for name in ("arguments", "given", "inputs")))

    @property
    def library_key(self) -> str | None:
        """Column of ``obs`` with the sections."""
        return self.arguments.get("library_key")

    @property
    def expectation(self) -> str:
        """That of the profiles in ``X``."""
        expectation = self.arguments.get("expectation") or "conditional"
        return expectation if isinstance(expectation, str) else expectation[0]

    @property
    def warnings(self) -> list[str]:
        """Warnings of the run."""
        return [str(message) for message in self.entries.get("warnings", [])]

    def enhanced_of(self, adata: AnnData | MuData) -> AnnData | MuData:
        """Return the spots that were enhanced: without those off the tissue, unless these were kept."""
        return read.on_tissue(adata, keep=self.arguments.get("keep_off_tissue", True))

    def of_modality(self, argument: str, name: str) -> Any:
        """Return an argument that has one value for all modalities, or one per modality."""
        value = self.arguments.get(argument)
        return value.get(name) if isinstance(value, Mapping) else value


def _from_json(entries: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    with suppress(TypeError, ValueError):
        found = json.loads(entries.get(name, "{}"))
        if isinstance(found, Mapping):
            return found
    msg = f"Expected `uns['{keys.RESULT}'][{name!r}]` to be JSON written by `tl.enhance`. Delete it."
    raise ValueError(msg)


class Capture(NamedTuple):
    """What the spots of one section captured."""

    area: CaptureArea | None
    """None where they tile the tissue."""
    share: float
    """Of the area of the subspots."""


class Part(NamedTuple):
    """One modality of the run. An AnnData is a single modality with an empty name."""

    name: str
    """Name of the modality."""
    spots: AnnData
    """Spots with the features of the result, in ``X``."""
    subspots: AnnData
    """Subspots with the features to plot."""
    n_features: int
    """Number of features of the result."""
    aggregate: Any
    """``"sum"`` or ``"mean"``."""


def read_run(
    enhanced: AnnData | MuData,
    adata: AnnData | MuData,
    genes: Sequence[str] | Mapping[str, Sequence[str]] | None,
    n_genes: int,
) -> tuple[Record, list[Part]]:
    """Return the record of a run and its modalities; for the arguments see :func:`~soscope_scverse.pl.report`."""
    _check_kinds(enhanced, adata)
    record = Record.of(enhanced)
    pairs = _subspots_and_spots(enhanced, record.enhanced_of(adata))
    chosen: Mapping[str, Any] = read.by_modality("genes", genes) if isinstance(enhanced, MuData) else {"": genes}
    return record, [_part(name, *pair, chosen.get(name), n_genes, record) for name, pair in pairs.items()]


def read_captures(part: Part, library_key: str | None) -> dict[str, Capture]:
    """Return what the spots of every section captured."""
    of_spot, of_subspot = (read.sections(adata, library_key) for adata in (part.spots, part.subspots))
    captures = {}
    for name in np.unique(of_subspot).tolist():
        subspots = part.subspots[of_subspot == name]
        area = capture_area(subspots, part.spots[of_spot == name])
        captures[name] = Capture(area, float(measured_of(subspots).mean()))
    return captures


def _check_kinds(enhanced: AnnData | MuData, adata: AnnData | MuData) -> None:
    if type(enhanced) is not type(adata):
        msg = f"Expected two AnnData or two MuData, found {type(enhanced).__name__} and {type(adata).__name__}."
        raise TypeError(msg)
    if not isinstance(enhanced, MuData):
        read.read_anndata(enhanced)


def _subspots_and_spots(enhanced: AnnData | MuData, adata: AnnData | MuData) -> dict[str, tuple[AnnData, AnnData]]:
    """Return subspots and spots of each modality."""
    if isinstance(enhanced, MuData):
        read.read_mudata(adata, dict.fromkeys(enhanced.mod, ""), None)
        return {name: (modality(enhanced, name), modality(adata, name)) for name in enhanced.mod}
    return {"": (read.read_anndata(enhanced), read.read_anndata(adata))}


def _part(
    name: str, enhanced: AnnData, adata: AnnData, genes: Sequence[str] | None, n_genes: int, record: Record
) -> Part:
    spots = _subset(adata, read.genes(adata, enhanced.var_names), record.of_modality("layer", name))
    check_spots_of_subspots(spots, enhanced)
    if genes is None:
        genes = spatial_genes(spots, n_genes, library_key=record.library_key)
    plotted = _subset(enhanced, read.genes(enhanced, genes, of="enhanced"), None, _PLOTTED_LAYERS)
    by_mean = record.of_modality("likelihood", name) == "gaussian"
    aggregate = record.arguments.get("model_kwargs", {}).get("aggregate") or ("mean" if by_mean else "sum")
    return Part(name, spots, plotted, enhanced.n_vars, aggregate)


def _subset(adata: AnnData, names: Sequence[str], layer: str | None, layers: Iterable[str] = ()) -> AnnData:
    """Return some features in memory, with the slots needed for plots; from a file only these are read."""
    index = adata.var_names.get_indexer(names)
    return AnnData(
        columns(read.profiles(adata, layer), index),
        obs=adata.obs.copy(),
        var=adata.var.iloc[index].copy(),
        layers={name: columns(adata.layers[name], index) for name in layers if name in adata.layers},
        obsm={keys.SPATIAL: read.positions(adata)},
        uns=dict(adata.uns),
    )

"""From the user's data to spots with subspots, graph and image features, ready for the model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from anndata import AnnData
from mudata import MuData

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse._arrays import Matrix, in_memory, layers_of
from soscope_scverse._containers.mudata import joined, modality, spots_of
from soscope_scverse._containers.slots import written_back
from soscope_scverse._counts import advice_on_counts
from soscope_scverse._read import Spots, read_sections
from soscope_scverse._validators import check_choice, check_profiles, warn_empty
from soscope_scverse.im._alignment import compare_placements, library_sizes
from soscope_scverse.im._coordinates import check_inside
from soscope_scverse.im._features import OF_ENCODERS, choose, describe, needs_image
from soscope_scverse.im.encoders.registry import named
from soscope_scverse.im.reading.sections import SectionImage
from soscope_scverse.im.reading.thumbnails import shrunk
from soscope_scverse.model._transfer import with_features
from soscope_scverse.module.likelihoods import LIKELIHOODS, count_likelihoods
from soscope_scverse.pp._genes import rank_genes, warn_feature_types
from soscope_scverse.pp._geometry import partition_spots, write_partition
from soscope_scverse.pp._graphs import warn_isolated, weighted_graph
from soscope_scverse.pp._several import check_single_lattices, is_partitioned
from soscope_scverse.tl._images import needs_image_features, open_images, with_mean_features

logger = logging.getLogger(__name__)

EVERY = "all"
"""Value of the argument `genes` that stands for all of them."""
N_LEARNT = 60
"""Genes that latent states are learnt on if others are fitted to them; with 100 to 300 these scored lower."""
_N_GENES = 500


class Input(NamedTuple):
    """Features of the spots, in memory."""

    chosen: AnnData | MuData
    """A copy of the data with the features that a model is trained on, of a MuData with the modalities to model."""
    spots: Spots
    """Its spots."""
    profiles: list[Matrix]
    """Its profiles by modality."""
    further: Any
    """Features to enhance if they are more than these, as the argument `genes`; else None."""


def read_input(data: AnnData | MuData, options: Mapping[str, Any]) -> Input:
    """Read the chosen features of the spots into memory."""
    layer, genes, likelihood = options["layer"], options["genes"], options["likelihood"]
    is_fast = options["quality"] == "fast"
    further: Any = {}
    if isinstance(data, MuData):
        layer = read.by_modality("layer", layer)
        genes = dict.fromkeys(likelihood, EVERY) if is_every(genes) else read.by_modality("genes", genes)
        read.read_mudata(data, likelihood, layer, genes)
        spots = read_sections(spots_of(data), options["library_key"])
        parts, profiles = {}, []
        for name, of_it in likelihood.items():
            part = replace(spots, adata=modality(data, name))
            wanted = Wanted(layer.get(name), genes.get(name), of_it, is_fast)
            parts[name], x, more = _read_profiles(part, data.mod[name], wanted)
            profiles.append(x)
            further |= {} if more is None else {name: more}
        chosen: AnnData | MuData = joined(parts)
    else:
        spots = read_sections(data, options["library_key"])
        chosen, x, further = _read_profiles(spots, data, Wanted(layer, genes, likelihood, is_fast))
        profiles = [x]
    spots = replace(spots, adata=spots_of(chosen))
    if options["batch_key"] is not None:
        read.labels(spots.adata, "batch_key", options["batch_key"], "batch")
    if options["graph_key"] is not None:
        graph = read.graph(spots, options["graph_key"])
        warn_isolated(spots.adata, np.flatnonzero(np.diff(graph.indptr) == 0))
    if options["size_factor_key"] is not None:
        read.size_factors(spots.adata, options["size_factor_key"])
    return Input(chosen, spots, profiles, further or None)


def is_every(genes: Any) -> bool:
    """Whether the argument `genes`, of an AnnData or of a modality, stands for all genes."""
    return isinstance(genes, str) and genes == EVERY


def with_all_features(data: AnnData | MuData, chosen: AnnData | MuData) -> AnnData | MuData:
    """The user's data, with all of its features, and the slots that were written to the chosen ones."""
    if isinstance(data, MuData):
        return joined({name: _with_slots(modality(data, name), spots_of(chosen)) for name in chosen.mod})
    return _with_slots(with_features(data, data.var_names), chosen)


def _with_slots(adata: AnnData, spots: AnnData) -> AnnData:
    slots = {"obs": spots.obs, "obsm": dict(spots.obsm), "obsp": dict(spots.obsp), "uns": dict(spots.uns)}
    return AnnData(adata.X, var=adata.var, layers=layers_of(adata), **slots)


class Wanted(NamedTuple):
    """Arguments of :func:`~soscope_scverse.tl.enhance` of one modality."""

    layer: str | None
    genes: Any
    likelihood: str
    is_fast: bool


def _read_profiles(spots: Spots, given: AnnData, wanted: Wanted) -> tuple[AnnData, Matrix, Any]:
    """A copy of an AnnData in memory with the features to train on, its profiles, and more features if there are.

    `given` is what the user has.
    """
    adata, (layer, genes, likelihood, is_fast) = spots.adata, wanted
    further: Any = None
    check_choice("likelihood", likelihood, list(LIKELIHOODS))
    x = read.profiles(adata, layer)
    advice = partial(advice_on_counts, given, layer)
    check = partial(check_profiles, likelihood=likelihood, known=count_likelihoods(), advice=advice)
    if is_every(genes):
        check(in_memory(x))
        further, chosen = EVERY, rank_genes(spots, x, N_LEARNT)
    elif genes is not None:
        chosen = read.genes(adata, genes)
    elif "highly_variable" in adata.var:
        chosen = read.highly_variable(adata)
    elif adata.n_vars <= _N_GENES:
        chosen = adata.var_names.tolist()
    else:
        chosen = rank_genes(spots, x, _N_GENES)
    if is_fast and further is None and len(chosen) > N_LEARNT:
        part = with_features(adata, chosen)
        check(read.matrix(part, layer))
        further, chosen = chosen, rank_genes(replace(spots, adata=part), read.profiles(part, layer), N_LEARNT)
    warn_feature_types(adata, chosen)
    part = with_features(adata, chosen)
    part.uns = deepcopy(dict(part.uns))  # thumbnails are written there
    x = read.matrix(part, layer)
    check(x)
    if LIKELIHOODS[likelihood].is_counts:
        warn_empty(part, x)
    return part, x, further


def _n_subspots(adata: AnnData) -> int:
    """Number of subspots of a new partition: neither padding nor spots without cells."""
    if keys.SUBSPOT_NAMES in adata.obsm:
        return int((adata.obsm[keys.SUBSPOT_NAMES] != "").sum())
    return int(np.isfinite(adata.obsm[keys.SUBSPOTS][..., 0]).sum())


def prepare(
    data: AnnData | MuData, chosen: AnnData | MuData, spots: Spots, profiles: list[Matrix], options: Mapping[str, Any]
) -> None:
    """Write subspots, spot graph and image features to the chosen data, unless they are there already.

    Parameters
    ----------
    data
        The user's data, for the library sizes over all genes.
    chosen, spots, profiles
        See :class:`Input`.
    options
        Arguments of :func:`~soscope_scverse.tl.enhance`.
    """
    adata, encoder = spots.adata, options["encoder"]
    with nullcontext() if adata is chosen else written_back(adata, chosen):
        describes = needs_image_features(adata, encoder, options["sources"])
        if describes:
            _check_encoders(encoder, options["features_kwargs"])
        images = open_images(spots, options, needed=describes)
        describes = describes and bool(images)
        if describes:
            check_inside(images, read.subspots(adata) if keys.SUBSPOTS in adata.obsm else None)
            _check_alignment(data, images, options)
        was_partitioned = is_partitioned(spots)
        _partition(spots, options)
        if not was_partitioned:  # else the slots are the user's, and not yet checked
            logger.info("Dividing %d spots into %d subspots.", spots.n, _n_subspots(adata))
        if options["graph_key"] is None and keys.SPOT_GRAPH not in adata.obsp:
            if not was_partitioned:
                check_single_lattices(spots)
            adata.obsp[keys.SPOT_GRAPH] = weighted_graph(spots, profiles, normalize=options["preset"] != "paper")
        if describes or not needs_image(encoder):
            names = [one if isinstance(one, str) else type(one).__name__ for one in named(encoder)]
            logger.info("Extracting image features (encoder=%s).", ", ".join(names))
            kwargs = options["features_kwargs"]
            features, adata.uns[keys.FEATURES] = describe(spots, images, encoder=encoder, **kwargs)
            adata.obsm[keys.FEATURES] = with_mean_features(spots, features, images) if describes else features
        if options["image"] is not None:
            for section in images:
                _embed_thumbnail(adata, section)
                if len(images) > 1:
                    section.source.release()


def _check_encoders(encoder: Any, options: Mapping[str, Any]) -> None:
    """Raise if encoders or their options are invalid, or a package with weights is missing, before any work."""
    choose(encoder, **{name: value for name, value in options.items() if name in ("mode", *OF_ENCODERS)})


def _check_alignment(data: AnnData | MuData, images: list[SectionImage], options: Mapping[str, Any]) -> None:
    """Warn if spots may be misplaced, by the library size over all genes of the first counts, if there are any."""
    layer, likelihood = options["layer"], options["likelihood"]
    library_size = np.ones(data.n_obs)  # correlates with nothing
    if isinstance(data, MuData):
        names = [name for name, of_it in likelihood.items() if LIKELIHOODS[of_it].is_counts]
        if names:
            counts = modality(data, names[0])
            library_size = library_sizes(read.profiles(counts, (layer or {}).get(names[0])))
    elif LIKELIHOODS[likelihood].is_counts:
        library_size = library_sizes(read.profiles(data, layer))
    compare_placements(images, library_size)


def _partition(spots: Spots, options: Mapping[str, Any]) -> None:
    """Partition the spots unless they have subspots already."""
    n_subspots, cells, adata = options["n_subspots"], options["cells"], spots.adata
    capture = {name: options[name] for name in ("capture", "capture_shape")}
    if keys.SUBSPOTS not in adata.obsm:
        write_partition(adata, partition_spots(spots, n_subspots, cells=cells, **capture))
        return
    found = np.shape(adata.obsm[keys.SUBSPOTS])[1]
    asked = "" if n_subspots in ("auto", found) else f"n_subspots={n_subspots}"
    asked = asked or ("a partition into cells" if cells is not None else "")
    info = read.record(adata, keys.SUBSPOTS)
    asked = asked or _asked_capture(info, **capture)
    if asked:
        msg = (
            f"Asked for {asked}, but `adata.obsm['{keys.SUBSPOTS}']` holds {found} subspots per spot "
            f"(capture={info.get('capture')}). Delete that slot and the image features, or "
            "omit this argument."
        )
        raise ValueError(msg)


def _asked_capture(info: Mapping[str, Any], capture: float | str | None, capture_shape: str) -> str:
    """What was asked of the capture area that subspots with this record do not have, in words."""
    there, shape = info.get("capture"), info.get("capture_shape", "circle")
    if capture == "auto":
        return ""
    if capture is None:
        return "" if there is None else "capture=None"
    same = there is not None and np.isclose(there, float(capture)) and shape == capture_shape
    return "" if same else f"capture={capture}, capture_shape={capture_shape!r}"


def _embed_thumbnail(adata: AnnData, section: SectionImage) -> None:
    """Write a thumbnail to ``uns["spatial"]``, so that plots of spots and of subspots show the tissue."""
    if (section.source.extent[1] <= 0).any():
        return  # plots show images from 0 on
    libraries = adata.uns[keys.SPATIAL] = read.libraries(adata)
    library_id = next(iter(libraries), read.SINGLE_SECTION) if section.library_id is None else section.library_id
    pixels, scale = shrunk(section.source)
    entry = libraries.setdefault(library_id, {})
    entry["images"] = {"hires": pixels}
    entry.setdefault("scalefactors", {})["tissue_hires_scalef"] = scale

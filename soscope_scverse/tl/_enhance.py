"""From spots and image to enhanced subspots in one call."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from importlib.metadata import version
from inspect import signature
from os import PathLike, fspath
from platform import python_version
from typing import Any, Literal

import numpy as np
import torch
from anndata import AnnData
from mudata import MuData

from soscope_scverse import _keys as keys
from soscope_scverse import _validation as check
from soscope_scverse import im, pp
from soscope_scverse._containers.dispatch import ELEMENT_OPTIONS, check_no_element_options
from soscope_scverse._containers.mudata import joined, modality
from soscope_scverse._containers.spatialdata import is_spatialdata
from soscope_scverse._warnings import recorded_warnings
from soscope_scverse.im._features import needs_image
from soscope_scverse.model import SoScope
from soscope_scverse.model._transfer import with_features
from soscope_scverse.model.training.runner import check_training
from soscope_scverse.module.likelihoods import LIKELIHOODS
from soscope_scverse.tl._elements import enhance_elements, needs_image_features
from soscope_scverse.tl._presets import PRESETS

logger = logging.getLogger(__name__)

_N_GENES = 500
_PACKAGES = ("anndata", "lightning", "numpy", "scvi-tools", "torch", "torch-geometric")
"""Those whose versions are noted: what they do decides on the numbers of a result."""


def enhance(
    adata: AnnData | MuData,
    *,
    image: Any = None,
    image_scale: float | None = None,
    n_subspots: int | Literal["auto"] = "auto",
    cells: Any = None,
    layer: str | Mapping[str, str | None] | None = None,
    genes: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    likelihood: str | Mapping[str, str] = "nb",
    encoder: Any = "texture",
    sources: Literal["both", "image", "positions"] = "both",
    library_key: str | None = None,
    batch_key: str | None = None,
    preset: Literal["default", "paper"] = "default",
    expectation: Literal["conditional", "decoded"] | None = None,
    n_samples: int = 0,
    seed: int = 0,
    max_epochs: int | None = None,
    accelerator: str = "auto",
    features_kwargs: Mapping[str, Any] | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    train_kwargs: Mapping[str, Any] | None = None,
    checkpoint_dir: str | PathLike | None = None,
    resume: bool = False,
    save_model: str | PathLike | None = None,
    return_model: bool = False,
    out: str | PathLike | None = None,
    overwrite: bool = False,
    table_key: str = "table",
    image_key: Any = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    key_added: str = "enhanced",
) -> Any:
    """Divide the spots of a section into subspots and infer their profiles with soScope.

    Runs :func:`~soscope_scverse.pp.subspots`, :func:`~soscope_scverse.pp.spot_graph`,
    :func:`~soscope_scverse.im.features`, :meth:`SoScope.train <soscope_scverse.model.SoScope.train>` and
    :meth:`SoScope.get_enhanced <soscope_scverse.model.SoScope.get_enhanced>`. A step whose slot is in `adata` is left
    out, so each can be done by hand first. `adata` itself is not changed.

    Parameters
    ----------
    adata
        Spots, with positions in ``obsm["spatial"]``; a view counts as the spots in it. Of a file-backed one the chosen
        genes are read. In a MuData, positions, image and other slots of the spots are at the top or in a
        modality, and `layer`, `genes` and `likelihood` are dicts by modality. To a SpatialData the result is added:
        the spots are shapes (or labels) that a table annotates, positions are their centroids, images are found
        through the transformations, `cells` may be the name of shapes, and several elements of one table are sections.
    image
        Image of the tissue: path, array, squidpy ``ImageContainer``, SpatialData image element, or a dict of them by
        section. None takes the image in ``uns["spatial"]``; without any, positions alone are used.
    image_scale
        Coordinates times this are pixels of `image`. Default: the scale that the image carries, else 1.
    n_subspots
        Subspots of a spot, see :func:`~soscope_scverse.pp.subspots`.
    cells
        Cells to divide the spots into instead: AnnData, DataFrame of ``x`` and ``y``, or shapes, see
        :func:`~soscope_scverse.pp.subspots`. The result has their names.
    layer
        Layer that holds the profiles; None is ``X``. Raw counts unless `likelihood` is ``"gaussian"``.
    genes
        Features to enhance. Default: ``var["highly_variable"]`` if present, else the 500 spatially most variable ones.
    likelihood
        ``"nb"`` or ``"poisson"`` for counts, ``"gaussian"`` for anything else. Of a MuData, the likelihood of each
        modality to model together, as ``{"rna": "nb", "prot": "poisson"}``.
    encoder
        Of the image, see :func:`~soscope_scverse.im.features`; ``"precomputed"`` for features that are in `adata`,
        ``"noise"`` for the paper's stand-in where there is no image.
    sources
        What tells the subspots apart: ``"both"`` spots and image, ``"image"`` or ``"positions"`` alone; see
        :class:`~soscope_scverse.model.SoScope`.
    library_key
        Column of ``obs`` that tells the sections.
    batch_key
        Column of ``obs`` that tells the batches, see :meth:`~soscope_scverse.model.SoScope.setup_anndata`.
    preset
        ``"paper"``: architecture, likelihood and prediction as published; arguments given beside it win.
    expectation
        See :meth:`~soscope_scverse.model.SoScope.get_enhanced`. Default: ``"conditional"``; ``"decoded"`` with
        ``preset="paper"``.
    n_samples
        See :meth:`~soscope_scverse.model.SoScope.get_enhanced`.
    seed
        Of all random numbers; the global states are left alone.
    max_epochs
        Passes over the spots, see :meth:`~soscope_scverse.model.SoScope.train`.
    accelerator
        As in Lightning: ``"auto"``, ``"cpu"``, ``"gpu"``, ...
    features_kwargs, model_kwargs, train_kwargs
        Further arguments of :func:`~soscope_scverse.im.features` (``weights``, ``context``, ``cache``, ...), of
        :class:`~soscope_scverse.model.SoScope` and of its ``train``.
    checkpoint_dir, resume
        Folder of a checkpoint of the training, and whether to go on from one that is there, so that a job that was
        killed is simply run again; see :meth:`~soscope_scverse.model.SoScope.train`.
    save_model
        New directory to save the trained model and its spots to, for
        :meth:`SoScope.load <soscope_scverse.model.SoScope.load>`.
    return_model
        Return the trained model beside the result, to predict elsewhere, draw, or train on.
    out, overwrite
        ``.zarr`` store or ``.h5ad`` file that the result is written to piece by piece, and whether one that is there is
        replaced; see :meth:`~soscope_scverse.model.SoScope.get_enhanced`. With SpatialData, `overwrite` replaces
        elements of the name of the result.
    table_key
        Of a SpatialData: the table with the profiles.
    image_key
        Its image, a dict by element where the table annotates several. Default: the only one in a coordinate system
        of the spots; without any, positions alone are used.
    shapes_key
        Its spots: the one of the elements that the table annotates to enhance. Default: all, each as a section, with
        the column of the table that tells them as `library_key`.
    coordinate_system
        In which spots, image and cells lie over each other. Needed where the answer is not the same in all that they
        share.
    key_added
        Name of the table to add; its shapes are ``"{key_added}_subspots"``, of several elements
        ``"{key_added}_{element}_subspots"``.

    Returns
    -------
    AnnData or MuData
        The subspots, see :meth:`~soscope_scverse.model.SoScope.get_enhanced`, with ``uns["soscope"]``: version, those
        of the packages below, arguments (JSON), geometry, encoder, whether the image was used, what was warned of,
        and training history. ``enhance(adata, **json.loads(enhanced.uns["soscope"]["arguments"]))`` makes the result
        again; what was given as objects (images, cells, encoders) is listed under ``"inputs"`` and has to be passed
        again. With `return_model` a tuple of this and the model.
    SpatialData
        Of a SpatialData the same object, with ``shapes["{key_added}_subspots"]``, the outlines of the subspots (squares
        or hexagons that tile the section, the shapes of the cells, else circles) with all transformations of the spots,
        and ``tables[key_added]``, which annotates them (region key "region", instance key "subspot_id"). Where it is on
        disk, both are written beside its store and moved there when they are complete. The rest of it stays as it was.

    Raises
    ------
    ValueError, TypeError
        If the input does not fit; before the training starts.
    KeyboardInterrupt
        At Ctrl-C; nothing is written then.

    References
    ----------
    Li, Bao, Hou et al. Tissue characterization at an enhanced resolution across spatial omics platforms with deep
    generative model. Nature Communications 15, 6541 (2024).
    """
    arguments = dict(locals())
    del arguments["adata"], arguments["return_model"], arguments["key_added"]
    elements = {name: arguments.pop(name) for name in ELEMENT_OPTIONS}
    if is_spatialdata(adata):
        model = enhance_elements(adata, _enhance, arguments, key_added=key_added, overwrite=overwrite, **elements)
        return (adata, model) if return_model else adata
    check_no_element_options(adata, elements)
    enhanced, model = _enhance(adata, **arguments)
    return (enhanced, model) if return_model else enhanced


def _enhance(
    adata: AnnData | MuData,
    *,
    image: Any,
    image_scale: float | None,
    n_subspots: int | Literal["auto"],
    cells: Any,
    layer: str | Mapping[str, str | None] | None,
    genes: Sequence[str] | Mapping[str, Sequence[str]] | None,
    likelihood: str | Mapping[str, str],
    encoder: Any,
    sources: Literal["both", "image", "positions"],
    library_key: str | None,
    batch_key: str | None,
    preset: Literal["default", "paper"],
    expectation: Literal["conditional", "decoded"] | None,
    n_samples: int,
    seed: int,
    max_epochs: int | None,
    accelerator: str,
    features_kwargs: Mapping[str, Any] | None,
    model_kwargs: Mapping[str, Any] | None,
    train_kwargs: Mapping[str, Any] | None,
    checkpoint_dir: str | PathLike | None,
    resume: bool,
    save_model: str | PathLike | None,
    out: str | PathLike | None,
    overwrite: bool,
) -> tuple[AnnData | MuData, SoScope]:
    """Subspots of the spots of an AnnData or MuData, and the trained model."""
    check.given(enhance, locals())
    _check_keywords(features_kwargs, model_kwargs, train_kwargs)
    if expectation is None:
        expectation = PRESETS[preset].expectation
    arguments = {
        "image": image,
        "image_scale": image_scale,
        "n_subspots": n_subspots,
        "cells": cells,
        "layer": layer,
        "genes": {k: _names(v) for k, v in genes.items()} if isinstance(genes, Mapping) else _names(genes),
        "likelihood": likelihood,
        "encoder": encoder,
        "sources": sources,
        "library_key": library_key,
        "batch_key": batch_key,
        "preset": preset,
        "expectation": expectation,
        "n_samples": n_samples,
        "seed": seed,
        "max_epochs": max_epochs,
        "accelerator": accelerator,
        "features_kwargs": dict(features_kwargs or {}),
        "model_kwargs": {**PRESETS[preset].model_kwargs, "sources": sources, **(model_kwargs or {})},
        "train_kwargs": dict(train_kwargs or {}),
    }
    if save_model is not None:
        check.folder("save_model", save_model, new=True)
    if out is not None:
        check.output("out", out, overwrite=overwrite)
    check.no_mudata_on_disk(adata, out)
    with recorded_warnings() as warned:
        spots = _checked(adata, layer, genes, likelihood, library_key)
        if batch_key is not None:
            check.labels(spots, "batch_key", batch_key, "batch")
        training = {"max_epochs": max_epochs, "accelerator": accelerator} | arguments["train_kwargs"]
        training |= {"checkpoint_dir": checkpoint_dir, "resume": resume}
        _check_training(training, likelihood)
        name = encoder if isinstance(encoder, str) else type(encoder).__name__
        located = {"image": image, "image_scale": image_scale, "library_key": library_key}
        looks = needs_image_features(spots, encoder, sources) and _has_image(
            spots, **located, needed=sources == "image"
        )
        if looks and (counts := _first_counts(adata, layer, likelihood)) is not None:
            im.check_alignment(counts[0], **located, layer=counts[1])

        _divide(spots, n_subspots, cells, library_key)
        if keys.SPOT_GRAPH not in spots.obsp:
            pp.spot_graph(spots, layer=layer, library_key=library_key)
        if looks or not needs_image(encoder):
            logger.info("Extracting image features (encoder=%s).", name)
            im.features(spots, **{**located, "encoder": encoder, **arguments["features_kwargs"]})
        if image is not None and sources != "positions" and name != "noise":
            _embed_thumbnails(spots, **located)

        with torch.random.fork_rng():
            torch.manual_seed(seed)
            slots = {"layer": layer, "library_key": library_key, "batch_key": batch_key}
            model = _model(spots, likelihood, slots, arguments["model_kwargs"])
            model.train(**training, seed=seed)
            if model.trainer is not None and model.trainer.interrupted:
                raise KeyboardInterrupt  # the warning of the training tells; nothing has been written
            if save_model is not None:
                _save(model, save_model)
            uns = {keys.RESULT: _record(spots, model, arguments, warned)}
            enhanced = model.get_enhanced(
                expectation=expectation, n_samples=n_samples, out=out, overwrite=overwrite, uns=uns
            )
    return enhanced, model


def _check_keywords(features_kwargs: Any, model_kwargs: Any, train_kwargs: Any) -> None:
    """Raise unless the further arguments of all steps are theirs, and not those that :func:`enhance` takes itself."""
    named = ("adata", "image", "encoder", "image_scale", "library_key", "key_added", "copy")
    check.keywords("features_kwargs", features_kwargs or {}, im.features, without=named)
    check.keywords("model_kwargs", model_kwargs or {}, SoScope.__init__, without=("self", "adata", "likelihood"))
    check.keywords(
        "train_kwargs", train_kwargs or {}, SoScope.train, without=("self", "checkpoint_dir", "resume", "seed")
    )


def _check_training(options: Mapping[str, Any], likelihood: str | Mapping[str, str]) -> None:
    """Raise unless a model of this likelihood can be trained so."""
    bound = signature(SoScope.train).bind(None, **options)
    bound.apply_defaults()
    names = [likelihood] if isinstance(likelihood, str) else likelihood.values()
    check_training(bound.arguments, is_counts=all(LIKELIHOODS[name].is_counts for name in names))


def _checked(data: AnnData | MuData, layer: Any, genes: Any, likelihood: Any, library_key: str | None) -> Any:
    """A copy in memory with the chosen genes, of a MuData with the modalities to model."""
    if not isinstance(data, MuData):
        return _checked_spots(data, layer, genes, likelihood, library_key)
    layer, genes = check.by_modality("layer", layer), check.by_modality("genes", genes)
    check.mudata(data, likelihood, layer, genes)
    return joined(
        {
            name: _checked_spots(modality(data, name), layer.get(name), genes.get(name), of_it, library_key)
            for name, of_it in likelihood.items()
        }
    )


def _first_counts(data: AnnData | MuData, layer: Any, likelihood: Any) -> tuple[AnnData, str | None] | None:
    """The counts that tell the depth of a spot, with all genes, and the layer that holds them."""
    if isinstance(data, AnnData):
        return (data, layer) if LIKELIHOODS[likelihood].is_counts else None
    names = [name for name, of_it in likelihood.items() if LIKELIHOODS[of_it].is_counts]
    return (modality(data, names[0]), (layer or {}).get(names[0])) if names else None


def _model(spots: AnnData | MuData, likelihood: Any, slots: dict[str, Any], kwargs: dict[str, Any]) -> SoScope:
    if isinstance(spots, MuData):
        SoScope.setup_mudata(spots, likelihood, **slots)
        return SoScope(spots, **kwargs)
    SoScope.setup_anndata(spots, **slots)
    return SoScope(spots, likelihood=likelihood, **kwargs)


def _checked_spots(
    adata: AnnData, layer: str | None, genes: Sequence[str] | None, likelihood: str, library_key: str | None
) -> AnnData:
    """A copy of `adata` in memory with the chosen genes, after all checks that cost nothing."""
    check.anndata(adata)
    check.one_of("likelihood", likelihood, list(LIKELIHOODS))
    check.positions(adata)
    check.sections(adata, library_key)
    check.libraries(adata)
    check.profiles(adata, layer)
    if genes is not None:
        chosen = check.genes(adata, genes)
    elif "highly_variable" in adata.var:
        chosen = check.highly_variable(adata)
    elif adata.n_vars <= _N_GENES:
        chosen = adata.var_names.tolist()
    else:
        chosen = pp.spatial_genes(adata, _N_GENES, layer=layer, library_key=library_key)
    spots = with_features(adata, chosen)
    spots.uns = deepcopy(dict(spots.uns))  # small images are put there
    x = check.matrix(spots, layer)
    if LIKELIHOODS[likelihood].is_counts:
        check.counts(x, likelihood)
        check.warn_empty(spots, x)
    check.finite(x)
    return spots


def _has_image(
    spots: AnnData | MuData, image: Any, image_scale: float | None, library_key: str | None, *, needed: bool
) -> bool:
    """Whether there is an image; raises if coordinates leave it, warns if there is none."""
    if image is None:
        libraries = [None] if library_key is None else np.unique(check.sections(spots, library_key)).tolist()
        embedded = [im.embedded_image(spots, library_id) for library_id in libraries]
        if any(found is None for found in embedded):
            if needed:
                msg = "Expected an image for sources='image', found none. Pass it with `image=`."
                raise ValueError(msg)
            warnings.warn(
                "No image given and none in `adata.uns['spatial']`: enhancing from positions alone.",
                UserWarning,
                stacklevel=3,
            )
            return False
    im.check_coordinates(spots, image, image_scale=image_scale, library_key=library_key)
    return True


def _divide(spots: AnnData | MuData, n_subspots: int | Literal["auto"], cells: Any, library_key: str | None) -> None:
    """Divide the spots unless they are divided already."""
    if keys.SUBSPOTS not in spots.obsm:
        pp.subspots(spots, n_subspots, cells=cells, library_key=library_key)
        return
    found = np.shape(spots.obsm[keys.SUBSPOTS])[1]
    if n_subspots not in ("auto", found) or cells is not None:
        asked = f"n_subspots={n_subspots}" if cells is None else "a division into cells"
        msg = (
            f"Asked for {asked}, but `adata.obsm['{keys.SUBSPOTS}']` holds {found} subspots a spot. "
            "Delete that slot and the image features, or leave this argument out."
        )
        raise ValueError(msg)


def _embed_thumbnails(spots: AnnData | MuData, image: Any, image_scale: float | None, library_key: str | None) -> None:
    """Put a small image next to the spots, so that plots of them and of their subspots show the tissue."""
    libraries = spots.uns.setdefault(keys.SPATIAL, {})
    for section in np.unique(check.sections(spots, library_key)):
        library_id = next(iter(libraries), section) if library_key is None else section
        one = image[library_id] if isinstance(image, Mapping) and library_key is not None else image
        source = im.open_image(one, scale=image_scale)
        if (source.extent[1] <= 0).any():
            continue  # plots take images from 0 on
        pixels, scale = im.thumbnail(source)
        entry = libraries.setdefault(library_id, {})
        entry["images"] = {"hires": pixels}
        entry.setdefault("scalefactors", {})["tissue_hires_scalef"] = scale


def _save(model: SoScope, path: str | PathLike) -> None:
    """Save the model and its spots, with their latent states; of several processes the first one does."""
    model.adata.obsm[keys.LATENT] = model.get_latent_representation()
    if model.trainer and model.trainer.is_global_zero:
        model.save(str(path), save_anndata=True)


def _record(spots: AnnData | MuData, model: SoScope, arguments: dict[str, Any], warned: list[str]) -> dict[str, Any]:
    """Everything needed to make the result again, in types that h5ad and zarr can hold.

    Arguments that a file cannot hold, such as the pixels of an image, are told in a few words under ``"inputs"``.
    """
    stored, inputs = _storable(arguments)
    record: dict[str, Any] = {
        "version": version("soscope-scverse"),
        "versions": {"python": python_version(), **{name: version(name) for name in _PACKAGES}},
        "seed": arguments["seed"],
        "arguments": json.dumps(stored),
        "inputs": json.dumps(inputs),
        "uses_image": bool(model.module.uses_image),
        "warnings": np.array(warned, dtype=str),
        "history": {name: frame.to_numpy(float).ravel() for name, frame in (model.history or {}).items()},
    }
    for name, key in (("geometry", keys.SUBSPOTS), ("encoder", keys.FEATURES)):
        if key in spots.uns:
            record[name] = spots.uns[key]
    return record


def _storable(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments as JSON holds them, and those that it cannot hold in a few words; of ``..._kwargs`` entry by entry."""
    stored: dict[str, Any] = {}
    described: dict[str, Any] = {}
    for name, value in arguments.items():
        if name.endswith("_kwargs"):
            stored[name], inside = _storable(value)
            described |= {f"{name}.{entry}": words for entry, words in inside.items()}
            continue
        try:
            stored[name] = json.loads(json.dumps(value, default=_simple))
        except TypeError:
            described[name] = _describe(value)
    return stored, described


def _names(genes: Any) -> Any:
    return list(genes) if isinstance(genes, Iterable) and not isinstance(genes, str) else genes


def _describe(thing: Any) -> Any:
    """An image, cells or an encoder in a few words."""
    if isinstance(thing, Mapping):
        return {str(name): _describe(value) for name, value in thing.items()}
    shape = getattr(thing, "shape", None)
    return f"{type(thing).__name__}{'' if shape is None else f' of shape {tuple(shape)}'}"


def _simple(value: Any) -> Any:
    """Numbers and short lists of numpy and paths in Python's own types."""
    if isinstance(value, PathLike):
        return fspath(value)
    if isinstance(value, np.generic | np.ndarray) and value.ndim < 2:
        return value.tolist()
    raise TypeError

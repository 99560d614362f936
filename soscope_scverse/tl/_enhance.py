"""From spots and image to enhanced subspots in one call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, overload

import torch
from anndata import AnnData
from mudata import MuData

from soscope_scverse import _keys as keys
from soscope_scverse._containers.dispatch import ELEMENT_OPTIONS, check_no_element_options
from soscope_scverse._containers.lazy import is_lazy, opened
from soscope_scverse._containers.spatialdata import is_spatialdata
from soscope_scverse._read import on_tissue
from soscope_scverse._validators import check_samples
from soscope_scverse._warnings import recorded_warnings
from soscope_scverse.model import SoScope
from soscope_scverse.model._genes import Genes
from soscope_scverse.model._threads import torch_threads
from soscope_scverse.model.inference.sampler import Expectation
from soscope_scverse.model.training.runner import check_training
from soscope_scverse.module.likelihoods import LIKELIHOODS, unmeasured_dispersions
from soscope_scverse.tl import _results as results
from soscope_scverse.tl._elements import enhance_elements
from soscope_scverse.tl._options import EnhanceOptions, check_options, resolved
from soscope_scverse.tl._prepare import Input, prepare, read_input, with_all_features
from soscope_scverse.tl._record import Stopwatch, given_options, record

if TYPE_CHECKING:
    from spatialdata import SpatialData

logger = logging.getLogger(__name__)

Data = TypeVar("Data", "AnnData", "MuData", "SpatialData")


@overload
def enhance(  # numpydoc ignore=GL08
    adata: Data, *, return_model: Literal[False] = ..., **options: Unpack[EnhanceOptions]
) -> Data: ...


@overload
def enhance(  # numpydoc ignore=GL08
    adata: Data, *, return_model: Literal[True], **options: Unpack[EnhanceOptions]
) -> tuple[Data, SoScope]: ...


def enhance(
    adata: AnnData | MuData | SpatialData,
    *,
    image: Any = None,
    image_scale: float | None = None,
    n_subspots: int | Literal["auto"] = "auto",
    cells: Any = None,
    capture: float | Literal["auto"] | None = "auto",
    capture_shape: Literal["circle", "square"] = "circle",
    layer: str | Mapping[str, str | None] | None = None,
    genes: Genes | None = None,
    quality: Literal["best", "fast"] = "best",
    likelihood: str | Mapping[str, str] = "nb",
    encoder: Any = None,
    sources: Literal["both", "image", "positions"] = "both",
    library_key: str | None = None,
    batch_key: str | None = None,
    graph_key: str | None = None,
    size_factor_key: str | None = None,
    keep_off_tissue: bool = False,
    preset: Literal["default", "paper"] = "default",
    expectation: Expectation | Sequence[Expectation] | None = None,
    n_samples: int = 0,
    obsm_keys: Sequence[str] = (),
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
    """Infer the profiles of the subspots inside the spots of a section with soScope.

    Runs :func:`~soscope_scverse.pp.subspots`, :func:`~soscope_scverse.pp.spot_graph`,
    :func:`~soscope_scverse.im.features`, :meth:`SoScope.train <soscope_scverse.model.SoScope.train>` and
    :meth:`SoScope.get_enhanced <soscope_scverse.model.SoScope.get_enhanced>`. Steps whose slots are in `adata` already
    are skipped, so each can be run separately first. `adata` itself is not changed.

    Parameters
    ----------
    adata
        Spots, with positions in ``obsm["spatial"]``; of a view the spots in it, of a file-backed AnnData, or one of
        ``read_lazy``, the chosen genes are read. In a MuData, positions, image and other slots of the spots are at the
        top or in a modality, and `layer`, `genes` and `likelihood` are dicts by modality. The result is added to a
        SpatialData: its spots are shapes (or labels or points) that a table annotates, positions are their centroids,
        images are located by the transformations, `cells` may be the name of shapes or labels, and several elements of
        one table are sections.
    image
        Histology image: path, array, squidpy ``ImageContainer``, SpatialData image element, or a dict of them by
        section. None uses the image in ``uns["spatial"]``; without any, positions alone are used. None in a dict
        is a section without an image; then those that are not in the dict have theirs in ``uns["spatial"]``.
    image_scale
        Coordinates times this are pixels of `image`. Default: the scale recorded with the image, else 1.
    n_subspots
        Subspots of a spot, see :func:`~soscope_scverse.pp.subspots`.
    cells
        Cells to partition the spots into instead: AnnData, DataFrame of ``x`` and ``y``, shapes, label mask, or a file
        of these, see :func:`~soscope_scverse.pp.subspots`. The result has their names.
    capture, capture_shape
        Diameter of what a spot captures, in the unit of the positions, and its shape. ``"auto"`` recognises Visium (55
        um at a pitch of 100 um); None: the spots tile the tissue. Profiles of subspots are of their whole area, the
        gaps between the spots included, see :func:`~soscope_scverse.pp.subspots`.
    layer
        Layer that holds the profiles; None is ``X``. Raw counts unless `likelihood` is ``"gaussian"``.
    genes
        Features to enhance. Default: ``var["highly_variable"]`` if present, else the 500 spatially most variable ones.
        ``"all"`` is all of them, with ``quality="fast"``.
    quality
        ``"best"``: the model is trained on all genes to enhance. ``"fast"``: latent states and the effect of the image
        are learnt on the 60 spatially most variable of them, and the others are fitted to these in blocks, see
        :meth:`SoScope.enhance_genes <soscope_scverse.model.SoScope.enhance_genes>`. See docs/scaling.md for
        the scores and run times of both.
    likelihood
        ``"nb"`` or ``"poisson"`` for counts, ``"gaussian"`` for anything else. For a MuData, the likelihood of each
        modality to model jointly, as ``{"rna": "nb", "prot": "poisson"}``.
    encoder
        Encoder of the image, or a list of encoders whose features are concatenated, see
        :func:`~soscope_scverse.im.features`; ``"precomputed"`` for features that are in `adata`, ``"noise"`` for the
        paper's substitute where there is no image. Default: ``"texture"``; with ``preset="paper"`` ``"inception_v3"``
        over ten spot radii if its weights are at hand, else with a warning.
    sources
        What distinguishes the subspots of a spot: ``"both"`` spots and image, ``"image"`` or ``"positions"`` alone; see
        :class:`~soscope_scverse.model.SoScope`.
    library_key
        Column of ``obs`` with the sections.
    batch_key
        Column of ``obs`` with the batches, see :meth:`~soscope_scverse.model.SoScope.setup_anndata`.
    graph_key
        Slot of ``obsp`` with the graph of the spots, written by :func:`squidpy.gr.spatial_neighbors`
        (``"spatial_connectivities"``), see :meth:`~soscope_scverse.model.SoScope.setup_anndata`. Default:
        ``obsp["spot_graph"]``, which is made by :func:`~soscope_scverse.pp.spot_graph` if it is not there.
    size_factor_key
        Column of ``obs`` with the library size of every spot, see
        :meth:`~soscope_scverse.model.SoScope.setup_anndata`.
    keep_off_tissue
        Enhance the spots with ``obs["in_tissue"]`` 0, too. By default they are excluded and have no rows in the result.
    preset
        ``"paper"``: the model of the paper, with the length of training of its code; "The model of the paper" in the
        documentation lists what is as published and what is not. It has posterior samples with ``"poisson"`` only.
        Further arguments take precedence.
    expectation
        One or several, see :meth:`~soscope_scverse.model.SoScope.get_enhanced`. Default: ``["conditional",
        "denoised"]``; ``"decoded"`` with ``preset="paper"``.
    n_samples
        Number of posterior samples, see :meth:`~soscope_scverse.model.SoScope.get_enhanced`.
    obsm_keys
        Tables in ``obsm`` of the spots to repeat for their subspots, see
        :meth:`~soscope_scverse.model.SoScope.get_enhanced`.
    seed
        Seed of all random numbers; global random states are not changed.
    max_epochs
        Passes over the spots, see :meth:`~soscope_scverse.model.SoScope.train`.
    accelerator
        As in Lightning: ``"auto"``, ``"cpu"``, ``"gpu"``, ...
    features_kwargs, model_kwargs, train_kwargs
        Further arguments of :func:`~soscope_scverse.im.features` (``weights``, ``context``, ``cache``, ...), of
        :class:`~soscope_scverse.model.SoScope` and of its ``train``.
    checkpoint_dir, resume
        Folder of a checkpoint of the training, and whether to resume from it if there is one, so that an interrupted
        job is simply run again; see :meth:`~soscope_scverse.model.SoScope.train`.
    save_model
        New directory to save the trained model and its spots to, for
        :meth:`SoScope.load <soscope_scverse.model.SoScope.load>`. If that fails, there is a warning.
    return_model
        Return the trained model with the result, to predict elsewhere, sample, or continue training.
    out, overwrite
        ``.zarr`` store or ``.h5ad`` file that the result is streamed to, and whether an existing one is replaced; see
        :meth:`~soscope_scverse.model.SoScope.get_enhanced`. A result that cannot be written is returned in memory, with
        a warning. With SpatialData, `overwrite` replaces elements that have the names of the result.
    table_key
        Table of a SpatialData with the profiles; by default the only one beside results, whatever its name.
    image_key
        Its image, a dict by element where the table annotates several. Default: the only one in a coordinate system
        of the spots; without any, positions alone are used.
    shapes_key
        Its spots: which of the elements that the table annotates to enhance. Default: all, each as a section, with the
        column of the table that names them as `library_key`.
    coordinate_system
        Coordinate system in which spots, image and cells are aligned. Needed where common coordinate systems align them
        differently.
    key_added
        Name of the table to add; its shapes are ``"{key_added}_subspots"``, for several elements
        ``"{key_added}_{element}_subspots"``.

    Returns
    -------
    AnnData or MuData
        The subspots, see :meth:`~soscope_scverse.model.SoScope.get_enhanced`, with ``uns["soscope"]``: version, those
        of the main dependencies, arguments (JSON), those that were given, geometry, encoder, strength of the
        image, warnings, training history, and wall time and peak memory until the training ended.
        ``enhance(adata, **json.loads(enhanced.uns["soscope"]["arguments"]))`` reproduces the result;
        arguments given as objects (images, cells, encoders) are listed under ``"inputs"`` and have to be passed again.
        With `return_model` a tuple of this and the model.
    SpatialData
        For a SpatialData the same object, with ``shapes["{key_added}_subspots"]``, the outlines of the subspots
        (squares or hexagons that tile the section, the shapes of the cells, else circles) with all transformations of
        the spots, and ``tables[key_added]``, which annotates them (region key "region", instance key "subspot_id"). If
        it is on disk, both are written beside its store and moved there once they are complete. Other elements are not
        changed.

    Raises
    ------
    ValueError, TypeError
        If the input is invalid, or a file cannot hold something in it; before the training starts.
    FileNotFoundError
        If `cells` is a path without a file.
    KeyboardInterrupt
        At Ctrl-C; nothing is written then.

    References
    ----------
    Li, Bao, Hou et al. Tissue characterization at an enhanced resolution across spatial omics platforms with deep
    generative model. Nature Communications 15, 6541 (2024).
    """
    options = dict(locals())
    del options["adata"], options["return_model"], options["key_added"]
    elements = {name: options.pop(name) for name in ELEMENT_OPTIONS}
    run = partial(_enhance, given=given_options(options, DEFAULTS))
    if is_spatialdata(adata):
        enhanced: Any = adata
        model = enhance_elements(adata, run, options, key_added=key_added, **elements)
    else:
        check_no_element_options(adata, elements)
        enhanced, model = run(opened(adata) if is_lazy(adata) else adata, options)
    if return_model:
        return enhanced, model
    model.deregister_manager(model.adata)  # else scvi-tools keeps the spots in memory
    return enhanced


DEFAULTS = {name: parameter.default for name, parameter in signature(enhance).parameters.items()}
"""Arguments of :func:`enhance` that nobody gave."""


_ADVICE_AFTER_CTRL_C = (
    "Nothing was written. With `checkpoint_dir`, the same call with resume=True continues such a training."
)


def _enhance(data: Any, options: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[AnnData | MuData, SoScope]:
    """Subspots of the spots of an AnnData or MuData, and the trained model; `given` are the options of the user."""
    stages = Stopwatch()
    check_options(data, options)
    with recorded_warnings() as warned:
        data = on_tissue(data, keep=options["keep_off_tissue"])
        found = read_input(data, options)
        chosen = found.chosen
        arguments = resolved(options, found.spots)
        training = {"max_epochs": options["max_epochs"], "accelerator": options["accelerator"]}
        training |= arguments["train_kwargs"] | {name: options[name] for name in ("checkpoint_dir", "resume", "seed")}
        _check_training(training, options["likelihood"])
        _check_samples(arguments)
        results.check_files(chosen, options, chosen if found.further is None else data)
        prepare(data, *found[:3], arguments)
        stages.end("preparation")
        with torch_threads(arguments["train_kwargs"].get("threads")), torch.random.fork_rng():
            torch.manual_seed(options["seed"])
            model = _model(chosen, options, arguments["model_kwargs"])
            model.train(**training)
            stages.end("training")
            if model.trainer is not None and model.trainer.interrupted:
                raise KeyboardInterrupt(_ADVICE_AFTER_CTRL_C)
            _log_inference(model, stages.seconds["training"], options)
            if options["save_model"] is not None:
                results.save(model, options["save_model"])
            enhanced = results.enhanced(
                _results_of(model, data, found, options["checkpoint_dir"]),
                model,
                options["out"],
                expectation=arguments["expectation"],
                n_samples=options["n_samples"],
                obsm_keys=options["obsm_keys"],
                overwrite=options["overwrite"],
                uns={keys.RESULT: record(chosen, model, arguments, given, warned, stages.seconds)},
            )
    return enhanced, model


def _log_inference(model: SoScope, seconds: float, options: Mapping[str, Any]) -> None:
    """Log how the training ended and what follows."""
    n_samples, out = options["n_samples"], options["out"]
    logger.info(
        "Trained in %.0f s; strength of the image %.2f. Inferring the subspots%s%s.",
        seconds,
        float(model.module.image_strength),
        f" with {n_samples} posterior samples" if n_samples else "",
        "" if out is None else f", written to {out}",
    )


def _results_of(
    model: SoScope, data: AnnData | MuData, found: Input, checkpoint_dir: str | PathLike | None
) -> Callable[..., AnnData | MuData]:
    """The method of the trained model that makes the result: for its features, or for more."""
    if found.further is None:
        return model.get_enhanced
    spots = with_all_features(data, found.chosen)
    return partial(model.enhance_genes, spots, found.further, checkpoint_dir=checkpoint_dir)


def _check_training(training: Mapping[str, Any], likelihood: str | Mapping[str, str]) -> None:
    """Raise a ValueError unless a model of this likelihood can be trained with these arguments."""
    bound = signature(SoScope.train).bind(None, **training)
    bound.apply_defaults()
    check_training(bound.arguments, is_counts=all(LIKELIHOODS[name].is_counts for name in _names(likelihood)))


def _check_samples(arguments: Mapping[str, Any]) -> None:
    """Raise a ValueError for posterior samples if the loss of this model does not measure its dispersions."""
    bound = signature(SoScope).bind(None, **arguments["model_kwargs"])
    bound.apply_defaults()
    names = _names(arguments["likelihood"])
    kind = (bound.arguments[name] for name in ("observation", "dispersion"))
    check_samples(arguments["n_samples"], unmeasured_dispersions(names, *kind))


def _names(likelihood: str | Mapping[str, str]) -> list[str]:
    """Likelihood of every modality."""
    return [likelihood] if isinstance(likelihood, str) else list(likelihood.values())


def _model(data: AnnData | MuData, options: Mapping[str, Any], kwargs: Mapping[str, Any]) -> SoScope:
    slots = {name: options[name] for name in ("layer", "library_key", "batch_key", "size_factor_key")}
    slots["graph_key"] = options["graph_key"] or keys.SPOT_GRAPH
    if isinstance(data, MuData):
        SoScope.setup_mudata(data, options["likelihood"], **slots)
        return SoScope(data, **kwargs)
    SoScope.setup_anndata(data, **slots)
    return SoScope(data, likelihood=options["likelihood"], **kwargs)

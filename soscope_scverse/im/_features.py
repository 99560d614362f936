"""Image features of every subspot, and the check that coordinates and image belong together."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from anndata import AnnData

from soscope_scverse import _keys as keys
from soscope_scverse import _validation as validation
from soscope_scverse._containers.dispatch import accepts_containers
from soscope_scverse.im._cache import FeatureCache
from soscope_scverse.im.encoders.base import Encoder, PatchFunction
from soscope_scverse.im.encoders.registry import get_encoder
from soscope_scverse.im.reading.embedded import library_entry
from soscope_scverse.im.reading.sections import Section, open_sections, pitch, spot_radius
from soscope_scverse.im.reading.source import ImageSource

if TYPE_CHECKING:
    import torch
    from distributed import Client

_PRECOMPUTED = "precomputed"
_NOISE, _N_NOISE = "noise", 128
_PATCH_IN_PITCHES = 4
_MOST_IMAGES = 10
_BAND_IN_PATCHES = 8
"""Height of a band in widths of the patch. Neighbouring bands both read the patch width between them."""


@accepts_containers(mudata=True, needs_image=lambda arguments: needs_image(arguments.get("encoder")))
def features(
    adata: AnnData,
    image: Any = None,
    *,
    encoder: str | Encoder | PatchFunction | torch.nn.Module = "texture",
    mode: Literal["patch", "dense"] = "patch",
    weights: str | PathLike | None = None,
    device: str | torch.device | None = None,
    batch_size: int | None = None,
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
) -> AnnData | None:
    """Describe the tissue around every subspot.

    Parameters
    ----------
    adata
        Spots with their subspots in ``obsm["subspots"]`` (n_spots x n_subspots x 2 positions (x, y) in full-resolution
        pixels, NaN = padding), as written by ``pp.subspots``.
    image
        Image of any kind that :func:`open_image` takes, a dict of one image for each section of ``library_key``, or
        None for the image in ``uns["spatial"]`` ("hires", else "lowres", with its scale factor).
    encoder
        What describes a patch:

        - "texture": colour, stain and texture statistics, without weights;
        - "inception_v3": the network of the paper, 2,048 features, see :class:`InceptionV3`;
        - "timm:NAME": a network of timm, see :class:`TimmEncoder`;
        - another registered name, or an :class:`Encoder`;
        - a function of uint8 RGB tiles (n_tiles x height x width x 3) that returns n_tiles x n_image_features, or a
          ``torch.nn.Module``, see :class:`ModuleEncoder`;
        - "noise": 128 numbers from a standard normal for every subspot, the paper's stand-in for an image
          (Supplementary Note 6); no image and no other argument is used;
        - "precomputed": nothing is computed. The features that lie in ``obsm[key_added]`` already are checked and
          recorded; no image and no other argument is used.
    mode
        "patch": every patch by itself. "dense": a convolutional network runs once over large strips of the image, and
        its feature map is averaged over every patch; faster where patches overlap, with features of its own. For
        "inception_v3" and a ``torch.nn.Module`` that returns a feature map (n x n_image_features x h x w), see
        :class:`DenseEncoder`.
    weights, device, batch_size
        Of the deep encoders, see :class:`NetworkEncoder`; functions and modules have a ``batch_size``, too,
        which ``mode="dense"`` has no use for.
    context
        Width of the square patch that describes a subspot, in spot radii. Default: four times the distance of
        neighbouring subspots. "texture" uses windows of 1/8, 1/4, 1/2 and all of it, by default half a subspot to four.
        The radius of a spot is half of ``spot_diameter_fullres`` in ``uns["spatial"]``, or, without that, a quarter of
        the median distance of neighbouring spots. Of several widths the features are concatenated.
    context_um
        The same in micrometres, instead of ``context``. The size of a pixel is ``microns_per_pixel`` (of full
        resolution) among the scale factors in ``uns["spatial"]``, or what the image tells (OME-TIFF, SVS).
    image_scale
        Coordinates times ``image_scale`` are pixels of the image. Default: the scale that the image carries,
        else 1.
    key_added
        Where to write.
    library_key
        Column of ``obs`` that names the section of a spot; sections are computed one after another.
    client
        ``distributed.Client`` of the Dask cluster that computes the features. Positions are encoded in bands of eight
        patch widths, each of which is one task; the result is the same with and without a cluster. Files are opened by
        the workers, so their paths must lead to them there. JPEG and PNG files are decoded by every worker as a whole;
        for large images a tiled TIFF or a chunked array is the better choice.
    cache
        Folder that keeps the features of every band, found again by image, positions, patch, encoder and weights; see
        :class:`FeatureCache`. An interrupted run goes on where it was. Not with functions as encoders. A zarr array
        that was edited in its place may pass for the old one: then use another folder.
    copy
        Return a changed copy instead of writing to ``adata``.
    table_key, image_key, shapes_key, coordinate_system
        Of a SpatialData, as of :func:`~soscope_scverse.tl.enhance`; slots are written to the table.

    Returns
    -------
    AnnData, MuData or None
        None, or with ``copy`` the changed copy. Written are the slots below.
    ``obsm[key_added]``
        n_spots x n_subspots x n_image_features float32, not standardised, 0 for padded subspots.
    ``uns[key_added]``
        "encoder" (name), "context" (spot radii) or "context_um", "feature_names", "patch_pixels" (width of the patch in
        pixels of the image or of the level that was read, one for each section), "mode", with ``library_key``
        "sections" (their names), and with ``weights`` "weights". With several widths "patch_pixels" is n_sections x
        n_contexts, and names of features end with "@" and the width.
        With "precomputed" only "encoder" and "feature_names".

    Raises
    ------
    FileNotFoundError
        If the weights of the encoder are nowhere and cannot be downloaded.
    TypeError, ValueError
        If slots, images or the encoder are missing or of a wrong form, or if coordinates leave the image, see
        :func:`check_coordinates`.

    Warns
    -----
    UserWarning
        If a network that was trained on colours gets a grey image.

    Notes
    -----
    Tissue beyond the border of the image is mirrored. The reader takes only the part of the image that holds
    subspots, and files other than JPEG and PNG are never loaded as a whole.
    """
    validation.given(features, locals())
    validation.text("key_added", key_added)
    if cache is not None:
        validation.folder("cache", cache)
    if client is not None and not hasattr(client, "scatter"):
        msg = f"Expected `client` to be a `distributed.Client`, found {type(client).__name__}."
        raise TypeError(msg)
    validation.anndata(adata)
    adata = adata.copy() if copy else adata
    subspots, valid = _subspots(adata)
    if isinstance(encoder, str) and encoder == _PRECOMPUTED:
        _adopt(adata, key_added, valid)
        return adata if copy else None
    if isinstance(encoder, str) and encoder == _NOISE:
        _write_noise(adata, key_added, valid)
        return adata if copy else None
    model = get_encoder(encoder, weights=weights, device=device, batch_size=batch_size)
    if mode == "dense":
        model = _dense(model, batch_size)
    sections = open_sections(adata, image, image_scale, library_key)
    for section in sections:
        _check_section(adata, section)
    _warn_grey(model, sections)

    if context_um is None:
        contexts, widths = _radii_contexts(adata, sections, subspots, valid, context)
    else:
        contexts, widths = _micron_contexts(adata, sections, context, context_um)
    _check_widths(sections, widths)
    adata.obsm[key_added], names = _encode(model, sections, subspots, valid, widths, client, cache)
    patch_pixels = _patch_pixels(model, sections, widths)
    one = len(contexts) == 1
    adata.uns[key_added] = {
        "encoder": model.name,
        "context" if context_um is None else "context_um": float(contexts[0]) if one else contexts,
        "feature_names": np.array(names if one else [f"{name}@{width:g}" for width in contexts for name in names]),
        "patch_pixels": patch_pixels[:, 0] if one else patch_pixels,
        "mode": mode,
    }
    if weights is not None:
        adata.uns[key_added]["weights"] = fspath(weights)
    if library_key is not None:
        adata.uns[key_added]["sections"] = np.array([section.library_id for section in sections])
    return adata if copy else None


def needs_image(encoder: Any) -> bool:
    """Whether an encoder, or its name, looks at an image."""
    return not (isinstance(encoder, str) and encoder in (_NOISE, _PRECOMPUTED))


def _dense(model: Encoder, batch_size: int | None) -> Encoder:
    if batch_size is not None:
        msg = f"Expected no `batch_size` with `mode='dense'`, which cuts no tiles, found {batch_size}. Leave it out."
        raise ValueError(msg)
    return model.dense()


def _warn_grey(model: Encoder, sections: list[Section]) -> None:
    if model.needs_colour and any(section.source.is_grey for section in sections):
        warnings.warn(
            f"Encoder {model.name!r} was trained on images in colour, and this one is grey: its features may tell "
            "little. Pass the image in colour if there is one, or compare with `encoder='texture'`.",
            UserWarning,
            stacklevel=3,
        )


def _write_noise(adata: AnnData, key: str, valid: np.ndarray) -> None:
    """Features that tell nothing, the same in every run."""
    noise = np.random.default_rng(0).standard_normal((*valid.shape, _N_NOISE), np.float32)
    adata.obsm[key] = noise * valid[..., None]
    adata.uns[key] = {"encoder": _NOISE, "feature_names": np.array([f"noise_{i}" for i in range(_N_NOISE)])}


def _adopt(adata: AnnData, key: str, valid: np.ndarray) -> None:
    """Check features that the user wrote, and record them as those of an encoder."""
    given = validation.numbers(f"`adata.obsm[{key!r}]`", adata.obsm.get(key, np.empty(0)))
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
    adata.obsm[key] = np.where(valid[..., None], given, 0).astype(np.float32)
    names = [f"{_PRECOMPUTED}_{i}" for i in range(given.shape[2])]
    adata.uns[key] = {"encoder": _PRECOMPUTED, "feature_names": np.array(names)}


def _radii_contexts(
    adata: AnnData,
    sections: list[Section],
    subspots: np.ndarray,
    valid: np.ndarray,
    context: float | Sequence[float] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Widths of the patch in spot radii, and in full-resolution pixels, n_sections x n_contexts."""
    radii = np.array([spot_radius(adata, section) for section in sections])
    if context is None:
        pitches = np.array([pitch(subspots[valid & section.rows[:, None]]) for section in sections])
        context = _PATCH_IN_PITCHES * _median(pitches / radii)
    contexts = _positive_widths("context", "in spot radii", context)
    return contexts, np.outer(radii, contexts)


def _micron_contexts(
    adata: AnnData,
    sections: list[Section],
    context: float | Sequence[float] | None,
    context_um: float | Sequence[float],
) -> tuple[np.ndarray, np.ndarray]:
    """Widths of the patch in micrometres, and in full-resolution pixels, n_sections x n_contexts."""
    if context is not None:
        msg = f"Expected one of `context` and `context_um`, found {context} and {context_um}. Leave one out."
        raise ValueError(msg)
    contexts = _positive_widths("context_um", "in micrometres", context_um)
    return contexts, np.outer([1 / _microns_per_pixel(adata, section) for section in sections], contexts)


def _positive_widths(name: str, unit: str, context: float | Sequence[float]) -> np.ndarray:
    widths = np.atleast_1d(validation.numbers(f"`{name}`", context))
    if widths.ndim != 1 or not widths.size or not ((widths > 0) & (widths < np.inf)).all():
        msg = f"Expected a positive `{name}` {unit}, found {context}. Pass the width of a subspot's patch."
        raise ValueError(msg)
    return widths


def _microns_per_pixel(adata: AnnData, section: Section) -> float:
    """Size of a full-resolution pixel."""
    factors = library_entry(adata, section.library_id).get("scalefactors", {})
    if "microns_per_pixel" in factors:
        return float(factors["microns_per_pixel"])
    if section.source.microns is None:
        msg = (
            "Expected a pixel size for `context_um`, found none in the image and only "
            f"{sorted(factors)} in `adata.uns['spatial'][library]['scalefactors']`. Store the micrometres of a "
            "full-resolution pixel there as 'microns_per_pixel', or use `context`."
        )
        raise ValueError(msg)
    return section.source.microns * section.source.scale


def _check_widths(sections: list[Section], widths: np.ndarray) -> None:
    """Raise where patches are so wide that they cannot be meant."""
    for section, of_section in zip(sections, widths, strict=True):
        side, widest = max(section.source.height, section.source.width), of_section.max() * section.source.scale
        if widest > _MOST_IMAGES * side:
            msg = (
                f"Expected patches at most {_MOST_IMAGES} times as wide as the image, found {widest:.3g} pixels "
                f"for an image of {side}. Choose a smaller `context`, or check `image_scale`."
            )
            raise ValueError(msg)


def _level(source: ImageSource, width: float, model: Encoder) -> ImageSource:
    """The level of an image that suffices for patches of a width in full-resolution pixels."""
    return source.coarsened(width * source.scale / model.pixels)


def _patch_pixels(model: Encoder, sections: list[Section], widths: np.ndarray) -> np.ndarray:
    """Widths of the patches in pixels of the levels that are read, n_sections x n_contexts."""
    pixels = np.empty_like(widths)
    for (i, j), width in np.ndenumerate(widths):
        pixels[i, j] = width * _level(sections[i].source, width, model).scale
    return pixels


def _encode(
    model: Encoder,
    sections: list[Section],
    subspots: np.ndarray,
    valid: np.ndarray,
    widths: np.ndarray,
    client: Client | None,
    cache: str | PathLike | None,
) -> tuple[np.ndarray, list[str]]:
    """Features of all sections, n_spots x n_subspots x n_image_features, and their names in one context.

    ``widths`` are those of the patches in full-resolution pixels, n_sections x n_contexts.
    """
    names: list[str] = []
    encoded = np.zeros((*valid.shape, 0), dtype=np.float32)
    for section, section_widths in zip(sections, widths, strict=True):
        inside = valid & section.rows[:, None]
        if not inside.any():
            continue
        parts = []
        for width in section_widths:
            level = _level(section.source, width, model)
            centres = level.to_pixels(subspots[inside])
            values, names = _encode_section(model, level, centres, width * level.scale, client, cache)
            parts.append(values)
        section.source.release()  # One decoded image at a time, however many sections there are.
        if not encoded.size:
            encoded = np.zeros((*valid.shape, len(parts) * len(names)), dtype=np.float32)
        encoded[inside] = np.concatenate(parts, axis=1)
    return encoded, names


def _encode_section(
    model: Encoder,
    source: ImageSource,
    centres: np.ndarray,
    width: float,
    client: Client | None,
    cache: str | PathLike | None,
) -> tuple[np.ndarray, list[str]]:
    """Features of the positions of one section, band by band, as far as they are not in the cache."""
    model = model.anchored(np.floor(centres.min(axis=0)))
    bands = _bands(centres, width)
    parts = [centres[band] for band in bands]
    kept = None if cache is None else FeatureCache(cache, source, model, width)
    encoded = [None if kept is None else kept.get(part) for part in parts]
    missing = [i for i, part in enumerate(encoded) if part is None]
    for i, part in zip(missing, _encode_bands(model, source, [parts[i] for i in missing], width, client), strict=True):
        checked = _checked_part(part, len(parts[i]), model)
        if kept is not None:
            kept.put(parts[i], *checked)
        encoded[i] = checked
    values, names = zip(*(part for part in encoded if part is not None), strict=True)
    features = np.empty((len(centres), len(names[0])), dtype=np.float32)
    features[np.concatenate(bands)] = np.concatenate(values)
    return features, names[0]


def _checked_part(part: Any, n_targets: int, model: Encoder) -> tuple[np.ndarray, list[str]]:
    """What an encoder, perhaps one of the user, returned."""
    try:
        values, names = part
        values, names = np.asarray(values, dtype=np.float32), list(names)
        fits = values.shape == (n_targets, len(names)) and len(names) and np.isfinite(values).all()
    except (TypeError, ValueError):
        fits = False
    if not fits:
        msg = (
            f"Expected the encoder {model.name!r} to return finite features, {n_targets} x n_image_features, and their "
            f"names, found {_in_short(part)}. Correct its `encode`."
        )
        raise ValueError(msg)
    return values, names


def _in_short(part: Any) -> str:
    if not isinstance(part, tuple) or len(part) != 2:
        return type(part).__name__
    n_names = len(part[1]) if hasattr(part[1], "__len__") else "no"
    return f"shape {np.shape(part[0])} and {n_names} names" if hasattr(part[0], "shape") else type(part[0]).__name__


def _encode_bands(
    model: Encoder, source: ImageSource, parts: list[np.ndarray], width: float, client: Client | None
) -> Iterator[tuple[np.ndarray, list[str]]]:
    """Yield the features of every band in order, computed here or as tasks of a cluster."""
    if client is None:
        for part in parts:
            yield model.encode(source, part, width)
    else:
        # Sent once to the workers that need them, rather than with every task.
        shared = [client.scatter(thing, hash=False) for thing in (model, source.for_tasks())]
        for task in client.map(_encode_band, parts, model=shared[0], source=shared[1], width=width, pure=False):
            yield task.result()


def _encode_band(
    centres: np.ndarray, model: Encoder, source: ImageSource, width: float
) -> tuple[np.ndarray, list[str]]:
    return model.encode(source, centres, width)


def _bands(centres: np.ndarray, width: float) -> list[np.ndarray]:
    """Indices of the positions in every band of rows; they depend on positions and patch alone, as results must."""
    y = centres[:, 1]
    _, band = np.unique((y - y.min()) // (_BAND_IN_PATCHES * width), return_inverse=True)
    return np.split(np.argsort(band, kind="stable"), np.cumsum(np.bincount(band))[:-1])


def check_coordinates(
    adata: AnnData,
    image: Any = None,
    *,
    image_scale: float | None = None,
    library_key: str | None = None,
) -> None:
    """Check that coordinates and image belong together, before any long work; no pixel is read.

    Checks the subspots in ``obsm["subspots"]`` if there are any, else the spots in ``obsm["spatial"]``. They may leave
    the image by up to the distance of neighbouring spots, as subspots of spots at its border do.

    Parameters
    ----------
    adata, image, image_scale, library_key
        As for :func:`features`.

    Raises
    ------
    TypeError, ValueError
        If positions leave the image. The message says how many, names the scale factor that would fit, if one does,
        and whether exchanging x and y would.
    """
    validation.given(check_coordinates, locals())
    for section in open_sections(validation.spots(adata), image, image_scale, library_key):
        _check_section(adata, section)


def _subspots(adata: AnnData) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the subspots and which of them are no padding."""
    if keys.SUBSPOTS not in adata.obsm:
        msg = (
            f"Expected subspots in `adata.obsm['{keys.SUBSPOTS}']`, found only {sorted(adata.obsm)}. "
            "Run `soscope_scverse.pp.subspots` first."
        )
        raise ValueError(msg)
    subspots = validation.numbers(f"`adata.obsm['{keys.SUBSPOTS}']`", adata.obsm[keys.SUBSPOTS])
    if subspots.ndim != 3 or subspots.shape[2] != 2:
        msg = f"Expected `adata.obsm['{keys.SUBSPOTS}']` to be n_spots x n_subspots x 2, found shape {subspots.shape}."
        raise ValueError(msg)
    padding = np.isnan(subspots).all(axis=2)
    broken = ~(padding | np.isfinite(subspots).all(axis=2))
    if broken.any() or padding.all():
        msg = (
            f"Expected finite (x, y) positions or NaN for both in `adata.obsm['{keys.SUBSPOTS}']`, found "
            f"{broken.sum()} of {broken.size} neither, {padding.sum()} padded. Run `soscope_scverse.pp.subspots` again."
        )
        raise ValueError(msg)
    return subspots, ~padding


def _median(values: np.ndarray) -> float:
    """Median of what is not NaN, NaN if all is."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if known.size else float("nan")


def _check_section(adata: AnnData, section: Section) -> None:
    xy = _section_positions(adata, section)
    source, margin = section.source, _margin(adata, section)
    n_outside = _n_outside(xy, source, margin)
    if not n_outside:
        return
    pixels = source.to_pixels(xy)
    (left, top), (right, bottom) = pixels.min(axis=0), pixels.max(axis=0)
    moved = f" plus {source.offset}" if any(source.offset) else ""
    where = "" if section.library_id is None else f" of section {section.library_id!r}"
    hints = _hints(adata, section, xy, margin) or [
        "check that the image belongs to these coordinates, or drop the spots"
    ]
    msg = (
        f"Expected all positions{where} in the image, found {n_outside} of {len(xy)} outside: coordinates times "
        f"{source.scale:g}{moved} run over x = {left:.0f} to {right:.0f} and y = {top:.0f} to {bottom:.0f}, "
        f"the image is {source.width} wide and {source.height} high. What to do: {'; '.join(hints)}."
    )
    raise ValueError(msg)


def _section_positions(adata: AnnData, section: Section) -> np.ndarray:
    if keys.SUBSPOTS in adata.obsm:
        subspots, valid = _subspots(adata)
        return subspots[valid & section.rows[:, None]]
    return validation.positions(adata)[section.rows]


def _margin(adata: AnnData, section: Section) -> float:
    """How far positions may leave the image, in full-resolution pixels: one distance of spots."""
    if keys.SPATIAL in adata.obsm:
        distance = pitch(validation.positions(adata)[section.rows])
    else:
        distance = pitch(_section_positions(adata, section))
    return 0.0 if np.isnan(distance) else distance


def _n_outside(xy: np.ndarray, source: ImageSource, margin: float) -> int:
    pixels, margin = source.to_pixels(xy), margin * source.scale
    return int(((pixels < -margin) | (pixels > np.array([source.width, source.height]) + margin)).any(axis=1).sum())


def _hints(adata: AnnData, section: Section, xy: np.ndarray, margin: float) -> list[str]:
    source = section.source
    hints = []
    if not _n_outside(xy[:, ::-1], source, margin):
        hints.append("exchange x and y, which would fit")
    factors = library_entry(adata, section.library_id).get("scalefactors", {})
    named = {
        name: float(factor) for name, factor in factors.items() if name.startswith("tissue_") and float(factor) > 0
    }
    fitting = {
        name: factor
        for name, factor in named.items()
        if not _n_outside(xy, replace(source, scale=factor, offset=(0.0, 0.0), turn=None), margin)
    }
    if fitting:
        name = max(fitting, key=fitting.__getitem__)
        hints.append(f"pass `image_scale={fitting[name]:g}`, the `{name}` in `uns['spatial']`, which would fit")
    else:
        hints.extend(_general_fit(xy, source))
    return hints


def _general_fit(xy: np.ndarray, source: ImageSource) -> list[str]:
    """A scale by which both axes would just fill the image, if they agree on one."""
    extent = xy.max(axis=0)
    if (extent <= 0).any():
        return []
    factors = np.array([source.width, source.height]) / extent
    if factors.max() > 1.3 * factors.min():
        return []
    return [
        f"pass `image_scale`, the pixels of this image for one of the coordinates, here at most {factors.min():.3g}"
    ]

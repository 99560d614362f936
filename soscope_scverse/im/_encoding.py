"""Encodes the subspots of all sections band by band: in this process or on a cluster, from the cache where possible."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from soscope_scverse.im._cache import FeatureCache
from soscope_scverse.im._widths import level
from soscope_scverse.im.encoders.base import Encoder
from soscope_scverse.im.reading.sections import SectionImage
from soscope_scverse.im.reading.source import ImageSource

if TYPE_CHECKING:
    from distributed import Client

_BAND_IN_PATCHES = 8
"""Height of a band in widths of the patch. Neighbouring bands both read the patch width between them."""


def encode(
    models: list[Encoder],
    sections: list[SectionImage],
    subspots: np.ndarray,
    valid: np.ndarray,
    widths: np.ndarray,
    client: Client | None,
    cache: str | PathLike | None,
) -> tuple[np.ndarray, list[list[str]]]:
    """Features of all sections, n_spots x n_subspots x n_image_features, and their names by encoder in one context.

    ``widths`` are those of the patches in full-resolution pixels, n_sections x n_contexts. The features of an encoder
    in all contexts come before those of the next one.
    """
    names: list[list[str]] = []
    encoded = np.zeros((*valid.shape, 0), dtype=np.float32)
    for section, section_widths in zip(sections, widths, strict=True):
        inside = valid & section.rows[:, None]
        if not inside.any():
            continue
        parts, names = [], []
        for model in models:
            for width in section_widths:
                source = level(section, width, model)
                centres = source.to_pixels(subspots[inside])
                values, of_model = _encode_section(model, source, centres, width * source.scale, client, cache)
                parts.append(values)
            names.append(of_model)
        if len(sections) > 1:
            section.source.release()  # one decoded image at a time, however many sections there are
        if not encoded.size:
            encoded = np.zeros((*valid.shape, sum(part.shape[1] for part in parts)), dtype=np.float32)
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

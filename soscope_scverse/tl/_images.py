"""Images of the sections that :func:`~soscope_scverse.tl.enhance` reads, and what replaces those that are missing."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from anndata import AnnData

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse._read import Spots
from soscope_scverse.im import embedded_image
from soscope_scverse.im._features import needs_image
from soscope_scverse.im.encoders.networks import cached_weights
from soscope_scverse.im.reading.sections import SectionImage, open_sections
from soscope_scverse.tl import _paper as paper

_N_NAMES = 5
"""Names of sections that a message lists."""
_ENCODER = "texture"
"""Default of :func:`~soscope_scverse.tl.enhance`."""


def needs_image_features(spots: AnnData, encoder: Any, sources: str | None) -> bool:
    """Whether image features have to be computed."""
    return sources != "positions" and needs_image(encoder) and keys.FEATURES not in spots.obsm


def chosen_encoder(spots: Spots, options: Mapping[str, Any]) -> Any:
    """The encoder of the image: that of the user, else of the preset, with a warning if its weights are not at hand."""
    if options["encoder"] is not None:
        return options["encoder"]
    if options["preset"] != "paper":
        return _ENCODER
    cached = None if "weights" in (options["features_kwargs"] or {}) else cached_weights()
    if cached is None or cached.exists():
        return paper.ENCODER
    has_image = options["image"] is not None or any(embedded_image(spots.adata, name) for name in _sections(spots))
    if has_image and needs_image_features(spots.adata, paper.ENCODER, options["sources"]):
        warnings.warn(
            f"The encoder of preset='paper', {paper.ENCODER!r}, has no weights at {cached}: image features are those "
            f"of {_ENCODER!r}. Pass encoder={paper.ENCODER!r} to download them, or a file as "
            "features_kwargs={'weights': ...}.",
            UserWarning,
            stacklevel=4,
        )
    return _ENCODER


def open_images(spots: Spots, options: Mapping[str, Any], *, needed: bool) -> list[SectionImage]:
    """Images of all sections; none, with a warning, where there are none, and none where they are not needed."""
    image = options["image"]
    is_noise = isinstance(options["encoder"], str) and options["encoder"] == "noise"
    shown = image is not None and options["sources"] != "positions" and not is_noise
    if not (needed or shown):
        return []
    without = _without_image(spots, image, options["sources"])
    if isinstance(image, dict) and without:
        _check_named(spots, image)
        image = {**dict.fromkeys(spots.rows), **image}  # those that are not named have theirs in `uns`
    return open_sections(spots, image, options["image_scale"], without)


def _without_image(spots: Spots, image: Any, sources: str) -> list[str | None]:
    """Sections that are enhanced from positions alone: those that `image` names with None, or all, with a warning.

    Raises
    ------
    ValueError
        If an image is required, if some sections have none, or if there are images, but of no section.
    """
    names = _sections(spots)
    waived = [name for name in names if isinstance(image, dict) and image.get(name, ...) is None]
    missing = [name for name in names if image is None and embedded_image(spots.adata, name) is None]
    if sources == "image" and (waived or missing):
        msg = "Expected an image for sources='image', found none. Pass it with `image=`."
        raise ValueError(msg)
    if missing:
        _check_no_image_is_lost(spots, names, missing)
        warnings.warn(
            f"No image given and none in `adata.uns['{keys.SPATIAL}']`{_unscaled(spots)}: enhancing from positions "
            "alone.",
            UserWarning,
            stacklevel=6,
        )
        return names
    return waived


def _check_named(spots: Spots, image: Mapping[str, Any]) -> None:
    """Raise a ValueError unless every section is named by `image`, or has an image in ``uns["spatial"]``."""
    missing = [name for name in spots.rows if name not in image and embedded_image(spots.adata, name) is None]
    if missing:
        msg = (
            f"Expected an image of every section of `adata.obs[{spots.library_key!r}]` in `image` or "
            f"`adata.uns['{keys.SPATIAL}']`, found none of {_first(missing)} and the entries {_first(list(image))} of "
            "`image`. Add them; None enhances a section from positions alone."
        )
        raise ValueError(msg)


def _unscaled(spots: Spots) -> str:
    """Which images are in ``uns["spatial"]`` without the scale factor that they need to be used."""
    found = sorted({str(name) for entry in spots.libraries.values() for name in entry.get("images") or {}})
    return f" with its scale factor (`tissue_hires_scalef`; there are the images {found} without)" if found else ""


def _first(names: list[Any]) -> str:
    """The first names, as a list."""
    return str(names) if len(names) <= _N_NAMES else f"{str(names[:_N_NAMES])[:-1]}, ...] ({len(names)} in all)"


def _sections(spots: Spots) -> list[str | None]:
    """Names of the sections; None for a single one without a name."""
    return [None] if spots.library_key is None else list(spots.rows)


def _check_no_image_is_lost(spots: Spots, names: list[str | None], missing: list[str | None]) -> None:
    """Raise a ValueError if ``uns["spatial"]`` has images, but not of every section."""
    entries = sorted(spots.libraries)
    if all(embedded_image(spots.adata, entry) is None for entry in entries):
        return
    where = f"`adata.uns['{keys.SPATIAL}']`"
    if missing == names:
        to_do = f"Rename its entries, e.g. `{where[1:-1]}[{names[0]!r}] = {where[1:-1]}.pop({entries[0]!r})`"
    else:
        to_do = f"Enhance these sections from positions alone with `image={dict.fromkeys(missing[:_N_NAMES])}`"
    msg = (
        f"Expected an image of every section of `adata.obs[{spots.library_key!r}]` in {where}, found none of "
        f"{_first(missing)} and the entries {_first(entries)}. {to_do}, pass the images with `image=`, or use none "
        "with sources='positions'."
    )
    raise ValueError(msg)


def with_mean_features(spots: Spots, features: np.ndarray, images: list[SectionImage]) -> np.ndarray:
    """Image features of sections without an image: the mean of the others, which distinguishes no subspots."""
    seen = np.any([section.rows for section in images], axis=0)
    if not seen.all():
        valid = read.subspots(spots.adata)[1]
        features[~seen] = np.where(valid[~seen, :, None], features[seen][valid[seen]].mean(axis=0), 0)
    return features

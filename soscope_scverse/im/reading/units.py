"""Units of length as files write them."""

from __future__ import annotations

import math
import unicodedata
import warnings
from typing import Any

_UNITLESS = ("pixel", "pixels", "reference frame")
"""Of OME and ImageJ: the size is not known."""
_MICRONS = {
    **{"m": 1e6, "dm": 1e5, "cm": 1e4, "mm": 1e3, "um": 1.0, "nm": 1e-3, "pm": 1e-6, "fm": 1e-9},
    **{"Å": 1e-4, "in": 25_400.0, "ft": 304_800.0, "thou": 25.4, "pt": 25_400 / 72},
}
"""Micrometres of the units of OME that can be the width of a pixel; "M" and "m" differ."""
_NAMES = {
    **dict.fromkeys(("micron", "micrometer", "micrometre", "u"), 1.0),
    **dict.fromkeys(("nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("meter", "metre"), 1e6),
    **dict.fromkeys(("angstrom",), 1e-4),
    **dict.fromkeys(("inch", "inche", '"'), 25_400.0),
}
"""Names in full, without an "s" at the end; ImageJ takes any text for a unit."""


def in_microns(size: Any, unit: Any, name: str) -> float | None:
    """Convert the width of a pixel to micrometres; None, with a warning, if it cannot be understood.

    Parameters
    ----------
    size, unit
        As the file records them. None or "" as unit means pixels.
    name
        Name of the file, for the warning.
    """
    micro = _normal(unit)
    if size is None or not micro or micro.lower() in _UNITLESS:
        return None
    factor = _MICRONS.get(micro, _NAMES.get(micro.lower().removesuffix("s")))
    try:
        microns = float(size) * (factor or math.nan)
    except (TypeError, ValueError):
        microns = math.nan
    if 0 < microns < math.inf:
        return microns
    warnings.warn(
        f"The pixel size of {name} is ignored: expected a positive length in a unit such as 'µm', 'nm' or 'mm', found "
        f"{size!r} {unit!r}. Store it in micrometres as 'microns_per_pixel' in the scale factors of the section.",
        UserWarning,
        stacklevel=8,
    )
    return None


def _normal(unit: Any) -> str:
    """One spelling of a unit: the micro sign (U+00B5), the Greek mu (U+03BC) and ImageJ's escapes become "u"."""
    text = str(unit or "").strip()
    if "\\u" in text:
        text = text.encode("ascii", "ignore").decode("unicode_escape")
    # NFKC turns the micro sign into mu, and the Angstrom sign into the letter
    return unicodedata.normalize("NFKC", text).replace("\u03bc", "u")

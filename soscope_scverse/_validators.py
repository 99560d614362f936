"""Checks of user input that return nothing; each message says what was found, what was expected and what to do."""

from __future__ import annotations

import inspect
import math
import os
import warnings
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from soscope_scverse import _keys as keys
from soscope_scverse._arrays import Matrix, stored

_SAME_WIDTH = 0.05
"""Relative difference up to which two patch widths agree: default widths follow the measured pitch of the section."""


class Number(NamedTuple):
    """Range of a numeric argument."""

    least: float
    most: float = math.inf
    integer: bool = False
    above: bool = False
    """Whether `least` itself is excluded."""
    other: tuple[str | None, ...] = ()
    """Values that are accepted instead of a number."""

    def check(self, name: str, value: Any) -> None:
        """Raise a ValueError unless `value` is a number in this range."""
        if (value is None or isinstance(value, str)) and value in self.other:
            return
        if not isinstance(value, Integral if self.integer else Real) or isinstance(value, bool):
            kind = "an integer" if self.integer else "a number"
            instead = "".join(f" or {choice!r}" for choice in self.other)
            msg = f"Expected `{name}` to be {kind}{instead}, found {value!r}."
            raise ValueError(msg)
        value = cast("float", value)  # float() of an integer may overflow
        if not self.least <= value <= self.most or value == math.inf or (self.above and value == self.least):
            limit = f"{'above' if self.above else 'at least'} {self.least}"
            upper = "" if self.most == math.inf else f" and at most {self.most}"
            msg = f"Expected `{name}` to be {limit}{upper}, found {value!r}."
            raise ValueError(msg)

    def or_(self, *other: str | None) -> Number:
        """The same range, or one of these values instead of a number."""
        return self._replace(other=other)


class Choice(NamedTuple):
    """Values of an argument that is one of a few."""

    allowed: tuple[Any, ...]

    def check(self, name: str, value: Any) -> None:
        """Raise a ValueError unless `value` is one of these."""
        check_choice(name, value, self.allowed)


class Choices(NamedTuple):
    """Values of an argument that is one of a few, or several of these in a list or tuple."""

    allowed: tuple[Any, ...]

    def check(self, name: str, value: Any) -> None:
        """Raise a ValueError unless `value` is one of these, or a list of different ones."""
        if not isinstance(value, list | tuple):
            check_choice(name, value, self.allowed)
            return
        wrong = [one for one in value if not isinstance(one, str) or one not in self.allowed]
        if wrong or not value or len(set(value)) < len(value):
            msg = f"Expected `{name}` to be one of {list(self.allowed)}, or several different ones, found {value!r}."
            raise ValueError(msg)


Rules: TypeAlias = Mapping[str, Number | Choice | Choices]
"""What arguments of one function may be, by their names."""

POSITIVE_INTEGER = Number(1, integer=True)
POSITIVE = Number(0, above=True)
NON_NEGATIVE = Number(0)
FRACTION = Number(0, 1)
NON_NEGATIVE_INTEGER = Number(0, integer=True)
SEED = Number(0, 2**63 - 1, integer=True)


def check_arguments(arguments: Mapping[str, Any], rules: Rules) -> None:
    """Raise a ValueError unless all arguments that `rules` name satisfy them.

    Parameters
    ----------
    arguments
        Those of a function by name, usually its ``locals()``.
    rules
        A name that is no argument is a KeyError, so that a renamed argument cannot lose its check.
    """
    for name, rule in rules.items():
        rule.check(name, arguments[name])


def check_keywords(
    name: str, arguments: Any, function: Callable[..., Any], rules: Rules, *, excluded: Collection[str] = ("self",)
) -> None:
    """Raise unless the argument `name` is a dict of arguments of `function`, without the `excluded` ones."""
    if not isinstance(arguments, Mapping):
        msg = f"Expected `{name}` to be a dict of arguments, found {type(arguments).__name__}."
        raise TypeError(msg)
    taken = inspect.signature(function).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    unknown = [key for key in arguments if key in excluded or not (open_ended or key in taken)]
    if unknown:
        msg = f"Expected `{name}` out of {[key for key in taken if key not in excluded]}, found {unknown}."
        raise ValueError(msg)
    check_arguments(arguments, {key: rule for key, rule in rules.items() if key in arguments})


def check_choice(name: str, value: object, allowed: Collection[Any]) -> None:
    """Raise a ValueError unless `value` is one of `allowed`."""
    if not isinstance(value, Hashable) or value not in allowed:
        msg = f"Expected `{name}` to be one of {list(allowed)}, found {value!r}."
        raise ValueError(msg)


def check_text(name: str, value: object) -> None:
    """Raise a TypeError unless `value` is a string."""
    if not isinstance(value, str):
        msg = f"Expected `{name}` to be a string, found {value!r}."
        raise TypeError(msg)


def check_columns(table: object, columns: Collection[str], source: str) -> None:
    """Raise a TypeError or ValueError unless `table` is a DataFrame with these columns, as `source` returns it."""
    if not isinstance(table, pd.DataFrame):
        msg = f"Expected the table returned by `{source}`, found {type(table).__name__}."
        raise TypeError(msg)
    missing = [column for column in columns if column not in table]
    if missing:
        msg = f"Expected the table returned by `{source}`, found the columns {list(table)} without {missing}."
        raise ValueError(msg)


def check_named(name: str, value: Any) -> None:
    """Raise a TypeError unless `value` is a dict with strings as keys, or None."""
    if value is not None and not (isinstance(value, Mapping) and all(isinstance(key, str) for key in value)):
        msg = f"Expected `{name}` to be a dict with names as keys, found {value!r}."
        raise TypeError(msg)


def check_path(name: str, value: Any) -> None:
    """Raise a TypeError unless `value` is a path."""
    if not isinstance(value, str | PathLike):
        msg = f"Expected `{name}` to be a path, found {value!r}."
        raise TypeError(msg)


def check_folder(name: str, path: str | PathLike, *, new: bool = False) -> None:
    """Raise unless `path` is a folder or can be made one; with `new`, also if it exists."""
    check_path(name, path)
    path = Path(path)
    if new and path.exists():
        msg = f"Expected `{name}` to be a new path, found {str(path)!r}. Remove it or choose another."
        raise ValueError(msg)
    there = next(part for part in (path, *path.absolute().parents) if part.exists())
    if not there.is_dir():
        msg = f"Expected `{name}` to be a folder, found {str(path)!r}, where {str(there)!r} is a file. Choose another."
        raise ValueError(msg)
    if new:  # a cache may be there to read alone
        _check_writable(name, path, there)


def check_output(
    name: str,
    path: str | PathLike,
    *,
    overwrite: bool,
    suffixes: Sequence[str] = (".zarr", ".h5ad"),
    to_overwrite: str = "overwrite=True",
) -> None:
    """Raise unless a file or store can be written to `path`.

    Parameters
    ----------
    name
        Argument that holds the path.
    path
        Needs one of the `suffixes` and a folder that exists.
    overwrite
        Whether a file or store that exists may be replaced.
    suffixes
        Those of the formats that can be written.
    to_overwrite
        What a user passes to replace it.
    """
    check_path(name, path)
    path = Path(path)
    if path.suffix not in suffixes:
        msg = f"Expected `{name}` to end in {' or '.join(map(repr, suffixes))}, found {str(path)!r}."
        raise ValueError(msg)
    if not path.parent.is_dir():
        msg = f"Expected `{name}` in a folder that exists, found {str(path)!r}. Make {str(path.parent)!r} first."
        raise ValueError(msg)
    _check_writable(name, path, path.parent)
    if path.is_dir() and path.suffix != ".zarr":
        msg = f"Expected `{name}` to be a file, found the folder {str(path)!r}. Choose another name."
        raise ValueError(msg)
    if path.exists() and not overwrite:
        msg = f"Expected `{name}` to be a new path, found {str(path)!r}. Choose another, or pass `{to_overwrite}`."
        raise ValueError(msg)


def _check_writable(name: str, path: Path, folder: Path) -> None:
    if not os.access(folder, os.W_OK):
        msg = f"Expected `{name}` in a folder that can be written to, found {str(path)!r}. Choose another folder."
        raise ValueError(msg)


def check_no_mudata_on_disk(data: object, out: str | PathLike | None) -> None:
    """Raise a ValueError if a MuData is to be written in pieces."""
    if isinstance(data, MuData) and out is not None:
        msg = f"Expected `out` with AnnData only, found {str(out)!r}. Write the result with `write_h5mu`."
        raise ValueError(msg)


def check_finite(x: Matrix, of: str = "") -> None:
    """Raise a ValueError if `x` holds NaN or infinite values; `of` is the argument that it comes from."""
    bad = ~np.isfinite(stored(x))
    if bad.any():
        where = f" in {of}" if of else ""
        msg = (
            f"Expected finite profiles{where}, found {bad.sum()} NaN or infinite values. Drop or fill in these entries."
        )
        raise ValueError(msg)


def check_counts(x: Matrix, likelihood: str, advice: Callable[[], str] | None = None) -> None:
    """Raise a ValueError unless `x` holds counts, with the kind of values that are none.

    Parameters
    ----------
    x
        n_spots x n_features.
    likelihood
        Its name.
    advice
        Returns where the counts are; called only for the message.
    """
    values = stored(x)
    faults = {
        "NaN or infinite values": ~np.isfinite(values),
        "negative values": values < 0,
        "fractions": np.isfinite(values) & (values != np.round(values)),
    }
    found = [f"{fault.sum()} {name}" for name, fault in faults.items() if fault.any()]
    if found:
        msg = (
            f"Expected raw counts (non-negative integers) for likelihood={likelihood!r}, found {' and '.join(found)}. "
            f"{'Pass the counts with `layer=`.' if advice is None else advice()} "
            "For data that are not counts use likelihood='gaussian'."
        )
        raise ValueError(msg)


def check_profiles(
    x: Matrix, likelihood: object, known: Mapping[str, bool], advice: Callable[[], str] | None = None
) -> None:
    """Raise a ValueError unless profiles are finite and, where the likelihood requires it, counts.

    Parameters
    ----------
    x
        n_spots x n_features.
    likelihood
        Its name.
    known
        The likelihoods by name, and whether each is one of counts.
    advice
        See :func:`check_counts`.
    """
    check_choice("likelihood", likelihood, list(known))
    name = str(likelihood)
    if known[name]:
        check_counts(x, name, advice)
    check_finite(x)


def warn_empty(adata: AnnData, x: Matrix) -> None:
    """Warn of spots and features without any count; they are kept and enhanced to zero."""
    for axis, names, what, of in (
        (1, adata.obs_names, "spots", f" of the {adata.n_vars} features to enhance"),
        (0, adata.var_names, "features", ""),
    ):
        empty = np.asarray(abs(x).sum(axis=axis)).ravel() == 0
        if empty.any():
            warnings.warn(
                f"{empty.sum()} of {len(names)} {what} have no counts{of} (first: {names[empty][0]!r}); "
                "they are kept and enhanced to zero.",
                UserWarning,
                stacklevel=3,
            )


def check_trained(is_trained: bool) -> None:
    """Raise a ValueError if a model that is asked for results was not trained."""
    if not is_trained:
        msg = "Expected a trained model, found one that was not. Call `model.train()` first."
        raise ValueError(msg)


def check_samples(n_samples: int, unmeasured: Sequence[str]) -> None:
    """Raise a ValueError for posterior samples of a model whose dispersions nothing measures.

    Parameters
    ----------
    n_samples
        Number of samples.
    unmeasured
        Likelihoods with such dispersions.
    """
    if n_samples and unmeasured:
        msg = (
            f"Expected no posterior samples with observation='gaussian' and these dispersions, found n_samples="
            f"{n_samples}: nothing in this loss (that of preset='paper') measures the dispersion of {unmeasured}. Use "
            "observation='matched', or for counts dispersion='feature', which is estimated from the spots."
        )
        raise ValueError(msg)


def check_same_image_features(trained: Mapping[str, Any], found: Mapping[str, Any], key: str) -> None:
    """Raise a ValueError unless image features are those that a model was trained on, as far as both are recorded."""
    for name in (name for name in trained if name in found):
        a, b = np.asarray(trained[name]), np.asarray(found[name])
        is_width = name in ("context", "context_um")
        if a.shape == b.shape and (np.allclose(a, b, rtol=_SAME_WIDTH) if is_width else (a == b).all()):
            continue
        made = [f"{k}={np.asarray(v).tolist()!r}" for k, v in trained.items() if not k.endswith(("names", "features"))]
        msg = (
            f"Expected image features in `adata.obsm[{key!r}]` like those that the model was trained on, found another "
            f"`{name}`: {_in_short(b)} instead of {_in_short(a)}. Call `im.features(adata, image, {', '.join(made)})`."
        )
        raise ValueError(msg)


def _in_short(values: np.ndarray) -> str:
    return repr(values.tolist()) if values.size < 5 else f"{values.size} beginning with {values.ravel()[:3].tolist()}"


def check_spots_of_subspots(adata: AnnData, enhanced: AnnData) -> None:
    """Raise a ValueError unless the spots of all subspots of a result are in `adata`."""
    if keys.SPOT not in enhanced.obs:
        msg = f"Expected a result with `enhanced.obs['{keys.SPOT}']`, found {list(enhanced.obs)}. Call `tl.enhance`."
        raise ValueError(msg)
    named = pd.Index(enhanced.obs[keys.SPOT].astype(str).unique())
    missing = named.difference(adata.obs_names, sort=False)
    if len(missing):
        msg = (
            f"Expected the spots that `enhanced` was made from in `adata.obs_names`, {len(missing)} of {len(named)} "
            f"are not (first: {missing[0]!r}). Pass the AnnData that was enhanced."
        )
        raise ValueError(msg)


def check_spots_before_subspots(adata: AnnData, enhanced: AnnData) -> None:
    """Raise a ValueError if spots and subspots were passed in the wrong order."""
    if keys.SPOT in adata.obs and keys.SPOT not in enhanced.obs:
        msg = "Expected the spots first and then their subspots, found them the other way round. Swap them."
        raise ValueError(msg)

"""Encoders by name."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from soscope_scverse._validators import check_text
from soscope_scverse.im.encoders.base import Encoder, FunctionEncoder
from soscope_scverse.im.encoders.networks import InceptionV3, ModuleEncoder
from soscope_scverse.im.encoders.texture import Texture
from soscope_scverse.im.encoders.timm_networks import TimmEncoder

_AnyEncoder = TypeVar("_AnyEncoder", bound=Encoder)
_ENCODERS: dict[str, Callable[..., Encoder]] = {"inception_v3": InceptionV3, "texture": Texture}
_RESERVED = ("noise", "precomputed")
_TIMM = "timm:"


def register_encoder(name: str) -> Callable[[type[_AnyEncoder]], type[_AnyEncoder]]:
    """Class decorator that makes an :class:`Encoder` available as ``encoder=name``.

    The class is called with those of the arguments ``weights``, ``device`` and ``batch_size`` that are passed to
    :func:`features`; it need not accept any of them.

    Parameters
    ----------
    name
        A new name, which is also assigned to the ``name`` of the class.

    Returns
    -------
    Callable
        The decorator, which returns the class.

    Raises
    ------
    TypeError, ValueError
        If the name is not a string or is registered already, or the decorated object is not a class of
        :class:`Encoder`.

    Examples
    --------
    >>> @register_encoder("mine")
    ... class Mine(Encoder): ...
    """
    check_text("name", name)
    if name in _ENCODERS or name in _RESERVED or name.startswith(_TIMM):
        msg = f"Expected a new encoder name, found {name!r}, which is registered already. Choose another one."
        raise ValueError(msg)

    def register(cls: type[_AnyEncoder]) -> type[_AnyEncoder]:
        if not (isinstance(cls, type) and issubclass(cls, Encoder)):
            msg = f"Expected a class of `Encoder` to register as {name!r}, found {cls!r}. Pass functions as `encoder=`."
            raise TypeError(msg)
        cls.name = name
        _ENCODERS[name] = cls
        return cls

    return register


def encoder_names() -> list[str]:
    """Names of the registered encoders; in addition, "timm:NAME" is accepted for every network of timm.

    Returns
    -------
    list of str
        In alphabetical order.
    """
    return sorted(_ENCODERS)


def named(encoder: Any) -> list[Any]:
    """What :func:`features` is given as `encoder`, as a list: of one, or of several whose features are concatenated."""
    return list(encoder) if isinstance(encoder, list | tuple | np.ndarray) else [encoder]


def get_encoder(encoder: Any, **options: Any) -> Encoder:
    """Return the encoder of a name, a function of patches, or a ``torch.nn.Module``.

    Parameters
    ----------
    encoder
        See :func:`features`; not "noise" or "precomputed".
    **options
        Those of the encoder, such as "weights", "device" and "batch_size"; None selects the encoder's default.

    Returns
    -------
    Encoder
        The encoder; an :class:`Encoder` is returned unchanged.

    Raises
    ------
    ValueError
        If no encoder of that name is registered, or if it has no such option.
    TypeError
        If ``encoder`` is neither a name nor callable.
    """
    return choose_encoders([encoder], options)[0].encoder


@dataclass(frozen=True)
class Chosen:
    """An encoder and the options that it was made with."""

    encoder: Encoder
    options: Mapping[str, Any]


def choose_encoders(encoders: Sequence[Any], options: Mapping[str, Any]) -> list[Chosen]:
    """Return encoders of different names, each made with those of the options that it takes.

    Parameters
    ----------
    encoders
        What :func:`get_encoder` takes.
    options
        As for :func:`get_encoder`.

    Raises
    ------
    TypeError, ValueError
        As for :func:`get_encoder`; if there is no encoder, one occurs twice, none of them has one of the options, or
        several take the weights.
    """
    given = {name: value for name, value in options.items() if value is not None}
    makers = [_maker(encoder) for encoder in encoders]
    taken = [given.keys() & _options(make) for make, _ in makers]
    names = ", ".join(repr(encoder) for encoder in encoders)
    if unknown := sorted(given.keys() - set().union(*taken)):
        msg = (
            f"Expected none of the options {unknown} with encoder {names}, which does not take them. Omit them, "
            "or choose another encoder."
        )
        raise ValueError(msg)
    if sum("weights" in of_one for of_one in taken) > 1:
        msg = (
            f"Expected one encoder that takes `weights`, found several in {names}. Pass encoders that have theirs, "
            "such as `im.TimmEncoder(NAME, weights=...)`."
        )
        raise ValueError(msg)
    chosen = []
    for (make, arguments), of_one in zip(makers, taken, strict=True):
        its_own = {name: given[name] for name in of_one}
        chosen.append(Chosen(make(*arguments, **its_own), its_own))
    _check_distinct([one.encoder for one in chosen])
    return chosen


def options_of(encoder: Any) -> set[str]:
    """Names of the options that an encoder, see :func:`get_encoder`, takes."""
    return _options(_maker(encoder)[0])


def _options(make: Callable[..., Encoder]) -> set[str]:
    return set(inspect.signature(make).parameters)


def _check_distinct(encoders: list[Encoder]) -> None:
    names = [encoder.name for encoder in encoders] if len(encoders) > 1 else []
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not encoders:
        found = f"{twice} more than once" if twice else "none"
        msg = (
            f"Expected encoders of different names, found {found}. Pass each encoder once; several layers of a network "
            "are one encoder with `layers`, and functions have the name of their definition."
        )
        raise ValueError(msg)


def _maker(encoder: Any) -> tuple[Callable[..., Encoder], tuple[Any, ...]]:
    """Return what makes the encoder, and its first argument."""
    if isinstance(encoder, Encoder):
        return lambda: encoder, ()
    if isinstance(encoder, str):
        if encoder in _RESERVED:
            msg = f"Expected an encoder of images, found {encoder!r}. It cannot be combined: pass it alone."
            raise ValueError(msg)
        if encoder.startswith(_TIMM):
            return TimmEncoder, (encoder.removeprefix(_TIMM),)
        if encoder not in _ENCODERS:
            msg = (
                f"Expected one of the encoders {encoder_names()}, found {encoder!r}. Use one of them, 'timm:NAME', or "
                "a function of uint8 patches (n_patches x height x width x 3) that returns n_patches x "
                "n_image_features."
            )
            raise ValueError(msg)
        return _ENCODERS[encoder], ()
    if "torch" in sys.modules and isinstance(encoder, sys.modules["torch"].nn.Module):
        return ModuleEncoder, (encoder,)
    if callable(encoder):
        return FunctionEncoder, (encoder,)
    msg = (
        f"Expected the name of an encoder ({encoder_names()}) or a function of patches, found {type(encoder).__name__}."
    )
    raise TypeError(msg)

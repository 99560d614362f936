"""Encoders by name."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from soscope_scverse._validators import check_text
from soscope_scverse.im.encoders.base import Encoder, FunctionEncoder
from soscope_scverse.im.encoders.networks import InceptionV3, ModuleEncoder, TimmEncoder
from soscope_scverse.im.encoders.texture import Texture

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


def get_encoder(encoder: Any, **options: Any) -> Encoder:
    """Return the encoder of a name, a function of patches, or a ``torch.nn.Module``.

    Parameters
    ----------
    encoder
        See :func:`features`; not "noise" or "precomputed".
    **options
        "weights", "device" and "batch_size" of encoders that have them; None selects the encoder's default.

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
    given = {name: value for name, value in options.items() if value is not None}
    make, arguments = _maker(encoder)
    known = inspect.signature(make).parameters
    if unknown := sorted(name for name in given if name not in known):
        msg = (
            f"Expected none of the options {unknown} with encoder {encoder!r}, which does not take them. Omit them, "
            "or choose another encoder."
        )
        raise ValueError(msg)
    return make(*arguments, **given)


def _maker(encoder: Any) -> tuple[Callable[..., Encoder], tuple[Any, ...]]:
    """Return what makes the encoder, and its first argument."""
    if isinstance(encoder, Encoder):
        return lambda: encoder, ()
    if isinstance(encoder, str):
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

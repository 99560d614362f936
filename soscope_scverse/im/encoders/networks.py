"""Neural networks as encoders: Inception v3 of torchvision, and modules of the user.

torch is imported when one of them is used, not before.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.base import tokenize

from soscope_scverse.im.encoders.base import PatchEncoder
from soscope_scverse.im.encoders.dense import DenseEncoder, resized
from soscope_scverse.im.encoders.weights import fill, hashed, is_packaged, read_weights

if TYPE_CHECKING:
    import torch

_INCEPTION_PIXELS = 299
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False)
class Network:
    """A network without its head, and the form of its input."""

    module: torch.nn.Module
    size: tuple[int, int]
    """Height and width of its input."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"


class NetworkEncoder(PatchEncoder):
    """Features of whole patches from a pretrained network that takes images of one size.

    A patch of any width is resized to the input of the network and normalised as in its training.

    Parameters
    ----------
    weights
        File with the weights: a state dict saved by ``torch.save``, or ``.safetensors``. Default: the pretrained
        weights, from the cache of the library that provides the network, or downloaded.
    device
        As in torch; default: "cuda" if available, else "cpu". On a GPU the network runs in mixed precision.
    batch_size
        Number of patches that the network processes at once; the features do not depend on it.
    """

    needs_colour = True

    def __init__(
        self,
        *,
        weights: str | PathLike | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 64,
    ) -> None:
        super().__init__(batch_size)
        self.weights, self.device = weights, device

    @abstractmethod
    def load(self) -> Network:
        """Build the network and load its weights.

        Returns
        -------
        Network without its head
            With the size of its input and the mean and standard deviation of the images that it was trained on.

        Raises
        ------
        FileNotFoundError
            If the weights are not found and cannot be downloaded.
        ValueError
            If the weights belong to another network, or the library has no network of that name.
        ImportError
            If a library that is needed is not installed.
        """

    @cached_property
    def network(self) -> Network:
        """The network, loaded at its first use."""
        network = self.load()
        network.module.eval()
        return network

    @property
    def pixels(self) -> float:
        """Width of the network's input; see :attr:`Encoder.pixels`."""
        return self.network.size[1]

    def fingerprint(self) -> str:
        """Return a hash of name and weights; see :meth:`Encoder.fingerprint`."""
        return tokenize(self.name, hashed(self.network.module))

    def record(self) -> dict[str, Any]:
        """Return weights, mean and standard deviation; see :meth:`Encoder.record`."""
        given = {} if self.weights is None else {"weights": fspath(self.weights)}
        return {**given, "mean": np.array(self.network.mean), "std": np.array(self.network.std)}

    def prepare(self, patch: np.ndarray) -> np.ndarray:
        """Resize a patch to the input of the network; see :meth:`PatchEncoder.prepare`."""
        return resized(patch, self.network.size, self.network.interpolation)

    def describe(self, patches: np.ndarray) -> np.ndarray:
        """Normalise the patches and run the network on them; see :meth:`PatchEncoder.describe`."""
        return self._run(self.network.module, patches)

    def _run(self, module: torch.nn.Module, images: np.ndarray) -> np.ndarray:
        """Normalise the images and run the network, or a part of it, on them."""
        pixels = self.normalised(images)
        return run(module.to(pixels.device), pixels)

    def normalised(self, images: np.ndarray) -> torch.Tensor:
        """Return images as the network was trained on, on the device.

        Parameters
        ----------
        images
            n x height x width x 3, uint8.

        Returns
        -------
        torch.Tensor
            n x 3 x height x width, of the mean and standard deviation of the training.
        """
        import torch

        pixels = on_device(images, self.device)
        mean, std = (torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (self.network.mean, self.network.std))
        return (pixels / 255 - mean) / std


class InceptionV3(NetworkEncoder):
    """Inception v3 of torchvision with ImageNet weights: the 2,048 features of the last pooling layer, as in the paper.

    Patches are resized to 299 x 299. With ``mode="dense"`` the image is resized so that a patch is about 299 pixels
    wide, and the last convolutional feature map (8 x 8 cells of a patch) is averaged, see :class:`DenseEncoder`.

    Parameters
    ----------
    weights, device, batch_size
        See :class:`NetworkEncoder`.
    """

    name = "inception_v3"

    def dense(self) -> DenseEncoder:
        """Return the encoder that averages the feature map before the last pooling; see :meth:`Encoder.dense`."""
        return DenseEncoder(self, resize=True)

    def feature_map(self, images: np.ndarray) -> np.ndarray:
        """Run the network up to its last convolutional feature map.

        Parameters
        ----------
        images
            n x height x width x 3, uint8, of at least 75 x 75 pixels.

        Returns
        -------
        numpy.ndarray
            n x 2048 x h x w.
        """
        return self._run(self._convolutions, images)

    @cached_property
    def _convolutions(self) -> torch.nn.Module:
        """The network up to its last feature map."""
        from torchvision.models.feature_extraction import create_feature_extractor

        return create_feature_extractor(self.network.module, ["Mixed_7c"]).eval()

    def load(self) -> Network:
        """Make the network and load its weights; see :meth:`NetworkEncoder.load`."""
        import torch
        from torchvision.models import inception_v3

        if is_packaged(self.weights):
            msg = (
                f"Expected a file as `weights` of encoder {self.name!r}, found {self.weights!r}, those of a network of "
                "timm. Omit them for the weights of torchvision, or pass a file."
            )
            raise ValueError(msg)
        # `transform_input` converts the normalisation of ImageNet to the one that these weights were trained with.
        module = inception_v3(weights=None, init_weights=False, transform_input=True)
        module.fc, module.AuxLogits, module.aux_logits = torch.nn.Identity(), None, False
        state = _pretrained_inception() if self.weights is None else read_weights(self.weights)
        fill(module, state, ("fc.", "AuxLogits."), self.weights)
        return Network(module, (_INCEPTION_PIXELS, _INCEPTION_PIXELS), _IMAGENET_MEAN, _IMAGENET_STD)


class ModuleEncoder(PatchEncoder):
    """Features of whole patches from a ``torch.nn.Module`` of the user.

    Parameters
    ----------
    module
        Maps uint8 RGB patches (n_patches x 3 x size x size) to n_patches x n_image_features, or to a feature map
        (n_patches x n_image_features x h x w), which is averaged; ``size`` is the width of the patch in pixels. It
        resizes and normalises the patches itself, e.g. as ``torch.nn.Sequential(weights.transforms(), network)``. It is
        set to evaluation mode and moved to the device.
    device, batch_size
        See :class:`NetworkEncoder`.
    """

    def __init__(
        self, module: torch.nn.Module, *, device: str | torch.device | None = None, batch_size: int = 64
    ) -> None:
        super().__init__(batch_size)
        self.module, self.device, self.name = module, device, type(module).__name__

    def fingerprint(self) -> str:
        """Return a hash of layers and weights; see :meth:`Encoder.fingerprint`."""
        return tokenize(type(self.module).__module__, repr(self.module), hashed(self.module))

    def describe(self, patches: np.ndarray) -> np.ndarray:
        """Run the module on the patches; see :meth:`PatchEncoder.describe`."""
        features = self.feature_map(patches)
        return features.mean(axis=(2, 3)) if features.ndim == 4 else features

    def dense(self) -> DenseEncoder:
        """Return the encoder that averages the feature map of the module; see :meth:`Encoder.dense`."""
        return DenseEncoder(self, resize=False)

    def feature_map(self, images: np.ndarray) -> np.ndarray:
        """Run the module.

        Parameters
        ----------
        images
            n x height x width x 3, uint8.

        Returns
        -------
        numpy.ndarray
            The output of the module: n x n_image_features, or a feature map n x n_image_features x h x w.
        """
        pixels = on_device(images, self.device)
        return run(self.module.eval().to(pixels.device), pixels)


def cached_weights() -> Path:
    """File in which torch keeps the ImageNet weights of Inception v3, whether it is there or not."""
    import torch
    from torchvision.models import Inception_V3_Weights

    return Path(torch.hub.get_dir()) / "checkpoints" / Path(Inception_V3_Weights.IMAGENET1K_V1.url).name


def _pretrained_inception() -> Mapping[str, torch.Tensor]:
    from torchvision.models import Inception_V3_Weights

    weights = Inception_V3_Weights.IMAGENET1K_V1
    try:
        with redirect_stdout(sys.stderr):  # where torch writes that it downloads
            return weights.get_state_dict(progress=False, check_hash=True)
    except OSError as error:  # the base class of all download errors
        msg = (
            f"Expected the ImageNet weights of encoder 'inception_v3' at {cached_weights()}, found no such file and "
            f"could not download it ({error}). Download {weights.url} and move it there or pass its path as "
            '`weights=`, or use `encoder="texture"`, which needs no weights.'
        )
        raise FileNotFoundError(msg) from error


def on_device(images: np.ndarray, device: str | torch.device | None) -> torch.Tensor:
    """Images (n x height x width x 3, uint8) as a tensor on the device, n x 3 x height x width."""
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2)


def run(module: Callable[[torch.Tensor], Any], pixels: torch.Tensor) -> Any:
    """Run a network, or a method of one, in mixed precision on a GPU.

    Returns
    -------
    numpy.ndarray or list of numpy.ndarray
        Its output, or outputs, in single precision.
    """
    import torch

    kind = pixels.device.type
    with torch.inference_mode(), torch.autocast(kind, enabled=kind == "cuda"):
        features = module(pixels)
    if isinstance(features, Mapping):  # of a feature extractor of torchvision
        (features,) = features.values()
    if isinstance(features, list):
        return [one.float().cpu().numpy() for one in features]
    return features.float().cpu().numpy()

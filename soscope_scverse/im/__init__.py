"""Tissue images: one lazy reader, an encoder registry and the features of every subspot."""

from soscope_scverse.im._alignment import Alignment, check_alignment
from soscope_scverse.im._cache import FeatureCache
from soscope_scverse.im._coordinates import check_coordinates
from soscope_scverse.im._features import features, features_at
from soscope_scverse.im._patches import patches
from soscope_scverse.im._stain import normalize_stain
from soscope_scverse.im._tissue import mask_subspots, tissue_mask
from soscope_scverse.im.encoders.base import Encoder, FunctionEncoder, PatchEncoder
from soscope_scverse.im.encoders.dense import DenseEncoder
from soscope_scverse.im.encoders.networks import InceptionV3, ModuleEncoder, NetworkEncoder
from soscope_scverse.im.encoders.registry import encoder_names, get_encoder, register_encoder
from soscope_scverse.im.encoders.timm_networks import TimmEncoder
from soscope_scverse.im.reading.embedded import embedded_image
from soscope_scverse.im.reading.opening import open_image
from soscope_scverse.im.reading.source import ImageSource
from soscope_scverse.im.reading.thumbnails import thumbnail

__all__ = [
    "Alignment",
    "DenseEncoder",
    "Encoder",
    "FeatureCache",
    "FunctionEncoder",
    "ImageSource",
    "InceptionV3",
    "ModuleEncoder",
    "NetworkEncoder",
    "PatchEncoder",
    "TimmEncoder",
    "check_alignment",
    "check_coordinates",
    "embedded_image",
    "encoder_names",
    "features",
    "features_at",
    "get_encoder",
    "mask_subspots",
    "normalize_stain",
    "open_image",
    "patches",
    "register_encoder",
    "thumbnail",
    "tissue_mask",
]

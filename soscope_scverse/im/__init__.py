"""Tissue images: one lazy reader, an encoder registry and the features of every subspot."""

from soscope_scverse.im.encoders import Encoder, TileEncoder, encoder_names, get_encoder, register_encoder
from soscope_scverse.im.features import check_coordinates, features
from soscope_scverse.im.source import ImageSource, embedded_image, open_image, thumbnail

__all__ = [
    "Encoder",
    "ImageSource",
    "TileEncoder",
    "check_coordinates",
    "embedded_image",
    "encoder_names",
    "features",
    "get_encoder",
    "open_image",
    "register_encoder",
    "thumbnail",
]

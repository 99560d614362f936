"""Named sets of arguments for :func:`~soscope_scverse.tl.enhance`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple


class Preset(NamedTuple):
    """What a preset fills in where the user says nothing."""

    expectation: Literal["conditional", "decoded"]
    model_kwargs: Mapping[str, Any]


PRESETS = {
    "default": Preset("conditional", {}),
    # the published model with our training: Li et al. 2024, Eqs. 1 to 7 and the authors' code
    "paper": Preset(
        "decoded",
        {
            "decoder": "joint",
            "interpolation": "none",
            "observation": "gaussian",
            "dispersion": "subspot",
            "image_shrinkage": 0.0,
            "n_image_components": 2048,
            "test_image": False,
            "library_size_noise": 0.0,
            "masked": 0.0,
            "n_graph_samples": None,
        },
    ),
}

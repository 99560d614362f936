"""Arguments of :func:`~soscope_scverse.tl.enhance`: their types, ranges and presets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, NamedTuple, TypedDict, get_args

from soscope_scverse._cell_shapes.files import check_cell_file
from soscope_scverse._containers.dispatch import ELEMENT_OPTIONS
from soscope_scverse._validators import (
    NON_NEGATIVE_INTEGER,
    POSITIVE,
    POSITIVE_INTEGER,
    SEED,
    Choice,
    Rules,
    check_arguments,
    check_folder,
    check_keywords,
    check_no_mudata_on_disk,
    check_output,
)
from soscope_scverse.im import features
from soscope_scverse.im._features import FEATURES_RULES
from soscope_scverse.model import SoScope
from soscope_scverse.model._soscope import MODEL_RULES, TRAIN_RULES
from soscope_scverse.model.inference.sampler import Expectation


class EnhanceOptions(TypedDict, total=False):
    """Keyword arguments of :func:`~soscope_scverse.tl.enhance` that do not decide on the type of its result."""

    image: Any
    image_scale: float | None
    n_subspots: int | Literal["auto"]
    cells: Any
    capture: float | Literal["auto"] | None
    capture_shape: Literal["circle", "square"]
    layer: str | Mapping[str, str | None] | None
    genes: Sequence[str] | Mapping[str, Sequence[str]] | None
    likelihood: str | Mapping[str, str]
    encoder: Any
    sources: Literal["both", "image", "positions"]
    library_key: str | None
    batch_key: str | None
    keep_off_tissue: bool
    preset: Literal["default", "paper"]
    expectation: Expectation | None
    n_samples: int
    seed: int
    max_epochs: int | None
    accelerator: str
    features_kwargs: Mapping[str, Any] | None
    model_kwargs: Mapping[str, Any] | None
    train_kwargs: Mapping[str, Any] | None
    checkpoint_dir: str | PathLike | None
    resume: bool
    save_model: str | PathLike | None
    out: str | PathLike | None
    overwrite: bool
    table_key: str
    image_key: Any
    shapes_key: str | None
    coordinate_system: str | None
    key_added: str


class Preset(NamedTuple):
    """What a preset sets where the user gives no argument."""

    expectation: Expectation
    model_kwargs: Mapping[str, Any]


PRESETS = {
    "default": Preset("conditional", {}),
    # architecture, likelihood and prediction of Li et al. 2024, Eqs. 1 to 7 and the authors' code, with our training
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

ENHANCE_RULES: Rules = {
    "image_scale": POSITIVE.or_(None),
    "capture": POSITIVE.or_("auto", None),
    "capture_shape": Choice(("circle", "square")),
    "sources": Choice(("both", "image", "positions")),
    "keep_off_tissue": Choice((False, True)),
    "preset": Choice(tuple(PRESETS)),
    "expectation": Choice((*get_args(Expectation), None)),
    "n_samples": NON_NEGATIVE_INTEGER,
    "seed": SEED,
    "max_epochs": POSITIVE_INTEGER.or_(None),
}
_OF_FEATURES = ("adata", "image", "encoder", "image_scale", "library_key", "key_added", "copy", *ELEMENT_OPTIONS)
"""Arguments of :func:`~soscope_scverse.im.features` that :func:`~soscope_scverse.tl.enhance` sets itself."""


def check_options(data: object, options: Mapping[str, Any]) -> None:
    """Raise a TypeError or ValueError for invalid arguments, before any work."""
    check_arguments(options, ENHANCE_RULES)
    check_keywords("features_kwargs", options["features_kwargs"] or {}, features, FEATURES_RULES, excluded=_OF_FEATURES)
    model = ("self", "adata", "likelihood")
    check_keywords("model_kwargs", options["model_kwargs"] or {}, SoScope.__init__, MODEL_RULES, excluded=model)
    train = ("self", "checkpoint_dir", "resume", "seed")
    check_keywords("train_kwargs", options["train_kwargs"] or {}, SoScope.train, TRAIN_RULES, excluded=train)
    if isinstance(options["cells"], str | PathLike):
        check_cell_file(options["cells"])
    cache = (options["features_kwargs"] or {}).get("cache")
    if cache is not None:
        check_folder("cache", cache)
    if options["save_model"] is not None:
        check_folder("save_model", options["save_model"], new=True)
    if options["out"] is not None:
        check_output("out", options["out"], overwrite=options["overwrite"])
        check_no_mudata_on_disk(data, options["out"])


def resolved(options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that make the result, with those of the preset filled in."""
    preset = PRESETS[options["preset"]]
    kwargs = {name: dict(options[name] or {}) for name in ("features_kwargs", "model_kwargs", "train_kwargs")}
    kwargs["model_kwargs"] = {**preset.model_kwargs, "sources": options["sources"], **kwargs["model_kwargs"]}
    genes = options["genes"]
    return {
        **{name: value for name, value in options.items() if name not in _OF_FILES},
        "genes": {k: _names(v) for k, v in genes.items()} if isinstance(genes, Mapping) else _names(genes),
        "expectation": options["expectation"] or preset.expectation,
        **kwargs,
    }


_OF_FILES = ("checkpoint_dir", "resume", "save_model", "out", "overwrite")
"""Arguments that do not change the result."""


def _names(genes: Any) -> Any:
    return list(genes) if isinstance(genes, Iterable) and not isinstance(genes, str) else genes

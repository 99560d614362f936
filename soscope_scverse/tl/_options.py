"""Arguments of :func:`~soscope_scverse.tl.enhance`: their types, ranges and presets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, TypedDict, get_args

from soscope_scverse import _keys as keys
from soscope_scverse._cell_shapes.files import check_cell_file
from soscope_scverse._containers.dispatch import ELEMENT_OPTIONS
from soscope_scverse._read import Spots, record
from soscope_scverse._validators import (
    NON_NEGATIVE_INTEGER,
    POSITIVE,
    POSITIVE_INTEGER,
    SEED,
    Choice,
    Choices,
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
from soscope_scverse.model._arguments import MODEL_RULES
from soscope_scverse.model._genes import Genes
from soscope_scverse.model.inference.sampler import Expectation
from soscope_scverse.model.training.runner import TRAIN_RULES
from soscope_scverse.tl import _paper as paper
from soscope_scverse.tl._images import chosen_encoder


class EnhanceOptions(TypedDict, total=False):
    """Keyword arguments of :func:`~soscope_scverse.tl.enhance` that do not decide on the type of its result."""

    image: Any
    image_scale: float | None
    n_subspots: int | Literal["auto"]
    cells: Any
    capture: float | Literal["auto"] | None
    capture_shape: Literal["circle", "square"]
    layer: str | Mapping[str, str | None] | None
    genes: Genes | None
    quality: Literal["best", "fast"]
    likelihood: str | Mapping[str, str]
    encoder: Any
    sources: Literal["both", "image", "positions"]
    library_key: str | None
    batch_key: str | None
    graph_key: str | None
    size_factor_key: str | None
    keep_off_tissue: bool
    preset: Literal["default", "paper"]
    expectation: Expectation | Sequence[Expectation] | None
    n_samples: int
    obsm_keys: Sequence[str]
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


ENHANCE_RULES: Rules = {
    "image_scale": POSITIVE.or_(None),
    "capture": POSITIVE.or_("auto", None),
    "capture_shape": Choice(("circle", "square")),
    "sources": Choice(("both", "image", "positions")),
    "keep_off_tissue": Choice((False, True)),
    "preset": Choice(("default", "paper")),
    "expectation": Choices((*get_args(Expectation), None)),
    "n_samples": NON_NEGATIVE_INTEGER,
    "quality": Choice(("best", "fast")),
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


def resolved(options: Mapping[str, Any], spots: Spots) -> dict[str, Any]:
    """The arguments that make the result, with those of the preset filled in; a warning if the encoder is another."""
    kwargs = {name: dict(options[name] or {}) for name in ("features_kwargs", "model_kwargs", "train_kwargs")}
    kwargs["model_kwargs"] = {"sources": options["sources"], **kwargs["model_kwargs"]}
    encoder, genes = chosen_encoder(spots, options), options["genes"]
    preset: dict[str, Any] = {}
    if options["preset"] == "paper":
        has_cells = options["cells"] is not None or record(spots.adata, keys.SUBSPOTS).get("geometry") == "cells"
        preset["model_kwargs"] = paper.model_kwargs(has_cells=has_cells)
        preset["train_kwargs"] = paper.train_kwargs(
            options["likelihood"],
            options["max_epochs"],
            kwargs["train_kwargs"],
            has_cells=has_cells,
            pretrains=kwargs["model_kwargs"]["sources"] != "image",
        )
        if encoder == paper.ENCODER and "context_um" not in kwargs["features_kwargs"]:
            preset["features_kwargs"] = {"context": paper.CONTEXT}
    filled = {name: {**preset.get(name, {}), **given} for name, given in kwargs.items()}
    return {
        **{name: value for name, value in options.items() if name not in _OF_FILES},
        "encoder": encoder,
        "genes": {k: _names(v) for k, v in genes.items()} if isinstance(genes, Mapping) else _names(genes),
        "expectation": options["expectation"] or ("decoded" if preset else ["conditional", "denoised"]),
        **filled,
    }


_OF_FILES = ("checkpoint_dir", "resume", "save_model", "out", "overwrite")
"""Arguments that do not change the result."""


def _names(genes: Any) -> Any:
    return list(genes) if isinstance(genes, Iterable) and not isinstance(genes, str) else genes

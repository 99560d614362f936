"""Ranges of the arguments of :class:`~soscope_scverse.model.SoScope`, and those that its module takes."""

from __future__ import annotations

from soscope_scverse._validators import FRACTION, NON_NEGATIVE, POSITIVE, POSITIVE_INTEGER, Choice, Number, Rules

MODEL_RULES: Rules = {
    **dict.fromkeys(("n_latent", "n_hidden", "n_layers", "n_image_components"), POSITIVE_INTEGER),
    "sources": Choice(("both", "image", "positions")),
    "decoder": Choice(("shift", "joint")),
    "interpolation": Choice(("gaussian", "none")),
    "bandwidth": POSITIVE,
    "observation": Choice(("matched", "gaussian")),
    "sigma": NON_NEGATIVE.or_(None),
    "dispersion": Choice(("feature", "subspot", "shape")),
    "aggregate": Choice((None, "sum", "mean")),
    **dict.fromkeys(("image_shrinkage", "library_size_noise"), NON_NEGATIVE.or_("auto")),
    "image_strength": Number(0, 1).or_("auto"),
    "kriging": Choice((False, True)),
    "masked": FRACTION,
    "image_weight": NON_NEGATIVE,
    "image_deviation": Choice(("relative", "observed", "overall")),
    "similarity_strength": Number(1, above=True),
    "n_graph_samples": Number(2, integer=True).or_(None),
    "loss_per": Choice(("feature", "spot")),
}
"""Of :class:`SoScope`; those of its methods are next to what the methods call."""


MODULE_ARGUMENTS = (
    *("n_image_components", "aggregate", "sigma", "dispersion", "observation", "n_latent", "n_hidden", "n_layers"),
    *("decoder", "masked", "image_weight", "image_deviation", "n_graph_samples", "loss_per"),
)
"""Arguments that go to the module as they are."""

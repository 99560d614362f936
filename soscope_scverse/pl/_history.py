"""Training curves."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from mudata import MuData

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse.pl._figures import panels, save_figure

if TYPE_CHECKING:
    from soscope_scverse.model import SoScope

_PRETRAINING = "pretrain_"
_TERMS = {
    "loss": "loss",
    "reconstruction_loss": "reconstruction",
    "kl_local": "KL divergence",
    "graph_loss": "spot graph",
    "image_loss": "image",
}
"""Names in the history, and titles of the panels."""
_OF_PAIRS = ("graph_loss", "image_loss")
_CHANCE, _SAME = np.log(2), 0.01
"""Cross-entropy of pairs whose similarity is not predicted, and the relative difference from it that is none."""


def history(
    result: AnnData | MuData | SoScope, *, ax: np.ndarray | Axes | None = None, save: str | PathLike | None = None
) -> np.ndarray:
    """Plot the loss and its terms over the epochs, one row per training phase.

    Parameters
    ----------
    result
        Subspots returned by :func:`~soscope_scverse.tl.enhance`, or a trained
        :class:`~soscope_scverse.model.SoScope`.
    ax
        n_phases x n_terms Axes to draw on.
    save
        File to save the figure to.

    Returns
    -------
    numpy.ndarray of Axes
        n_phases x n_terms; unused Axes of a phase with fewer terms are empty. Phases are the pretraining, if any, and
        the training. Terms are the loss, the reconstruction, the KL divergence of the latent states from their prior,
        and the loss of the spot graph (pretraining) or of the image (training). The last two are means over all pairs,
        of which few touch; by construction they stay at ln 2 in most runs, and are not drawn then.

    Raises
    ------
    TypeError, ValueError
        If there is no history, or `ax` has a different shape.
    """
    phases = _curves_by_phase(_read_history(result))
    shape = len(phases), max(map(len, phases.values()))
    axes = panels(ax, shape, (2.6, 2.2), f"a row for each of {list(phases)}, a column for each term of the loss")
    for row, (phase, terms) in zip(axes, phases.items(), strict=True):
        for panel, (term, curves) in zip(row, terms.items(), strict=False):
            _draw_curves(panel, curves)
            panel.set_title(f"{phase}: {_TERMS[term]}", fontsize=9)
        for panel in row[len(terms) :]:
            panel.set_axis_off()
    save_figure(axes[0, 0], save)
    return axes


def _draw_curves(ax: Axes, curves: Mapping[str, np.ndarray]) -> None:
    for part, values in curves.items():
        ax.plot(np.arange(1, len(values) + 1), values, linewidth=1, label=part)
    ax.set_xlabel("epoch", fontsize=8)
    ax.tick_params(labelsize=7)
    ax.yaxis.get_offset_text().set_fontsize(7)
    ax.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1:
        ax.legend(frameon=False, fontsize=7)


def _read_history(result: Any) -> Mapping[str, Any]:
    """Return the history of a model or of its result."""
    if isinstance(result, AnnData | MuData):
        found = read.record(result, keys.RESULT).get("history")
        where, advice = f"`uns['{keys.RESULT}']['history']`", "Pass a result of `tl.enhance`, or the model."
    else:
        found = getattr(result, "history", None)
        where, advice = f"`history` of {type(result).__name__}", "Call `model.train()` first."
    if not found or "train_loss" not in found:
        msg = f"Expected the training losses in {where}, found {sorted(found) if found else 'none'}. {advice}"
        raise ValueError(msg)
    return found


def _curves_by_phase(found: Mapping[str, Any]) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Return the curves by phase, term and part of the data (training and validation)."""
    phases: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for phase, prefix in (("pretraining", _PRETRAINING), ("training", "")):
        for term in _TERMS:
            for part in ("train", "validation"):
                name = prefix + (f"{part}_loss" if term == "loss" else f"{term}_{part}")
                if name in found:
                    values = np.asarray(found[name], dtype=float).ravel()
                    if term in _OF_PAIRS and np.allclose(values, _CHANCE, rtol=_SAME):
                        continue
                    phases.setdefault(phase, {}).setdefault(term, {})[part] = values
    return phases

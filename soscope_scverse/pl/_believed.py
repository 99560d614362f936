"""Verdict of a report: which genes may be believed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast
from xml.etree.ElementTree import Element

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse._arrays import dense
from soscope_scverse.pl._page import element, embedded_figure, section, table
from soscope_scverse.pl._run import Part
from soscope_scverse.pl._validation import validation

_MOST_NAMED = 60
"""Largest number of believed genes that are listed."""
_RULE = (
    "Neighbouring spots were merged, the merged spots were enhanced in the same way, and the result was compared with "
    "the spots that were measured. A gene is believed if its recovered spots are nearer to the measured ones than both "
    "equal shares of the merged spot and linear interpolation, tested over merged spots with a false discovery rate of "
    "5\N{NO-BREAK SPACE}%. More than half of the detail within spots is real then. within_r is the correlation of "
    "recovered and measured spots after subtracting the mean of each merged spot."
)
_HOW = "sos.tl.validate(adata, image)"
_SCORES = {
    "within_r": "within_r",
    "linear_within_r": "Linear interpolation",
    "expected_within_r": "Expected one level finer",
    "image_gain": "Gain by the image",
    "interval_width": "Interval width",
    "coverage": "Coverage of 90 % intervals",
}
"""Scores of a validation, and heads of their columns."""


def verdict(parts: Sequence[Part]) -> Element:
    """Return the section on which genes may be believed, by a validation or else by the intervals of the run."""
    return section("Verdict", "verdict", *(one for part in parts for one in _of_part(part)))


def _of_part(part: Part) -> Iterator[Element]:
    scored = part.spots.var.get(f"{keys.VALIDATION}_p_adjusted")
    if scored is not None and scored.notna().any():
        yield from _validated(part)
    else:
        yield from _by_intervals(part)


def _validated(part: Part) -> Iterator[Element]:
    """Number of believed genes, the scores of all in a plot and of the plotted ones in a table, and names."""
    scores = read.validation(part.spots, keys.VALIDATION)
    believed = scores[scores["believed"].astype(bool)].sort_values("within_r", ascending=False)
    of = f"{part.name}: at" if part.name else "At"
    yield element(
        "p", f"{of} this resolution {len(believed):,} of {len(scores):,} genes may be believed.", class_="verdict"
    )
    if len(scores) < part.n_features:
        text = f"{part.n_features - len(scores):,} of the {part.n_features:,} genes of the result were not validated."
        yield element("p", text)
    yield element("p", _RULE)
    ax = validation(part.spots)
    yield embedded_figure(ax, "within_r of every gene against that of linear interpolation.")
    plt.close(cast("Figure", ax.figure))
    if len(believed):
        names = ", ".join(map(str, believed.index[:_MOST_NAMED]))
        more = len(believed) - _MOST_NAMED
        yield element(
            "p", element("strong", "Believed, best first: "), f"{names}{f' and {more:,} more' if more > 0 else ''}."
        )
    plotted = scores.loc[[gene for gene in part.subspots.var_names if gene in scores.index]]
    found = {name: head for name, head in _SCORES.items() if name in scores}
    rows = [
        (str(gene), "yes" if row["believed"] else "no", *(_number(row[name]) for name in found))
        for gene, row in plotted.iterrows()
    ]
    yield table(("Gene", "Believed", *found.values()), rows, "Scores of the plotted genes")


def _by_intervals(part: Part) -> Iterator[Element]:
    """What the intervals of the run say of the plotted genes, and how to get a verdict."""
    of = f"{part.name}: which" if part.name else "Which"
    yield element("p", f"{of} genes may be believed is not known: the spots were not validated.", class_="verdict")
    advice = (
        "A validation merges the spots, recovers them with and without the image, and takes about as long as the run: ",
        element("code", _HOW),
        ", or on the command line ",
        element("code", "soscope-scverse validate"),
        ". Then write the report again.",
    )
    yield element("p", *advice)
    if keys.STD not in part.subspots.layers:
        return
    expected = _expected_within_r(part)
    yield element(
        "p",
        "Until then, the intervals of the run itself show how much of the variation within spots it is sure of. The "
        "correlation within spots that they imply is that with counts, noise included.",
    )
    rows = [(str(gene), _number(value)) for gene, value in expected.items()]
    yield table(("Gene", "within_r implied by the intervals"), rows, "Plotted genes")


def _expected_within_r(part: Part) -> pd.Series:
    """Correlation within spots that the posterior implies.

    It is sqrt(V / (V + E)), for the variance V of the expectation within spots and the posterior variance E.
    """
    subspots = part.subspots
    x, deviation = dense(subspots.X).astype(float), dense(subspots.layers[keys.STD])
    within = x - pd.DataFrame(x).groupby(subspots.obs[keys.SPOT].to_numpy()).transform("mean").to_numpy()
    explained, error = (within**2).sum(axis=0), (deviation**2).sum(axis=0)
    total = explained + error
    share = np.divide(explained, total, out=np.full_like(total, np.nan), where=total > 0)
    return pd.Series(np.sqrt(share), index=subspots.var_names)


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:z.2f}"

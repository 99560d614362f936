"""One page about a run: what went in, what came out, and what to look at twice."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from os import PathLike
from typing import Any, cast
from xml.etree.ElementTree import Element

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mudata import MuData

from soscope_scverse import __version__, im
from soscope_scverse import _keys as keys
from soscope_scverse import _validation as check
from soscope_scverse._containers.mudata import modality, spots_of
from soscope_scverse._files import completed
from soscope_scverse.pl._alignment import alignment
from soscope_scverse.pl._calibration import calibration
from soscope_scverse.pl._history import history
from soscope_scverse.pl._maps import compare, uncertainty
from soscope_scverse.pl._page import element, image, page, section, table
from soscope_scverse.pl._run import Part, Record, run_parts

_TITLE = "soScope report"
_MOST_SECTIONS = 4
"""Most sections whose maps are drawn."""
_SHOWN = 12
"""Most values that are listed; longer arrays begin with their first."""


def report(
    enhanced: AnnData | MuData,
    adata: AnnData | MuData,
    path: str | PathLike = "report.html",
    *,
    genes: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    n_genes: int = 6,
    truth: AnnData | None = None,
    pit: np.ndarray | Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write a page about a run of :func:`~soscope_scverse.tl.enhance`: one HTML file that needs nothing else.

    It shows the genes before and after, how the training went, where the spots lie on the tissue, how sure the result
    is, what was warned of, and everything that is needed to make the result again.

    Parameters
    ----------
    enhanced
        Subspots, as :func:`~soscope_scverse.tl.enhance` returns them; in memory or file-backed.
    adata
        Spots that they were made from.
    path
        File to write. What is there is replaced when the page is complete.
    genes
        Genes to draw, of MuData by modality. Default: the `n_genes` spatially most variable ones (of each modality),
        see :func:`~soscope_scverse.pp.spatial_genes`.
    n_genes
        How many genes to draw by default.
    truth
        True subspots if they are known, see :func:`~soscope_scverse.pl.compare`.
    pit
        Values of :func:`~soscope_scverse.metrics.pit` if they are known, see :func:`~soscope_scverse.pl.calibration`.

    Raises
    ------
    ValueError, TypeError
        If `adata` does not hold the spots of `enhanced`, or a gene is missing; nothing is written then.

    Notes
    -----
    Names and texts from the data are shown as they are and never run as HTML or script.
    """
    path = check.output("path", path, overwrite=True, suffixes=[".html"])
    record, parts = run_parts(enhanced, adata, genes, n_genes)
    with _figures_apart():
        sections = [
            _warned(record),
            _maps(parts, truth, record),
            _training(enhanced, record),
            _alignment(enhanced, adata, record),
            _uncertainty(parts, record),
            *([] if pit is None else [_calibration(pit)]),
            _contents(parts, record),
            _run(record),
        ]
    links = (element("li", element("a", str(part[0].text), href=f"#{part.get('id')}")) for part in sections)
    nav = element("nav", element("ul", *links), aria_label="On this page")
    whole = page(_TITLE, _header(parts, record), nav, element("main", *sections), _footer())
    with completed(path) as unfinished:
        unfinished.write_text(whole, encoding="utf-8")


@contextmanager
def _figures_apart() -> Iterator[None]:
    """Draw without windows, in matplotlib's own style, and leave the figures of the user alone."""
    before = plt.get_fignums()
    with plt.ioff(), plt.style.context("default"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the page tells what there is to tell
        try:
            yield
        finally:
            for number in set(plt.get_fignums()).difference(before):
                plt.close(number)


def _header(parts: Sequence[Part], record: Record) -> Element:
    spots, subspots = parts[0].spots, parts[0].subspots
    uses_image = record.entries.get("uses_image")
    tiles = {
        "Spots": f"{subspots.obs[keys.SPOT].nunique():,}",
        "Subspots": f"{subspots.n_obs:,}",
        "Features": f"{sum(part.n_features for part in parts):,}",
        "Sections": f"{len(np.unique(check.sections(spots, record.library_key))):,}",
        "Image": "unknown" if uses_image is None else "used" if uses_image else "not used",
        "Warnings": f"{len(record.warnings)}",
    }
    facts = (element("div", element("dt", name), element("dd", value)) for name, value in tiles.items())
    return element(
        "header",
        element("h1", "Enhanced spatial omics"),
        element("p", "Spots divided into subspots, whose profiles soScope inferred.", class_="faint"),
        element("dl", *facts, class_="tiles"),
    )


def _warned(record: Record) -> Element:
    if not record.warnings:
        text = "None were raised in the run." if "warnings" in record.entries else "They were not recorded."
        return section("Warnings", "warnings", element("p", text))
    listed = element("ul", *(element("li", message) for message in record.warnings))
    found = section("Warnings", "warnings", listed)
    found.set("class", "some")
    return found


def _maps(parts: Sequence[Part], truth: AnnData | None, record: Record) -> Element:
    def drawn(part: Part, gene: str, shown: Mapping[str, Any]) -> Axes:
        return compare(part.spots, part.subspots, gene, truth=truth, aggregate=part.aggregate, **shown)[0, 0]

    text = (
        "The same colour means the same amount in all maps of a feature; subspots are shown in amounts of a whole spot "
        "like them."
    )
    what = f"Maps of {{}}: the spots, then the enhanced subspots{'' if truth is None else ', then the truth'}."
    return section("Before and after", "maps", element("p", text), *_by_feature(parts, record, drawn, what))


def _uncertainty(parts: Sequence[Part], record: Record) -> Element:
    title, name = "Uncertainty", "uncertainty"
    if not all(keys.Q05 in part.subspots.layers for part in parts):
        text = "No draws were made: give enhance a number of them (n_samples=30, or --n-samples 30)."
        return section(title, name, element("p", text))

    def drawn(part: Part, gene: str, shown: Mapping[str, Any]) -> Axes:
        return uncertainty(part.subspots, gene, relative=part.aggregate == "sum", **shown)[0, 0]

    text = (
        "What is expected in a subspot, and the width of the interval that holds the truth in 90 % of the subspots; of "
        "counts as a share of what is expected, and blank where too little is expected to tell."
    )
    what = "Maps of {}: what is expected, then how uncertain it is."
    return section(title, name, element("p", text), *_by_feature(parts, record, drawn, what))


def _by_feature(
    parts: Sequence[Part], record: Record, drawn: Callable[[Part, str, Mapping[str, Any]], Axes], what: str
) -> list[Element]:
    """An image for each feature and section; `what` it shows, with a place for its name."""
    key = record.library_key
    names = [None] if key is None else np.unique(check.sections(parts[0].spots, key)).tolist()
    images = []
    for part in parts:
        for gene in part.subspots.var_names:
            for name in names[:_MOST_SECTIONS]:
                ax = drawn(part, gene, {} if name is None else {"library_key": key, "library_id": name})
                of = ", ".join(filter(None, (part.name, name)))
                images.append(image(ax, what.format(gene), element("strong", gene), f" {of}"))
                plt.close(cast("Figure", ax.figure))
    shown = element("div", *images, class_="maps")
    if len(names) <= _MOST_SECTIONS:
        return [shown]
    return [shown, element("p", f"Of the {len(names)} sections the first {_MOST_SECTIONS} are shown.", class_="faint")]


def _training(enhanced: AnnData | MuData, record: Record) -> Element:
    curves = record.entries.get("history")
    if not curves:
        return section("Training", "training", element("p", "No training was recorded."))
    text = "The loss should have levelled off; single terms of it may rise."
    if any("validation" in name for name in curves):
        text += " The validation is on counts that the training did not see; it should not rise again."
    drawn = image(history(enhanced)[0, 0], "The loss and its terms over the epochs, a row for each phase.")
    return section("Training", "training", element("p", text), drawn)


def _alignment(enhanced: AnnData | MuData, adata: AnnData | MuData, record: Record) -> Element:
    """Spots over the image that the result carries, which is there when the file of the run is not."""
    images = _images(spots_of(enhanced), record.library_key)
    if images is None:
        return section("Alignment", "alignment", element("p", "The result carries no image of the tissue."))
    name = "" if isinstance(adata, AnnData) else next(iter(adata.mod))
    spots = adata if isinstance(adata, AnnData) else modality(adata, name)
    found = im.check_alignment(spots, images, library_key=record.library_key, layer=record.of_modality("layer", name))
    rows = [
        (
            str(section_name or "all"),
            str(placement),
            f"{row['inside']:.0%}",
            f"{row['on_tissue']:.0%}",
            f"{row['correlation']:.2f}",
        )
        for (section_name, placement), row in found.table.iterrows()
        if placement == "as given" or row["suspected"]
    ]
    head = ("Section", "Placement", "Spots in the image", "Spots on tissue", "Darkness and depth, r")
    text = (
        "Spots should lie on tissue, and darker tissue should hold more counts. A placement that fits clearly better "
        "than the one given is listed below it."
    )
    return section(
        "Alignment",
        "alignment",
        element("p", text),
        table(head, rows, "Fit of spots and tissue"),
        image(alignment(found)[0], "The spots as circles over the image of the tissue."),
    )


def _images(enhanced: AnnData, library_key: str | None) -> Any:
    """The images in a result: one, or by section; None if one of them is missing."""
    libraries = [None] if library_key is None else np.unique(check.sections(enhanced, library_key)).tolist()
    if library_key is None and len(enhanced.uns.get(keys.SPATIAL, {})) > 1:
        return None
    opened = {}
    for library_id in libraries:
        embedded = im.embedded_image(enhanced, library_id)
        if embedded is None:
            return None
        opened[library_id] = im.open_image(embedded[0], scale=embedded[1])
    return opened[None] if library_key is None else opened


def _calibration(pit: Any) -> Element:
    text = "Share of the truth that the central intervals of the draws hold; on the diagonal they hold what they say."
    drawn = image(calibration(pit), "Observed against nominal share of the truth in central intervals.")
    return section("Calibration", "calibration", element("p", text), drawn)


def _contents(parts: Sequence[Part], record: Record) -> Element:
    """Numbers of each section and modality."""
    rows = [row for part in parts for row in _numbers(part, record.library_key)]
    head = ("Section", "Modality", "Spots", "Subspots", "Features", "Median total of a spot")
    return section("Contents", "contents", table(head, rows, "What went in and what came out"))


def _numbers(part: Part, library_key: str | None) -> Iterator[tuple[str, ...]]:
    of_spot, of_subspot = (check.sections(adata, library_key) for adata in (part.spots, part.subspots))
    total = np.asarray(part.spots.X.sum(axis=1)).ravel()
    for name in np.unique(of_spot):
        is_spot = of_spot == name
        numbers = (f"{number:,}" for number in (is_spot.sum(), (of_subspot == name).sum(), part.n_features))
        named = "all" if library_key is None else name, part.name or "-"
        yield *named, *numbers, f"{np.median(total[is_spot]):,.5g}"


def _run(record: Record) -> Element:
    """Everything that is noted of the run, and a call that makes the result again."""
    entries = record.entries
    made = {"soscope_scverse": entries.get("version", "not recorded"), "Seed": entries.get("seed", "not recorded")}
    tables = [table(("Name", "Value"), _rows(made | dict(entries.get("versions", {}))), "Versions and seed")]
    for name, title in (
        ("geometry", "Partition of the spots"),
        ("encoder", "Encoder of the image"),
        ("spatialdata", "Elements of the SpatialData"),
    ):
        if name in entries:
            tables.append(table(("Name", "Value"), _rows(entries[name]), title))
    arguments = {name: value for name, value in record.arguments.items() if value not in (None, {})}
    call = ",\n".join(f"    {name}={value!r}" for name, value in {**arguments, "seed": entries.get("seed")}.items())
    code = element("pre", element("code", f"sos.tl.enhance(\n    adata,\n{call},\n)"))
    return section("What was run", "run", code, *tables)


def _rows(entries: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(name), _shown(value)) for name, value in entries.items()]


def _shown(value: Any) -> str:
    """A value in a few words: arrays and tables may be long."""
    if isinstance(value, pd.DataFrame):
        return f"table of {len(value)} rows"
    values = [f"{one:.5g}" if isinstance(one, float) else str(one) for one in np.ravel(value)]
    return ", ".join(values if len(values) <= _SHOWN else [*values[:3], f"... ({len(values):,} values)"])


def _footer() -> Element:
    now = datetime.now().astimezone()
    return element(
        "footer",
        element(
            "p",
            f"Written by soscope_scverse {__version__} on {now:%d %B %Y, %H:%M %Z}. The model: Li, Bao, Hou et al., ",
            element("cite", "Nature Communications"),
            " 15, 6541 (2024).",
        ),
    )

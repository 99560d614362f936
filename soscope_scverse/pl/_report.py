"""HTML report of a run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias, cast
from xml.etree.ElementTree import Element

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mudata import MuData

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse._containers.mudata import modality, spots_of
from soscope_scverse._files import completed
from soscope_scverse._validators import check_output
from soscope_scverse.im import check_alignment, embedded_image, open_image
from soscope_scverse.pl._alignment import alignment
from soscope_scverse.pl._believed import verdict
from soscope_scverse.pl._calibration import calibration
from soscope_scverse.pl._history import history
from soscope_scverse.pl._maps import compare, uncertainty
from soscope_scverse.pl._page import element, embedded_figure, page, section, table
from soscope_scverse.pl._run import Capture, Part, Record, read_captures, read_run

Plot: TypeAlias = Callable[[Part, str, Mapping[str, Any]], Axes]
"""Draws a feature, with further arguments of the function of :mod:`soscope_scverse.pl`."""

_TITLE = "soScope report"
_MAX_SECTIONS = 4
"""Largest number of sections with maps."""
_MAX_VALUES = 12
"""Largest number of values listed in full; of longer arrays the first few are listed."""
_ROUNDING = 1e-12
"""Of the largest value of an array: smaller values are 0 up to rounding."""


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
    """Write a report of a run of :func:`~soscope_scverse.tl.enhance` as a self-contained HTML file.

    The report begins with the genes that may be believed, if :func:`~soscope_scverse.tl.validate` was run on `adata`,
    and how to find out otherwise. It contains the warnings of the run, maps of genes in spots and subspots, what the
    spots captured, training curves, the alignment of spots and image, maps of the uncertainty, and the call, versions
    and seed that reproduce the result, with the time and memory that it took.

    Parameters
    ----------
    enhanced
        Subspots returned by :func:`~soscope_scverse.tl.enhance`, in memory or file-backed.
    adata
        Spots that were enhanced.
    path
        File to write. An existing file is replaced once the report is complete.
    genes
        Genes to plot; for MuData, a dict by modality. Default: the `n_genes` most spatially variable genes (of each
        modality), see :func:`~soscope_scverse.pp.spatial_genes`.
    n_genes
        Number of genes to plot by default.
    truth
        True subspots if known, see :func:`~soscope_scverse.pl.compare`.
    pit
        Values returned by :func:`~soscope_scverse.metrics.pit` if known, see
        :func:`~soscope_scverse.pl.calibration`.

    Raises
    ------
    ValueError, TypeError
        If `adata` does not contain the spots of `enhanced`, or a gene is missing. No file is written then.

    Notes
    -----
    Names and texts from the data are escaped and never interpreted as HTML or script.
    """
    check_output("path", path, overwrite=True, suffixes=[".html"])
    record, parts = read_run(enhanced, adata, genes, n_genes)
    with _isolated_figures():
        sections = [
            verdict(parts),
            _warnings(record),
            _maps(parts, truth, record),
            _training(enhanced, record),
            _alignment(enhanced, adata, record),
            _uncertainty(parts, record),
            *([] if pit is None else [_calibration(pit)]),
            _data(parts, record),
            _reproducibility(record),
        ]
    links = (element("li", element("a", str(part[0].text), href=f"#{part.get('id')}")) for part in sections)
    nav = element("nav", element("ul", *links), aria_label="On this page")
    whole = page(_TITLE, _header(parts, record), nav, element("main", *sections), _footer())
    with completed(Path(path)) as unfinished:
        unfinished.write_text(whole, encoding="utf-8")


@contextmanager
def _isolated_figures() -> Iterator[None]:
    """Plot without windows and in matplotlib's default style; figures of the user stay open and unchanged."""
    before = plt.get_fignums()
    with plt.ioff(), plt.style.context("default"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of the run are listed in the report
        try:
            yield
        finally:
            for number in set(plt.get_fignums()).difference(before):
                plt.close(number)


def _header(parts: Sequence[Part], record: Record) -> Element:
    spots, subspots = parts[0].spots, parts[0].subspots
    tiles = {
        "Spots": f"{subspots.obs[keys.SPOT].nunique():,}",
        "Subspots": f"{subspots.n_obs:,}",
        "Features": f"{sum(part.n_features for part in parts):,}",
        "Sections": f"{len(np.unique(read.sections(spots, record.library_key))):,}",
        "Image": _use_of_image(record),
        "Warnings": f"{len(record.warnings)}",
        **_time_and_memory(record),
    }
    facts = (element("div", element("dt", name), element("dd", value)) for name, value in tiles.items())
    return element(
        "header",
        element("h1", "Enhanced spatial omics"),
        element("p", "Profiles of subspots, inferred with soScope.", class_="faint"),
        element("dl", *facts, class_="tiles"),
    )


def _time_and_memory(record: Record) -> dict[str, str]:
    """Return wall time and peak memory of the run until its training ended, as far as they were recorded."""
    found = {}
    if "seconds" in record.entries:
        seconds = round(sum(float(value) for value in record.entries["seconds"].values()))
        found["Time"] = f"{seconds} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    if "peak_memory_gb" in record.entries:
        found["Peak memory"] = f"{float(record.entries['peak_memory_gb']):.1f} GB"
    return found


def _use_of_image(record: Record) -> str:
    """Return how strongly the image was used, or that it was not given."""
    strength = record.entries.get("image_strength")
    if strength is None:
        return "unknown"
    given = "encoder" in record.entries and record.arguments.get("sources") != "positions"
    return f"strength {strength:.2f}" if given else "not used"


def _warnings(record: Record) -> Element:
    if not record.warnings:
        text = "The run raised no warnings." if "warnings" in record.entries else "Warnings were not recorded."
        return section("Warnings", "warnings", element("p", text))
    listed = element("ul", *(element("li", message) for message in record.warnings))
    found = section("Warnings", "warnings", listed)
    found.set("class", "some")
    return found


def _maps(parts: Sequence[Part], truth: AnnData | None, record: Record) -> Element:
    def plot(part: Part, gene: str, chosen: Mapping[str, Any]) -> Axes:
        return compare(part.spots, part.subspots, gene, truth=truth, aggregate=part.aggregate, **chosen)[0, 0]

    text = "All maps of a feature share one colour scale. Counts of subspots are scaled to the area of a spot."
    behind = {}
    if all(keys.DENOISED in part.subspots.layers for part in parts):
        text += " They are denoised: expected without the counting noise of the spots, and do not add up to these."
        behind[f"{record.expectation.capitalize()} profiles (X)"] = partial(_plot_x, plot)
    alt = f"Maps of {{}}: spots, enhanced subspots{'' if truth is None else ', truth'}."
    measured = _measured(read_captures(parts[0], record.library_key), record)
    return section("Maps", "maps", element("p", text), *measured, *_by_feature(parts, record, plot, alt, behind))


def _plot_x(plot: Plot, part: Part, gene: str, chosen: Mapping[str, Any]) -> Axes:
    return plot(part, gene, {**chosen, "enhanced_layer": None})


def _measured(captures: Mapping[str, Capture], record: Record) -> list[Element]:
    """Return a line on the capture area of every section that has one."""
    lines = []
    for name, (area, share) in captures.items():
        if area is None:
            continue
        size = f"diameter {area.diameter:.4g} pixels" if area.shape == "circle" else f"side {area.diameter:.4g} pixels"
        of_section = "" if record.library_key is None else f"{name}: "
        text = (
            f"{of_section}Capture area of a spot: {area.shape}, {size}; outlined in the maps. "
            f"{100 * share:.0f} % of the tissue was measured, the rest is predicted."
        )
        lines.append(element("p", text))
    return lines


def _uncertainty(parts: Sequence[Part], record: Record) -> Element:
    title, name = "Uncertainty", "uncertainty"
    if not all(keys.Q05 in part.subspots.layers for part in parts):
        text = "The result has no posterior samples. Run enhance with n_samples=30, or --n-samples 30."
        return section(title, name, element("p", text))

    def plot(part: Part, gene: str, chosen: Mapping[str, Any]) -> Axes:
        return uncertainty(part.subspots, gene, relative=part.aggregate == "sum", **chosen)[0, 0]

    text = (
        "Expectation of every subspot, and width of the interval that contains the truth in 90 % of the subspots. For "
        "counts the width is relative to the expectation, and blank where the expectation or the width is 0."
    )
    alt = "Maps of {}: expectation, uncertainty."
    return section(title, name, element("p", text), *_by_feature(parts, record, plot, alt))


def _by_feature(
    parts: Sequence[Part], record: Record, plot: Plot, alt: str, behind: Mapping[str, Plot] | None = None
) -> list[Element]:
    """Return a figure for each feature and section, and those `behind` it by the words to click at.

    `alt` is formatted with the name of the feature.
    """
    key = record.library_key
    names = [None] if key is None else np.unique(read.sections(parts[0].spots, key)).tolist()
    figures = []
    for part in parts:
        for gene in part.subspots.var_names:
            for name in names[:_MAX_SECTIONS]:
                chosen = {} if name is None else {"library_key": key, "library_id": name}
                subtitle = ", ".join(filter(None, (part.name, name)))
                caption = element("strong", gene), f" {subtitle}"
                shown = [_closed_figure(plot(part, gene, chosen), alt.format(gene), *caption)]
                for words, other in (behind or {}).items():
                    figure = _closed_figure(other(part, gene, chosen), f"{words}. {alt.format(gene)}")
                    shown.append(element("details", element("summary", words), figure))
                figures.append(element("div", *shown))
    maps = element("div", *figures, class_="maps")
    if len(names) <= _MAX_SECTIONS:
        return [maps]
    return [maps, element("p", f"The first {_MAX_SECTIONS} of {len(names)} sections are shown.", class_="faint")]


def _closed_figure(ax: Axes, alt: str, *caption: Element | str) -> Element:
    figure = embedded_figure(ax, alt, *caption)
    plt.close(cast("Figure", ax.figure))
    return figure


def _training(enhanced: AnnData | MuData, record: Record) -> Element:
    curves = record.entries.get("history")
    if not curves:
        return section("Training", "training", element("p", "No training was recorded."))
    text = "The loss should converge; single terms may increase."
    if any("validation" in name for name in curves):
        text += " The validation loss is computed on held-out counts. An increase indicates overfitting."
    figure = embedded_figure(history(enhanced)[0, 0], "Loss and its terms over the epochs, one row per training phase.")
    return section("Training", "training", element("p", text), figure)


def _alignment(enhanced: AnnData | MuData, adata: AnnData | MuData, record: Record) -> Element:
    """Plot the spots over the image stored in the result; the image file of the run may no longer exist."""
    images = _images(spots_of(enhanced), record.library_key)
    if images is None:
        return section("Alignment", "alignment", element("p", "The result contains no image of the tissue."))
    name = "" if isinstance(adata, AnnData) else next(iter(adata.mod))
    adata = record.enhanced_of(adata)
    spots = adata if isinstance(adata, AnnData) else modality(adata, name)
    found = check_alignment(spots, images, library_key=record.library_key, layer=record.of_modality("layer", name))
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
    head = ("Section", "Placement", "Spots within the image", "Spots on tissue", "r of staining and library size")
    text = (
        "Spots should lie on tissue, and darker tissue should contain more counts. Another placement with a clearly "
        "better fit is listed below the given one."
    )
    weak = "The image had practically no effect: it is not informative about the profiles beyond their positions."
    return section(
        "Alignment",
        "alignment",
        *(
            [element("p", weak)]
            if record.entries.get("image_strength", 1) < keys.WEAK_IMAGE and "encoder" in record.entries
            else []
        ),
        element("p", text),
        table(head, rows, "Fit of spots and tissue"),
        embedded_figure(alignment(found)[0], "Spots as circles over the image of the tissue."),
    )


def _images(enhanced: AnnData, library_key: str | None) -> Any:
    """Return the image in a result, or a dict of images by section; None if one is missing."""
    libraries = [None] if library_key is None else np.unique(read.sections(enhanced, library_key)).tolist()
    if library_key is None and len(read.libraries(enhanced)) > 1:
        return None
    opened = {}
    for library_id in libraries:
        embedded = embedded_image(enhanced, library_id)
        if embedded is None:
            return None
        opened[library_id] = open_image(embedded[0], scale=embedded[1])
    return opened[None] if library_key is None else opened


def _calibration(pit: Any) -> Element:
    text = (
        "Fraction of true values within the central intervals of the posterior samples. Calibrated intervals follow "
        "the diagonal."
    )
    figure = embedded_figure(calibration(pit), "Observed against nominal coverage of central intervals.")
    return section("Calibration", "calibration", element("p", text), figure)


def _data(parts: Sequence[Part], record: Record) -> Element:
    """Return the table of sections and modalities."""
    rows = [row for part in parts for row in _sizes(part, record.library_key)]
    head = ("Section", "Modality", "Spots", "Subspots", "Features", "Median total per spot")
    return section("Data", "data", table(head, rows, "Size of the data by section and modality"))


def _sizes(part: Part, library_key: str | None) -> Iterator[tuple[str, ...]]:
    of_spot, of_subspot = (read.sections(adata, library_key) for adata in (part.spots, part.subspots))
    total = np.asarray(part.spots.X.sum(axis=1)).ravel()
    for name in np.unique(of_spot):
        is_spot = of_spot == name
        numbers = (f"{number:,}" for number in (is_spot.sum(), (of_subspot == name).sum(), part.n_features))
        named = "all" if library_key is None else name, part.name or "-"
        yield *named, *numbers, f"{np.median(total[is_spot]):,.5g}"


def _reproducibility(record: Record) -> Element:
    """Return the call, versions, seed and further records that reproduce the result."""
    entries = record.entries
    package = {"soscope_scverse": entries.get("version", "not recorded"), "Seed": entries.get("seed", "not recorded")}
    tables = [table(("Name", "Value"), _rows(package | dict(entries.get("versions", {}))), "Versions and seed")]
    for name, title in (
        ("geometry", "Partition of the spots"),
        ("encoder", "Encoder of the image"),
        ("spatialdata", "Elements of the SpatialData"),
    ):
        if name in entries:
            tables.append(table(("Name", "Value"), _rows(entries[name]), title))
    if "seconds" in entries:
        stages = {name: f"{float(value):.1f} s" for name, value in entries["seconds"].items()}
        tables.append(table(("Stage", "Wall time"), _rows(stages), "Time until the training ended"))
    code = element("pre", element("code", _call(record)))
    return section("Reproducibility", "reproducibility", code, *tables)


def _rows(entries: Mapping[str, Any], within: str = "") -> list[tuple[str, str]]:
    """Names and short texts; those of a dict in a dict, such as of one of several encoders, have both names."""
    rows = []
    for name, value in entries.items():
        if isinstance(value, Mapping):
            rows += _rows(value, f"{within}{name} ")
        else:
            rows.append((f"{within}{name}", _summary(value)))
    return rows


def _call(record: Record) -> str:
    """Return the call with the arguments that the user gave; those that are objects are described in a comment."""
    lines = [f"{name}={value!r}," for name, value in record.given.items() if value not in (None, {})]
    lines += [f"{name}=...,  # {words}" for name, words in record.inputs.items()]
    if "seed" not in record.given:
        lines.append(f"seed={record.entries.get('seed')!r},")
    return "\n".join(["sos.tl.enhance(", "    adata,", *(f"    {line}" for line in lines), ")"])


def _summary(value: Any) -> str:
    """Return a short text for a value, which may be a long array or a table."""
    if isinstance(value, pd.DataFrame):
        return f"table of {len(value)} rows"
    values = np.ravel(value)
    if values.dtype.kind == "f":  # without what rounding leaves of 0
        values = np.where(np.abs(values) < _ROUNDING * np.abs(values).max(initial=0), 0.0, values)
    words = [f"{one:.5g}" if isinstance(one, float) else str(one) for one in values]
    return ", ".join(words if len(words) <= _MAX_VALUES else [*words[:3], f"... ({len(words):,} values)"])


def _footer() -> Element:
    now = datetime.now().astimezone()
    return element(
        "footer",
        element(
            "p",
            f"Written by soscope_scverse {version('soscope-scverse')} on {now:%d %B %Y, %H:%M %Z}. ",
            "Model: Li, Bao, Hou et al., ",
            element("cite", "Nature Communications"),
            " 15, 6541 (2024).",
        ),
    )

"""HTML of a self-contained page: escaped text, embedded figures and style sheet."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from importlib.resources import files
from io import BytesIO
from typing import cast
from xml.etree.ElementTree import Element, tostring

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_DPI = 110
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""No resources are loaded and no scripts run, regardless of the data."""


def element(tag: str, *children: Element | str, **attributes: str) -> Element:
    """Return an HTML element. Its text is escaped when the page is written."""
    made = Element(tag, {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()})
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + child
        else:
            made.text = (made.text or "") + child
    return made


def section(title: str, name: str, *children: Element) -> Element:
    """Return a section of the page with a heading; links refer to it by `name`."""
    return element(
        "section", element("h2", title, id=f"{name}-title"), *children, id=name, aria_labelledby=f"{name}-title"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> Element:
    """Return a table whose rows start with a header cell."""
    body = (
        element("tr", element("th", first, scope="row"), *(element("td", value) for value in values))
        for first, *values in rows
    )
    return element(
        "div",
        element(
            "table",
            element("caption", caption),
            element("thead", element("tr", *(element("th", name, scope="col") for name in head))),
            element("tbody", *body),
        ),
        class_="scroll",
        tabindex="0",
        role="group",
        aria_label=caption,
    )


def embedded_figure(ax: Axes, alt: str, *caption: Element | str) -> Element:
    """Return the figure that contains `ax` as an embedded PNG."""
    file = BytesIO()
    cast("Figure", ax.figure).savefig(file, format="png", dpi=_DPI, facecolor="white", bbox_inches="tight")
    png = file.getvalue()
    width, height = (str(int.from_bytes(png[start : start + 4])) for start in (16, 20))  # from the PNG header
    source = f"data:image/png;base64,{b64encode(png).decode()}"
    image = element("img", src=source, alt=alt, width=width, height=height)
    return element("figure", image, *([element("figcaption", *caption)] if caption else []))


def page(title: str, *children: Element) -> str:
    """Return the HTML of the whole page."""
    style = files("soscope_scverse.pl").joinpath("report.css").read_text(encoding="utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),  # otherwise browsers request one
        element("title", title),
        element("style", style),
    )
    root = element("html", head, element("body", *children), lang="en")
    return "<!DOCTYPE html>\n" + tostring(root, encoding="unicode", method="html") + "\n"

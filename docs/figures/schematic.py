"""Draws the schematic of the model: ``python docs/figures/schematic.py``, a few seconds, without data."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from _png import shrink
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, RegularPolygon

PATH = Path(__file__).parents[1] / "_static" / "schematic.png"
SIZE = 10.0, 5.7
"""Of the figure in inches, and of the axes, so that a unit is an inch; shown at 800 pixels, an inch is 80 of them."""
INK, SOFT, EDGE = "#1f2933", "#5f6c7b", "#9aa5b1"
NETWORKS, FIELD = "#2b6cb0", "#2f855a"
STAIN = LinearSegmentedColormap.from_list("stain", ["#fdf6f9", "#e6a9c4", "#8a4f9e"])
PITCH = 0.4
"""Centre-to-centre distance of the spots."""


def expression(xy: np.ndarray) -> np.ndarray:
    """Profile of one gene at positions relative to the centre of a panel: a band, and fine structure in it."""
    x, y = xy.T
    band = np.exp(-(((y - 0.45 * x + 0.1) / 0.42) ** 2))
    return band * (0.75 + 0.25 * np.sin(7.5 * x + 2 * y))


def lattice(pitch: float) -> np.ndarray:
    """A spot at the origin of a hexagonal lattice, and two rings around it."""
    i, j = (index.ravel() for index in np.mgrid[-2:3, -2:3])
    points = pitch * np.column_stack([i + j / 2, j * np.sqrt(3) / 2])
    return points[np.abs(i + j) <= 2]


def subspots_of(points: np.ndarray, pitch: float) -> np.ndarray:
    """Centres of the seven hexagons of every spot, which tile the plane; n_spots x 7 x 2."""
    angles = np.arctan2(np.sqrt(3) / 2, 2.5) + np.arange(6) * np.pi / 3
    ring = pitch / np.sqrt(7) * np.column_stack([np.cos(angles), np.sin(angles)])
    return points[:, None] + np.vstack([[0, 0], ring])


def hexagon(ax: Axes, centre: np.ndarray, pitch: float, **style) -> None:
    """A hexagon of the lattice of the subspots."""
    turn = np.arctan2(np.sqrt(3) / 2, 2.5) + np.pi / 3
    ax.add_patch(RegularPolygon(tuple(centre), 6, radius=pitch / np.sqrt(21), orientation=turn, **style))


def text(ax: Axes, x: float, y: float, words: str, *, size: float = 11, colour: str = INK, **style) -> None:
    """Centred words."""
    ax.text(x, y, words, **{"ha": "center", "va": "center", "fontsize": size, "color": colour, **style})


def heading(ax: Axes, x: float, y: float, title: str, below: str) -> None:
    """Title of a panel and what it is in symbols."""
    text(ax, x, y, title, size=12.5, fontweight="bold")
    text(ax, x, y - 0.24, below, colour=SOFT)


def box(ax: Axes, corner: tuple[float, float], size: tuple[float, float], colour: str, *, fill: float = 0.07) -> None:
    """A rounded box."""
    style = {"boxstyle": "round,pad=0,rounding_size=0.1", "linewidth": 1.4, "edgecolor": colour}
    ax.add_patch(FancyBboxPatch(corner, *size, facecolor=(*mpl.colors.to_rgb(colour), fill), **style))


def arrow(ax: Axes, *points: tuple[float, float], dashed: bool = False, colour: str = INK) -> None:
    """An arrow along points."""
    for start, end in pairwise(points[:-1]):
        ax.plot(*zip(start, end, strict=True), color=colour, lw=1.5, ls=(0, (4, 2)) if dashed else "-")
    style = {"arrowstyle": "-|>", "mutation_scale": 13, "lw": 1.5, "shrinkA": 0, "shrinkB": 0, "color": colour}
    ax.add_patch(FancyArrowPatch(*points[-2:], linestyle=(0, (4, 2)) if dashed else "-", **style))


def draw_spots(ax: Axes, centre: np.ndarray) -> None:
    """Spots with gaps between them, and their graph."""
    points = lattice(PITCH)
    means = np.array([expression(own).mean() for own in subspots_of(points, PITCH)])
    colours = plt.cm.viridis(means)
    for i, a in enumerate(points):
        for b in points[i + 1 :]:
            if np.hypot(*(a - b)) < 1.1 * PITCH:
                ax.plot(*np.add(centre, (a, b)).T, color=EDGE, lw=1.2, zorder=1)
    for point, colour in zip(points, colours, strict=True):
        ax.add_patch(
            Circle(tuple(centre + point), 0.275 * PITCH, facecolor=colour, edgecolor="white", lw=0.6, zorder=2)
        )


def draw_image(ax: Axes, centre: np.ndarray) -> None:
    """Stained tissue with the subspots of one spot."""
    side = np.linspace(-1, 1, 220)
    xy = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    noise = np.random.default_rng(0).normal(size=(220, 220))
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(220, 1 / 220)] * 2))
    grain = np.fft.ifft2(np.fft.fft2(noise) * np.exp(-((frequency / 28) ** 2))).real
    shade = expression(xy).reshape(220, 220) + 0.14 * grain / grain.std() + 0.12
    inside = np.hypot(*xy.T).reshape(220, 220) < 0.95
    extent = (centre[0] - 1, centre[0] + 1, centre[1] - 1, centre[1] + 1)
    ax.imshow(np.where(inside, shade, np.nan), cmap=STAIN, origin="lower", extent=extent, vmin=0, vmax=1.1, zorder=1)
    for part in subspots_of(np.zeros((1, 2)), PITCH)[0]:
        hexagon(ax, centre + part, PITCH, facecolor="none", edgecolor=INK, lw=1.3, zorder=2)


def draw_networks(ax: Axes) -> None:
    """Encoder, latent states, decoder."""
    box(ax, (2.75, 0.95), (4.0, 1.95), NETWORKS)
    text(ax, 4.75, 2.68, "Networks, trained", size=12.5, colour=NETWORKS, fontweight="bold")
    box(ax, (2.92, 1.3), (1.22, 1.05), NETWORKS, fill=0.16)
    text(ax, 3.53, 2.06, "Encoder", fontweight="bold")
    text(ax, 3.53, 1.67, "graph\ntransformer")
    box(ax, (5.42, 1.3), (1.16, 1.05), NETWORKS, fill=0.16)
    text(ax, 6.0, 2.06, "Decoder", fontweight="bold")
    text(ax, 6.0, 1.67, "$f(z + B\\,y)$")
    arrow(ax, (4.14, 1.82), (4.42, 1.82), colour=NETWORKS)
    arrow(ax, (5.14, 1.82), (5.42, 1.82), colour=NETWORKS)
    x = np.linspace(-1, 1, 60)
    for shift, level in ((0.0, 1.62), (0.12, 1.82), (-0.1, 2.02)):
        bell = np.exp(-(((x - shift) / 0.3) ** 2))
        ax.fill_between(4.78 + 0.32 * x, level - 0.06, level - 0.06 + 0.18 * bell, color=NETWORKS, alpha=0.55, lw=0)
    text(ax, 4.78, 2.32, "$q(z)$")
    text(ax, 4.78, 1.33, "interpolated\nto subspots", size=10, colour=SOFT)


def draw_field(ax: Axes) -> None:
    """The three parts of the covariance."""
    box(ax, (2.75, 3.2), (4.0, 1.95), FIELD)
    text(ax, 4.75, 4.93, "Kriged field, in closed form", size=12.5, colour=FIELD, fontweight="bold")
    text(ax, 4.75, 4.64, "16 components, each a Gaussian process:")
    x = np.linspace(0, 1, 60)
    parts = (
        (3.05, np.exp(-3 * x), "smooth\nin space"),
        (4.38, x, "linear in\nthe image"),
        (5.71, 1.0 * (x == 0), "noise of\nthe spot"),
    )
    for left, curve, words in parts:
        ax.plot([left, left, left + 0.75], [4.4, 3.92, 3.92], color=EDGE, lw=1.2)
        ax.plot(left + 0.75 * x, 3.92 + 0.42 * curve, color=FIELD, lw=2.2)
        text(ax, left + 0.37, 3.55, words)
    for x_of_plus in (4.09, 5.42):
        text(ax, x_of_plus, 4.12, "+", size=14)


def draw_subspots(ax: Axes, centre: np.ndarray) -> None:
    """The result."""
    for spot in subspots_of(lattice(PITCH), PITCH):
        for part, value in zip(spot, expression(spot), strict=True):
            hexagon(ax, centre + part, PITCH, facecolor=plt.cm.viridis(value), edgecolor="white", lw=0.25)


def draw_sum(ax: Axes, centre: np.ndarray) -> None:
    """One spot: what its subspots have within the circle that it captured adds up."""
    pitch = 1.4
    circle = Circle(tuple(centre), 0.275 * pitch, transform=ax.transData)
    where = subspots_of(np.zeros((1, 2)), pitch)[0]
    for part, value in zip(where, expression(where / 3 + [0.1, -0.05]), strict=True):
        colour = plt.cm.viridis(value)
        hexagon(ax, centre + part, pitch, facecolor=(*colour[:3], 0.28), edgecolor="white", lw=1)
        hexagon(ax, centre + part, pitch, facecolor=colour, edgecolor="white", lw=1, clip_path=circle)
    ax.add_patch(Circle(tuple(centre), 0.275 * pitch, facecolor="none", edgecolor=INK, lw=1.6))


def main() -> None:
    """Draw inputs on the left, the two predictors in the middle, the result and the likelihood on the right."""
    figure, ax = plt.subplots(figsize=SIZE)
    figure.subplots_adjust(0, 0, 1, 1)
    heading(ax, 1.15, 5.45, "Spots", "counts $x$, graph $A$")
    draw_spots(ax, np.array([1.15, 4.15]))
    heading(ax, 1.15, 2.9, "Histology image", "features $y$ of every subspot")
    draw_image(ax, np.array([1.15, 1.5]))
    draw_field(ax)
    draw_networks(ax)
    heading(ax, 8.75, 5.45, "Subspots", "geometric mean of both")
    draw_subspots(ax, np.array([8.75, 4.15]))
    text(ax, 8.75, 3.1, "given $x$ (X), and denoised", size=11, colour=SOFT)
    heading(ax, 8.75, 2.66, "Spot", "the captured parts add up")
    draw_sum(ax, np.array([8.75, 1.5]))
    for y in (4.15, 1.5):  # both inputs go to both
        arrow(ax, (2.2, y), (2.75, y))
        arrow(ax, (6.75, y), (7.75, y))
    ax.plot([2.45, 2.45], [1.5, 4.15], color=INK, lw=1.5)
    ax.plot([7.2, 7.2], [1.5, 4.15], color=INK, lw=1.5)
    ax.add_patch(Circle((7.2, 4.15), 0.06, color=INK))
    for x, y in ((6.97, 4.33), (7.36, 3.9)):  # beside the line from each
        text(ax, x, y, "½")
    arrow(ax, (8.75, 0.6), (8.75, 0.22), (4.75, 0.22), (4.75, 0.95), dashed=True)
    text(ax, 6.75, 0.6, "training: likelihood of $x$,\nKL divergence, image regulariser", colour=SOFT)
    ax.set(xlim=(0, SIZE[0]), ylim=(0, SIZE[1]), aspect="equal")
    ax.axis("off")
    figure.savefig(PATH, dpi=160)
    shrink(PATH)


if __name__ == "__main__":
    main()

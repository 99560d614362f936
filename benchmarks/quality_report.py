"""The report that ``python benchmarks/quality.py --report docs/benchmarks.md`` writes from the table of scores."""

from __future__ import annotations

import platform
from collections.abc import Iterable

import numpy as np
import pandas as pd
from quality import N_GENES, NOISE_FREE, PANELS, SOSCOPE, VARIANTS, machine

from soscope_scverse import bench

PLAIN = {
    "pearson": "pearson",
    "within_r": "within_r",
    "normalized_within_r": "depth-free within_r",
    "mse": "mse",
    "normalized_pearson": "normalized",
}
"""Columns of the tables by metric."""
PUBLISHED = {"her2st-C2": (0.612, 0.209), "her2st-C4": (0.455, 0.238)}
"""Pearson and within_r of the published code with its imports mended, measured before for this project."""


WHAT = """
Neighbouring spots of real sections are merged, and each method recovers the original spots;
the synthetic sections have known subspots.
In `osmfish-discs`, single cells are counted in circles of 55 µm at a pitch of 100 µm, as by Visium
(`bench.simulate_spots`), and the truth is all cells in each of 7 or 19 subspots, gaps included
([Capture area](capture.md)).

## Scores

Scores are medians over genes.

- `pearson`: Pearson's r with the truth over all subspots.
  Most of the variation is between spots, so repeating the spot in all its subspots scores high.
- `within_r`: Pearson's r after subtracting each spot's mean from prediction and truth.
  Only differences within spots count: it measures resolution alone, and repeating the spot scores 0.
- `depth-free within_r` (`metrics.normalized_within_r`): `within_r` after dividing prediction and truth by the library
  size of the subspot (over the scored genes).
  All genes share the library size: predicting it and nothing else has a `within_r` above 0, and scores 0 here.
- `mse`: mean squared error after scaling to [0, 1]; lower is better.
- `normalized`: Pearson's r after dividing by the library size of the subspot.
- `seconds`: wall time of one run, excluding the image features, which are shared by all methods.
- `peak MB`: maximum increase of the resident memory of the process above its level before the run, excluding GPU
  memory.
"""

HOW_FAR = f"""
How far the figures go:

- Each task contains the {N_GENES} genes with the highest Moran's I (`pp.spatial_genes`) of the *true* subspots,
  which a user does not have.
  [Other genes](#other-genes) has larger panels, and genes that are chosen on the merged spots.
- Defaults of soScope were set with these sections in view: constants by ablation on her2st C2, C3 and MOB1
  ([Defaults](defaults.md)), and the scores of all sections were looked at during the development.
  Expect less on other tissue. Baselines have no such choices, except for the weight decay of the networks.
- The best baseline of a task is selected using the truth, separately for each score.
- `{NOISE_FREE}` is the expected counts of the synthetic subspots, scored against their noisy counts.
  It is no upper bound: the conditional mean contains the observed sum of a spot, its noise included, and can score
  higher.
- Merged spots are not subspots of real spots, and have no gaps between them.
"""


def report(df: pd.DataFrame) -> str:
    first = df[(df["n_genes"] == N_GENES) & (df["chosen_on"] == "truth")]
    scores = summarized(first)
    sections = [
        introduction(df),
        summary(scores),
        variants(scores),
        published(scores),
        panels(df),
        "## Tasks",
        *(task_section(first, scores, task) for task in first["task"].unique()),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def summarized(df: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread over seeds, and costs: columns (metric, value or spread), (seconds, value), (peak_mb, value)."""
    scores = bench.summary(df).set_index(["task", "method", "metric"])[["value", "spread"]].unstack("metric")
    scores.columns = scores.columns.swaplevel()
    costs = df.groupby(["task", "method"], sort=False)[["seconds", "peak_mb"]].mean()
    costs.columns = pd.MultiIndex.from_product([costs.columns, ["value"]])
    return scores.join(costs).reindex(costs.index)


# ------------------------------------------------------------------------------------------------------------ sections


SECTIONS = {
    "her2st-C2": "HER2+ breast tumour C2",
    "her2st-C3": "HER2+ breast tumour C3",
    "her2st-C4": "HER2+ breast tumour C4",
    "MOB1": "mouse olfactory bulb 1",
    "MOB2": "mouse olfactory bulb 2",
    "embryo": "mouse embryo, low counts",
    "humanskin-protein": "skin protein, no image",
    "osmfish-discs-7": "osmFISH cells in circles with gaps, as Visium's",
    "synthetic-noisy": "synthetic, noisy",
    "synthetic-noise-free": "synthetic, noise-free",
}
"""Tasks of the README."""


def readme_table(df: pd.DataFrame) -> str:
    """Table of the README; what is better than the best baseline is bold."""
    df = df[(df["n_genes"] == N_GENES) & (df["chosen_on"] == "truth")]
    spots, scores = df.groupby("task")["n_spots"].first(), summarized(df)
    rows = []
    for task in [task for task in SECTIONS if task in scores.index.unique("task")]:
        found = values(scores.loc[task])
        best = baselines_of(found)[["pearson", "within_r"]].max()
        cells = [" / ".join(short(x) for x in best)]
        for method in (SOSCOPE, "soscope-paper"):
            own = found[best.index].reindex([method]).iloc[0].dropna()
            better = own > best if method == SOSCOPE else own != own
            cells.append(" / ".join(f"**{short(x)}**" if better[m] else short(x) for m, x in own.items()))
        rows.append((SECTIONS[task], f"{spots[task]}", *cells))
    header = ("section", "spots", f"best of {len(bench.BASELINES)}", "soScope here", "published model, our training")
    return markdown(header, rows)


def short(x: float) -> str:
    """Three decimals without the leading zero."""
    return f"{x:.3f}".replace("0.", ".", 1)


def introduction(df: pd.DataFrame) -> str:
    seeds = ", ".join(str(seed) for seed in sorted(set(df["seed"]) - {-1})) or "none"
    days = sorted(df["measured_on"].unique())
    packages = " or ".join(text.replace(" ", ", ").replace("==", " ") for text in df["packages"].unique())
    lines = [
        "# Benchmarks",
        "",
        *WHAT.strip().split("\n"),
        "",
        f"Scores of methods that take a seed are means over the seeds {seeds}; ± is the standard deviation over them.",
        "",
        *HOW_FAR.strip().split("\n"),
        "",
        f"Measured {days[0] if len(days) == 1 else f'{days[0]} to {days[-1]}'} with {packages} and Python",
        f"{platform.python_version()} on {machine()}.",
        "",
        "To reproduce, with the real sections in `../shared/data` or the folder in `SOSCOPE_TEST_DATA`:",
        "",
        "```bash",
        "python benchmarks/quality.py",
        "python benchmarks/quality.py --genes 500",
        "python benchmarks/quality.py --genes 2000",
        "python benchmarks/quality.py --chosen-on spots",
        "python benchmarks/quality.py --report docs/benchmarks.md",
        "```",
        "",
        "Baselines are those of `bench.BASELINES`. Variants of soScope:",
        "",
        *(f"- `{name}`: {text}." for name, text in VARIANTS.items()),
    ]
    return "\n".join(lines)


def summary(scores: pd.DataFrame) -> str:
    """Compare default soScope with the best baseline of each task and metric."""
    rows, losses, gains = [], [], []
    tasks = [task for task in scores.index.unique("task") if comparable(scores.loc[task])]
    for task in tasks:
        ours, rivals = values(scores.loc[task]).loc[SOSCOPE], baselines_of(values(scores.loc[task]))
        best = rivals.assign(mse=-rivals["mse"]).fillna(-np.inf).idxmax()
        theirs = {metric: rivals.loc[best[metric], metric] for metric in PLAIN}
        cells = {
            metric: ratio(ours[metric], theirs[metric])
            if metric in ("mse", "within_r", "normalized_within_r")
            else f"{ours[metric] - theirs[metric]:+.3f}"
            for metric in PLAIN
        }
        rows.append((task, *(f"{cells[metric]} ({best[metric]})" for metric in PLAIN)))
        if not task.startswith("synthetic"):
            gains.append((ours["pearson"] - theirs["pearson"], *(ours[m] / theirs[m] for m in ("within_r", "mse"))))
        better = {m: ours[m] < theirs[m] if m == "mse" else ours[m] > theirs[m] for m in PLAIN}
        losses += [(task, metric) for metric, is_better in better.items() if not is_better]
    if not rows:
        return ""
    if gains:
        pearson, within, mse = np.median(gains, axis=0)
        rows.append(("median of real sections", f"{pearson:+.3f}", f"{within:.2f}", "", f"{mse:.2f}", ""))
    kinds = ("difference", "ratio", "ratio", "ratio", "difference")
    header = ("task", *(f"{name}: {kind}" for name, kind in zip(PLAIN.values(), kinds, strict=True)))
    text = (
        "Default soScope compared with the best baseline of each task and metric (in brackets), selected using the "
        "truth.\nsoScope is better where a difference is above 0, a `within_r` ratio above 1 or an `mse` ratio below 1."
    )
    return f"## Summary\n\n{text}\n\n{markdown(header, rows)}\n\n{verdict(tasks, losses)}"


def verdict(tasks: list[str], losses: list[tuple[str, str]]) -> str:
    """List the tasks where a baseline is better, for each metric."""
    lines = []
    for metric, name in PLAIN.items():
        lost = [task for task, of in losses if of == metric]
        where = f"; not better on {', '.join(lost)}" if lost else ""
        lines.append(f"- `{name}`: better than every baseline on {len(tasks) - len(lost)} of {len(tasks)}{where}.")
    return "\n".join(lines)


def variants(scores: pd.DataFrame) -> str:
    names = [name for name in (SOSCOPE, *VARIANTS) if name in scores.index.unique("method")]
    if len(names) < 2:
        return ""
    rows = [(task, *(cell(scores, task, name) for name in names)) for task in scores.index.unique("task")]
    text = "Effect of the image and of the changes to the model of the paper, as `pearson` / `within_r`."
    return f"## Variants\n\n{text}\n\n{markdown(('task', *names), rows)}"


def published(scores: pd.DataFrame) -> str:
    """Figures of the published code, beside ours where there are any."""
    tasks = scores.index.unique("task")
    rows = [
        (task, f"{pearson:.3f} / {within:.3f}", *(cell(scores, task, f"soscope{end}") for end in ("-paper", "")))
        for task, (pearson, within) in PUBLISHED.items()
        if task in tasks
    ]
    text = (
        "The [published code](https://github.com/deng-ai-lab/soScope) cannot be imported as it is. With its imports "
        "mended\nit was run on two of the tasks, as `pearson` / `within_r`:"
    )
    rest = (
        '`preset="paper"` is the model of the paper in our implementation, here with our image features.\n'
        "[The model](model.md#the-model-of-the-paper) lists what is as published and what differs, with the reasons."
    )
    header = ("task", "published code", 'soScope here, `preset="paper"`', "soScope here")
    return f"## Published code\n\n{text}\n\n{markdown(header, rows)}\n\n{rest}"


def panels(df: pd.DataFrame) -> str:
    """Other numbers of genes, and genes that are chosen on the merged spots."""
    kinds = [(n_genes, "truth") for n_genes in PANELS] + [(N_GENES, "spots")]
    names = {(n, on): f"{n:,} genes" + (", chosen on the spots" if on == "spots" else "") for n, on in kinds}
    found = {kind: summarized(df[(df["n_genes"] == kind[0]) & (df["chosen_on"] == kind[1])]) for kind in kinds}
    others = [scores.index.unique("task") for kind, scores in found.items() if kind != kinds[0]]
    tasks = [task for task in found[kinds[0]].index.unique("task") if any(task in of for of in others)]
    if not tasks:
        return ""
    parts = [panel_table(found, names, tasks, method) for method in ("best baseline", SOSCOPE)]
    text = (
        "As `pearson` / `within_r` / depth-free `within_r`. MOB1 and MOB2 have 1,000 genes in all.\nGenes that are "
        "chosen on the true subspots vary smoothly over them by choice; a user chooses on the spots."
    )
    return "\n\n".join(["## Other genes", text, *(part for part in parts if part)])


def panel_table(found: dict, names: dict, tasks: list[str], method: str) -> str:
    """Scores of a method, or of the best of the baselines, on every panel; and the effect of the choice."""
    kinds, three = list(names), ("pearson", "within_r", "normalized_within_r")
    table: dict[str, dict] = {}
    for task in tasks:
        for kind, scores in found.items():
            if task in scores.index.unique("task"):
                own = values(scores.loc[task])
                if method != SOSCOPE:
                    table.setdefault(task, {})[kind] = baselines_of(own)[list(three)].max()
                elif SOSCOPE in own.index:
                    table.setdefault(task, {})[kind] = own.loc[SOSCOPE, list(three)]
    if not table:
        return ""
    rows = [
        (task, *(" / ".join(f"{x:.3f}" for x in cells[kind]) if kind in cells else "" for kind in kinds))
        for task, cells in table.items()
    ]
    last, both = kinds[-1], [cells for cells in table.values() if kinds[-1] in cells and kinds[0] in cells]
    effect = ""
    if both:
        change = np.mean([np.asarray(cells[last] - cells[kinds[0]], dtype=float) for cells in both], axis=0)
        shown = " / ".join(f"{x:+.3f}" for x in change)
        effect = f"\n\nChosen on the merged spots instead of the true subspots, mean of {len(both)} tasks: {shown}."
    title = "Best baseline, for each score separately:" if method != SOSCOPE else "soScope, default settings:"
    return f"{title}\n\n{markdown(('task', *names.values()), rows)}{effect}"


def task_section(df: pd.DataFrame, scores: pd.DataFrame, task: str) -> str:
    of_task = df[df["task"] == task]
    n_spots, n_targets, n_genes = of_task[["n_spots", "n_targets", "n_scored"]].iloc[0]
    rows = [
        (
            method,
            *(with_spread(row[metric]) for metric in PLAIN),
            f"{row['seconds', 'value']:.1f}",
            f"{row['peak_mb', 'value']:.0f}",
        )
        for method, row in scores.loc[task].iterrows()
    ]
    size = f"{n_spots:,} spots, {n_targets:,} subspots, {n_genes} genes."
    header = ("method", *PLAIN.values(), "seconds", "peak MB")
    return f"### {task}\n\n{size}\n\n{markdown(header, rows)}{measured(scores.loc[task])}"


def measured(scores: pd.DataFrame) -> str:
    """Scores of the subspots that were captured and of the others, where spots have gaps between them."""
    table = values(scores)
    parts = ("measured", "unmeasured")
    if not {f"{metric}_{part}" for part in parts for metric in ("pearson", "within_r")} <= set(table):
        return ""
    if table["pearson_measured"].isna().all():
        return ""
    rows = [
        (method, *(f"{row[f'pearson_{part}']:.3f} / {row[f'within_r_{part}']:.3f}" for part in parts))
        for method, row in table.iterrows()
    ]
    text = "Subspots of which at least half was captured, and the others, as `pearson` / `within_r`:"
    return f"\n\n{text}\n\n{markdown(('method', *parts), rows)}"


# --------------------------------------------------------------------------------------------------------------- cells


def values(scores: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, method x metric."""
    return scores.xs("value", axis=1, level=1)


def comparable(scores: pd.DataFrame) -> bool:
    return SOSCOPE in scores.index and len(baselines_of(scores)) > 0


def baselines_of(scores: pd.DataFrame) -> pd.DataFrame:
    return scores[scores.index.isin(list(bench.BASELINES))]


def ratio(ours: float, theirs: float) -> str:
    """Ratio of two scores; both scores where the baseline is not positive."""
    return f"{ours / theirs:.2f}" if theirs > 0 else f"{ours:.3f} to {theirs:.3f}"


def with_spread(score: pd.Series) -> str:
    """Score, with its spread over the seeds where there are several."""
    spread = "" if np.isnan(score["spread"]) else f" ± {score['spread']:.3f}"
    return f"{score['value']:.3f}{spread}"


def cell(scores: pd.DataFrame, task: str, method: str) -> str:
    if (task, method) not in scores.index:
        return ""
    row = scores.loc[(task, method)]
    return f"{row['pearson', 'value']:.3f} / {row['within_r', 'value']:.3f}"


def markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Markdown table with a text column followed by numeric columns."""
    titles = list(header)
    rule = ["---", *["--:"] * (len(titles) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (titles, rule, *map(list, rows)))

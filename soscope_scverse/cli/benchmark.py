"""``soscope-scverse benchmark``: how well the spots of a section are recovered after they were merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from soscope_scverse.cli import _command as common
from soscope_scverse.cli import _files as files
from soscope_scverse.cli._kinds import kind

_SCORES = ("pearson", "within_r", "mse", "normalized_pearson")


@common.command
@click.argument("source", metavar="IN", type=common.STORE)
@click.option("--out", required=True, type=common.NEW, help="CSV file to write: a row for each run, gene and metric.")
@click.option("--figure", type=common.NEW, help="Image of the scores to write (.png, .pdf, .svg).")
@common.image_options
@click.option(
    "--factor", type=float, default=2, show_default=True, help="How many spots a side to merge, on a square lattice."
)
@click.option("--lattice", type=click.Choice(["auto", "square", "hex"]), default="auto", show_default=True)
@click.option("--layer", help="Layer that holds the profiles; default X.")
@click.option("--n-genes", type=common.AT_LEAST_ONE, default=60, show_default=True, help="The most spatial genes.")
@click.option(
    "--likelihood",
    type=click.Choice(["nb", "poisson", "gaussian"]),
    default="nb",
    show_default=True,
    help="Of soScope; with gaussian, spots are merged by their mean.",
)
@click.option("--method", "methods", multiple=True, help="Method to run, several times for several; default: all.")
@click.option("--n-seeds", type=common.AT_LEAST_ONE, default=2, show_default=True, help="Runs of a method with a seed.")
@common.training_options
@common.force_option
def benchmark(
    source: Path,
    out: Path,
    figure: Path | None,
    image: Path | None,
    weights: str | None,
    cache: str | None,
    factor: float,
    lattice: Literal["auto", "square", "hex"],
    layer: str | None,
    n_genes: int,
    likelihood: str,
    methods: tuple[str, ...],
    n_seeds: int,
    force: bool,
    **kwargs: Any,
) -> str:
    """Merge neighbouring spots of IN (.h5ad) and score how well each method recovers them.

    2 x 2 spots of a square lattice become one, or the seven of a flower on a hexagonal one. The medians over genes are
    printed, the scores of every gene written.
    """
    files.check_output(out, [".csv"], force=force, sources=[source])
    files.check_output(figure, [".png", ".pdf", ".svg"], force=force, sources=[source])
    adata = files.read(source)
    if kind(adata) != "AnnData":
        msg = f"Expected an AnnData to merge the spots of, found a {kind(adata)}. Write one modality or table."
        raise ValueError(msg)
    from soscope_scverse import _validation, bench, pl, pp

    adata.X = _validation.profiles(adata, layer)
    aggregate: Literal["sum", "mean"] = "mean" if likelihood == "gaussian" else "sum"
    low, truth = bench.simulate_low_resolution(adata, factor, lattice=lattice, aggregate=aggregate)
    genes = pp.spatial_genes(truth, n_genes)
    table = bench.compare(
        low[:, genes].copy(),
        truth[:, genes].copy(),
        image,
        methods=methods or None,
        seeds=range(n_seeds),
        task=source.stem,
        progress=common.progress()["enable_progress_bar"],
        enhance_kwargs=common.given(**kwargs)
        | {"likelihood": likelihood, "features_kwargs": common.given(weights=weights, cache=cache)},
    )
    with files.completed(out) as part:
        table.to_csv(part, index=False)
    if figure is not None:
        with files.completed(figure) as part:
            pl.benchmark(table, save=part)
    common.tell(f"{truth.n_obs} spots merged into {low.n_obs}, {len(genes)} genes: {out}")
    return _medians(table)


def _medians(table: Any) -> str:
    """Median over the genes and runs of each method."""
    scores = table.groupby(["method", "metric"], sort=False)["value"].median().unstack("metric")[list(_SCORES)]
    return scores.to_string(float_format="{:.3f}".format)

"""``soscope-scverse benchmark``: accuracy of methods on simulated low-resolution spots."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from soscope_scverse.cli import _command as common
from soscope_scverse.cli import _files as files
from soscope_scverse.cli._kinds import kind


@common.command
@click.argument("source", metavar="IN", type=common.STORE)
@click.option("--out", required=True, type=common.NEW, help="Output CSV: one row per run, gene and metric.")
@click.option("--figure", type=common.NEW, help="Output figure of the scores (.png, .pdf, .svg).")
@common.image_options
@click.option(
    "--factor", type=float, default=2, show_default=True, help="Merge FACTOR x FACTOR spots of a square lattice."
)
@click.option(
    "--lattice",
    type=click.Choice(["auto", "square", "hex"]),
    default="auto",
    show_default=True,
    help="Lattice of spots.",
)
@click.option("--layer", help="Layer with the profiles; default: X.")
@click.option(
    "--n-genes",
    type=common.AT_LEAST_ONE,
    default=60,
    show_default=True,
    help="Number of most spatially variable genes.",
)
@click.option(
    "--likelihood",
    type=click.Choice(["nb", "poisson", "gaussian"]),
    default="nb",
    show_default=True,
    help="Likelihood of soScope; with gaussian, merged spots are means instead of sums.",
)
@click.option("--method", "methods", multiple=True, help="Method to run, may be repeated; default: all.")
@click.option("--n-seeds", type=common.AT_LEAST_ONE, default=2, show_default=True, help="Runs per stochastic method.")
@common.training_options
@common.force_option
def benchmark(
    source: Path,
    out: Path,
    figure: Path | None,
    image: Path | None,
    weights: str | None,
    layers: tuple[int, ...],
    windows: tuple[float, ...],
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
    """Merge neighbouring spots of IN (.h5ad) and score how well each method recovers the original spots.

    On a square lattice, blocks of --factor x --factor spots are merged; on a hexagonal lattice, groups of one spot and
    its six neighbours. Medians over genes are printed, and the scores of every gene are written to a file.
    """
    files.check_output_option("--out", out, [".csv"], force=force, inputs=[source])
    files.check_output_option("--figure", figure, [".png", ".pdf", ".svg"], force=force, inputs=[source])
    adata = files.read(source)
    if kind(adata) != "AnnData":
        msg = f"Expected an AnnData, found a {kind(adata)}. Write one modality or table to an .h5ad file."
        raise ValueError(msg)
    from soscope_scverse import _read, bench, pl, pp

    adata.X = _read.profiles(adata, layer)
    aggregate: Literal["sum", "mean"] = "mean" if likelihood == "gaussian" else "sum"
    low, truth = bench.simulate_low_resolution(adata, factor, lattice=lattice, aggregate=aggregate)
    genes = pp.spatial_genes(truth, n_genes)
    of_features = common.features_options(weights=weights, layers=layers, windows=windows, cache=cache)
    table = bench.compare(
        low[:, genes].copy(),
        truth[:, genes].copy(),
        image,
        methods=methods or None,
        seeds=range(n_seeds),
        task=source.stem,
        enhance_kwargs=common.without_none(**kwargs) | {"likelihood": likelihood, "features_kwargs": of_features},
    )
    with files.completed(out) as part:
        table.to_csv(part, index=False)
    if figure is not None:
        with files.completed(figure) as part:
            pl.benchmark(table, save=part)
    common.log_message(f"{truth.n_obs} spots merged into {low.n_obs}, {len(genes)} genes: {out}")
    scores = bench.summary(table)
    wide = scores.pivot(index="method", columns="metric", values="value")
    return wide.loc[scores["method"].unique(), scores["metric"].unique()].to_string(float_format="{:.3f}".format)

"""``soscope-scverse validate``: which genes may be believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from soscope_scverse import _keys as keys
from soscope_scverse.cli import _command as common
from soscope_scverse.cli import _files as files
from soscope_scverse.cli._kinds import formats, kind, pop_elements

_SHOWN = ["pearson", "within_r", "linear_within_r", "expected_within_r", "image_gain", "interval_width", "coverage"]


@common.command
@click.argument("source", metavar="IN", type=common.STORE)
@common.out_option
@click.option("--figure", type=common.NEW, help="Output figure of the scores (.png, .pdf, .svg).")
@common.image_options
@click.option(
    "--factor",
    type=click.IntRange(2, 6),
    default=2,
    show_default=True,
    help="Merge FACTOR x FACTOR spots of a square lattice; of a hexagonal one always a spot and its neighbours.",
)
@click.option("--layer", help="Layer with the counts; default: X.")
@click.option("--genes", help="Comma-separated genes, or @FILE with one per line.")
@click.option(
    "--likelihood",
    type=click.Choice(["nb", "poisson", "gaussian"]),
    default="nb",
    show_default=True,
    help="Likelihood of the profiles.",
)
@common.library_option
@common.batch_option
@click.option("--keep-off-tissue", is_flag=True, help="Use spots with in_tissue == 0, too; default: exclude them.")
@common.preset_option
@click.option(
    "--n-samples",
    type=click.IntRange(min=2),
    default=30,
    show_default=True,
    help="Posterior samples for the intervals.",
)
@common.seed_option
@common.training_options
@common.element_options
@common.force_option
def validate(
    source: Path,
    out: Path,
    figure: Path | None,
    genes: str | None,
    weights: str | None,
    layers: tuple[int, ...],
    windows: tuple[float, ...],
    cache: str | None,
    force: bool,
    **kwargs: Any,
) -> str:
    """Merge the spots of IN, recover them, and write IN with scores of every gene.

    IN is an AnnData (.h5ad) or a SpatialData (.zarr), or the output folder of Space Ranger or Xenium, which is read as
    SpatialData; the result has the same type. Medians over the genes are printed, and how many may be believed. A
    report of the enhanced result begins with this verdict.
    """
    data = files.read(source)
    files.check_output_option("--out", out, formats(data), force=force, inputs=[source])
    files.check_output_option("--figure", figure, [".png", ".pdf", ".svg"], force=force, inputs=[source])
    named = pop_elements(data, kwargs)
    files.check_storable(data, out)
    from soscope_scverse import pl, tl

    tl.validate(
        data,
        genes=None if genes is None else files.gene_list(genes),
        features_kwargs=common.features_options(weights=weights, layers=layers, windows=windows, cache=cache),
        **kwargs,
        **named,
    )
    files.write(data, out)
    spots = _table(data, named)
    if figure is not None:
        with files.completed(figure) as part:
            pl.validation(spots, save=part)
    found = spots.uns[keys.VALIDATION]
    common.log_message(f"{found['n_spots']} spots merged into {found['n_merged']}, {found['n_genes']} genes: {out}")
    scores = "\n".join(f"{name:20}{found[name]:8.3f}" for name in _SHOWN)
    verdict = f"{found['n_believed']} of {found['n_genes']} genes may be believed at this resolution"
    return f"{verdict}\n\nmedian over genes\n{scores}"


def _table(data: Any, named: dict[str, Any]) -> Any:
    """Return the spots, of a SpatialData its table."""
    if kind(data) != "SpatialData":
        return data
    from soscope_scverse._containers.spatialdata import table_name

    return data.tables[table_name(data, named.get("table_key", "table"))]

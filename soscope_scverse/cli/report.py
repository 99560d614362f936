"""``soscope-scverse report``: HTML report of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from soscope_scverse.cli import _command as common
from soscope_scverse.cli import _files as files
from soscope_scverse.cli._kinds import by_modality, kind, pop_elements, subspots_and_spots


@common.command
@click.argument("enhanced", metavar="ENHANCED", type=common.STORE)
@click.argument("spots", metavar="[SPOTS]", type=common.STORE, required=False)
@common.out_option
@click.option(
    "--genes",
    multiple=True,
    help="Comma-separated genes to plot, or @FILE with one per line; for a MuData, MODALITY=GENES; default: the most "
    "spatially variable genes.",
)
@click.option(
    "--n-genes", type=common.AT_LEAST_ONE, default=6, show_default=True, help="Number of genes to plot by default."
)
@common.table_option
@common.key_added_option
@common.force_option
def report(
    enhanced: Path, spots: Path | None, out: Path, genes: tuple[str, ...], n_genes: int, force: bool, **kwargs: Any
) -> None:
    """Write an HTML report of ENHANCED, the result of enhance, and SPOTS, its input.

    A SpatialData contains both; SPOTS is omitted then.
    """
    files.check_output_option("--out", out, [".html"], force=force, inputs=[enhanced, spots])
    result = files.read(enhanced, backed=True)
    named = pop_elements(result, kwargs)
    if (spots is None) != (kind(result) == "SpatialData"):
        msg = f"Expected SPOTS in addition to the result, except for a SpatialData; found {kind(result)} and {spots}."
        raise ValueError(msg)
    from soscope_scverse import pl

    subspots, before = subspots_and_spots(result, None if spots is None else files.read(spots, backed=True), named)
    pl.report(subspots, before, out, genes=by_modality(result, "--genes", genes, files.gene_list), n_genes=n_genes)
    common.log_message(f"Wrote {out}")

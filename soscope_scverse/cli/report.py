"""``soscope-scverse report``: a page about a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from soscope_scverse.cli import _command as common
from soscope_scverse.cli import _files as files
from soscope_scverse.cli._kinds import by_modality, elements, kind, pair


@common.command
@click.argument("enhanced", metavar="ENHANCED", type=common.STORE)
@click.argument("spots", metavar="[SPOTS]", type=common.STORE, required=False)
@common.out_option
@click.option(
    "--genes",
    multiple=True,
    help="Comma-separated genes to draw, or @FILE with one a line; of a MuData MODALITY=GENES; default: most spatial.",
)
@click.option("--n-genes", type=common.AT_LEAST_ONE, default=6, show_default=True, help="How many genes to draw.")
@common.table_option
@common.key_added_option
@common.force_option
def report(
    enhanced: Path, spots: Path | None, out: Path, genes: tuple[str, ...], n_genes: int, force: bool, **kwargs: Any
) -> None:
    """Write an HTML page about ENHANCED, the result of enhance, and SPOTS, what it was made from.

    A SpatialData holds both; there are no SPOTS then.
    """
    files.check_output(out, [".html"], force=force, sources=[enhanced, spots])
    result = files.read(enhanced, backed=True)
    named = elements(result, kwargs)
    if (spots is None) != (kind(result) == "SpatialData"):
        msg = f"Expected SPOTS beside the result, unless this is a SpatialData; found {kind(result)} and {spots}."
        raise ValueError(msg)
    from soscope_scverse import pl

    subspots, before = pair(result, None if spots is None else files.read(spots, backed=True), named)
    pl.report(subspots, before, out, genes=by_modality(result, "--genes", genes, files.gene_list), n_genes=n_genes)
    common.tell(f"Wrote {out}")

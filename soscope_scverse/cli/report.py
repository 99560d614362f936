"""``soscope-scverse report``: a page about a run."""

from __future__ import annotations

from pathlib import Path

import click

from soscope_scverse.cli import _command as common
from soscope_scverse.cli import _files as files
from soscope_scverse.cli._kinds import by_modality


@common.command
@click.argument("enhanced", metavar="ENHANCED", type=common.STORE)
@click.argument("spots", metavar="SPOTS", type=common.STORE)
@common.out_option
@click.option(
    "--genes",
    multiple=True,
    help="Comma-separated genes to draw, or @FILE with one a line; of a MuData MODALITY=GENES; default: most spatial.",
)
@click.option("--n-genes", type=common.AT_LEAST_ONE, default=6, show_default=True, help="How many genes to draw.")
@common.force_option
def report(enhanced: Path, spots: Path, out: Path, genes: tuple[str, ...], n_genes: int, force: bool) -> None:
    """Write an HTML page about ENHANCED, the result of enhance, and SPOTS, what it was made from."""
    files.check_output(out, [".html"], force=force, sources=[enhanced, spots])
    from soscope_scverse import pl

    result, data = files.read(enhanced, backed=True), files.read(spots, backed=True)
    pl.report(result, data, out, genes=by_modality(result, "--genes", genes, files.gene_list), n_genes=n_genes)
    common.tell(f"Wrote {out}")

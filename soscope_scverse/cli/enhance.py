"""``soscope-scverse enhance``: from spots to subspots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from soscope_scverse._keys import SPOT
from soscope_scverse.cli import _command as common
from soscope_scverse.cli import _files as files
from soscope_scverse.cli._command import AT_LEAST_ONE, given
from soscope_scverse.cli._kinds import by_modality, elements, formats, kind, pair


@common.command
@click.argument("source", metavar="IN", type=common.STORE)
@common.out_option
@click.option("--report", "report_path", type=common.NEW, help="HTML page about the run to write.")
@common.image_options
@common.division_options
@click.option("--layer", multiple=True, help="Layer that holds the counts; default X.")
@click.option("--genes", multiple=True, help="Comma-separated genes, or @FILE with one a line.")
@click.option("--likelihood", multiple=True, help="nb (default), poisson or gaussian.")
@click.option(
    "--sources",
    type=click.Choice(["both", "image", "positions"]),
    default="both",
    show_default=True,
    help="What tells subspots apart.",
)
@common.library_option
@click.option("--batch-key", help="Column of obs that tells the batches.")
@click.option("--preset", type=click.Choice(["default", "paper"]), default="default", show_default=True)
@click.option(
    "--expectation",
    type=click.Choice(["conditional", "decoded"]),
    help="Given the observed spots or not; default conditional, with --preset paper prior.",
)
@click.option(
    "--n-samples",
    type=click.IntRange(min=0),
    default=0,
    help="Draws for the layers std, q05 and q95; 0 leaves them out.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@common.training_options
@click.option("--devices", type=AT_LEAST_ONE, help="Devices of a machine that train together; default 1.")
@click.option("--num-nodes", type=AT_LEAST_ONE, help="Machines that train together; default 1.")
@click.option("--batch-size", type=AT_LEAST_ONE, help="Most spots that a device takes at once; default 2048.")
@click.option("--checkpoint-dir", type=click.Path(file_okay=False), help="Folder of a checkpoint (every 30 s).")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in --checkpoint-dir if there is one.")
@click.option("--save-model", type=common.NEW, help="New directory for the trained model.")
@common.element_options
@common.key_added_option
@common.force_option
def enhance(
    source: Path,
    out: Path,
    report_path: Path | None,
    layer: tuple[str, ...],
    genes: tuple[str, ...],
    likelihood: tuple[str, ...],
    n_subspots: int | None,
    cells: Path | None,
    weights: str | None,
    cache: str | None,
    devices: int | None,
    num_nodes: int | None,
    batch_size: int | None,
    force: bool,
    **kwargs: Any,
) -> None:
    """Divide the spots of IN and infer the profiles of the subspots.

    IN is an AnnData (.h5ad), a MuData (.h5mu) or a SpatialData (.zarr), and so is the result; of an AnnData it is
    written piece by piece. Of a MuData, --layer, --genes and --likelihood are given for each modality, as in
    --likelihood rna=nb --likelihood prot=poisson. Of a SpatialData the result is a copy of it with the table and the
    shapes of the subspots.
    """
    data = files.read(source, backed=True)
    files.check_output(out, formats(data), force=force, sources=[source])
    files.check_output(report_path, [".html"], force=force)
    named = elements(data, kwargs)
    default = () if kind(data) == "MuData" else ("nb",)
    from soscope_scverse import tl

    streams = kind(data) == "AnnData"
    enhanced = tl.enhance(
        data,
        layer=by_modality(data, "--layer", layer),
        genes=by_modality(data, "--genes", genes, files.gene_list),
        likelihood=by_modality(data, "--likelihood", likelihood or default),
        n_subspots="auto" if n_subspots is None else n_subspots,
        cells=None if cells is None else files.read_table(cells),
        features_kwargs=given(weights=weights, cache=cache),
        train_kwargs=common.progress() | given(devices=devices, num_nodes=num_nodes, batch_size=batch_size),
        out=out if streams else None,
        overwrite=force,
        **kwargs,
        **named,
    )
    if not streams:
        files.write(enhanced, out)
    from soscope_scverse._containers.mudata import spots_of

    subspots, spots = pair(enhanced, data, named)
    if report_path is not None:
        from soscope_scverse import pl

        pl.report(subspots, spots, report_path)
    n_spots = spots_of(subspots).obs[SPOT].nunique()
    common.tell(f"{n_spots} spots -> {subspots.n_obs} subspots x {subspots.n_vars} genes: {out}")

"""``soscope-scverse enhance``: profiles of subspots from spots."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from soscope_scverse._keys import SPOT
from soscope_scverse.cli import _command as common
from soscope_scverse.cli import _files as files
from soscope_scverse.cli._command import AT_LEAST_ONE, without_none
from soscope_scverse.cli._kinds import by_modality, check_storable, formats, kind, pop_elements, subspots_and_spots


@common.command
@click.argument("source", metavar="IN", type=common.STORE)
@common.out_option
@click.option("--report", "report_path", type=common.NEW, help="Output HTML report of the run.")
@common.image_options
@common.partition_options
@click.option("--layer", multiple=True, help="Layer with the counts; default: X.")
@click.option("--genes", multiple=True, help="Comma-separated genes, @FILE with one per line, or all.")
@click.option(
    "--quality",
    type=click.Choice(["best", "fast"]),
    default="best",
    show_default=True,
    help="Train on all genes to enhance, or on the 60 most variable ones and fit the others to these.",
)
@click.option("--likelihood", multiple=True, help="Likelihood: nb (default), poisson or gaussian.")
@click.option(
    "--sources",
    type=click.Choice(["both", "image", "positions"]),
    default="both",
    show_default=True,
    help="Information that distinguishes the subspots of a spot.",
)
@common.library_option
@common.batch_option
@click.option("--graph-key", help="Slot of obsp with the graph of the spots; default: spot_graph, else made anew.")
@click.option("--size-factor-key", help="Column of obs with the library size of every spot.")
@click.option("--keep-off-tissue", is_flag=True, help="Enhance spots with in_tissue == 0, too; default: exclude them.")
@common.preset_option
@click.option(
    "--expectation",
    type=click.Choice(["conditional", "denoised", "decoded"]),
    multiple=True,
    help="Conditional on the observed spots, denoised (posterior mean of the rate), or decoded from the latent states. "
    "The first one given is in X, others in layers; default: conditional and denoised, with --preset paper decoded.",
)
@click.option(
    "--n-samples",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Posterior samples for the layers std, q05 and q95; 0 omits these layers.",
)
@click.option("--obsm-key", "obsm_keys", multiple=True, help="Table in obsm of the spots to repeat for their subspots.")
@common.seed_option
@common.training_options
@click.option("--devices", type=AT_LEAST_ONE, help="Devices per machine for training; default: 1.")
@click.option("--num-nodes", type=AT_LEAST_ONE, help="Machines for training; default: 1.")
@click.option("--batch-size", type=AT_LEAST_ONE, help="Largest number of spots per batch and device; default: 2048.")
@click.option("--threads", type=AT_LEAST_ONE, help="Threads of torch; default: those that the job may use.")
@click.option(
    "--checkpoint-dir",
    type=click.Path(file_okay=False),
    help="Folder for checkpoints, written every 30 s and at Ctrl-C or SIGTERM.",
)
@click.option("--resume", is_flag=True, help="Resume from the checkpoint in --checkpoint-dir if it exists.")
@click.option("--save-model", type=common.NEW, help="New folder for the trained model.")
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
    n_subspots: int | Literal["auto"] | None,
    cells: str | None,
    expectation: tuple[Any, ...],
    weights: str | None,
    layers: tuple[int, ...],
    windows: tuple[float, ...],
    cache: str | None,
    devices: int | None,
    num_nodes: int | None,
    batch_size: int | None,
    threads: int | None,
    force: bool,
    **kwargs: Any,
) -> None:
    """Partition the spots of IN into subspots and infer the profiles of the subspots.

    IN is an AnnData (.h5ad), a MuData (.h5mu) or a SpatialData (.zarr), or the output folder of Space Ranger or
    Xenium, which is read as SpatialData. The result has the same type; an AnnData is written in chunks. For a MuData,
    --layer, --genes and --likelihood are given per modality, for example --likelihood rna=nb --likelihood prot=poisson.
    For a SpatialData, the result is a copy with the table and the shapes of the subspots, or this table alone if --out
    ends in .h5ad.
    """
    data = files.read(source, backed=True)
    suffixes = (".zarr", ".h5ad") if kind(data) == "SpatialData" else formats(data)
    files.check_output_option("--out", out, suffixes, force=force, inputs=[source])
    files.check_output_option("--report", report_path, [".html"], force=force)
    named = pop_elements(data, kwargs)
    check_storable(data, named, kwargs["library_key"], out)
    default = () if kind(data) == "MuData" else ("nb",)
    from soscope_scverse import tl

    streams = kind(data) == "AnnData"
    enhanced = tl.enhance(
        data,
        layer=by_modality(data, "--layer", layer),
        genes=by_modality(data, "--genes", genes, files.gene_list),
        likelihood=by_modality(data, "--likelihood", likelihood or default),
        n_subspots="auto" if n_subspots is None else n_subspots,
        cells=cells,
        expectation=list(expectation) or None,
        features_kwargs=common.features_options(weights=weights, layers=layers, windows=windows, cache=cache),
        train_kwargs=without_none(devices=devices, num_nodes=num_nodes, batch_size=batch_size, threads=threads),
        out=out if streams else None,
        overwrite=force,
        **kwargs,
        **named,
    )
    from soscope_scverse._containers.mudata import spots_of

    subspots, spots = subspots_and_spots(enhanced, data, named)
    if not streams:
        out = files.write_result(subspots if out.suffix == ".h5ad" else enhanced, subspots, out)
    elif not hasattr(subspots.X, "compute"):  # it is in memory, since it could not be written
        out = files.write_result(subspots, subspots, out)
    if report_path is not None:
        from soscope_scverse import pl

        pl.report(subspots, spots, report_path)
    n_spots = spots_of(subspots).obs[SPOT].nunique()
    common.log_message(f"{n_spots} spots -> {subspots.n_obs} subspots x {subspots.n_vars} genes: {out}")

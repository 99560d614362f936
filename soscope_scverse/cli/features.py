"""``soscope-scverse features``: image features of every subspot."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from soscope_scverse import _keys as keys
from soscope_scverse.cli import _command as common
from soscope_scverse.cli import _files as files
from soscope_scverse.cli._kinds import formats, obsm_of, pop_elements


@common.command
@click.argument("source", metavar="IN", type=common.STORE)
@common.out_option
@common.image_options
@click.option(
    "--mode",
    type=click.Choice(["patch", "dense"]),
    default="patch",
    show_default=True,
    help="One patch per subspot, or one feature map of the whole image.",
)
@click.option("--context", type=float, help="Patch width in spot radii.")
@click.option("--context-um", type=float, help="Patch width in micrometres.")
@click.option("--device", help="Device of a deep encoder: cpu, cuda, ...")
@click.option("--batch-size", type=common.AT_LEAST_ONE, help="Patches per batch of a deep encoder.")
@common.partition_options
@common.library_option
@common.element_options
@common.force_option
def features(
    source: Path,
    out: Path,
    n_subspots: int | Literal["auto"] | None,
    cells: str | None,
    capture: float | Literal["auto"] | None,
    capture_shape: Literal["circle", "square"],
    library_key: str | None,
    mode: Literal["patch", "dense"],
    force: bool,
    **kwargs: Any,
) -> None:
    """Compute image features of the subspots of IN, and write IN with these features.

    IN is an AnnData (.h5ad), a MuData (.h5mu) or a SpatialData (.zarr), or the output folder of Space Ranger or
    Xenium, which is read as SpatialData. The result has the same type, and enhance uses its features. An existing
    partition into subspots is kept unless --n-subspots, --cells or --capture is given.
    """
    data = files.read(source)
    files.check_output_option("--out", out, formats(data), force=force, inputs=[source])
    named = pop_elements(data, kwargs)
    files.check_storable(data, out)
    from soscope_scverse import im, pp

    obsm = obsm_of(data, named)
    asked = n_subspots is not None or cells is not None or capture not in ("auto", None)
    if asked or keys.SUBSPOTS not in obsm:
        pp.subspots(
            data,
            "auto" if n_subspots is None else n_subspots,
            cells=cells,
            capture=capture,
            capture_shape=capture_shape,
            library_key=library_key,
            **{name: value for name, value in named.items() if name != "image_key"},
        )
    im.features(data, mode=mode, library_key=library_key, **common.features_options(**kwargs), **named)
    files.write(data, out)
    n_spots, n_subspots, n_features = obsm[keys.FEATURES].shape
    common.log_message(f"{n_spots} spots x {n_subspots} subspots x {n_features} image features: {out}")

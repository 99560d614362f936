"""``soscope-scverse features``: the image, described around every subspot."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from soscope_scverse import _keys as keys
from soscope_scverse.cli import _command as common
from soscope_scverse.cli import _files as files
from soscope_scverse.cli._kinds import elements, formats, slots_of


@common.command
@click.argument("source", metavar="IN", type=common.STORE)
@common.out_option
@common.image_options
@click.option("--mode", type=click.Choice(["patch", "dense"]), default="patch", show_default=True)
@click.option("--context", type=float, help="Width of the patch around a subspot in spot radii.")
@click.option("--context-um", type=float, help="The same in micrometres.")
@click.option("--device", help="cpu, cuda, ... of a deep encoder.")
@click.option("--batch-size", type=common.AT_LEAST_ONE, help="Patches that a deep encoder takes at once.")
@common.division_options
@common.library_option
@common.element_options
@common.force_option
def features(
    source: Path,
    out: Path,
    n_subspots: int | None,
    cells: Path | None,
    library_key: str | None,
    mode: Literal["patch", "dense"],
    force: bool,
    **kwargs: Any,
) -> None:
    """Describe the tissue around the subspots of IN, and write IN with these features.

    IN is an AnnData (.h5ad), a MuData (.h5mu) or a SpatialData (.zarr), and so is the result. A later enhance uses the
    features as they are; spots that are divided already are not divided again, unless options ask for it.
    """
    data = files.read(source)
    files.check_output(out, formats(data), force=force, sources=[source])
    named = elements(data, kwargs)
    from soscope_scverse import im, pp

    slots = slots_of(data, named)
    if n_subspots is not None or cells is not None or keys.SUBSPOTS not in slots:
        pp.subspots(
            data,
            "auto" if n_subspots is None else n_subspots,
            cells=None if cells is None else files.read_table(cells),
            library_key=library_key,
            **{name: value for name, value in named.items() if name != "image_key"},
        )
    im.features(data, mode=mode, library_key=library_key, **common.given(**kwargs), **named)
    files.write(data, out)
    n_spots, n_subspots, n_features = slots[keys.FEATURES].shape
    common.tell(f"{n_spots} spots x {n_subspots} subspots x {n_features} image features: {out}")

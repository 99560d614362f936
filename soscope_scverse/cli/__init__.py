"""Command line: ``soscope-scverse`` and a module for each of its sub-commands."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from typing import Any, NoReturn

import click

from soscope_scverse import __version__
from soscope_scverse.cli.benchmark import benchmark
from soscope_scverse.cli.demo import demo
from soscope_scverse.cli.enhance import enhance
from soscope_scverse.cli.features import features
from soscope_scverse.cli.report import report


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="soscope-scverse")
@click.pass_context
def main(context: click.Context) -> None:
    """Enhance the resolution of spatial omics with soScope."""
    os.environ.setdefault("MPLBACKEND", "agg")  # figures go to files, wherever this runs
    context.with_resource(warnings.catch_warnings())
    warnings.showwarning = _show_warning
    # what libraries deprecate in each other is nothing that a user could mend, and comes at every step
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", module=r"(lightning|torch|torch_geometric)\b")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)  # what hardware there is
    for number in (signal.SIGINT, signal.SIGTERM):
        context.call_on_close(_restoring(number, signal.signal(number, _stop)))


for command in (enhance, features, report, benchmark, demo):
    main.add_command(command)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"Warning: {message}", err=True)


def _stop(number: int, _: Any) -> NoReturn:
    """End as a signal asks: files that are being written are removed on the way out, and the exit code tells."""
    click.echo(f"Stopped by {signal.Signals(number).name}.", err=True)
    sys.exit(128 + number)


def _restoring(number: int, handler: Any) -> Any:
    return lambda: signal.signal(number, handler)

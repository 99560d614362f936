"""Command line ``soscope-scverse``, with one module per subcommand."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from soscope_scverse.cli.benchmark import benchmark
from soscope_scverse.cli.demo import demo
from soscope_scverse.cli.enhance import enhance
from soscope_scverse.cli.features import features
from soscope_scverse.cli.report import report
from soscope_scverse.cli.validate import validate


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="soscope-scverse", prog_name="soscope-scverse")
@click.pass_context
def main(context: click.Context) -> None:
    """Enhance the resolution of spatial omics with soScope."""
    os.environ.setdefault("MPLBACKEND", "agg")  # figures are only written to files
    context.with_resource(warnings.catch_warnings())
    warnings.showwarning = _show_warning
    # deprecations between libraries are repeated at every step, and users cannot act on them
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", module=r"(lightning|torch|torch_geometric)\b")
    # it is written again, or the error is shown
    warnings.filterwarnings("ignore", message="The result could not be written")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)  # list of devices
    context.with_resource(_logged())
    for number in (signal.SIGINT, signal.SIGTERM):
        context.call_on_close(_handler_reset(number, signal.signal(number, _stop)))


for command in (enhance, features, validate, report, benchmark, demo):
    main.add_command(command)


@contextmanager
def _logged() -> Iterator[None]:
    """Write a line to standard error for every stage of the work."""
    logger = logging.getLogger("soscope_scverse")
    handler, level = _Lines(), logger.level
    logger.addHandler(handler)
    logger.setLevel(min(level, logging.INFO) if level else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Lines(logging.Handler):
    """Handler of the log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message as other lines of the command line are written."""
        begin = "Warning: " if record.levelno > logging.INFO else ""
        click.echo(f"{begin}{record.getMessage()}", err=True)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"Warning: {message}", err=True)


def _stop(number: int, _: Any) -> NoReturn:
    """Exit with the code of a signal; files that are being written are removed."""
    click.echo(f"Stopped by {signal.Signals(number).name}.", err=True)
    sys.exit(128 + number)


def _handler_reset(number: int, handler: Any) -> Any:
    return lambda: signal.signal(number, handler)

"""The `tgo` command line: one command a stage, and a few to look and to check.

Whatever is wrong with input or disk is one line on stderr and exit status 2. A stage that is
stopped (Ctrl-C, SIGTERM) or killed goes on when the same command is run again.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from tgo.pipeline import logs
from tgo.pipeline.commands import data, people, project, stages
from tgo.pipeline.errors import InputError
from tgo.pipeline.installation import check_source, explain_missing
from tgo.pipeline.wording import harmless
from tgo.rewards.errors import RewardError, Stopped

app = typer.Typer(
    help="Align text-to-image models with scalar feedback: score, label, train, evaluate, report.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
)
for _group in (stages, data, people, project):
    app.add_typer(_group.app)
_PROCESS = os.getpid()
UNWINDING_SECONDS = 3.0
"""A stopped command has ended after so long, also where something has caught its SystemExit."""


@app.callback()
def _common(
    context: typer.Context,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say more, for finding a fault.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if version:
        print(f"tgo {metadata.version('tgo')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit
    logs.configure(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


def main() -> None:
    """Run a command; see the module for what errors and signals become."""
    logs.configure()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        check_source(Path())
        raise SystemExit(app(standalone_mode=False))
    except TyperException as error:
        _fail(f"{error.format_message().replace('Value error, ', '')} (see tgo --help)")
    except (InputError, RewardError) as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        if not (remedy := explain_missing(error)):
            raise
        _fail(remedy)
    except OSError as error:
        from tgo.pipeline.storage.atomic import explain, is_disks_fault

        if not is_disks_fault(error):
            raise
        _fail(f"{error.filename or 'disk'}: {explain(error)}")


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """Unwind as an exit does, so that temporary files and locks go; the conventional status."""
    if os.getpid() != _PROCESS:  # a worker that was forked and inherited this handler
        os._exit(128 + number)
    name = signal.Signals(number).name
    print(f"tgo: {name}: stopped; run the same command again to continue", file=sys.stderr)
    if _is_importing(frame):
        sys.stderr.flush()
        os._exit(128 + number)
    # Python drops an exception that is raised in a finaliser: the command would go on
    timer = threading.Timer(UNWINDING_SECONDS, os._exit, [128 + number])
    timer.daemon = True
    timer.start()
    raise Stopped(128 + number)


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported: an exception in there is caught or aborts the process.

    Nothing is lost by leaving at once, here or when the timer ends: locks end with the process, and
    what an outer call may have half written lies under a temporary name that the next run removes.
    """
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _fail(line: str) -> NoReturn:
    print(f"tgo: error: {harmless(' '.join(line.split()))}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()

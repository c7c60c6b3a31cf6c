"""Putting the verbs together, and turning exceptions into one line and an exit code."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from ese_deploy import __version__
from ese_deploy.cli import bench, build, choose, doctor, embed, evaluate, export, inspect, measurements, report, verify
from ese_deploy.errors import CheckFailedError, EseDeployError

__all__ = ["main"]

_DEBUG = "--debug"
# What a shell reports of a program that SIGPIPE ended.
_CLOSED_PIPE = 141

app = typer.Typer(
    name="ese-deploy",
    help="Export, verify and run sentence-embedding models that stop at any depth and keep any prefix.",
    epilog="Exit codes: 0 done, 1 a gate failed, 2 wrong use or bad input. --debug shows tracebacks.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("export")(export.export)
app.command("verify")(verify.verify)
app.command("evaluate")(evaluate.evaluate)
app.command("bench")(bench.bench)
app.command("report")(report.report)
app.command("build")(build.build)
app.command("choose")(choose.choose_target)
app.add_typer(measurements.app)
app.command("embed")(embed.embed)
app.command("inspect")(inspect.inspect)
app.command("doctor")(doctor.doctor)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"ese-deploy {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Take the options that come before the verb."""


def main(arguments: Sequence[str], verbs: Callable[..., Any] = app) -> int:
    """Run the command line.

    Args:
        arguments: what follows the program's name.
        verbs: the commands; a script of the checkout hands in its own, or a function that takes the arguments.

    Returns:
        The exit code: 0 done, 1 a gate failed, 2 wrong use or bad input, 130 interrupted, 141 nobody reads the output.
    """
    debug = _DEBUG in arguments
    try:
        result = verbs([item for item in arguments if item != _DEBUG], standalone_mode=False)
        sys.stdout.flush()
        return int(result) if isinstance(result, int) else 0
    except SystemExit as left:
        # Click's own answer to a closed pipe is 1, which says here that a gate failed.
        if isinstance(left.__context__, BrokenPipeError):
            return _report(left.__context__)
        raise
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _report(error)
    except KeyboardInterrupt:
        print("interrupted; nothing was changed", file=sys.stderr)
        return 130


def _report(error: Exception) -> int:
    if isinstance(error, CheckFailedError):
        for line in (*error.failures, f"error: {error}"):
            print(line, file=sys.stderr)
        return error.exit_code
    if isinstance(error, EseDeployError):
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    if isinstance(error, typer.Abort):
        print("interrupted; nothing was changed", file=sys.stderr)
        return 130
    # Usage errors are click's, or those of the copy of click that newer releases of typer carry.
    usage = getattr(error, "format_message", None)
    if usage is not None:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(usage())
        else:
            context = getattr(error, "ctx", None)
            verb = context.command_path if context is not None else "ese-deploy"
            print(f"error: {' '.join(usage().split()).removesuffix('.')}; see {verb} --help", file=sys.stderr)
        return EseDeployError.exit_code
    if isinstance(error, BrokenPipeError):
        # Whoever read the output has gone; keep Python from failing again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _CLOSED_PIPE
    line = " ".join(str(error).split())
    print(f"error: unexpected {type(error).__name__}: {line}; --debug shows where", file=sys.stderr)
    return EseDeployError.exit_code

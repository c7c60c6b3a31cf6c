"""What the verbs share: options, tables, JSON and progress bars."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from ese_deploy.engines import ENGINES, load_engine
from ese_deploy.errors import InputError
from ese_deploy.system.progress import Progress

__all__ = [
    "EngineOption",
    "JsonOption",
    "MeasuredEngineOption",
    "PickleOption",
    "check_file",
    "check_measured_engine",
    "megabytes",
    "print_json",
    "print_table",
    "progress_bars",
    "say",
]

JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON alone to standard output.")]
PickleOption = Annotated[bool, typer.Option("--allow-pickle", help="Load pickle weights, which can run any code.")]
EngineOption = Annotated[
    str, typer.Option("--engine", help=f"{', '.join(ENGINES)}; the second GPU: NAME:1; in bf16: openvino:bf16.")
]

MeasuredEngineOption = Annotated[str, typer.Option("--engine", help=f"{', '.join(ENGINES)}.")]

_GAP = 2
# Room for a verdict, or for a figure with its share.
_LEAST_WIDTH = 13


def print_json(value: Any) -> None:
    """Write a value as indented JSON to standard output, with escapes where its encoding lacks a character."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(json.loads(text), indent=2)
    sys.stdout.write(text + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """Write a table to standard output; columns whose name ends in a blank are aligned to the right.

    Where a terminal is too narrow the last column folds, and nothing else gives way.
    """
    *others, last = [max(map(cell_len, cells)) for cells in zip(map(str.strip, columns), *rows, strict=True)]
    least = min(last, _LEAST_WIDTH) if sys.stdout.isatty() else last
    console = Console(highlight=False, markup=False, emoji=False)
    console.width = max(console.width, sum(others) + _GAP * len(others) + least)
    if title:
        console.print(title, style="italic", soft_wrap=True)  # a table's own title would be folded to its width
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, column in enumerate(columns, start=1):
        justify: Literal["left", "right"] = "right" if column.endswith(" ") else "left"
        table.add_column(column.strip(), justify=justify, no_wrap=place < len(columns), overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def check_measured_engine(name: str) -> None:
    """Check that figures can be kept of an engine: they have no room for its second GPU or another precision.

    Raises:
        InputError: something stands behind the engine's name.
        EngineError: there is no such engine, or it is missing.
    """
    load_engine(name)
    if name not in ENGINES:
        raise InputError(f"'{name}' is not measured; figures are of {', '.join(ENGINES)} with nothing behind the name")


def check_file(path: Path, kinds: Sequence[str] = ()) -> None:
    """Check before any work is done that a file can have this name; of one of these kinds, if any are given.

    Raises:
        InputError: it cannot.
    """
    if kinds and path.suffix not in kinds:
        raise InputError(f"{path} is not a {' or '.join(kinds)} file")
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder; name a file")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}; make it or name another")


def say(text: str) -> None:
    """Write a line to standard error."""
    print(text, file=sys.stderr)


def megabytes(size: int) -> str:
    """A size in MB (10^6 bytes)."""
    return f"{size / 1e6:.1f} MB"


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Bars on standard error, one for each stage; silent where it is not a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield report

"""What the commands share: options, tables, JSON and progress bars.

Options that more than one command takes are defined here, so that each has one spelling and one help text. A help
text is a full sentence. Libraries are imported where they are used: only the options load with this module.
"""

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ese_deploy.engines import ENGINES, load_engine
from ese_deploy.errors import InputError
from ese_deploy.system.progress import Progress, silent
from ese_deploy.system.terminal import visible
from ese_deploy.target import Target
from ese_deploy.texts.dialect import SEPARATORS

__all__ = [
    "BundleArgument",
    "DepthsOption",
    "DimsOption",
    "EncodingOption",
    "EngineOption",
    "EnginesOption",
    "JsonOption",
    "MeasuredEngineOption",
    "PickleOption",
    "ProfilesFileOption",
    "SeparatorOption",
    "SpaceOption",
    "TargetOption",
    "TextFieldOption",
    "ThreadsOption",
    "check_file",
    "check_measured_engine",
    "megabytes",
    "picked_engine",
    "print_json",
    "print_table",
    "progress_bars",
    "split",
]

logger = logging.getLogger(__name__)

BundleArgument = Annotated[Path, typer.Argument(help="The folder of the bundle.", metavar="BUNDLE")]
TargetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="DEPTHxDIM[:DTYPE]",
        help="Use this target only, for example 3x128 or 3x128:int8. Repeat the option for several. "
        "Default: every target of the bundle.",
    ),
]
DepthsOption = Annotated[
    str, typer.Option("--depths", metavar="NUMBERS", help="Use these depths, for example 1-3,6. Default: all.")
]
DimsOption = Annotated[
    str,
    typer.Option(
        "--dims",
        metavar="NUMBERS",
        help="Use these numbers of dimensions, for example 64,128. Default: 16, 32, 64 and so on, up to the width.",
    ),
]
EngineOption = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="NAME",
        help=f"Run on this engine: {', '.join(ENGINES)}. NAME:1 is the second GPU; openvino:bf16 computes in bf16; "
        "onnxruntime:mapped shares its weights.",
    ),
]
EnginesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--engine",
        metavar="NAME",
        help=f"Use this engine: {', '.join(ENGINES)}. Repeat the option for several. "
        "Default: every engine that is installed.",
    ),
]
MeasuredEngineOption = Annotated[
    str, typer.Option("--engine", metavar="NAME", help=f"Measure this engine: {', '.join(ENGINES)}.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]
PickleOption = Annotated[
    bool,
    typer.Option("--allow-pickle", help="Also load weights in pickle files. Such a file can run any code."),
]
ProfilesFileOption = Annotated[
    Path | None,
    typer.Option("--profiles", metavar="FILE", help="Read budget profiles of your own from this .toml file."),
]
SpaceOption = Annotated[
    str,
    typer.Option(
        "--space",
        metavar="NAME",
        help="Give vectors in this embedding space: bundle (its own), or source, the space of the model that the "
        "bundle was made of. An index that another tool made with that model is in the source space.",
    ),
]
TextFieldOption = Annotated[
    str, typer.Option("--text-field", metavar="NAME", help="Read the text of a JSON line from this field.")
]
EncodingOption = Annotated[
    str,
    typer.Option("--encoding", metavar="NAME", help="Decode files of lines with this encoding, for example latin-1."),
]
SeparatorOption = Annotated[
    str | None,
    typer.Option(
        "--separator",
        metavar="NAME",
        help=f"Split the columns of .csv files at this character: {', '.join(SEPARATORS)}. Default: comma.",
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads", metavar="NUMBER", help="Use this many threads. Default: every core that this process may use."
    ),
]

_GAP = 2
# Room for a verdict, or for a figure with its share.
_LEAST_WIDTH = 13


def split(values: Sequence[str] | None) -> list[str]:
    """The items of an option that can be repeated and of which each value can hold several, separated by commas."""
    return [item.strip() for value in values or () for item in value.split(",")]


def print_json(value: Any) -> None:
    """Write a value as indented JSON to standard output, with escapes where its encoding lacks a character."""
    import msgspec

    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(json.loads(text), indent=2)
    sys.stdout.write(text + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """Write a table to standard output; columns whose name ends in a blank are aligned to the right.

    On a narrow terminal the last column wraps and the others keep their width.
    """
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table

    rows = [[visible(cell) for cell in row] for row in rows]
    *others, last = [max(map(cell_len, cells)) for cells in zip(map(str.strip, columns), *rows, strict=True)]
    least = min(last, _LEAST_WIDTH) if sys.stdout.isatty() else last
    console = Console(highlight=False, markup=False, emoji=False)
    console.width = max(console.width, sum(others) + _GAP * len(others) + least)
    if title:
        # A table's own title would be wrapped to its width.
        console.print(visible(title), style="italic", soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, column in enumerate(columns, start=1):
        justify: Literal["left", "right"] = "right" if column.endswith(" ") else "left"
        table.add_column(column.strip(), justify=justify, no_wrap=place < len(columns), overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def picked_engine(bundle: Path, target: Target | str | None, threads: int | None) -> str:
    """What ``--engine auto`` stands for. The reason goes to standard error."""
    from ese_deploy.runtime.fastest import fastest_engine

    found = fastest_engine(bundle, target, threads)
    logger.info(found.reason)
    return found.engine


def check_measured_engine(name: str) -> None:
    """Check that an engine is installed and that measurements of it can be stored.

    Raises:
        InputError: the name has a suffix, such as the number of a GPU; measurements are stored without one.
        EngineError: the engine is unknown or not installed.
    """
    load_engine(name)
    if name not in ENGINES:
        raise InputError(f"Engine '{name}' cannot be measured. Choose one of: {', '.join(ENGINES)}, without a suffix.")


def check_file(path: Path, kinds: Sequence[str] = ()) -> None:
    """Check before any work is done that a file can be written.

    Args:
        path: the file.
        kinds: allowed suffixes; empty allows any.

    Raises:
        InputError: the suffix is wrong, the path is a folder, or its folder does not exist.
    """
    if kinds and path.suffix not in kinds:
        raise InputError(f"{path} is not a {' or '.join(kinds)} file")
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder; name a file")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}; make it or name another")


def megabytes(size: int) -> str:
    """A size in MB (10^6 bytes)."""
    return f"{size / 1e6:.1f} MB"


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Bars on standard error, one for each stage; silent where it is not a terminal."""
    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield report

"""Lines of files, plain or compressed, with their numbers; a line that cannot be decoded is a problem, not the end."""

import gzip
import itertools
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

from ese_deploy.errors import InputError
from ese_deploy.system.install import install_hint

__all__ = ["COMPRESSED", "STDIN", "Problem", "check_encoding", "numbered_lines", "open_bytes", "raise_problem"]

COMPRESSED = (".gz", ".zst")
STDIN = Path("-")
_BOM = "\ufeff"


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a row cannot be used.

    Attributes:
        reason: the end of a sentence that begins with the place of the row, such as "is not JSON: ...".
        advice: what to do about it; one or more sentences, or empty.
    """

    reason: str
    advice: str = ""


def raise_problem(path: Path, unit: str, number: int, problem: Problem) -> None:
    """Raise a problem as an error that names the place.

    Raises:
        InputError: always.
    """
    advice = f" {problem.advice}" if problem.advice else ""
    raise InputError(f"{path} {unit} {number} {problem.reason}.{advice}")


def check_encoding(encoding: str) -> None:
    """Check the name of an encoding.

    Raises:
        InputError: Python does not know it, or it encodes a line feed in several bytes.
    """
    try:
        fits = "\n".encode(encoding) == b"\n"
    except LookupError:
        raise InputError(f"Unknown encoding '{encoding}'. Choose for example utf-8, latin-1 or cp1252.") from None
    if not fits:
        raise InputError(f"Files in {encoding} cannot be read line by line. Convert them to UTF-8.")


def numbered_lines(
    path: Path, encoding: str = "utf-8", advice: str = "Convert the file to UTF-8."
) -> Iterator[tuple[int, str | Problem]]:
    """Read the lines of a file without their ends, numbered from 1. A byte order mark is left out.

    Args:
        path: the file; ``-`` is standard input.
        encoding: of the text.
        advice: what to do about a line in another encoding.

    Raises:
        InputError: the file cannot be read.
    """
    utf8 = encoding.lower().replace("_", "-") in ("utf-8", "utf8")
    with open_bytes(path) as file:
        for number in itertools.count(1):
            line = file.readline()
            if not line:
                return
            try:
                text = line.decode(encoding)
            except UnicodeDecodeError as error:
                name = "UTF-8" if utf8 else encoding
                place = f"byte {error.start + 1}: {error.reason}"
                yield number, Problem(f"is not {name} ({place})", advice)
                continue
            if number == 1:
                text = text.removeprefix(_BOM)
            yield number, text.removesuffix("\n").removesuffix("\r")


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, and decompress ``.gz`` and ``.zst``.

    Raises:
        InputError: the file cannot be read, now or later in the block.
    """
    try:
        with _opened(path) as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"There is no file {path}.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"Cannot read {path}: {getattr(error, 'strerror', None) or error}.") from error


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    if path == STDIN:
        yield sys.stdin.buffer
    elif path.suffix == ".gz":
        with gzip.open(path, "rb") as unpacked:
            decompressed: Any = unpacked
            yield decompressed
    elif path.suffix == ".zst":
        with _zstandard(path) as file:
            yield file
    else:
        with path.open("rb") as file:
            yield file


@contextmanager
def _zstandard(path: Path) -> Iterator[IO[bytes]]:
    try:
        import pyarrow as pa
    except ImportError:
        raise InputError(f"{path} needs pyarrow. {install_hint('bulk')}") from None
    if not path.is_file():
        raise FileNotFoundError(path)
    with pa.OSFile(str(path), "rb") as file, pa.CompressedInputStream(file, "zstd") as stream:
        readable: Any = BufferedReader(stream, 1 << 16)
        yield readable

"""Reads training data: local files, folders saved by ``datasets``, data sets of the hub."""

import json
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

from ese_deploy.errors import InputError
from ese_deploy.system.files import expand
from ese_deploy.texts.columnar import COLUMNAR_KINDS
from ese_deploy.texts.dialect import Dialect
from ese_deploy.texts.reader import kind_of, numbered_lines, read_rows
from ese_deploy.texts.rows import unit_of
from ese_deploy.texts.sentences import with_sentence_groups
from ese_deploy.training.columns import FORMATS, Layout, check_mapping, find_layout, rename

logger = logging.getLogger(__name__)

__all__ = ["TrainingData", "add_spans", "load_data", "load_formats"]

_TABLES = (".tsv", ".csv", ".jsonl", *COLUMNAR_KINDS)
_KINDS = (*_TABLES, ".json", ".txt")
_COMPRESSED = (".gz", ".zst")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_DIALECT = Dialect()
_SAVED = ("dataset_dict.json", "state.json")

# (place for messages, row)
PlacedRow = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class TrainingData:
    """Data in one of the formats.

    Attributes:
        dataset: the columns of the layout, in order. Texts are strings, or lists of which each step draws one; labels
            are float32 as given.
        layout: the format.
        description: log lines on what was found.
    """

    dataset: Dataset
    layout: Layout
    description: tuple[str, ...]


def load_data(
    names: Sequence[str],
    *,
    subset: str | None = None,
    split: str = "train",
    mapping: Mapping[str, str] | None = None,
    strict: bool = True,
    label_free: bool | None = None,
    dialect: Dialect = _DIALECT,
) -> TrainingData:
    """Read data of one format; same arguments as :func:`load_formats`.

    Raises:
        InputError: as there, or the files have several formats.
    """
    found = load_formats(
        names, subset=subset, split=split, mapping=mapping, strict=strict, label_free=label_free, dialect=dialect
    )
    first, *others = found
    if others:
        raise InputError(
            f"{first.description[0]}, but {others[0].description[0]}. All files must have one format: rename columns."
        )
    return first


def load_formats(
    names: Sequence[str],
    *,
    subset: str | None = None,
    split: str = "train",
    mapping: Mapping[str, str] | None = None,
    strict: bool = True,
    label_free: bool | None = None,
    dialect: Dialect = _DIALECT,
) -> tuple[TrainingData, ...]:
    """Read data and group it by format.

    Args:
        names: local files, one folder, or one hub data set.
        subset: configuration of a hub data set.
        split: split of a folder or a hub data set.
        mapping: new column names by old names.
        strict: whether each column of the mapping must exist in some file.
        label_free: ignore labels; None ignores them only in data that has none.
        dialect: encoding and separator of local files.

    Returns:
        The data of each format, in the order of the files. If labels are ignored and formats differ: all texts.

    Raises:
        InputError: the data cannot be read, its columns match no format, or a row is invalid; the message names the
            file and line.
    """
    paths = [expand(name) for name in names]
    if all(path.is_file() for path in paths):
        if subset is not None or split != "train":
            raise InputError(
                f"{names[0]} is a local file, which has no subsets or splits. Leave them out, or name the file of that "
                "split."
            )
        files = [_open(path, dialect) for path in paths]
        if strict:
            check_mapping(mapping or {}, {str(path): head[1] for path, head, _ in files})
        return _by_format([_from_file(*file, mapping or {}, label_free) for file in files])
    if len(names) > 1:
        absent = next(name for name, path in zip(names, paths, strict=True) if not path.is_file())
        raise InputError(f"There is no file {absent}. Several sources must all be local files.")
    if paths[0].name.endswith((*_KINDS, *_COMPRESSED)) and not paths[0].is_dir():
        raise InputError(f"There is no file {paths[0]}. A data set of the hub is named without a suffix.")
    dataset = _from_folder(paths[0], split) if paths[0].is_dir() else _from_hub(names[0], subset, split)
    if strict:
        check_mapping(mapping or {}, {names[0]: dataset.column_names})
    return (_arrange(dataset, names[0], mapping or {}, label_free),)


def add_spans(data: TrainingData) -> TrainingData:
    """Plain texts and their spans, without duplicates; labelled data is returned unchanged."""
    if data.layout.format != "texts":
        return data
    texts = list(dict.fromkeys(with_sentence_groups(data.dataset["text"])))
    line = f"With sentences, halves and thirds: {len(texts):,} different texts."
    return TrainingData(_dataset({"text": texts}), data.layout, (*data.description, line))


def _by_format(files: list[TrainingData]) -> tuple[TrainingData, ...]:
    groups: dict[tuple[str, ...], list[TrainingData]] = {}
    for file in files:
        groups.setdefault(file.layout.columns, []).append(file)
    if len(groups) > 1 and all(file.layout.label_free for file in files):
        return (_flatten(files),)
    return tuple(_join(parts) for parts in groups.values())


def _join(parts: list[TrainingData]) -> TrainingData:
    """Concatenate files of one format."""
    first = parts[0]
    if len(parts) == 1:
        return first
    lines = tuple(line for part in parts for line in part.description)
    columns: dict[str, list[Any]] = {name: [] for name in first.layout.columns}
    for part in parts:
        for name in columns:
            columns[name].extend(part.dataset[name])
    return TrainingData(_dataset(columns), first.layout, lines)


def _flatten(parts: list[TrainingData]) -> TrainingData:
    """All texts of files of several formats, one per row."""
    lines = tuple(line for part in parts for line in part.description)
    values = [value for part in parts for name in part.layout.texts for value in part.dataset[name]]
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    layout = Layout("texts", ("text",), label_free=True)
    return TrainingData(_dataset({"text": texts}), layout, (*lines, f"All files: {len(texts):,} texts, one per row."))


def _open(path: Path, dialect: Dialect) -> tuple[Path, PlacedRow, Iterator[PlacedRow]]:
    """A file, its first row and an iterator of the other rows."""
    rows = _rows(path, dialect)
    head = next(rows, None)
    if head is None:
        raise InputError(f"{path} has no rows.")
    return path, head, rows


def _from_file(
    path: Path, head: PlacedRow, rows: Iterator[PlacedRow], mapping: Mapping[str, str], label_free: bool | None
) -> TrainingData:
    renamed = rename(head[1], mapping)
    layout = find_layout(list(renamed), label_free, str(path))
    columns: dict[str, list[Any]] = {name: [] for name in layout.columns}
    sources = {name: renamed[source] for name, source in zip(layout.columns, layout.sources, strict=True)}
    for place, row in (head, *rows):
        for name, source in sources.items():
            columns[name].append(_value(row, name, source, place))
    count = len(columns[layout.columns[0]])
    _warn_of_unused(layout, list(renamed), str(path), count)
    return TrainingData(_dataset(columns), layout, (f"{path}: {count:,} rows, {layout.describe()}",))


def _warn_of_unused(layout: Layout, present: Sequence[str], where: str, count: int) -> None:
    if unused := layout.unused(present):
        logger.warning(
            "%s: training does not use the columns %s of %s rows. To use one, rename it with `column_rename_mapping`.",
            where,
            ", ".join(unused),
            f"{count:,}",
        )


def _dataset(columns: dict[str, list[Any]]) -> Dataset:
    for name, values in columns.items():
        if any(isinstance(value, list) for value in values):
            columns[name] = [value if isinstance(value, list) else [value] for value in values]
    return Dataset.from_dict(
        {name: np.array(values, np.float32) if name == "label" else values for name, values in columns.items()}
    )


def _rows(path: Path, dialect: Dialect) -> Iterator[PlacedRow]:
    """Rows of a local file; blank lines of plain text are skipped."""
    kind = kind_of(path)
    if kind in _TABLES:
        yield from ((f"{path} {unit_of(kind)} {number}", row) for number, row in read_rows(path, dialect))
    elif kind == ".txt":
        lines = numbered_lines(path, dialect)
        yield from ((f"{path} line {number}", {"text": line}) for number, line in lines if line.strip())
    elif kind == ".json":
        yield from _json_rows(path, dialect)
    else:
        raise InputError(f"{path} has an unknown type. Use {', '.join(_KINDS)}; files of lines may end in .gz or .zst.")


def _json_rows(path: Path, dialect: Dialect) -> Iterator[PlacedRow]:
    """Rows of a JSON list of objects, or of JSON lines."""
    lines = [line for _, line in numbered_lines(path, dialect) if line.strip()]
    try:
        listed = bool(lines) and lines[0].lstrip().startswith("[")
        rows = json.loads("\n".join(lines)) if listed else [json.loads(line) for line in lines]
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is neither a JSON list nor JSON lines: {error}.") from None
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise InputError(f"{path} row {number} is not a JSON object.")
        yield f"{path} row {number}", row


def _value(row: Mapping[str, Any], name: str, source: str, place: str) -> Any:
    """The checked value of a column."""
    if source not in row:
        raise InputError(f"{place} has no '{source}'. It has {', '.join(map(str, row)) or 'nothing'}.")
    value = row[source]
    if name == "label":
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise InputError(f"{place} has the label '{value}' as '{source}'. Labels must be finite numbers.")
        return number
    texts = value if isinstance(value, list) and value and name in FORMATS["C"] else [value]
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            what = "an empty text" if isinstance(text, str) else type(text).__name__
            raise InputError(f"{place} has {what} as '{source}', which must be a text.")
        if _SURROGATE.search(text):
            raise InputError(f"{place} has an unpaired surrogate in '{source}', which encodes no character.")
    return value


def _from_folder(path: Path, split: str) -> Dataset:
    if not any((path / name).is_file() for name in _SAVED):
        raise InputError(
            f"{path} is a folder that datasets did not save (save_to_disk). Name the files in it, separated by commas."
        )
    try:
        loaded: Dataset | DatasetDict = load_from_disk(str(path))
    except Exception as error:
        raise InputError(f"{path} cannot be loaded: {_first_line(error)}.") from error
    if isinstance(loaded, Dataset):
        return loaded
    if split not in loaded:
        raise InputError(f"{path} has no split '{split}'. Choose one of: {', '.join(loaded)}.")
    return loaded[split]


def _from_hub(name: str, subset: str | None, split: str) -> Dataset:
    try:
        return load_dataset(name, subset, split=split)
    except Exception as error:
        config = f" (configuration '{subset}')" if subset else ""
        raise InputError(
            f"'{name}' is not a local file or folder, and the hub did not return its split '{split}'{config}: "
            f"{_first_line(error)}."
        ) from error


def _arrange(dataset: Dataset, where: str, mapping: Mapping[str, str], label_free: bool | None) -> TrainingData:
    """Select and check the columns of the format in a loaded data set."""
    present = dataset.column_names
    renamed = rename(present, mapping)
    layout = find_layout(list(renamed), label_free, where)
    sources = [renamed[source] for source in layout.sources]
    columns = dataset.select_columns(sources).to_dict()
    checked: dict[str, list[Any]] = {name: [] for name in layout.columns}
    for number in range(len(dataset)):
        row = {source: columns[source][number] for source in sources}
        for name, source in zip(layout.columns, sources, strict=True):
            checked[name].append(_value(row, name, source, f"{where} row {number + 1}"))
    if not len(dataset):
        raise InputError(f"{where} has no rows.")
    _warn_of_unused(layout, list(renamed), where, len(dataset))
    description = f"{where}: {len(dataset):,} rows, {layout.describe()}"
    return TrainingData(_dataset(checked), layout, (description,))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__

"""Recognises the format of training data by its columns."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ese_deploy.errors import InputError

__all__ = ["FORMATS", "Layout", "check_mapping", "find_layout", "parse_mapping", "rename"]

FORMATS = {
    "A": ("text1", "text2", "label"),
    "B": ("query", "positive"),
    "C": ("query", "positive", "negative"),
    "texts": ("text",),
}
"""Columns of each format, in the order of the losses' arguments; ``label`` is a number, the others are texts."""

# Column names of published data sets, one tuple per data set.
_SYNONYMS: dict[str, tuple[tuple[str, ...], ...]] = {
    "C": (
        ("text", "positive", "negative"),
        ("anchor", "positive", "negative"),
        ("anchor", "entailment", "contradiction"),
        ("premise", "entailment", "contradiction"),
        ("sent0", "sent1", "hard_neg"),
    ),
    "A": (
        ("text1", "text2", "score"),
        ("sentence1", "sentence2", "label"),
        ("sentence1", "sentence2", "score"),
        ("sentence1", "sentence2", "similarity_score"),
        ("sentence_A", "sentence_B", "relatedness_score"),
    ),
    "B": (
        ("text", "positive"),
        ("anchor", "positive"),
        ("sentence1", "sentence2"),
        ("question", "answer"),
        ("query", "answer"),
        ("text1", "text2"),
    ),
    "texts": (("sentence",),),
}


# Names of a column of scores beside two texts; the data is then format A with the scores as labels.
_SCORES = frozenset(
    {"label", "labels", "score", "scores", "similarity", "similarity_score", "relatedness_score", "relevance"}
    | {"relevance_score", "rating", "gold", "gold_score", "gold_label", "grade", "is_duplicate"}
)


@dataclass(frozen=True)
class Layout:
    """How the columns of a data set map to a format.

    Attributes:
        format: ``A``, ``B``, ``C`` or ``texts``.
        sources: the column of the data for each column of the format, in order.
        label_free: whether labels are ignored.
    """

    format: str
    sources: tuple[str, ...]
    label_free: bool

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the training data, in order."""
        return FORMATS[self.format][: len(self.sources)]

    def unused(self, present: Sequence[str]) -> list[str]:
        """Columns of the data that training does not read."""
        return [column for column in present if column not in self.sources]

    @property
    def texts(self) -> tuple[str, ...]:
        """Its text columns."""
        return tuple(column for column in self.columns if column != "label")

    def describe(self) -> str:
        """One line: the format and renamed columns."""
        renamed = [f"'{old}' as {new}" for old, new in zip(self.sources, self.columns, strict=True) if old != new]
        name = "texts" if self.format == "texts" else f"format {self.format}"
        return "".join(
            [
                f"{name} ({', '.join(self.columns)})",
                ", without labels" if self.label_free and self.format != "texts" else "",
                f"; renamed: {', '.join(renamed)}" if renamed else "",
            ]
        )


def find_layout(present: Sequence[str], label_free: bool | None, where: str) -> Layout:
    """Find the format by column names: exact names first, then those of published data sets.

    Args:
        present: the columns of the data.
        label_free: ignore labels; None ignores them only in data that has none.
        where: the data's name in messages.

    Raises:
        InputError: the columns match no format, labels are required and missing, or several columns may be scores.
    """
    found = _match(present)
    if found is None:
        wanted = "; ".join(f"{name}: {', '.join(columns)}" for name, columns in FORMATS.items())
        raise InputError(
            f"{where} has the columns {', '.join(present) or '(none)'}, which match no format ({wanted}). Rename them "
            "with `column_rename_mapping`, 'old:new;old2:new2'."
        )
    name, sources = found
    scores = [column for column in present if column not in sources and column.lower() in _SCORES]
    if scores and name == "B":
        if len(scores) > 1:
            raise InputError(
                f"{where} has the columns {', '.join(scores)}, and each may hold scores. Name one of them with "
                f"`column_rename_mapping`, '{scores[0]}:label'."
            )
        name, sources = "A", (*sources, scores[0])
    if name == "texts" and label_free is False:
        raise InputError(f"{where} has only texts, but `label_free` is off. Name labelled data: format A, B or C.")
    if label_free and name == "A":
        sources = sources[:2]
    return Layout(name, sources, label_free=bool(label_free) or name == "texts")


def parse_mapping(text: str) -> dict[str, str]:
    """Read ``old:new;old2:new2``.

    Raises:
        InputError: the text has another form.
    """
    mapping = {}
    for item in text.split(";"):
        old, colon, new = (part.strip() for part in item.partition(":"))
        if not item.strip():
            continue
        if not (old and colon and new):
            raise InputError(f"`column_rename_mapping` has '{item.strip()}'. Write it as 'old:new;old2:new2'.")
        mapping[old] = new
    return mapping


def check_mapping(mapping: Mapping[str, str], files: Mapping[str, Iterable[str]]) -> None:
    """Check that every column to rename exists in some file.

    Args:
        mapping: new names by old names.
        files: columns by file.

    Raises:
        InputError: no file has a column of the mapping.
    """
    present = {column for columns in files.values() for column in columns}
    absent = [old for old in mapping if old not in present]
    if absent:
        found = "; ".join(f"{name} has {', '.join(columns)}" for name, columns in files.items())
        raise InputError(f"`column_rename_mapping` names '{absent[0]}', which no file has: {found}.")


def rename(present: Iterable[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """The columns of the data by their new names."""
    renamed: dict[str, str] = {}
    for column in present:
        name = mapping.get(column, column)
        # A renamed column replaces one that already has the new name.
        if name not in renamed or column in mapping:
            renamed[name] = column
    return renamed


def _match(present: Sequence[str]) -> tuple[str, tuple[str, ...]] | None:
    columns = set(present)
    exact = [("C", FORMATS["C"]), ("A", FORMATS["A"]), ("B", FORMATS["B"])]
    known = [(name, names) for name in ("C", "A", "B") for names in _SYNONYMS[name]]
    plain = [("texts", FORMATS["texts"]), *(("texts", names) for names in _SYNONYMS["texts"])]
    return next(((name, names) for name, names in (*exact, *known, *plain) if columns.issuperset(names)), None)

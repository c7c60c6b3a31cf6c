"""The protocol: variants, data and options."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from ese_deploy.errors import InputError

__all__ = ["PROTOCOL", "STAGES", "Data", "DevSearch", "Protocol", "Row", "read_protocol"]

PROTOCOL = Path(__file__).with_name("protocol.toml")

Stage = Literal["finalist", "ablation", "idea"]
How = Literal["train", "matryoshka2d", "pca", "aligned", "untouched"]
PROJECTED: tuple[How, ...] = ("pca", "aligned")
STAGES: tuple[Stage, ...] = ("finalist", "ablation", "idea")


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A variant.

    Attributes:
        name: shown in tables.
        stage: finalists are tuned, run with all seeds and tested.
        how: ``train`` by ``training.train``; ``matryoshka2d`` by sentence-transformers' loss; ``pca`` or
            ``aligned``, a projection of the model of the row ``of``; ``untouched``.
        of: the base row, whose data, options, settings and learning rate this row inherits.
        data: sets of training data.
        seeds: without them those of the stage.
        rates: learning rates to try; a single one is taken as it is.
        cell: the only cell to judge by, such as ``1x32``; empty means the mean of the grid.
        flags: options of ``training.train``.
        loss: settings of the loss.
        search: whether retrieval is measured on the development set too.
        why: a description for tables.
    """

    name: str
    stage: Stage
    how: How = "train"
    of: str = ""
    data: list[str] = []
    seeds: list[int] = []
    rates: list[float] = []
    cell: str = ""
    flags: dict[str, Any] = {}
    loss: dict[str, Any] = {}
    search: bool = False
    why: str = ""


class DevSearch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A small retrieval collection for choices, drawn from one whose other queries are used for testing.

    Attributes:
        corpus: file of documents.
        queries: file of queries, none of them of the test.
        qrels: file of judgements.
        sizes: number of queries, and of documents besides their answers.
    """

    corpus: str
    queries: str
    qrels: str
    sizes: tuple[int, int]


class Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Files, relative to the data folder.

    Attributes:
        dev: scored pairs for choices.
        test_sts: scored pairs for the test.
        test_retrieval: folders of retrieval collections for the test.
        left_out: training rows of these sources are not used.
        train: files of each set of training data.
        plain: sets that are read as plain texts, one per row.
        dev_search: retrieval collection for choices.
    """

    dev: str
    test_sts: list[str]
    test_retrieval: list[str]
    left_out: list[str]
    train: dict[str, list[str]]
    plain: list[str] = []
    dev_search: DevSearch | None = None


class Protocol(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All variants and their data.

    Attributes:
        model: the checkpoint that is trained.
        depths: of the grid.
        dims: of the grid.
        named: cells that tables show.
        seeds: for each stage; the first one tunes.
        data: the files.
        flags: of every row.
        rows: in the order in which they are run.
        test_bf16: whether test sets are computed in bf16.
    """

    model: str
    depths: list[int]
    dims: list[int]
    named: list[str]
    seeds: dict[Stage, list[int]]
    data: Data
    flags: dict[str, Any]
    rows: list[Row]
    test_bf16: bool = False

    def row(self, name: str) -> Row:
        """A row without inherited values.

        Raises:
            InputError: the name is unknown.
        """
        for row in self.rows:
            if row.name == name:
                return row
        names = ", ".join(row.name for row in self.rows)
        raise InputError(f"The protocol has no row '{name}'. Choose one of: {names}.")

    def whole(self, row: Row) -> Row:
        """A row with the values that it inherits from the protocol and its base row."""
        base = self.whole(self.row(row.of)) if row.of and row.how not in PROJECTED else None
        return msgspec.structs.replace(
            row,
            how=base.how if base else row.how,
            data=row.data or (base.data if base else []),
            cell=row.cell or (base.cell if base else ""),
            flags={**(base.flags if base else self.flags), **row.flags},
            loss={**(base.loss if base else {}), **row.loss},
        )


def read_protocol(path: Path = PROTOCOL) -> Protocol:
    """Read a protocol.

    Raises:
        InputError: it is not TOML, has an unknown key, or names unknown rows or data.
    """
    try:
        content: Mapping[str, Any] = tomllib.loads(path.read_text("utf-8"))
        protocol = msgspec.convert(content, Protocol)
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise InputError(f"{path} is not a protocol: {error}.") from None
    names = [row.name for row in protocol.rows]
    for row in protocol.rows:
        if names.count(row.name) > 1:
            raise InputError(f"{path} has two rows '{row.name}'. Names must differ.")
        if row.of and row.of not in names[: names.index(row.name)]:
            raise InputError(f"{path}: '{row.name}' is of '{row.of}', which is not an earlier row.")
        if row.search and protocol.data.dev_search is None:
            raise InputError(f"{path}: '{row.name}' has search = true. Add [data.dev_search].")
        absent = [name for name in row.data if name not in protocol.data.train]
        if absent:
            raise InputError(
                f"{path}: '{row.name}' takes '{absent[0]}'. Choose from: {', '.join(protocol.data.train)}."
            )
    return protocol

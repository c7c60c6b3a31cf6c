"""The protocol: what is compared, on what data, with which flags."""

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
        name: as tables show it.
        stage: finalists are tuned, run with all seeds and tested.
        how: ``train`` by ``training.train``; ``matryoshka2d`` by sentence-transformers' loss; ``pca`` or
            ``aligned``, a projection of the model of the row ``of``; ``untouched``.
        of: the row whose data, flags, settings and learning rate this one takes where it has none of its own.
        data: sets of training data.
        seeds: without them those of the stage.
        rates: learning rates to try; a single one is taken as it is.
        cell: the one cell that counts, such as ``1x32``; without it the mean of the grid.
        flags: of ``training.train``.
        loss: settings of the loss.
        search: whether the development set of search is measured too.
        why: a line for people.
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
    """A small search collection to make choices on, drawn from one whose other queries are the test's.

    Attributes:
        corpus: file of documents.
        queries: file of queries, none of them of the test.
        qrels: file of judgements.
        sizes: number of queries, and of documents beside those that answer them.
    """

    corpus: str
    queries: str
    qrels: str
    sizes: tuple[int, int]


class Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Files, below the folder that the command line names.

    Attributes:
        dev: scored pairs that choices are made on.
        test_sts: scored pairs, looked at once.
        test_retrieval: folders of search collections, looked at once.
        left_out: training rows of these sources are not used.
        train: files of each set of training data.
        plain: sets whose every text is a row of its own, so that nothing says what belongs together.
        dev_search: what choices for search are made on.
    """

    dev: str
    test_sts: list[str]
    test_retrieval: list[str]
    left_out: list[str]
    train: dict[str, list[str]]
    plain: list[str] = []
    dev_search: DevSearch | None = None


class Protocol(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that is compared.

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
        """A row as it stands in the protocol.

        Raises:
            InputError: there is none of that name.
        """
        for row in self.rows:
            if row.name == name:
                return row
        names = ", ".join(row.name for row in self.rows)
        raise InputError(f"the protocol has no row '{name}'; it has: {names}")

    def whole(self, row: Row) -> Row:
        """A row with all that it takes from the protocol and from the row that it is ``of``."""
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
        InputError: it is no TOML, or has what nothing reads, or names rows or data that are not there.
    """
    try:
        content: Mapping[str, Any] = tomllib.loads(path.read_text("utf-8"))
        protocol = msgspec.convert(content, Protocol)
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise InputError(f"{path} is no protocol: {error}") from None
    names = [row.name for row in protocol.rows]
    for row in protocol.rows:
        if names.count(row.name) > 1:
            raise InputError(f"{path} has two rows '{row.name}'; names tell rows apart")
        if row.of and row.of not in names[: names.index(row.name)]:
            raise InputError(f"{path}: '{row.name}' is of '{row.of}', which no row before it is called")
        if row.search and protocol.data.dev_search is None:
            raise InputError(f"{path}: '{row.name}' has search = true; say on what in [data.dev_search]")
        absent = [name for name in row.data if name not in protocol.data.train]
        if absent:
            raise InputError(f"{path}: '{row.name}' takes '{absent[0]}'; data are {', '.join(protocol.data.train)}")
    return protocol

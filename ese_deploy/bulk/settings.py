"""What a bulk job computes and where it writes; everything that decides its bytes is in one value."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from ese_deploy.bundle.spaces import Space
from ese_deploy.errors import InputError
from ese_deploy.runtime.precision import PRECISIONS
from ese_deploy.texts.fields import Fields

__all__ = ["BULK_PRECISIONS", "BadRows", "JobSettings", "ModelSettings", "check_bulk_precision"]

# Half of float32 is what vector databases call halfvec or float16.
BULK_PRECISIONS = tuple(dict.fromkeys((*PRECISIONS, "float16")))


class BadRows(StrEnum):
    """What happens to a row without a text."""

    ERROR = "error"
    SKIP = "skip"
    NULL = "null"


@dataclass(frozen=True)
class ModelSettings:
    """What turns texts into vectors.

    Attributes:
        bundle: the folder of the bundle.
        targets: the targets, such as ``3x128``; empty is the bundle's default.
        index_target: the target of the index that vectors of queries are for.
        prompt_name: the prompt that is put before each text.
        precision: one of :data:`BULK_PRECISIONS`.
        engine: the inference engine; None is the default one.
        threads: threads of one worker; None is every core that the process may use.
        space: ``source`` gives vectors in the embedding space of the model that the bundle was made of.
    """

    bundle: Path
    targets: tuple[str, ...] = ()
    index_target: str | None = None
    prompt_name: str | None = None
    precision: str = "float32"
    engine: str | None = None
    threads: int | None = None
    space: Space = "bundle"


@dataclass(frozen=True)
class JobSettings:
    """A bulk job.

    Attributes:
        model: what turns texts into vectors.
        fields: which fields are used.
        encoding: of lines.
        bad_rows: what happens to a row without a text.
        part_rows: most rows of a part, which is written at once.
        window: texts that are sorted by length and of which duplicates are embedded once.
        separator: between the columns of a ``.csv``, by name or as the character; None: a comma.
    """

    model: ModelSettings
    fields: Fields = field(default_factory=Fields)
    encoding: str = "utf-8"
    bad_rows: BadRows = BadRows.ERROR
    part_rows: int = 50_000
    window: int = 4096
    separator: str | None = None

    def __post_init__(self) -> None:
        check_bulk_precision(self.model.precision)
        if self.part_rows < 1 or self.window < 1:
            raise InputError(f"`part_rows` and `window` must be at least 1, got {self.part_rows} and {self.window}.")


def check_bulk_precision(name: str) -> None:
    """Check the name of a precision.

    Raises:
        InputError: it is unknown.
    """
    if name not in BULK_PRECISIONS:
        raise InputError(f"Unknown precision '{name}'. Choose one of: {', '.join(BULK_PRECISIONS)}.")

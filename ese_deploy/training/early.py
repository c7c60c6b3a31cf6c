"""Mistakes that are found before the large libraries are imported."""

from pathlib import Path

from ese_deploy.backbones.source import locate
from ese_deploy.errors import InputError
from ese_deploy.system.files import expand
from ese_deploy.texts.columnar import COLUMNAR_KINDS
from ese_deploy.texts.dialect import dialect_of
from ese_deploy.texts.reader import kind_of, read_rows
from ese_deploy.training.columns import find_layout, parse_mapping, rename
from ese_deploy.training.run_folder import check_out
from ese_deploy.training.settings import TrainingSettings

__all__ = ["check_early"]

_TABLES = (".tsv", ".csv", ".jsonl")
_FILES = (*_TABLES, *COLUMNAR_KINDS, ".json", ".txt", ".gz", ".zst")


def check_early(settings: TrainingSettings) -> None:
    """Check the model, the output folder, and the first row of each local file.

    Raises:
        InputError: a file or the model is missing, the output folder is not empty, or the columns match no format.
    """
    dialect = dialect_of(settings.encoding or "utf-8", settings.separator)
    mapping = parse_mapping(settings.column_rename_mapping)
    for name in (*settings.train, *settings.valid, *settings.scored):
        path = expand(name)
        if path.name.endswith(_FILES) and not path.exists():
            raise InputError(f"There is no file {path}. A data set of the hub is named without a suffix.")
    for name in settings.train:
        path = expand(name)
        if path.is_file() and kind_of(path) in _TABLES:
            first = next(read_rows(path, dialect), None)
            if first is not None:
                find_layout(list(rename(first[1], mapping)), settings.label_free, str(path))
    check_out(Path(settings.out).absolute(), settings.resume)
    locate(settings.model)

"""``ese-deploy load``."""

from pathlib import Path
from typing import Annotated

import typer

from ese_deploy.bulk.load import load_vectors
from ese_deploy.cli.console import JsonOption, print_json, progress_bars
from ese_deploy.cli.streams import stop_on_signals

__all__ = ["load"]

EXAMPLES = (
    "ese-deploy load vectors --to lancedb:search.lance#documents",
    "ese-deploy load vectors --to qdrant:http://localhost:6333#documents",
    "ese-deploy load vectors --to faiss:index.faiss",
)


def load(
    folder: Annotated[
        Path, typer.Argument(help="The folder of Parquet files that `ese-deploy embed` has written.", metavar="FOLDER")
    ],
    to: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Load into this database or index file: lancedb:FOLDER#TABLE, qdrant:URL#COLLECTION, "
            "postgresql://HOST/DATABASE#TABLE, faiss:FILE or usearch:FILE.",
            show_default=False,
        ),
    ],
    column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Load this column of vectors, where the job had several targets."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an index file that exists.")] = False,
    json: JsonOption = False,
) -> None:
    """Load embedded parts into a database or an index file.

    An interrupted load continues when the command is run again. A row that is written twice is there once.
    """
    with stop_on_signals() as stop, progress_bars() as progress:
        summary = load_vectors(folder, to, column=column, overwrite=overwrite, progress=progress, stop=stop)
    if json:
        print_json(summary)
    else:
        print(f"loaded {summary.loaded} of {summary.rows} rows into {summary.to}, which has {summary.count}")

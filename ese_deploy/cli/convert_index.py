"""``ese-deploy convert-index``."""

from pathlib import Path
from typing import Annotated

import typer

from ese_deploy.cli.console import BundleArgument, JsonOption, print_json, progress_bars
from ese_deploy.index.convert import convert_index as convert
from ese_deploy.system.terminal import visible

__all__ = ["EXAMPLES", "convert_index"]

EXAMPLES = (
    "ese-deploy convert-index exports/minilm old.npy new.npy --dim 128",
    "ese-deploy convert-index exports/minilm old.parquet new.parquet --column vector",
)


def convert_index(
    bundle: BundleArgument,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT", help="The vectors that another tool made with the model: a .npy or .parquet file."
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Write the vectors to this file of the same format.")],
    dim: Annotated[
        int | None, typer.Option("--dim", metavar="NUMBER", help="Keep this many dimensions. Default: all.")
    ] = None,
    column: Annotated[
        str, typer.Option("--column", metavar="NAME", help="Read the vectors of a .parquet file from this column.")
    ] = "embedding",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUTPUT if it exists.")] = False,
    json: JsonOption = False,
) -> None:
    """Bring an index that another tool made with the published model into the embedding space of a bundle."""
    with progress_bars() as progress:
        done = convert(bundle, source, out, dim=dim, column=column, overwrite=overwrite, progress=progress)
    if json:
        print_json({"out": str(done.out), "vectors": done.vectors, "dim": done.dim, "space": done.space})
        return
    print(visible(f"wrote {done.out}: {done.vectors} vectors of {done.dim} dimensions, embedding space {done.space}"))

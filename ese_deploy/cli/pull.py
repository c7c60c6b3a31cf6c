"""``ese-deploy pull``."""

from typing import Annotated

import typer

from ese_deploy.bundle.hub import fetch_bundle
from ese_deploy.bundle.reader import open_bundle
from ese_deploy.cli.console import TargetOption, progress_bars, split

__all__ = ["EXAMPLES", "pull"]

EXAMPLES = ("ese-deploy pull owner/minilm-ese", "ese-deploy pull owner/minilm-ese --target 3x128")


def pull(
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository on the Hugging Face hub.")],
    target: TargetOption = None,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="NAME", help="Take this branch, tag or commit.")
    ] = None,
) -> None:
    """Download a bundle of the Hugging Face hub into its cache, and print the folder."""
    with progress_bars() as progress:
        folder = fetch_bundle(name, split(target), revision=revision, progress=progress)
    open_bundle(folder)
    print(folder)

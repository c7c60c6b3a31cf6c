"""``ese-deploy push``."""

from typing import Annotated

import typer

from ese_deploy.bundle.hub import push_bundle
from ese_deploy.cli.console import BundleArgument, progress_bars

__all__ = ["EXAMPLES", "push"]

EXAMPLES = ("ese-deploy push exports/minilm owner/minilm-ese --private",)


def push(
    bundle: BundleArgument,
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository on the Hugging Face hub.")],
    private: Annotated[bool, typer.Option("--private", help="Create the repository as private.")] = False,
) -> None:
    """Upload a bundle to the Hugging Face hub, with a model card. Log in first with hf auth login."""
    with progress_bars() as progress:
        address = push_bundle(bundle, name, private=private, progress=progress)
    print(f"pushed {bundle} to {name}: {address}")

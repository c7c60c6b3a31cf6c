"""``ese-deploy pack``."""

from pathlib import Path
from typing import Annotated

import typer

from ese_deploy.cli.console import BundleArgument, JsonOption, megabytes, print_json, split
from ese_deploy.pack.api import LAYOUTS
from ese_deploy.pack.api import pack as pack_targets

__all__ = ["EXAMPLES", "pack"]

EXAMPLES = (
    "ese-deploy pack exports/minilm --target 3x128:int8 --layout ese --out packed/small",
    "ese-deploy pack exports/minilm --target 3x128 --layout fastembed --out packed/fastembed",
)


def pack(
    bundle: BundleArgument,
    target: Annotated[
        list[str],
        typer.Option(
            "--target",
            metavar="DEPTHxDIM[:DTYPE]",
            help="Pack this target, for example 3x128. The layout ese takes several: repeat the option.",
        ),
    ],
    layout: Annotated[
        str, typer.Option("--layout", metavar="NAME", help=f"Write the layout of this tool: {', '.join(LAYOUTS)}.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Write to this folder, which must be new.")],
    json: JsonOption = False,
) -> None:
    """Write one target of a bundle in the layout of another tool, and check its vectors."""
    packed = pack_targets(bundle, split(target), out, layout=layout)
    if json:
        print_json(
            {
                "out": str(packed.out),
                "layout": packed.layout,
                "targets": packed.targets,
                "bytes": packed.bytes,
                "max_abs": packed.max_abs,
            }
        )
        return
    print(f"wrote {out}: {', '.join(packed.targets)} for {layout}, {megabytes(packed.bytes)}")
    print(f"golden texts: largest difference from PyTorch {packed.max_abs:.1e}")

"""``python -m training.evaluate CKPT|BUNDLE``: the grid of depth and dim, and the asymmetric searches."""

from pathlib import Path
from typing import Annotated

import typer

from ese_deploy.bundle.reader import is_bundle, open_bundle
from ese_deploy.cli.console import JsonOption, PickleOption, progress_bars
from ese_deploy.cli.evaluate import (
    AgainstOption,
    OutOption,
    PlotsOption,
    RetrievalOption,
    StsOption,
    check_outputs,
    evaluate_model,
    full_checkpoint,
    show,
)
from ese_deploy.cli.tables import extra_error
from ese_deploy.target import parse_range

__all__ = ["app"]

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command("evaluate")
def evaluate(
    model: Annotated[str, typer.Argument(help="A checkpoint (folder, hub id, package:NAME) or a bundle.")],
    sts: StsOption = [],  # noqa: B006, typer copies it
    retrieval: RetrievalOption = [],  # noqa: B006
    depths: Annotated[str, typer.Option(help="Of a checkpoint, such as 1-6; without it all.")] = "",
    dims: Annotated[str, typer.Option(help="Of a checkpoint, such as 64,128; without it 16, 32, 64 and so on.")] = "",
    pooling: Annotated[str | None, typer.Option(help="For a plain transformers folder: mean or cls.")] = None,
    device: Annotated[str, typer.Option(help="Device of PyTorch for a checkpoint: cpu, cuda.")] = "cpu",
    bf16: Annotated[
        bool, typer.Option("--bf16", help="Multiply in bf16 (a checkpoint's): faster, a little off.")
    ] = False,
    against: AgainstOption = None,
    out: OutOption = None,
    plots: PlotsOption = None,
    allow_pickle: PickleOption = False,
    json: JsonOption = False,
) -> None:
    """Evaluate every (depth, dim) of a checkpoint or a bundle; a checkpoint runs once for all of them."""
    check_outputs(out, plots)
    with extra_error("export"):
        from ese_deploy.backbones import read_checkpoint
        from ese_deploy.evaluate import BundleExits
        from ese_deploy.evaluate.checkpoint import CheckpointExits
    bundle = open_bundle(model) if is_bundle(Path(model)) else None
    with progress_bars() as progress:
        if bundle is not None:
            exits: BundleExits | CheckpointExits = BundleExits(bundle)
            full = full_checkpoint(bundle, against, allow_pickle) if exits.full is None else None
        else:
            exits = CheckpointExits(
                read_checkpoint(model, pooling=pooling, allow_pickle=allow_pickle),
                parse_range(depths, "--depths") if depths else None,
                parse_range(dims, "--dims") if dims else None,
                device,
                bf16,
            )
            full = None
        figures, pairs = evaluate_model(exits, sts, retrieval, progress, full)
    show(exits, figures, pairs, out, plots, json)

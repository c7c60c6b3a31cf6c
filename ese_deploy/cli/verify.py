"""``ese-deploy verify``."""

from pathlib import Path
from typing import Annotated

import typer

from ese_deploy.bundle import Bundle, open_bundle, verify_weights
from ese_deploy.cli.console import EngineOption, JsonOption, print_json, print_table, progress_bars
from ese_deploy.cli.tables import check_rows, extra_error
from ese_deploy.engines import load_engine
from ese_deploy.errors import GateError, InputError
from ese_deploy.golden import load_golden

__all__ = ["verify"]


def verify(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.", metavar="BUNDLE")],
    against: Annotated[
        str | None, typer.Option(help="The checkpoint; without it, the one that the bundle names.")
    ] = None,
    engine: EngineOption = "onnxruntime",
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Load pickle weights, which can run any code.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Hash every file of a bundle and compare every target with PyTorch."""
    with extra_error("export"):
        from ese_deploy.backbones import Checkpoint, read_checkpoint
        from ese_deploy.verify import check_targets

    def read_source(opened: Bundle) -> Checkpoint:
        manifest = opened.manifest
        source = against or manifest.source.model
        try:
            checkpoint = read_checkpoint(
                source,
                pooling=manifest.pooling,
                allow_pickle=allow_pickle,
                max_seq_length=manifest.max_seq_length,
            )
        except InputError as error:
            if against is not None:
                raise
            raise InputError(f"{error} (the bundle's source; name the checkpoint with --against)") from error
        if against is None and checkpoint.weights_sha256() != manifest.source.weights_sha256:
            raise InputError(
                f"{source} is not the checkpoint that {bundle} was made of: its weights have another hash; "
                "name the right one with --against"
            )
        return checkpoint

    opened = open_bundle(bundle)
    loaded = load_engine(engine)
    with progress_bars() as progress:
        for done, entry in enumerate(opened.manifest.weights):
            progress("hash weights", done, len(opened.manifest.weights))
            verify_weights(opened, entry)
            progress("hash weights", done + 1, len(opened.manifest.weights))
        load_golden(opened)
        checkpoint = read_source(opened)
        found = [check for check, _ in check_targets(opened, checkpoint, loaded, opened.manifest.targets, progress)]
    if json:
        print_json(
            [{"target": check.entry.name, "parity": check.parity, "failures": check.failures} for check in found]
        )
    else:
        print_table(*check_rows(found, opened.manifest))
    failures = [f"{check.entry.target}: {failure}" for check in found for failure in check.failures]
    if failures:
        raise GateError(f"{len(failures)} checks failed", failures)

"""``ese-deploy verify``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ese_deploy.bundle.golden import load_golden
from ese_deploy.bundle.manifest import TargetEntry
from ese_deploy.bundle.reader import (
    Bundle,
    open_bundle,
    read_profiles_file,
    read_projection,
    read_ranges_file,
    read_tokenizer,
    verify_weights,
)
from ese_deploy.cli.console import EngineOption, JsonOption, PickleOption, print_json, print_table, progress_bars, say
from ese_deploy.cli.tables import check_rows, extra_error
from ese_deploy.engines import GPU_ENGINES, load_engine, runs_dtype
from ese_deploy.errors import CheckFailedError, InputError
from ese_deploy.system.progress import Progress

__all__ = ["hash_files", "verify"]


def verify(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.", metavar="BUNDLE")],
    against: Annotated[
        str | None, typer.Option(help="The checkpoint; without it, the one that the bundle names.")
    ] = None,
    engine: EngineOption = "onnxruntime",
    save: Annotated[bool, typer.Option("--save", help="Write the figures into the bundle's manifest.")] = False,
    allow_pickle: PickleOption = False,
    json: JsonOption = False,
) -> None:
    """Hash every file of a bundle and compare every target with PyTorch."""
    with extra_error("export"):
        from ese_deploy.backbones.bundled import checkpoint_of
        from ese_deploy.verify import check_targets, save_parity

    opened = open_bundle(bundle)
    loaded = load_engine(engine)
    with progress_bars() as progress:
        for _ in hash_files(opened, progress):
            pass
        checkpoint = checkpoint_of(opened, against, allow_pickle=allow_pickle, same_weights=against is None)
        entries = _entries(opened, loaded.name)
        found = [check for check, _ in check_targets(opened, checkpoint, loaded, entries, progress)]
    if json:
        print_json(
            [{"target": check.entry.name, "parity": check.parity, "failures": check.failures} for check in found]
        )
    else:
        print_table(*check_rows(found, opened.manifest))
    if save:
        opened = save_parity(opened, found)
        say(f"wrote {opened.path / 'manifest.json'}: parity of {len(found)} targets on {loaded.name}")
    failures = [f"{check.entry.target}: {failure}" for check in found for failure in check.failures]
    if failures:
        raise CheckFailedError(f"{len(failures)} checks failed", failures)


def hash_files(opened: Bundle, progress: Progress) -> Iterator[str]:
    """Hash every file of an open bundle but the graphs, which opening it hashed; each name as it is found right.

    Raises:
        BundleError: a file is not the one that the manifest describes.
    """
    weights, manifest = opened.manifest.weights, opened.manifest
    for done, entry in enumerate(weights):
        progress("hash weights", done, len(weights))
        verify_weights(opened, entry)
        progress("hash weights", done + 1, len(weights))
        yield entry.file
    for further, read in (
        (manifest.tokenizer, read_tokenizer),
        (manifest.golden, load_golden),
        (manifest.projection_file, read_projection),
        (manifest.profiles, read_profiles_file),
        (manifest.ranges, read_ranges_file),
    ):
        if further is not None:
            read(opened)
            yield further.file


def _entries(opened: Bundle, engine: str) -> list[TargetEntry]:
    """What to check: on an accelerator the targets of dtypes that it computes in, which are not all."""
    entries = opened.manifest.targets
    if engine not in GPU_ENGINES:
        return list(entries)
    running = [entry for entry in entries if runs_dtype(engine, entry.dtype)]
    if not running:
        raise InputError(f"{opened.path} holds no target of a dtype that the engine '{engine}' computes in")
    return running

"""``ese-deploy measurements``: what this machine measured."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from ese_deploy.bundle.reader import open_bundle
from ese_deploy.cli.console import (
    JsonOption,
    MeasuredEngineOption,
    ThreadsOption,
    check_measured_engine,
    print_json,
    print_table,
    progress_bars,
)
from ese_deploy.errors import CheckFailedError, InputError
from ese_deploy.measurements.cases import Case, Kind
from ese_deploy.measurements.store import (
    cache_folder,
    check_owner,
    clear_measurements,
    import_measurements,
    list_measurements,
    load_measurements,
    read_measurements,
    store_measurements,
    write_measurements,
)
from ese_deploy.system.machine import describe_machine

__all__ = ["app"]

app = typer.Typer(
    name="measurements",
    help="List, make, export, import or clear measurements of bundles on this machine.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

BundleArgument = Annotated[Path, typer.Argument(help="The bundle's folder.", metavar="BUNDLE")]


@app.command("list")
def list_all(json: JsonOption = False) -> None:
    """List the measurements in the cache."""
    held = list_measurements()
    if json:
        print_json({"folder": str(cache_folder()), "measurements": held})
        return
    if not held:
        print(f"{cache_folder()} has no measurements")
        return
    rows = [
        [
            one.name,
            one.bundle[:12],
            str(one.machine),
            f"{len(one.measurements)}",
            ", ".join(sorted({figure.kind for figure in one.measurements})),
        ]
        for one in held
    ]
    print_table(["bundle", "key", "machine", "figures ", "of"], rows, str(cache_folder()))


@app.command("make")
def make(
    bundle: BundleArgument,
    latency: Annotated[bool, typer.Option("--latency", help="Measure the latency of one text.")] = False,
    throughput: Annotated[bool, typer.Option("--throughput", help="Measure batches of 32 texts.")] = False,
    memory: Annotated[bool, typer.Option("--memory", help="Measure the memory of a new process.")] = False,
    tokens: Annotated[int, typer.Option(help="Measure texts of this many tokens.")] = 32,
    threads: ThreadsOption = None,
    engine: MeasuredEngineOption = "onnxruntime",
    allow_busy: Annotated[
        bool, typer.Option("--allow-busy", help="Store the figures although others used the processors meanwhile.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Measure every target of a bundle; by default latency, throughput and memory."""
    from ese_deploy.bench import measure

    if threads is not None and threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}")
    check_measured_engine(engine)
    opened = open_bundle(bundle)
    asked: list[tuple[Kind, bool]] = [("latency", latency), ("throughput", throughput), ("memory", memory)]
    kinds = [kind for kind, wanted in asked if wanted] or [kind for kind, _ in asked]
    entries = [entry for entry in opened.manifest.targets if engine in entry.engines]
    if not entries:
        raise InputError(f"{bundle} holds no target for the engine '{engine}'")
    held = load_measurements(opened)
    with progress_bars() as progress:
        for kind in kinds:
            fresh = measure(opened, entries, kind, Case(tokens, threads), engine, progress=progress)
            busy = max(one.busy_cores for one in fresh)
            if busy and not allow_busy:
                raise CheckFailedError(
                    f"Others used {busy:.1f} cores while {kind} was measured, so that it is not stored. "
                    "Measure again on a quiet machine, or store it anyway with --allow-busy.",
                    [],
                )
            held = store_measurements(opened, [msgspec.structs.replace(one, busy_cores=0.0) for one in fresh])
    if json:
        print_json(held)
        return
    print(f"measured {', '.join(kinds)} of {len(entries)} targets of {bundle} on {held.machine}")


@app.command("export")
def export_file(bundle: BundleArgument, file: Annotated[Path, typer.Argument(help="A .json file.")]) -> None:
    """Write the measurements of a bundle on this machine to a file."""
    held = load_measurements(open_bundle(bundle))
    if not held.measurements:
        raise InputError(
            f"This machine has no measurements of {bundle}. Make them with: ese-deploy measurements make {bundle}"
        )
    write_measurements(file, held)
    print(f"wrote {file}: {len(held.measurements)} figures of {bundle} on {held.machine}")


@app.command("import")
def import_file(bundle: BundleArgument, file: Annotated[Path, typer.Argument(help="A .json file.")]) -> None:
    """Add measurements that were exported for the same bundle on a machine like this one."""
    held = read_measurements(file)
    check_owner(held, open_bundle(bundle), file, describe_machine())
    merged = import_measurements(held)
    print(f"added {len(held.measurements)} figures from {file}; there are {len(merged.measurements)} now")


@app.command("clear")
def clear(
    bundle: Annotated[Path | None, typer.Argument(help="Delete those of this bundle only.", metavar="[BUNDLE]")] = None,
) -> None:
    """Delete measurements of one bundle, or of all."""
    count = clear_measurements(open_bundle(bundle) if bundle else None)
    print(f"deleted {count} files from {cache_folder()}")

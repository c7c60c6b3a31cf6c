"""``ese-deploy export``."""

from pathlib import Path
from typing import Annotated

import typer

from ese_deploy.bundle.reader import open_bundle
from ese_deploy.cli.console import JsonOption, PickleOption, megabytes, print_json, print_table, progress_bars, say
from ese_deploy.cli.tables import check_rows, extra_error
from ese_deploy.target import Target, parse_range

__all__ = ["export"]


def export(
    model: Annotated[str, typer.Argument(help="A folder, a hub id, or package:NAME.", metavar="MODEL")],
    out: Annotated[Path, typer.Option(help="The bundle's folder.")],
    targets: Annotated[str, typer.Option(help="Such as 2x64,3x128: depth x dim.")] = "",
    depths: Annotated[str, typer.Option(help="Such as 1-6; with --dims, instead of --targets.")] = "",
    dims: Annotated[str, typer.Option(help="Such as 64,128,384.")] = "",
    profile: Annotated[
        str, typer.Option(help="Budget profiles, such as edge,server: of the grid, keep what they choose.")
    ] = "",
    profiles: Annotated[Path | None, typer.Option(help="A .toml file with profiles of your own.")] = None,
    dtype: Annotated[str, typer.Option(help="Of fp32, fp16, bf16, int8, int8-fp16.")] = "fp32",
    projection: Annotated[
        str | None,
        typer.Option(help="trained (default, where training left one), prefix; with --calibration aligned, pca."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Texts of your own kind, for int8, aligned, pca and output ranges: .txt or .jsonl."),
    ] = None,
    opset: Annotated[int, typer.Option(help="Of the graphs: 23, or 18 for old engines.")] = 23,
    max_seq_length: Annotated[int | None, typer.Option(help="Cut texts at fewer tokens than the model.")] = None,
    pooling: Annotated[
        str | None, typer.Option(help="For a plain transformers folder: such as mean, cls or lasttoken.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the hub.")] = None,
    allow_pickle: PickleOption = False,
    reduce_range: Annotated[
        bool, typer.Option("--reduce-range", help="Weights of int8 in 7 bits, for x86 without VNNI.")
    ] = False,
    keep_failed: Annotated[
        bool, typer.Option("--keep-failed", help="Write targets that failed a gate too, and say so.")
    ] = False,
    update: Annotated[bool, typer.Option("--update", help="Add targets to a bundle, touching no other.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle.")] = False,
    json: JsonOption = False,
) -> None:
    """Turn a checkpoint into a verified bundle of graphs, one for each (depth, dim)."""
    with extra_error("export"):
        from ese_deploy.export import ExportRequest, export_bundle
    from ese_deploy.choose import profiles_file_for_bundle, select_for_profiles
    from ese_deploy.errors import InputError

    if targets and (depths or dims):
        raise InputError("--targets names every target, --depths and --dims make a grid; choose one way")
    if targets and dtype != "fp32":
        raise InputError("--dtype is of the grid that --depths and --dims make; with --targets write 3x128:int8")
    if targets and profile:
        raise InputError("--targets names every target, --profile chooses among a grid; choose one way")
    if profile and dtype != "fp32":
        raise InputError("--dtype is of a plain grid, and a profile names its own dtypes; leave it out, or --profile")
    wanted = [name.strip() for name in profile.split(",") if name.strip()]
    if profile and not wanted:
        raise InputError(f"--profile '{profile}' names no profile; write for example edge,server")
    existing = open_bundle(out) if update and wanted else None
    selection = select_for_profiles(wanted, profiles, existing) if wanted else None
    request = ExportRequest(
        model=model,
        out=out,
        targets=[Target.parse(item) for item in targets.split(",")] if targets else [],
        depths=parse_range(depths, "--depths") if depths else [],
        dims=parse_range(dims, "--dims") if dims else [],
        dtypes=[item.strip() for item in dtype.split(",")],
        pooling=pooling,
        revision=revision,
        allow_pickle=allow_pickle,
        projection=projection,
        calibration=calibration,
        opset=opset,
        max_seq_length=max_seq_length,
        reduce_range=reduce_range,
        keep_failed=keep_failed,
        update=update,
        force=force,
        selection=selection,
        profiles=profiles_file_for_bundle(profiles) if profiles else None,
    )
    with progress_bars() as progress:
        exported = export_bundle(request, progress)
    manifest = exported.bundle.manifest
    if exported.untrained:
        untrained = ", ".join(map(str, exported.untrained))
        say(
            f"warning: training did not name depth {untrained} as an exit of this checkpoint; "
            "the agreement of such targets tells what they are worth"
        )
        if exported.dense:
            say(
                "warning: the Dense modules after the pooling were trained on the last block's vectors; "
                "what they make of earlier exits is likely poor"
            )
    for check in exported.left_out:
        say(f"warning: {check.entry.target} is left out: {'; '.join(check.failures)}; --keep-failed writes it still")
    for reason in selection.explain(manifest) if selection else []:
        say(reason)
    if json:
        print_json(manifest)
        return
    print_table(*check_rows([*exported.checks, *exported.left_out], manifest))
    size = sum(path.stat().st_size for path in exported.bundle.path.iterdir())
    failed = [f"{check.entry.target}: {failure}" for check in exported.checks for failure in check.failures]
    for failure in failed:
        say(f"warning: {failure}")
    dtypes = {check.entry.dtype for check in [*exported.checks, *exported.left_out]}
    verdict = "all equal PyTorch" if dtypes == {"fp32"} else "all passed their gates"
    verdict = f"{len(failed)} checks failed" if failed else verdict
    if exported.left_out:
        verdict = f"{len(exported.left_out)} failed the gate of int8 and are left out"
    print(f"\nwrote {out}: {len(manifest.targets)} targets, {megabytes(size)}; {verdict}")

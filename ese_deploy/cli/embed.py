"""``ese-deploy embed``."""

import logging
from pathlib import Path
from typing import Annotated, cast

import typer

from ese_deploy.bulk.on_ray import RaySettings
from ese_deploy.bulk.run import EmbedSummary, embed_files
from ese_deploy.bulk.settings import BULK_PRECISIONS, BadRows, JobSettings, ModelSettings, check_bulk_precision
from ese_deploy.bundle.spaces import Space
from ese_deploy.choose import resolve_profile
from ese_deploy.cli.console import (
    BundleArgument,
    EncodingOption,
    JsonOption,
    ProfilesFileOption,
    SeparatorOption,
    SpaceOption,
    ThreadsOption,
    picked_engine,
    print_json,
)
from ese_deploy.cli.streams import check_progress, job_progress, stop_on_signals
from ese_deploy.engines import AUTO_ENGINE, DEFAULT_ENGINE, ENGINES
from ese_deploy.errors import InputError
from ese_deploy.system.terminal import visible
from ese_deploy.texts.fields import Fields, parse_template

__all__ = ["embed"]

EXAMPLES = (
    "ese-deploy embed exports/minilm texts.txt --target 3x128 --out vectors.npy",
    "ese-deploy embed exports/minilm data/*.parquet --id-field id --target 3x128 --out vectors",
    'ese-deploy embed exports/minilm rows.csv.gz --text "{title}: {body}" --target 3x128 --out vectors.parquet',
    "ese-deploy embed exports/minilm data/*.parquet --id-field id --target 3x128 --out vectors --resume",
    "ese-deploy embed exports/minilm queries.txt --target 3x128 --index-target 6x128 --out queries.npy",
    "ese-deploy embed exports/minilm queries.txt --target 3x384 --space source --out queries.npy",
)
OLD_OPTIONS = {"index": "index-target"}

logger = logging.getLogger(__name__)


def embed(
    bundle: BundleArgument,
    sources: Annotated[
        list[str],
        typer.Argument(
            help="The texts: .txt files with one text a line, .jsonl, .csv, .tsv, .parquet or Arrow IPC files, folders "
            "and patterns of them, or - for standard input. Files of lines can end in .gz or .zst.",
            metavar="INPUT...",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="PATH",
            help="Write the vectors to this .npy, .jsonl or .parquet file. A name without a suffix is a folder of "
            "Parquet files.",
            show_default=False,
        ),
    ],
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DEPTHxDIM[:DTYPE]",
            help="Embed with this target, for example 3x128. Repeat the option for several columns of vectors. "
            "Default: the deepest and widest fp32 target.",
        ),
    ] = None,
    index_target: Annotated[
        str | None,
        typer.Option(
            "--index-target",
            metavar="DEPTHxDIM[:DTYPE]",
            help="Encode queries for an index built with this target. Both targets need one dim and one embedding "
            "space.",
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Use the target and engine of this budget profile, for example edge."),
    ] = None,
    profiles: ProfilesFileOption = None,
    prompt_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Put this prompt of the model before each text.")
    ] = None,
    text_field: Annotated[
        str, typer.Option("--text-field", metavar="NAME", help="Read the text of a row from this field.")
    ] = "text",
    text: Annotated[
        str | None,
        typer.Option(metavar="TEMPLATE", help='Join several fields to a text, for example "{title}: {body}".'),
    ] = None,
    id_field: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Write this field as the id of each vector. Ids must differ. Default: the position of the row.",
        ),
    ] = None,
    keep_fields: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Write these fields beside the vectors, for example title,url, or all. Default: all for .jsonl, none "
            "for the others.",
        ),
    ] = None,
    input_format: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Read the input as this format, for example jsonl. Default: its suffix tells."
        ),
    ] = None,
    encoding: EncodingOption = "utf-8",
    separator: SeparatorOption = None,
    on_bad_row: Annotated[
        BadRows,
        typer.Option(
            metavar="NAME",
            help="What to do with a row without a text: error stops before any work; skip leaves the row out; null "
            "writes it without a vector. Rows that are left out are listed in a file, with reasons.",
        ),
    ] = BadRows.ERROR,
    precision: Annotated[
        str,
        typer.Option(metavar="NAME", help=f"Store the vectors in this precision: {', '.join(BULK_PRECISIONS)}."),
    ] = "float32",
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Run on this engine: {', '.join(ENGINES)}. NAME:1 is the second GPU; openvino:bf16 computes in bf16; "
            "onnxruntime:mapped shares its weights; auto measures once which of the installed engines is fastest. "
            f"Default: the engine of the profile, or {DEFAULT_ENGINE}.",
        ),
    ] = None,
    space: SpaceOption = "bundle",
    threads: ThreadsOption = None,
    workers: Annotated[
        int, typer.Option(metavar="NUMBER", help="Run this many processes. They share the cores among them.")
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Compute on this Ray cluster, for example auto or ray://head:10001; local starts Ray on this machine. "
            "Every node must have the bundle under the same path.",
        ),
    ] = None,
    ray_actors: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", help="Run this many actors on Ray. Default: as many as there are free cores."),
    ] = None,
    ray_gpus: Annotated[
        float, typer.Option(metavar="NUMBER", help="Give each actor on Ray this many GPUs, for example 0.5.")
    ] = 0.0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a job that was interrupted. Complete parts are kept.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
    part_rows: Annotated[
        int, typer.Option(metavar="NUMBER", help="Write a part after this many rows.")
    ] = JobSettings.part_rows,
    window: Annotated[
        int,
        typer.Option(metavar="NUMBER", help="Sort this many texts by length, and embed duplicates among them once."),
    ] = JobSettings.window,
    progress: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Show the progress as: bar, log (a line every 30 seconds), json (a line every 5 seconds) or none, on "
            "standard error. Default: bar on a terminal, log elsewhere.",
        ),
    ] = "auto",
    price: Annotated[
        float | None,
        typer.Option(
            "--price-per-core-hour", metavar="AMOUNT", help="Print the cost of a million texts at this price."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Embed the texts of files."""
    check_bulk_precision(precision)
    check_progress(progress)
    if text is not None and text_field != "text":
        raise InputError("--text and --text-field exclude each other. Choose one.")
    chosen, profile_engine = _choose_targets(bundle, target, profile, profiles)
    if engine == AUTO_ENGINE:
        engine = picked_engine(bundle, chosen[0] if chosen else None, threads)
    settings = JobSettings(
        ModelSettings(
            bundle,
            chosen,
            index_target,
            prompt_name,
            precision,
            engine or profile_engine,
            threads,
            cast(Space, space),
        ),
        Fields(text_field, parse_template(text) if text is not None else None, id_field, _kept(keep_fields, out)),
        encoding,
        on_bad_row,
        part_rows,
        window,
        separator,
    )
    with stop_on_signals() as stop, job_progress(progress) as report:
        summary = embed_files(
            sources,
            out,
            settings,
            input_format=input_format,
            resume=resume,
            overwrite=overwrite,
            workers=workers,
            ray=_cluster(ray, ray_actors, ray_gpus),
            report=report,
            stop=stop,
        )
    _warn(summary)
    if json:
        print_json(_as_json(summary, price))
    else:
        _print(summary, price)


def _cluster(address: str | None, actors: int | None, gpus: float) -> RaySettings | None:
    if address is None:
        if actors is not None or gpus:
            raise InputError("--ray-actors and --ray-gpus need --ray ADDRESS.")
        return None
    return RaySettings(address, actors, gpus)


def _kept(names: str | None, out: Path) -> tuple[str, ...] | None:
    """The fields to keep; None: all."""
    if names is None:
        return None if out.suffix == ".jsonl" else ()
    if names == "all":
        return None
    return tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))


def _warn(summary: EmbedSummary) -> None:
    if summary.truncated:
        logger.warning(f"truncated {summary.truncated} of {summary.texts} texts to {summary.max_seq_length} tokens")
    if summary.skipped_file:
        logger.warning(f"{summary.bad_rows} of {summary.rows} rows have no vector; {summary.skipped_file} lists them")


def _as_json(summary: EmbedSummary, price: float | None) -> dict[str, object]:
    cost = {} if price is None else {"cost_per_million": summary.cost_per_million(price)}
    first = {"target": summary.targets[0], "space": summary.spaces[0], "dim": summary.dims[0]}
    fields = {name: getattr(summary, name) for name in summary.__struct_fields__}
    return {"out": summary.out, **first, **fields, **cost}


def _print(summary: EmbedSummary, price: float | None) -> None:
    kind = "" if summary.precision == "float32" else f" as {summary.precision}"
    dims = ", ".join(map(str, summary.dims))
    label = "target" if len(summary.targets) == 1 else "targets"
    print(
        f"wrote {summary.out}: {summary.texts} vectors of {dims} dimensions{kind}, {label} {', '.join(summary.targets)}"
    )
    print(visible(f"embedding space: {', '.join(dict.fromkeys(summary.spaces))}"))
    if summary.texts_per_second:
        print(f"{summary.texts_per_second:,.0f} texts/s, {summary.tokens_per_second:,.0f} tokens/s")
    if price is not None and summary.texts_per_second:
        cores = summary.workers * summary.threads
        cost = summary.cost_per_million(price)
        print(f"a million such texts cost {cost:.2f} on {cores} cores at {price:g} per core hour")


def _choose_targets(
    bundle: Path, targets: list[str] | None, profile: str | None, profiles: Path | None
) -> tuple[tuple[str, ...], str | None]:
    """The targets that were named, or the target and engine of a profile. The reason goes to standard error."""
    if profile is None:
        if profiles is not None:
            raise InputError("--profiles needs --profile NAME, the profile of that file to use.")
        return tuple(targets or ()), None
    if targets:
        raise InputError("--target and --profile exclude each other. Choose one.")
    found = resolve_profile(bundle, profile, profiles)
    logger.info(found.reason)
    return (str(found.target),), found.engine

"""``ese-deploy embed``."""

import logging
from pathlib import Path
from typing import Annotated, cast

import typer

from ese_deploy.choose import resolve_profile
from ese_deploy.cli.console import (
    BundleArgument,
    JsonOption,
    ProfilesFileOption,
    TextFieldOption,
    ThreadsOption,
    print_json,
    progress_bars,
)
from ese_deploy.cli.streams import open_vectors
from ese_deploy.engines import DEFAULT_ENGINE, ENGINES
from ese_deploy.errors import InputError
from ese_deploy.runtime import Encoder
from ese_deploy.runtime.precision import PRECISIONS, Precision, check_precision
from ese_deploy.target import Target
from ese_deploy.texts.reader import chunks, open_texts

__all__ = ["embed"]

EXAMPLES = (
    "ese-deploy embed exports/minilm texts.txt --target 3x128 --out vectors.npy",
    "ese-deploy embed exports/minilm queries.txt --target 3x128 --index-target 6x128 --out queries.npy",
)
OLD_OPTIONS = {"index": "index-target"}

_CHUNK = 1024

logger = logging.getLogger(__name__)


def embed(
    bundle: BundleArgument,
    source: Annotated[
        Path, typer.Argument(help="The texts: a .txt file with one text a line, or a .jsonl file.", metavar="INPUT")
    ],
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Write the vectors to this .npy or .jsonl file.", show_default=False)
    ],
    target: Annotated[
        str | None,
        typer.Option(
            metavar="DEPTHxDIM[:DTYPE]",
            help="Embed with this target, for example 3x128. Default: the deepest and widest fp32 target.",
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
    text_field: TextFieldOption = "text",
    precision: Annotated[
        str,
        typer.Option(metavar="NAME", help=f"Store the vectors in this precision: {', '.join(PRECISIONS)}."),
    ] = "float32",
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Run on this engine: {', '.join(ENGINES)}. NAME:1 is the second GPU; openvino:bf16 computes in bf16. "
            f"Default: the engine of the profile, or {DEFAULT_ENGINE}.",
        ),
    ] = None,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Embed the texts of a file."""
    texts = open_texts(source, text_field)
    writer = open_vectors(out)
    check_precision(precision)
    stored = cast(Precision, precision)
    chosen, profile_engine = _choose_target(bundle, target, profile, profiles)
    encoder = Encoder.open(
        bundle,
        chosen if index_target is None else None,
        query_target=None if index_target is None else chosen or index_target,
        document_target=index_target,
        engine=engine or profile_engine,
        threads=threads,
        log_truncated=False,
    )
    encode = encoder.encode if index_target is None else encoder.encode_query
    row = encode([], precision=stored)
    total = texts.check()
    done = 0
    with progress_bars() as progress, writer(out, total, row) as write:
        for rows in chunks(texts, _CHUNK):
            write(rows, encode([row.text for row in rows], prompt_name=prompt_name, precision=stored))
            done += len(rows)
            progress("embed", done, total)
    if encoder.truncated_texts:
        logger.warning(f"truncated {encoder.truncated_texts} of {total} texts to {encoder.max_seq_length} tokens")
    if json:
        print_json(
            {
                "out": str(out),
                "target": str(encoder.query_target),
                "space": encoder.space,
                "texts": total,
                "dim": encoder.dim,
                "precision": precision,
                "truncated": encoder.truncated_texts,
            }
        )
    else:
        kind = "" if precision == "float32" else f" as {precision}"
        print(f"wrote {out}: {total} vectors of {encoder.dim} dimensions{kind}, target {encoder.query_target}")


def _choose_target(
    bundle: Path, target: str | None, profile: str | None, profiles: Path | None
) -> tuple[Target | str | None, str | None]:
    """The target that was named, or the target and engine of a profile. The reason goes to standard error."""
    if profile is None:
        if profiles is not None:
            raise InputError("--profiles needs --profile NAME, the profile of that file to use.")
        return target, None
    if target is not None:
        raise InputError("--target and --profile exclude each other. Choose one.")
    found = resolve_profile(bundle, profile, profiles)
    logger.info(found.reason)
    return found.target, found.engine

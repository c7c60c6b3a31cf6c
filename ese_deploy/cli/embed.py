"""``ese-deploy embed``."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from numpy.typing import NDArray

from ese_deploy.bundle.reader import open_bundle
from ese_deploy.choose.profiles import read_profiles
from ese_deploy.choose.resolution import Resolved, profile_target
from ese_deploy.cli.console import JsonOption, print_json, progress_bars, say
from ese_deploy.cli.streams import open_vectors
from ese_deploy.engines import ENGINES
from ese_deploy.errors import InputError
from ese_deploy.runtime import Encoder
from ese_deploy.runtime.precision import Precision, check_precision
from ese_deploy.texts.textfile import chunks, open_texts

__all__ = ["embed"]

_CHUNK = 1024


def embed(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.", metavar="BUNDLE")],
    source: Annotated[Path, typer.Argument(help="Texts: .txt, a text a line, or .jsonl.", metavar="INPUT")],
    out: Annotated[Path, typer.Option(help="Vectors: .npy, or .jsonl.")],
    target: Annotated[
        str | None, typer.Option(help="Such as 3x128; without it the deepest and widest of fp32.")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="A budget profile, such as edge, instead of a target.")] = None,
    profiles: Annotated[Path | None, typer.Option(help="A .toml file with profiles of your own.")] = None,
    prompt_name: Annotated[str | None, typer.Option(help="A prompt of the model to put before each text.")] = None,
    index: Annotated[
        str | None, typer.Option(help="These are queries of what this target embedded; refused where spaces differ.")
    ] = None,
    text_field: Annotated[str, typer.Option(help="The field of a .jsonl line that holds the text.")] = "text",
    precision: Annotated[str, typer.Option(help="Of vectors: float32, int8, uint8, binary or ubinary.")] = "float32",
    engine: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(ENGINES)}; the second GPU: NAME:1; in bf16: openvino:bf16. Without it the profile's, or "
            "onnxruntime."
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Without it, as many as this process is given.")] = None,
    json: JsonOption = False,
) -> None:
    """Embed the texts of a file."""
    texts = open_texts(source, text_field)
    writer = open_vectors(out)
    check_precision(precision)
    stored = cast(Precision, precision)
    found = _target(bundle, target, profile, profiles)
    chosen, profiled = (found.target, found.engine) if isinstance(found, Resolved) else (found, None)
    engine = engine or profiled
    encode: Callable[..., NDArray[Any]]
    if index is None:
        encoder = Encoder.open(bundle, chosen, engine=engine, threads=threads, log_truncated=False)
        encode = encoder.encode
    else:
        queries = chosen or index
        encoder = Encoder.open(
            bundle,
            query_target=queries,
            document_target=index,
            engine=engine,
            threads=threads,
            log_truncated=False,
        )
        encode = encoder.encode_query
    row = encode([], precision=stored)
    total = texts.check()
    done = 0
    with progress_bars() as progress, writer(out, total, row) as write:
        for rows in chunks(texts, _CHUNK):
            write(rows, encode([row.text for row in rows], prompt_name=prompt_name, precision=stored))
            done += len(rows)
            progress("embed", done, total)
    if encoder.truncated_texts:
        say(f"warning: {encoder.truncated_texts} texts were longer than {encoder.max_seq_length} tokens and were cut")
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


def _target(bundle: Path, target: str | None, profile: str | None, profiles: Path | None) -> Resolved | str | None:
    """The target that was named, or what a profile means; the reason is said."""
    if profile is None:
        if profiles is not None:
            raise InputError("--profiles names a file; say with --profile NAME which of its profiles counts")
        return target
    if target is not None:
        raise InputError("--target names a target and --profile a budget; choose one")
    found = profile_target(open_bundle(bundle), profile, read_profiles(profiles) if profiles else None)
    say(found.why)
    return found

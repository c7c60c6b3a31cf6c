"""``ese-deploy serve``."""

from pathlib import Path
from typing import Annotated, cast

import typer

from ese_deploy.bundle.spaces import Space
from ese_deploy.cli.console import SpaceOption, picked_engine
from ese_deploy.engines import AUTO_ENGINE, DEFAULT_ENGINE, ENGINES, SHARING_ENGINE
from ese_deploy.engines.registry import find_engine
from ese_deploy.errors import InputError
from ese_deploy.server.settings import (
    Limits,
    LogFormat,
    ServeSettings,
    parse_aliases,
    parse_bundles,
    parse_degrade,
)
from ese_deploy.target import Target

__all__ = ["serve_bundles"]

EXAMPLES = (
    "ese-deploy serve exports/minilm --port 8000",
    "ese-deploy serve exports/minilm --target 3x128 --target 6x384 --alias text-embedding-3-small=minilm:6x384",
    "ese-deploy serve en=exports/minilm de=exports/german --host 0.0.0.0 --key-file keys.txt --workers 4",
)


def serve_bundles(
    bundles: Annotated[
        list[str],
        typer.Argument(
            metavar="BUNDLE",
            help="Folders of bundles. Each is a model with the name of its folder; NAME=FOLDER gives another name.",
        ),
    ],
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="DEPTHxDIM[:DTYPE]",
            help="Serve this target only, for example 3x128. Repeat the option for several. Default: every target "
            "that the engine runs.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Listen on this address.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="NUMBER", help="Listen on this port; 0 takes any free one.")] = 8000,
    uds: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Listen on this unix socket instead of host and port.")
    ] = None,
    workers: Annotated[int, typer.Option(metavar="NUMBER", help="Start this many processes.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER",
            help="Compute with this many threads in each process. Default: the available cores divided by the workers.",
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            metavar="NAME",
            help=f"Run on this engine: {', '.join(ENGINES)}. NAME:1 is the second GPU; openvino:bf16 computes in bf16; "
            "onnxruntime:mapped shares its weights; auto measures once which of the installed engines is fastest. "
            f"Default: {DEFAULT_ENGINE}, and {SHARING_ENGINE} where several workers run several depths each.",
        ),
    ] = None,
    space: SpaceOption = "bundle",
    alias: Annotated[
        list[str] | None,
        typer.Option(
            "--alias",
            metavar="ALIAS=MODEL",
            help="Serve a model under a further name, for example text-embedding-3-small=minilm:3x384. Repeat the "
            "option for several.",
        ),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Require one of the API keys in this file, one a line. Keys in the environment variable "
            "ESE_DEPLOY_API_KEYS, separated by commas, count too.",
        ),
    ] = None,
    ssl_certfile: Annotated[Path | None, typer.Option(metavar="FILE", help="Serve TLS with this certificate.")] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option(metavar="FILE", help="Use this key for TLS.")] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--cors-origin",
            metavar="ORIGIN",
            help="Let browsers call from this origin; * lets them from all. Repeat the option for several.",
        ),
    ] = None,
    degrade: Annotated[
        str | None,
        typer.Option(
            metavar="TARGETS",
            help="Answer queries with the next of these targets while the queue is more than half full, for example "
            "6x384,3x384. They need one dim and one embedding space.",
        ),
    ] = None,
    max_body_bytes: Annotated[
        int, typer.Option(metavar="NUMBER", help="Refuse larger request bodies.")
    ] = Limits.body_bytes,
    max_texts: Annotated[int, typer.Option(metavar="NUMBER", help="Refuse requests with more texts.")] = Limits.texts,
    max_request_tokens: Annotated[
        int, typer.Option(metavar="NUMBER", help="Refuse requests with more tokens.")
    ] = Limits.request_tokens,
    max_queue_tokens: Annotated[
        int, typer.Option(metavar="NUMBER", help="Refuse requests while more tokens wait.")
    ] = Limits.queue_tokens,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Refuse requests that are not answered within this time.")
    ] = Limits.timeout,
    drain_seconds: Annotated[
        float, typer.Option(metavar="SECONDS", help="After SIGTERM, wait this long for accepted requests.")
    ] = 30.0,
    log_format: Annotated[
        LogFormat, typer.Option(help="Write logs to standard error in this format.")
    ] = LogFormat.JSON,
) -> None:
    """Serve bundles over HTTP with OpenAI's interface for embeddings.

    SIGTERM answers accepted requests and ends; SIGHUP opens the bundles again.
    """
    found = parse_bundles(bundles)
    if engine == AUTO_ENGINE:
        engine = picked_engine(next(iter(found.values())), target[0] if target else None, threads)
    if engine is not None:
        find_engine(engine)
    settings = ServeSettings(
        bundles=found,
        targets=tuple(map(Target.parse, target or ())),
        engine=engine,
        space=cast(Space, space),
        threads=threads,
        workers=workers,
        host=host,
        port=port,
        uds=uds,
        ssl_certfile=ssl_certfile,
        ssl_keyfile=ssl_keyfile,
        key_file=key_file,
        aliases=parse_aliases(alias or []),
        cors_origins=tuple(cors_origin or ()),
        degrade=parse_degrade(degrade) if degrade else (),
        limits=Limits(max_body_bytes, max_texts, max_request_tokens, max_queue_tokens, timeout),
        drain_seconds=drain_seconds,
        log_format=log_format,
    )
    if settings.uds is not None and not settings.uds.absolute().parent.is_dir():
        raise InputError(f"There is no folder {settings.uds.parent} for the socket. Make it, or name another `uds`.")
    from ese_deploy.server.run import serve

    serve(settings)

"""The settings of a server."""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from ese_deploy.bundle.reader import is_bundle
from ese_deploy.bundle.spaces import Space, check_space
from ese_deploy.errors import BundleError, InputError
from ese_deploy.target import Target

__all__ = ["AUTO", "Limits", "LogFormat", "ServeSettings", "parse_aliases", "parse_bundles", "parse_degrade"]

AUTO = "auto"
"""The model name that stands for the best target within the budgets of a request."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,126}", re.ASCII)


class LogFormat(StrEnum):
    """How log records are written to standard error."""

    JSON = "json"
    TEXT = "text"


@dataclass(frozen=True)
class Limits:
    """What one request and all waiting requests may take.

    Attributes:
        body_bytes: most bytes of a request's body.
        texts: most texts of a request.
        request_tokens: most tokens of a request.
        queue_tokens: most tokens that wait; a request that finds the queue empty is always accepted.
        timeout: seconds from the start of a request to its answer.

    Raises:
        InputError: a limit is below 1, or the timeout is not above 0.
    """

    body_bytes: int = 4 << 20
    texts: int = 2048
    request_tokens: int = 300_000
    queue_tokens: int = 200_000
    timeout: float = 60.0

    def __post_init__(self) -> None:
        counts = {"body_bytes": self.body_bytes, "texts": self.texts, "request_tokens": self.request_tokens}
        for name, value in {**counts, "queue_tokens": self.queue_tokens}.items():
            if value < 1:
                raise InputError(f"`max_{name}` must be at least 1, got {value}.")
        if not self.timeout > 0:
            raise InputError(f"`timeout` must be above 0, got {self.timeout}.")


@dataclass(frozen=True)
class ServeSettings:
    """What a server serves, where, and within which limits.

    Attributes:
        bundles: folders of bundles, by the model name under which each is served.
        targets: targets to load of each bundle; empty for all that the engine runs.
        engine: the inference engine. None: the default one, on weights that the workers share where there are several
            workers and each runs several depths.
        space: ``source`` serves vectors in the embedding space of the model that a bundle was made of, with the targets
            that reach it.
        threads: threads that compute in each process; None for the available cores divided by ``workers``.
        workers: processes.
        host: the address to listen on.
        port: the port; 0 for any free one.
        uds: a unix socket to listen on instead of host and port.
        ssl_certfile: certificate for TLS.
        ssl_keyfile: its key.
        key_file: a file with one API key a line.
        aliases: further model names, such as ``{"text-embedding-3-small": "minilm:3x384"}``.
        cors_origins: origins that browsers may call from; empty for none, ``*`` for all.
        degrade: targets that answer queries while the queue is more than half full, the deepest first.
        limits: limits of requests and of the queue.
        drain_seconds: how long the server waits for accepted requests after SIGTERM.
        log_format: JSON lines or text.

    Raises:
        InputError: a setting is out of range, or two exclude each other.
    """

    bundles: dict[str, Path]
    targets: tuple[Target, ...] = ()
    engine: str | None = None
    space: Space = "bundle"
    threads: int | None = None
    workers: int = 1
    host: str = "127.0.0.1"
    port: int = 8000
    uds: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    key_file: Path | None = None
    aliases: dict[str, str] = field(default_factory=dict)
    cors_origins: tuple[str, ...] = ()
    degrade: tuple[Target, ...] = ()
    limits: Limits = field(default_factory=Limits)
    drain_seconds: float = 30.0
    log_format: LogFormat = LogFormat.JSON

    def __post_init__(self) -> None:
        check_space(self.space)
        if not self.bundles:
            raise InputError("`bundles` is empty. Name at least one bundle.")
        for name, value in (("workers", self.workers), ("threads", self.threads)):
            if value is not None and value < 1:
                raise InputError(f"`{name}` must be at least 1, got {value}.")
        if not 0 <= self.port <= 65535:
            raise InputError(f"`port` must be from 0 to 65535, got {self.port}.")
        if self.drain_seconds < 0:
            raise InputError(f"`drain_seconds` must be at least 0, got {self.drain_seconds}.")
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            raise InputError("`ssl_keyfile` needs `ssl_certfile`, the certificate of that key.")
        for file in (self.ssl_certfile, self.ssl_keyfile, self.key_file):
            if file is not None and not file.is_file():
                raise InputError(f"There is no file {file}. Name an existing file.")
        for alias in self.aliases:
            if alias in self.bundles or alias == AUTO:
                raise InputError(f"Alias '{alias}' is already the name of a model. Choose another alias.")


def parse_bundles(values: list[str]) -> dict[str, Path]:
    """Read bundles as ``FOLDER`` or ``NAME=FOLDER``. Without a name, a bundle has that of its folder.

    Raises:
        InputError: a name has characters that model names cannot have, or two bundles have one name.
        BundleError: a folder is not a bundle.
    """
    found: dict[str, Path] = {}
    for value in values:
        name, equals, folder = value.partition("=")
        path = Path(folder if equals else value).expanduser()
        name = name if equals else path.absolute().name
        if not is_bundle(path):
            raise BundleError(f"There is no bundle at {path}. Make one with: ese-deploy export MODEL --out {path}")
        if _NAME.fullmatch(name) is None or name == AUTO:
            raise InputError(f"'{name}' cannot be a model name. Name the bundle with NAME={path}.")
        if name in found:
            raise InputError(f"Two bundles have the name '{name}'. Name one of them with another NAME={path}.")
        found[name] = path.absolute()
    return found


def parse_aliases(values: list[str]) -> dict[str, str]:
    """Read aliases as ``ALIAS=MODEL``, such as ``text-embedding-3-small=minilm:3x384``.

    Raises:
        InputError: there is no ``=``, or an alias is given twice.
    """
    found: dict[str, str] = {}
    for value in values:
        alias, equals, model = value.partition("=")
        if not (alias and equals and model):
            raise InputError(f"Alias '{value}' is not ALIAS=MODEL. Write for example small=minilm:3x128.")
        if alias in found:
            raise InputError(f"Alias '{alias}' is given twice. Leave one out.")
        found[alias] = model
    return found


def parse_degrade(text: str) -> tuple[Target, ...]:
    """Read targets as ``6x384,3x384,1x384``, the deepest first.

    Raises:
        InputError: an item is not a target, there are fewer than two, depths do not decrease, or dims differ.
    """
    targets = tuple(Target.parse(item) for item in text.split(",") if item.strip())
    depths = [target.depth for target in targets]
    if len(targets) < 2 or depths != sorted(set(depths), reverse=True) or len({one.dim for one in targets}) > 1:
        raise InputError(
            f"`degrade` lists targets of one dim and decreasing depth, got '{text}'. Write for example 6x384,3x384."
        )
    return targets

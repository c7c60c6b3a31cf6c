"""Vectors of every exit of a model, with as few passes through the model as possible."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ese_deploy.bundle.manifest import TargetEntry
from ese_deploy.bundle.reader import Bundle
from ese_deploy.engines import Engine, load_engine, runs_dtype
from ese_deploy.errors import EngineError
from ese_deploy.runtime import Encoder
from ese_deploy.runtime.prompts import DOCUMENT_PROMPTS, QUERY_PROMPTS, find_prompt
from ese_deploy.system.progress import Progress, silent
from ese_deploy.target import Target

__all__ = ["NO_PROMPTS", "ROLES", "BundleExits", "Exit", "ExitModel", "cut"]

ROLES = ("text", "query", "document")

NO_PROMPTS: Mapping[str, str] = {}
_PROMPT_NAMES: Mapping[str, tuple[str, ...]] = {"text": (), "query": QUERY_PROMPTS, "document": DOCUMENT_PROMPTS}

# Texts between two reports of progress.
_PIECE = 512

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Exit:
    """One exit in one dtype.

    Attributes:
        depth: number of layers, from 1.
        dtype: the dtype that computes.
        space: name of the embedding space of all its prefixes.
        dims: the prefixes wanted, ascending.
    """

    depth: int
    dtype: str
    space: str
    dims: tuple[int, ...]

    @property
    def targets(self) -> list[Target]:
        """One target for each prefix."""
        return [Target(self.depth, dim, self.dtype) for dim in self.dims]


class ExitModel(Protocol):
    """A bundle or a checkpoint, seen as its exits."""

    @property
    def name(self) -> str:
        """As the user named it."""
        ...

    @property
    def exits(self) -> tuple[Exit, ...]:
        """All exits, the shallowest first."""
        ...

    @property
    def full(self) -> Target | None:
        """The full model, where it is among the exits' targets."""
        ...

    def prompt(self, role: str) -> str:
        """What is put before each text of a role: ``text``, ``query`` or ``document``."""
        ...

    def embed(self, texts: Sequence[str], role: str = "text", progress: Progress = silent) -> dict[Exit, Vectors]:
        """Embed texts at every exit.

        Args:
            texts: n texts.
            role: ``text``, ``query`` or ``document``: which of the model's prompts is put before them.
            progress: called while texts are embedded.

        Returns:
            For each exit float32 [n, widest dim]; :func:`cut` makes a prefix of it.
        """
        ...


def cut(vectors: Vectors, dim: int) -> Vectors:
    """Keep the first ``dim`` columns of [n, width] and scale rows to norm 1."""
    prefix = vectors[:, :dim]
    unit: Vectors = prefix / np.maximum(np.linalg.norm(prefix, axis=1, keepdims=True), 1e-12)
    return unit


class BundleExits:
    """A bundle's exits: the widest target of each depth, dtype and space runs, the others are prefixes of it.

    Args:
        bundle: the bundle.
        engine: the inference engine.
        threads: threads for one batch; without it, as many as this process is given.
        prompts: prompts to use in place of the model's, by role.

    Attributes:
        skipped: targets whose dtype the engine does not compute in.

    Raises:
        EngineError: the engine is missing, or runs none of the targets.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: str | Engine = "onnxruntime",
        threads: int | None = None,
        prompts: Mapping[str, str] = NO_PROMPTS,
    ) -> None:
        self._bundle = bundle
        self._prompts = prompts
        self._engine = load_engine(engine) if isinstance(engine, str) else engine
        self._threads = threads
        groups: dict[tuple[str, int, str], list[TargetEntry]] = {}
        entries = bundle.manifest.targets
        self.skipped = [entry.target for entry in entries if not runs_dtype(self._engine.name, entry.dtype)]
        for entry in entries:
            if entry.target in self.skipped:
                continue
            groups.setdefault((entry.dtype, entry.depth, entry.space), []).append(entry)
        self._exits = tuple(
            Exit(depth, dtype, space, tuple(sorted(entry.dim for entry in entries)))
            for (dtype, depth, space), entries in sorted(groups.items())
        )
        if not self._exits:
            raise EngineError(
                f"the engine '{self._engine.name}' computes in the dtype of no target of {bundle.path}; "
                "name another with --engine"
            )

    @property
    def name(self) -> str:
        """The name of the bundle's folder."""
        return self._bundle.path.resolve().name

    @property
    def exits(self) -> tuple[Exit, ...]:
        """All exits."""
        return self._exits

    @property
    def full(self) -> Target | None:
        """The full model in fp32, where the bundle holds it; a projection turns its vectors and keeps their cosines."""
        manifest = self._bundle.manifest
        full = Target(manifest.depth, manifest.width)
        return full if any(entry.target == full for entry in manifest.targets) else None

    def prompt(self, role: str) -> str:
        """As the ``Encoder`` puts it before texts of that role."""
        found = self._prompts.get(role)
        return find_prompt(self._bundle.manifest, None, found, _PROMPT_NAMES[role])

    def embed(self, texts: Sequence[str], role: str = "text", progress: Progress = silent) -> dict[Exit, Vectors]:
        """Embed texts once at each exit; see :meth:`ExitModel.embed`."""
        vectors = {}
        total = len(texts) * len(self._exits)
        for number, one in enumerate(self._exits):
            encoder = Encoder.open(
                self._bundle, one.targets[-1], engine=self._engine, threads=self._threads, log_truncated=False
            )
            encode = {"text": encoder.encode, "query": encoder.encode_query, "document": encoder.encode_document}[role]
            found = np.empty((len(texts), encoder.dim), np.float32)
            for start in range(0, len(texts), _PIECE):
                found[start : start + _PIECE] = encode(texts[start : start + _PIECE], prompt=self._prompts.get(role))
                done = number * len(texts) + min(start + _PIECE, len(texts))
                progress(f"embed {role}s", done, total)
            vectors[one] = found
        return vectors

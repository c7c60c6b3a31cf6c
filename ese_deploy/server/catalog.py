"""The models that a server serves: bundles, their loaded targets, and the names by which requests reach them."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ese_deploy.bundle.manifest import TargetEntry
from ese_deploy.bundle.ranges import load_ranges
from ese_deploy.bundle.reader import Bundle
from ese_deploy.choose import choose, resolve_profile
from ese_deploy.errors import EseDeployError, InputError
from ese_deploy.runtime.loaded import LoadedTarget
from ese_deploy.runtime.tokenize import TextTokenizer, Tokens
from ese_deploy.server.errors import ApiError
from ese_deploy.server.settings import AUTO
from ese_deploy.target import Target

__all__ = ["WARM_TOKENS", "Catalog", "Lane", "ServedBundle", "ServedTarget", "Wanted"]

Vectors = NDArray[np.float32]

WARM_TOKENS = 16
"""Tokens of the text that a lane computes when it is loaded."""

_TARGET = re.compile(r"\d+x\d+(:.*)?", re.ASCII)


@dataclass(frozen=True, eq=False)
class Lane:
    """One loaded graph, and the texts that can share a batch on it.

    Targets of one depth, dtype and embedding space differ by a prefix only, so one graph serves them all. Where a
    projection is quantized, each dim has scales of its own, and a lane of its own.

    Attributes:
        name: the bundle's model name and the widest target, such as ``minilm:3x384``.
        tokenizer: of the bundle.
        loaded: the widest target.
        tokens: most tokens that are computed before other texts get their turn.
        warm_seconds: time of one text of 16 tokens, when the lane was loaded.
    """

    name: str
    tokenizer: TextTokenizer
    loaded: LoadedTarget
    tokens: int
    warm_seconds: float = 0.0

    @property
    def warm_cost(self) -> float:
        """Seconds of a token, until batches are measured; a batch takes less."""
        return self.warm_seconds / WARM_TOKENS

    def embed(self, encodings: Sequence[Any]) -> Vectors:
        """Embed tokenized texts.

        Returns:
            float32 [n, dim of the widest target].

        Raises:
            EngineError: the engine failed.
        """
        lengths = np.fromiter((len(encoding) for encoding in encodings), np.int64, len(encodings))
        tokens = Tokens(list(encodings), lengths, 0)
        return self.loaded.embed(self.tokenizer, tokens, self.loaded.batch, lambda _: None)


@dataclass(frozen=True, eq=False)
class ServedTarget:
    """A target that requests can name.

    Attributes:
        model: name of its bundle.
        bundle: the bundle.
        entry: the target.
        lane: where its texts are computed.
    """

    model: str
    bundle: Bundle
    entry: TargetEntry
    lane: Lane

    @cached_property
    def name(self) -> str:
        """Such as ``minilm:3x128``."""
        return f"{self.model}:{self.label}"

    @cached_property
    def label(self) -> str:
        """Such as ``3x128``."""
        return str(self.entry.target)

    @cached_property
    def ranges(self) -> Vectors:
        """Ranges of the components, float32 [2, dim], for the precisions int8 and uint8.

        Raises:
            InputError: the bundle does not contain them, or the vectors are in another embedding space.
        """
        if self.lane.loaded.to_space is not None:
            return self.lane.loaded.ranges(self.entry.dim)  # refuses
        return load_ranges(self.bundle, self.entry)

    def cut(self, vectors: Vectors) -> Vectors:
        """The target's vectors from those of its lane: the prefix, normalised."""
        dim = self.entry.dim
        if dim == vectors.shape[1]:
            return vectors
        prefix = vectors[:, :dim]
        norms: Vectors = np.linalg.norm(prefix, axis=1, keepdims=True)
        unit: Vectors = (prefix / np.maximum(norms, np.finfo(np.float32).tiny)).astype(np.float32, copy=False)
        return unit


@dataclass(frozen=True, eq=False)
class ServedBundle:
    """A bundle with its loaded targets.

    Attributes:
        name: the model name.
        bundle: the bundle.
        tokenizer: its tokenizer.
        targets: the loaded targets.
        default: the target that the model name alone stands for.
        engine: name of the engine, without a suffix.
        degrade: targets that stand in for deeper ones under load.
    """

    name: str
    bundle: Bundle
    tokenizer: TextTokenizer
    targets: Mapping[Target, ServedTarget]
    default: ServedTarget
    engine: str
    degrade: tuple[Target, ...] = ()

    @property
    def held(self) -> str:
        """All targets, for messages."""
        return ", ".join(map(str, self.targets))

    def shallower(self, target: ServedTarget) -> list[ServedTarget]:
        """Targets that may answer queries of ``target`` under load, the deepest first."""
        if target.entry.target not in self.degrade:
            return []
        after = self.degrade[self.degrade.index(target.entry.target) + 1 :]
        return [self.targets[one] for one in after]

    @cached_property
    def whole_tokenizer(self) -> Tokenizer:
        """A tokenizer that does not truncate."""
        whole = Tokenizer.from_str(self.tokenizer.tokenizer.to_str())
        whole.no_truncation()
        return whole

    @cached_property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return self.tokenizer.tokenizer.get_vocab_size(with_added_tokens=True)


@dataclass(frozen=True)
class Wanted:
    """What a request says about its target.

    Attributes:
        model: a model name.
        dimensions: the dim, or None for that of the model name.
        depth: the depth, or None for that of the model name.
        max_latency_ms: budget of the model ``auto``.
        min_quality: budget of the model ``auto``, as :func:`ese_deploy.choose.choose` takes it.
    """

    model: str
    dimensions: int | None = None
    depth: int | None = None
    max_latency_ms: float | None = None
    min_quality: float | str | None = None


class Catalog:
    """All models of a server. It does not change; a reload makes a new one.

    Args:
        bundles: by name, the default one first.
        aliases: further names.
    """

    def __init__(self, bundles: Mapping[str, ServedBundle], aliases: Mapping[str, str]) -> None:
        self.bundles = bundles
        self.aliases = aliases
        self.created = int(time.time())
        self._resolve = lru_cache(maxsize=1024)(self._find)
        for alias, model in aliases.items():
            try:
                self.resolve(Wanted(model))
            except ApiError as error:
                raise InputError(f"Alias '{alias}' stands for '{model}': {error.message}") from None

    @property
    def default(self) -> ServedBundle:
        """The bundle that requests without a model name use."""
        return next(iter(self.bundles.values()))

    @property
    def targets(self) -> list[ServedTarget]:
        """Every target of every bundle."""
        return [target for served in self.bundles.values() for target in served.targets.values()]

    def resolve(self, wanted: Wanted) -> tuple[ServedBundle, ServedTarget]:
        """Find the bundle and target of a request. For a budget this reads measurements from a file, the first time.

        Raises:
            ApiError: 400 with what there is.
        """
        return self._resolve(wanted)

    def _find(self, wanted: Wanted) -> tuple[ServedBundle, ServedTarget]:
        model = self.aliases.get(wanted.model, wanted.model)
        served, rest = self._split(model, wanted.model)
        if rest == AUTO:
            return served, _within_budgets(served, wanted)
        if wanted.max_latency_ms is not None or wanted.min_quality is not None:
            raise ApiError(
                400,
                f"max_latency_ms and min_quality go with the model '{AUTO}', got the model '{wanted.model}'.",
                param="model",
                code="invalid_value",
            )
        base = served.default.entry.target if rest is None else _named(served, rest)
        target = base
        try:
            if wanted.depth is not None:
                target = replace(target, depth=wanted.depth)
            if wanted.dimensions is not None:
                target = replace(target, dim=wanted.dimensions)
        except InputError as error:
            raise _unknown(served, str(error), "dimensions" if wanted.depth is None else "depth") from None
        found = served.targets.get(target)
        if found is None:
            param = "dimensions" if wanted.dimensions is not None else "depth" if wanted.depth is not None else "model"
            raise _unknown(served, f"The model '{served.name}' has no target {target}.", param)
        return served, found

    def _split(self, model: str, asked: str) -> tuple[ServedBundle, str | None]:
        """The bundle of a model name and what follows it; with one bundle, its name may be left out."""
        name, colon, rest = model.partition(":")
        if name in self.bundles:
            return self.bundles[name], rest if colon else None
        if len(self.bundles) == 1 and (model == AUTO or _TARGET.fullmatch(model) or _is_profile(self.default, model)):
            return self.default, model
        names = ", ".join([*self.bundles, *self.aliases])
        example = self.default.default.name
        raise ApiError(
            400,
            f"Unknown model '{asked[:200]}'. Models: {names}; with a target for example {example}.",
            param="model",
            code="model_not_found",
        )


def _unknown(served: ServedBundle, problem: str, param: str) -> ApiError:
    return ApiError(400, f"{problem} Targets: {served.held}.", param=param, code="invalid_value")


def _is_profile(served: ServedBundle, name: str) -> bool:
    try:
        resolve_profile(served.bundle, name)
    except EseDeployError:
        return False
    return True


def _named(served: ServedBundle, name: str) -> Target:
    """The target of ``3x128`` or of a budget profile."""
    try:
        return Target.parse(name) if _TARGET.fullmatch(name) else resolve_profile(served.bundle, name).target
    except EseDeployError as error:
        raise _unknown(served, str(error), "model") from None


def _within_budgets(served: ServedBundle, wanted: Wanted) -> ServedTarget:
    if wanted.max_latency_ms is None and wanted.min_quality is None:
        raise ApiError(400, f"The model '{AUTO}' needs max_latency_ms or min_quality, or both.", param="model")
    latency = None if wanted.max_latency_ms is None else f"{wanted.max_latency_ms:f}ms"
    try:
        # A request never measures: the server computes for others meanwhile.
        choice = choose(
            served.bundle, max_latency=latency, min_quality=wanted.min_quality, engines=[served.engine], measure=False
        )
    except EseDeployError as error:
        raise ApiError(400, str(error), param="model", code="budget") from None
    for candidate in choice.fitting:
        found = served.targets.get(candidate.entry.target)
        if (
            found is not None
            and wanted.dimensions in (None, found.entry.dim)
            and wanted.depth in (None, found.entry.depth)
        ):
            return found
    raise _unknown(served, "No target that is served fits the budget.", "model")

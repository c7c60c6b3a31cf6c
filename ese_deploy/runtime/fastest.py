"""Picking the fastest of the installed engines for a target, by a short measurement that the cache keeps."""

import hashlib
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ese_deploy.bundle.manifest import TargetEntry
from ese_deploy.bundle.reader import Bundle, choose_entry, open_bundle
from ese_deploy.engines import DEFAULT_ENGINE, REGISTRY, engines_for, load_engine
from ese_deploy.errors import EngineError, InputError
from ese_deploy.runtime.loaded import LoadedTarget, engine_input, load_target
from ese_deploy.runtime.tokenize import TextTokenizer, load_tokenizer
from ese_deploy.system.cache import cache_folder, locked_cache_folder
from ese_deploy.system.files import write_atomic
from ese_deploy.system.machine import describe_machine, library_versions
from ese_deploy.system.threads import available_threads, check_threads
from ese_deploy.target import DTYPES, Target
from ese_deploy.texts.sample import sample_corpus

__all__ = ["EngineChoice", "fastest_engine"]

# A list as in bulk jobs, and single texts as queries are.
_LIST, _SINGLE, _ROUNDS = 48, 6, 3
# bf16 changes vectors of an int8 target less than int8 itself did.
_LEAST_COSINE = 0.99
# Times this near to each other are noise; the default engine then stays.
_TIE = 1.05
# They compile for minutes.
_SLOW_TO_OPEN = ("onnxruntime-tensorrt", "tensorrt")


class EngineChoice(msgspec.Struct, frozen=True):
    """What :func:`fastest_engine` measured.

    Attributes:
        engine: the fastest engine; the default engine if none is more than 5% faster.
        seconds: for each engine the time of 48 texts of the sample corpus in a list and 6 one by one.
        left_out: engines that were not timed, with the reason.
    """

    engine: str
    seconds: dict[str, float]
    left_out: dict[str, str]

    @property
    def reason(self) -> str:
        """One sentence that says what was picked, and why."""
        if len(self.seconds) == 1:
            return f"Picked engine {self.engine}: no other installed engine runs the target."
        others = ", ".join(f"{name} {value:.2f} s" for name, value in sorted(self.seconds.items(), key=_seconds))
        return f"Picked engine {self.engine}, the fastest on this machine: {others}."


def fastest_engine(
    bundle: str | Path | Bundle, target: Target | str | None = None, threads: int | None = None
) -> EngineChoice:
    """Time the installed engines on a target and pick the fastest.

    The result is kept in the cache of this machine, by processor, versions, target and threads. fp32 targets stay fp32:
    ``openvino:bf16`` is tried for int8 targets only, and is left out if the mean cosine of its vectors with the default
    engine's is below 0.99. Engines that compile for minutes (TensorRT) are not tried.

    Args:
        bundle: the folder of the bundle, or an open bundle.
        target: such as ``"3x128:int8"``. Default: the deepest and widest fp32 target.
        threads: threads that compute. Default: every core that the process may use.

    Raises:
        BundleError: the bundle is missing, damaged or unsafe.
        InputError: the bundle does not contain the target, or ``threads`` is below 1.
        EngineError: no installed engine runs the target.

    Example:
        >>> choice = fastest_engine("exports/minilm", "3x128")
        >>> encoder = Encoder.open("exports/minilm", "3x128", engine=choice.engine)
    """
    check_threads(threads)
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    entry = choose_entry(opened, target)
    count = threads or available_threads()
    names = _candidates(entry.dtype)
    name = f"{_key(opened, entry, count, names)}.json"
    with suppress(OSError, InputError, msgspec.MsgspecError):
        return msgspec.json.decode((cache_folder() / "engines" / name).read_bytes(), type=EngineChoice)
    found = _measure(opened, entry, count, names)
    with suppress(OSError, InputError):
        folder = cache_folder() / "engines"
        with locked_cache_folder(folder), write_atomic(folder / name) as file:
            file.write(msgspec.json.encode(found))
    return found


def _candidates(dtype: str) -> list[str]:
    names = [name for name in engines_for(dtype) if name not in _SLOW_TO_OPEN]
    quantized = DTYPES[dtype].quantized
    return [*names, *(f"{name}:bf16" for name in names if quantized and "bf16" in REGISTRY[name].options)]


def _key(bundle: Bundle, entry: TargetEntry, threads: int, names: Sequence[str]) -> str:
    versions = sorted(library_versions().items())
    parts = (describe_machine().key, engine_input(bundle, entry).digest, threads, names, versions)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@dataclass
class _Trial:
    """An engine with the target loaded."""

    loaded: LoadedTarget
    vectors: NDArray[np.float32]
    seconds: float = float("inf")


def _measure(bundle: Bundle, entry: TargetEntry, threads: int, names: Sequence[str]) -> EngineChoice:
    tokenizer = load_tokenizer(bundle)
    texts = [item.text for item in sample_corpus()]
    texts = texts[:: len(texts) // _LIST][:_LIST]
    trials: dict[str, _Trial] = {}
    left_out: dict[str, str] = {}
    for name in names:
        try:
            loaded = load_target(bundle, entry, load_engine(name), threads)
            trials[name] = _Trial(loaded, _embed(loaded, tokenizer, texts))
        except EngineError as error:
            left_out[name] = str(error)
    if not trials:
        raise EngineError(
            f"No installed engine runs target {entry.target}. {next(iter(left_out.values()), '')}".rstrip()
        )
    exact = trials.get(DEFAULT_ENGINE)
    for name, trial in list(trials.items()):
        cosine = 1.0 if exact is None else float((trial.vectors * exact.vectors).sum(1).mean())
        if not cosine >= _LEAST_COSINE:
            left_out[name] = f"mean cosine with {DEFAULT_ENGINE} {cosine:.4f}, allowed {_LEAST_COSINE}"
            del trials[name]
    for _ in range(_ROUNDS):
        for trial in trials.values():
            started = time.perf_counter()
            _embed(trial.loaded, tokenizer, texts)
            for text in texts[:_SINGLE]:
                _embed(trial.loaded, tokenizer, [text])
            trial.seconds = min(trial.seconds, time.perf_counter() - started)
    seconds = {name: round(trial.seconds, 4) for name, trial in trials.items()}
    best, least = min(seconds.items(), key=_seconds)
    if seconds.get(DEFAULT_ENGINE, float("inf")) <= least * _TIE:
        best = DEFAULT_ENGINE
    return EngineChoice(best, seconds, left_out)


def _embed(loaded: LoadedTarget, tokenizer: TextTokenizer, texts: Sequence[str]) -> NDArray[np.float32]:
    return loaded.embed(tokenizer, tokenizer(texts), loaded.batch, lambda _: None)


def _seconds(item: tuple[str, float]) -> float:
    return item[1]

"""What is timed, and how a case of it is recorded: texts to vectors, and token ids to vectors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.baselines import sentence_transformer, torch_tokens
from benchmarks.gpu.models import bundle_folder, model_folder, require_model
from benchmarks.gpu.ours import fixed_session, open_encoder, token_session
from benchmarks.gpu.shapes import Shape, flops
from benchmarks.gpu.step import Skip, Step
from benchmarks.gpu.texts import MIXED, token_batch, words
from ese_deploy.bench.timing import time_alone

__all__ = ["OURS", "OURS_GRAPHS", "Case", "Loader", "texts_of", "time_case"]

OURS, OURS_GRAPHS = "ese-deploy", "ese-deploy, CUDA graph"
"""Contenders of this project; all others are PyTorch's, named in :data:`benchmarks.gpu.baselines.ATTENTIONS`."""

# Enough texts that the work of a batch hides what encode does once.
_TEXTS = {1: 64, 32: 256, 128: 512, 512: 1024}


@dataclass(frozen=True)
class Case:
    """One thing to time.

    Attributes:
        what: ``texts`` (strings in, vectors out) or ``tokens`` (ids in, vectors out, both in the host's memory).
        contender: who computes; ``compiled`` stands for PyTorch's compiler over SDPA.
        model: name of the shape.
        depth: layers.
        dtype: that computes.
        batch: rows.
        length: tokens of each row; :data:`MIXED` for the sample corpus.
    """

    what: str
    contender: str
    model: str
    depth: int
    dtype: str
    batch: int
    length: int


class Loader:
    """Loads contenders and keeps them, since several cases use one."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._held: dict[tuple[str, ...], Any] = {}

    def call(self, case: Case) -> Callable[[], object]:
        """A function that computes a case once, and returns when the vectors are in the host's memory.

        Raises:
            Skip: the contender is not installed.
        """
        step, shape = self._step, self._step.shapes[case.model]
        if case.contender == OURS_GRAPHS:
            return fixed_session(self._bundle(case), _target(case, shape), case.batch, case.length, step.device)
        if case.what == "tokens":
            return self._tokens(case, shape)
        texts = texts_of(model_folder(step.work, case.model), case)
        encode = self.encode(case)
        return lambda: encode(texts)

    def encode(self, case: Case) -> Callable[[Any], Any]:
        """A function from one text or several to vectors, in batches of ``case.batch``."""
        held = self._hold(case, lambda: self._encoder(case, self._step.shapes[case.model]))
        if case.contender == OURS:
            limit = case.batch * (case.length or 512)
            return lambda texts: held.encode(texts, batch_size=case.batch, batch_tokens=limit)
        return lambda texts: held.encode(texts, batch_size=case.batch, show_progress_bar=False)

    def _tokens(self, case: Case, shape: Shape) -> Callable[[], object]:
        step, folder = self._step, model_folder(self._step.work, case.model)
        if case.contender == OURS:
            session = self._hold(case, lambda: token_session(self._bundle(case), _target(case, shape), step.device))
            inputs = token_batch(case.batch, case.length, session.inputs)
            return lambda: session.run(inputs)
        attention, compiler = _pytorch(case, step)
        self._bundle(case)
        prepare = self._hold(
            case, lambda: torch_tokens(folder, shape, case.depth, case.dtype, step.device, attention, compiler)
        )
        call: Callable[[], object] = prepare(case.batch, case.length)
        return call

    def _encoder(self, case: Case, shape: Shape) -> Any:
        step = self._step
        bundle = self._bundle(case)
        if case.contender == OURS:
            return open_encoder(bundle, _target(case, shape), step.device)
        attention, compiler = _pytorch(case, step)
        folder = model_folder(step.work, case.model)
        return sentence_transformer(folder, shape, case.depth, case.dtype, step.device, attention, compiler)

    def _bundle(self, case: Case) -> Any:
        require_model(self._step, case.model)
        return bundle_folder(self._step.work, case.model)

    def _hold(self, case: Case, load: Callable[[], Any]) -> Any:
        """Load once; where that was skipped before, skip again at once."""
        key = (case.what, case.contender, case.model, str(case.depth), case.dtype)
        if key not in self._held:
            try:
                self._held[key] = load()
            except Skip as skip:
                self._held[key] = skip
        if isinstance(self._held[key], Skip):
            raise self._held[key]
        return self._held[key]


def texts_of(folder: Any, case: Case) -> list[str]:
    """The texts of a case."""
    return words(folder, case.length, _TEXTS.get(case.batch, 4 * case.batch))


def time_case(step: Step, loader: Loader, case: Case) -> None:
    """Measure a case and record it."""
    fields = {name: getattr(case, name) for name in case.__dataclass_fields__}
    with step.case(case="speed", **fields) as found:
        call = loader.call(case)
        timing = time_alone(call, step.case_seconds, least=3)
        rows = len(call()) if case.what == "texts" else case.batch  # type: ignore[arg-type]
        rate = rows / timing.median
        found |= {"texts_per_second": round(rate, 2), "spread": round(timing.spread, 4), "runs": timing.calls}
        if case.length != MIXED:
            achieved = rate * flops(step.shapes[case.model], case.depth, case.length) / 1e12
            found["tflops"] = round(achieved, 4)
            if limit := _peak(step, case.dtype):
                found["share_of_peak"] = round(achieved / limit, 4)


def _peak(step: Step, dtype: str) -> float | None:
    found = [record for record in step.earlier("peak") if record.get("dtype") == dtype and "tflops" in record]
    return found[-1]["tflops"] if found else None


def _target(case: Case, shape: Shape) -> str:
    return f"{case.depth}x{shape.hidden}" + ("" if case.dtype == "fp32" else f":{case.dtype}")


def _pytorch(case: Case, step: Step) -> tuple[str, str]:
    """Attention and compiler of a contender; a dry run traces the model, and compiles nothing."""
    if case.contender != "compiled":
        return case.contender, ""
    return "sdpa", "eager" if step.tiny else "inductor"

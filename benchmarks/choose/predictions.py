"""Compares what ``choose`` predicts with what the chosen target then takes in a new process."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ese_deploy.bench.measure import texts_of
from ese_deploy.bundle.reader import Bundle, open_bundle
from ese_deploy.choose.budgets import parse_latency
from ese_deploy.system.load import busy_cores, read_load
from ese_deploy.system.threads import available_threads
from ese_deploy.texts.sample import sample_corpus

__all__ = ["LATENCY", "MEMORY", "Prediction", "Question", "predictions", "questions"]

LATENCY, MEMORY = 0.15, 0.10
"""By which share the median latency and the memory may differ from the prediction."""

_ANY = ("--max-memory", "100GB", "--allow-untrained")
_CALLS, _TEXTS = 200, 50
# Texts that the prediction was measured with; others follow them.
_MEASURED = 10
# Imports the runtime alone, as a user's program does. Single texts come first; then the whole corpus.
_USE = """
import json, statistics, sys, time
from ese_deploy import Encoder
bundle, target, engine, threads, calls = sys.argv[1:]
given = json.load(sys.stdin.buffer)
encoder = Encoder.open(bundle, target, engine=engine, threads=int(threads), log_truncated=False)
for text in given["single"]:
    encoder.encode(text)
taken = []
while len(taken) < int(calls):
    for text in given["single"]:
        start = time.perf_counter()
        encoder.encode(text)
        taken.append(time.perf_counter() - start)
encoder.encode(given["many"])
with open("/proc/self/status") as file:
    fields = dict(line.split(":", 1) for line in file)
print(json.dumps([statistics.median(taken), 1024 * int(fields["VmHWM"].split()[0])]))
"""


@dataclass(frozen=True)
class Question:
    """A choice to make.

    Attributes:
        latency: as ``--max-latency`` takes it; nothing is ruled out by it.
        options: further options.
    """

    latency: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prediction:
    """What was predicted of the chosen target, and what it took.

    Attributes:
        bundle: name of the folder.
        question: the options of ``choose``.
        target: the target and engine that were chosen.
        predicted_latency: seconds, median.
        latency: seconds, median over new processes of the median of single texts.
        predicted_memory: bytes.
        memory: bytes, the most of all new processes.
        busy_while_predicted: processors that others used, as ``choose`` says.
        busy_while_used: the same while the target was used; 0 on a quiet machine.
    """

    bundle: str
    question: str
    target: str
    predicted_latency: float
    latency: float
    predicted_memory: float
    memory: float
    busy_while_predicted: float
    busy_while_used: float

    @property
    def latency_off(self) -> float:
        """By which share the latency differs from the prediction."""
        return self.latency / self.predicted_latency - 1

    @property
    def memory_off(self) -> float:
        """By which share the memory differs from the prediction."""
        return self.memory / self.predicted_memory - 1

    @property
    def quiet(self) -> bool:
        """Whether the latencies of both can be compared."""
        return not self.busy_while_predicted and not self.busy_while_used

    @property
    def holds(self) -> bool:
        """Whether the memory is within its limit and, on a quiet machine, the latency too."""
        return abs(self.memory_off) <= MEMORY and (not self.quiet or abs(self.latency_off) <= LATENCY)

    def facts(self) -> dict[str, Any]:
        """For a results file."""
        return {**asdict(self), "latency_off": self.latency_off, "memory_off": self.memory_off, "holds": self.holds}


def questions(bundle: Bundle) -> Iterator[Question]:
    """Choices that lead to the deepest, the fastest and the smallest target, in every dtype of the bundle."""
    yield Question("100s p50", ("--prefer", "quality"))
    yield Question("100s p50", ("--prefer", "speed"))
    yield Question("100s p50 1 thread", ("--prefer", "quality"))
    depths = {entry.depth for entry in bundle.manifest.targets}
    if len(depths) > 2:
        yield Question("100s p50", ("--prefer", "speed", "--min-quality", "0.7"))
    for dtype in sorted({entry.dtype for entry in bundle.manifest.targets} - {"fp32"}):
        yield Question("100s p50", ("--dtype", dtype))
    if bundle.manifest.max_seq_length >= 128:
        yield Question("100s p50 128 tokens", ("--prefer", "quality"))


def predictions(folders: Iterable[Path], processes: int, texts: Sequence[str] = ()) -> Iterator[Prediction]:
    """Choose with a cache of its own, then use each chosen target in new processes.

    Args:
        folders: bundles.
        processes: new processes for each choice.
        texts: what a process embeds besides single texts; by default the sample corpus.
    """
    many = list(texts) or [item.text for item in sample_corpus()]
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "ESE_DEPLOY_CACHE": cache}
        for folder in folders:
            bundle = open_bundle(folder)
            for question in questions(bundle):
                yield _prediction(bundle, question, processes, many, environment)


def _prediction(
    bundle: Bundle, question: Question, processes: int, many: list[str], environment: dict[str, str]
) -> Prediction:
    options = ["--max-latency", question.latency, *_ANY, *question.options]
    command = [sys.executable, "-m", "ese_deploy", "choose", str(bundle.path), "--json", *options]
    chosen = json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)
    best = chosen["best"]
    case = parse_latency(question.latency).case
    threads = case.threads or available_threads()
    given = json.dumps({"single": texts_of(bundle, case.tokens, _MEASURED + _TEXTS)[_MEASURED:], "many": many}).encode()
    arguments = [str(bundle.path), best["target"], best["engine"], str(threads), str(_CALLS)]
    start = read_load()
    used = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", _USE, *arguments], input=given, stdout=subprocess.PIPE, check=True
            ).stdout
        )
        for _ in range(processes)
    ]
    return Prediction(
        bundle=bundle.path.resolve().name,
        question=" ".join(options),
        target=f"{best['target']} on {best['engine']}",
        predicted_latency=best["latency_seconds"],
        latency=statistics.median(latency for latency, _ in used),
        predicted_memory=best["memory_bytes"],
        memory=max(memory for _, memory in used),
        busy_while_predicted=chosen["busy_cores"],
        busy_while_used=busy_cores(start, read_load(), threads),
    )

"""int8 beside fp32, sentence-transformers and NNCF: python -m benchmarks.int8 BUNDLE TEXTS.

From text to vectors, engines and targets taking turns, round by round. TEXTS is a .txt, .jsonl or .jsonl.gz file.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.tool import start
from ese_deploy import Encoder
from ese_deploy.bundle.reader import open_bundle
from ese_deploy.engines.openvino import OpenVino
from ese_deploy.errors import EseDeployError, InputError
from ese_deploy.export.texts import calibration_half
from ese_deploy.runtime.tokenize import load_tokenizer
from ese_deploy.texts.reader import kind_of, numbered_lines, read_rows, text_field

Run = Callable[[list[str]], object]


def read_texts(path: Path, field: str) -> list[str]:
    """All texts of a file."""
    if kind_of(path) == ".txt":
        return [line for _, line in numbered_lines(path)]
    return [text_field({field: None, **row}, field, path, number) for number, row in read_rows(path)]


def ours(bundle: Path, targets: list[str], engines: list[str], threads: int) -> Iterator[tuple[str, Run]]:
    """Every target on every engine that is installed."""
    for engine in engines:
        for target in targets:
            try:
                yield (
                    f"{target} {engine}",
                    Encoder.open(bundle, target, engine=engine, threads=threads, log_truncated=False).encode,
                )
            except EseDeployError as error:
                print(f"left out {target} {engine}: {error}", file=sys.stderr)


def sentence_transformers(model: str, threads: int) -> Run:
    """``encode`` of the full model, as it comes."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    return SentenceTransformer(model, device="cpu").encode


class NncfOpenVino(OpenVino):
    """OpenVINO running fp32 graphs that NNCF quantised by its defaults for transformers."""

    def __init__(self, bundle: Path) -> None:
        super().__init__()
        opened = open_bundle(bundle)
        tokenizer = load_tokenizer(opened)
        encodings = tokenizer(calibration_half()).encodings
        self._batches = [tokenizer.collate([one], opened.manifest.inputs) for one in encodings]

    def _compile(self, model: Any, settings: dict[str, str]) -> Any:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        import nncf

        quantised = nncf.quantize(model, nncf.Dataset(self._batches), model_type=nncf.ModelType.TRANSFORMER)
        return super()._compile(quantised, settings)


def measure(runs: dict[str, Run], texts: list[str], rounds: int) -> dict[str, list[float]]:
    """Texts a second of each, a figure a round."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(texts[:64])
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run(texts)
            found[name].append(len(texts) / (time.perf_counter() - start))
    return found


def main() -> None:
    """Print texts a second, medians over the rounds, as a table and the ratios to the first row."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--field", default="text")
    parser.add_argument("--limit", type=int, default=None, help="the first so many texts")
    parser.add_argument("--targets", default="6x384,6x384:int8,3x128,3x128:int8")
    parser.add_argument("--engines", default="onnxruntime,openvino")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sentence-transformers", metavar="FOLDER", help="the full model, encoded by its library")
    parser.add_argument("--nncf", metavar="TARGET", help="an fp32 target, quantised by NNCF and run by OpenVINO")
    arguments = parser.parse_args()
    texts = read_texts(arguments.texts, arguments.field)[: arguments.limit]
    runs: dict[str, Run] = {}
    if arguments.sentence_transformers:
        name = "sentence-transformers, full model"
        runs[name] = sentence_transformers(arguments.sentence_transformers, arguments.threads)
    runs |= dict(ours(arguments.bundle, arguments.targets.split(","), arguments.engines.split(","), arguments.threads))
    if arguments.nncf:
        engine = NncfOpenVino(arguments.bundle)
        encoder = Encoder.open(
            arguments.bundle, arguments.nncf, engine=engine, threads=arguments.threads, log_truncated=False
        )
        runs[f"{arguments.nncf} by NNCF, openvino"] = encoder.encode
    if not runs or not texts:
        raise InputError(f"there is nothing to measure: {len(texts)} texts, and {len(runs)} targets that open")
    found = measure(runs, texts, arguments.rounds)
    first = statistics.median(next(iter(found.values())))
    print(f"{len(texts)} texts, {arguments.threads} threads, medians of {arguments.rounds} interleaved rounds")
    for name, figures in found.items():
        median = statistics.median(figures)
        print(f"{name:<36} {median:9.1f} texts/s {median / first:7.2f} x ({min(figures):.1f} to {max(figures):.1f})")


if __name__ == "__main__":
    start(main)

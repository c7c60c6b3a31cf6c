"""Time of each kind of operator of targets in ONNX Runtime: python -m benchmarks.operators BUNDLE TARGET..."""

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.tool import start
from ese_deploy import Encoder
from ese_deploy.bundle.reader import choose_entry, open_bundle, read_graph
from ese_deploy.engines import Batch
from ese_deploy.engines.integers import unsigned, wants_unsigned
from ese_deploy.engines.onnxruntime_cpu import SLOW_FUSIONS, import_onnxruntime, session_options
from ese_deploy.runtime.batching import plan_batches
from ese_deploy.runtime.tokenize import load_tokenizer
from ese_deploy.texts.sample import sample_corpus


def profile(bundle: Path, target: str, rounds: int, threads: int) -> Counter[str]:
    """Microseconds that each kind of operator takes over the project's collection."""
    opened = open_bundle(bundle)
    graph = read_graph(opened, choose_entry(opened, target))
    tokenizer = load_tokenizer(opened)
    onnxruntime = import_onnxruntime()
    with tempfile.TemporaryDirectory() as folder:
        options = session_options(onnxruntime, bundle, threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder, "profile"))
        session = onnxruntime.InferenceSession(
            unsigned(graph) if wants_unsigned() else graph,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=SLOW_FUSIONS,
        )
        tokens = tokenizer([item.text for item in sample_corpus()])
        names = [value.name for value in session.get_inputs()]
        for _ in range(rounds):
            for rows in plan_batches(tokens.lengths, Batch.size, Batch.tokens):
                session.run(None, tokenizer.collate([tokens.encodings[row] for row in rows], names))
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    found: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            found[event["args"]["op_name"]] += event["dur"]
    return found


def main() -> None:
    """Print the operators of each target, the most costly first."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operators")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("targets", nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    for target in arguments.targets:
        Encoder.open(arguments.bundle, target)  # says what is wrong with a target in one line
        found = profile(arguments.bundle, target, arguments.rounds, arguments.threads)
        whole = sum(found.values())
        print(f"{target}: {whole / arguments.rounds / 1e3:.0f} ms in kernels for the collection")
        for kind, microseconds in found.most_common():
            print(f"  {kind:<28} {microseconds / whole:6.1%} {microseconds / arguments.rounds / 1e3:8.1f} ms")


if __name__ == "__main__":
    start(main)

"""Anonymous memory that a target adds to a process: python -m benchmarks.memory BUNDLE TARGET."""

import sys
import time
from pathlib import Path

# What an edge machine does not have must not be needed, nor counted.
_ABSENT = ("torch", "transformers", "onnx", "onnx_ir")
_BATCH = ["The ferry to the island was late again, so we missed the last bus and walked home."] * 32


class _Block:
    def find_spec(self, name: str, *_: object) -> None:
        if name.split(".")[0] in _ABSENT:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)


def rss_anon() -> float:
    """This process's anonymous resident memory, in MB (10^6 bytes)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024 / 1e6


def main(bundle: str, target: str) -> None:
    """Open a target, embed one text and one batch, and print time and memory."""
    sys.meta_path.insert(0, _Block())  # type: ignore[arg-type]
    start = time.perf_counter()
    import onnxruntime  # noqa: F401 - counted as part of the process, as numpy is

    from ese_deploy import Encoder

    imported = time.perf_counter()
    before = rss_anon()
    encoder = Encoder.open(bundle, target)
    opened = time.perf_counter()
    encoder.encode("hello")
    first = time.perf_counter()
    encoder.encode(_BATCH)
    after = rss_anon()
    print(
        f"{target}: import {imported - start:.2f} s, open {opened - imported:.2f} s, first vector "
        f"{first - opened:.3f} s; RssAnon grew by {after - before:.1f} MB from before open to after a batch of 32"
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m benchmarks.memory BUNDLE TARGET")
    main(sys.argv[1], sys.argv[2])

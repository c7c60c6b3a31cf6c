"""Anonymous memory that a target adds to a process: python -m benchmarks.memory BUNDLE TARGET."""

import sys
import time

# What an edge machine does not have must not be needed, nor counted.
_ABSENT = ("torch", "transformers", "onnx", "onnx_ir")
_BATCH = ["The ferry to the island was late again, so we missed the last bus and walked home."] * 32


class _Block:
    def find_spec(self, name: str, *_: object) -> None:
        if name.split(".")[0] in _ABSENT:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)


def main(bundle: str, target: str) -> None:
    """Open a target, embed one text and one batch, and print time and memory."""
    sys.meta_path.insert(0, _Block())  # type: ignore[arg-type]
    start = time.perf_counter()
    from ese_deploy import Encoder
    from ese_deploy.bench.memory import private_bytes
    from ese_deploy.engines.onnxruntime_cpu import import_onnxruntime

    import_onnxruntime()  # counted as part of the process, as numpy is
    imported = time.perf_counter()
    before = private_bytes()
    encoder = Encoder.open(bundle, target)
    opened = time.perf_counter()
    encoder.encode("hello")
    first = time.perf_counter()
    encoder.encode(_BATCH)
    after = private_bytes()
    if before is None or after is None:
        sys.exit("this system does not report RssAnon; run it on Linux")
    seconds = f"import {imported - start:.2f} s, open {opened - imported:.2f} s, first vector {first - opened:.3f} s"
    growth = f"RssAnon grew by {(after - before) / 1e6:.1f} MB from before open to after a batch of 32"
    print(f"{target}: {seconds}; {growth}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m benchmarks.memory BUNDLE TARGET")
    main(sys.argv[1], sys.argv[2])

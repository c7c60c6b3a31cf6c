"""Tries mutants of a bundle for some minutes, each in a process that may crash or hang: ``make fuzz MINUTES=60``."""

import argparse
import json
import select
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

_LONGEST_SECONDS = 10.0
_START_SECONDS = 120.0
_MOST_MIB = 1024


class Worker:
    """A process that answers numbers; started again after a crash or a hang."""

    def __init__(self, bundle: Path, engine: str) -> None:
        self._command = [sys.executable, "-W", "ignore", "-m", "hostile.worker", str(bundle), engine]
        self._process: subprocess.Popen[str] | None = None

    def ask(self, seed: int) -> tuple[str, str, int]:
        """The outcome of a number, what was changed, and the peak of resident memory in MiB."""
        longest = _LONGEST_SECONDS
        if self._process is None:
            longest = _START_SECONDS
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(
                self._command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
            )
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{seed}\n")
        process.stdin.flush()
        if not select.select([process.stdout], [], [], longest)[0]:
            self.close()
            return "hang", "", 0
        line = process.stdout.readline()
        if not line:
            code = process.wait()
            self.close()
            return f"crash {code}", "", 0
        answer = json.loads(line)
        return answer["outcome"], answer["changed"], answer["peak"]

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def main() -> int:
    """Try mutants, and print a table of the outcomes and the number of each bad mutant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--engine", default="onnxruntime")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--first", type=int, default=0, help="the first number")
    arguments = parser.parse_args()
    worker, found, bad, peak = Worker(arguments.bundle, arguments.engine), Counter[str](), [], 0
    end = time.monotonic() + 60 * arguments.minutes
    seed = arguments.first
    while time.monotonic() < end:
        outcome, changed, used = worker.ask(seed)
        peak = max(peak, used)
        kind = outcome.partition(":")[0]
        found[kind] += 1
        if kind not in ("refused", "vectors"):
            bad.append({"seed": seed, "outcome": outcome, "changed": changed})
            print(json.dumps(bad[-1]), flush=True)
        seed += 1
    worker.close()
    print(f"{arguments.engine}: {sum(found.values())} mutants, peak {peak} MiB: {dict(found.most_common())}")
    return int(bool(bad) or peak > _MOST_MIB)


if __name__ == "__main__":
    sys.exit(main())

"""Compares training variants: ``python -m benchmarks.quality run|test|table``; protocol.toml lists them.

python -m benchmarks.quality run --data DIR --out DIR                 # all missing runs, in order
python -m benchmarks.quality run --data DIR --out DIR --minutes 60    # starts no run after an hour
python -m benchmarks.quality run --data DIR --out DIR --only ROW
python -m benchmarks.quality test --data DIR --out DIR                # evaluates finalists on the test sets, once
python -m benchmarks.quality table --data DIR --out DIR               # writes results, tables and plots

An interrupted sweep continues with the same command: recorded runs are not repeated.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.quality.protocol import PROTOCOL, read_protocol
from benchmarks.quality.sweep import Sweep
from ese_deploy.errors import EseDeployError

_ROOT = Path(__file__).parents[2]


def main(arguments: list[str]) -> int:
    """Run the command line; returns 2 for wrong use or bad input and 130 if interrupted."""
    options = _options(arguments)
    try:
        sweep = Sweep(read_protocol(options.protocol), options.data, options.out, options.pause, _say)
        if options.command == "run":
            print(f"{sweep.run(options.only, options.minutes)} runs")
        elif options.command == "test":
            print(f"{sweep.test()} models tested")
        else:
            from benchmarks.quality.page import write_tables

            write_tables(sweep, options.results, options.docs, options.images)
    except EseDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the present run will start again", file=sys.stderr)
        return 130
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("run", "test", "table"))
    parser.add_argument("--data", type=Path, required=True, help="Folder with the files of the protocol.")
    parser.add_argument("--out", type=Path, required=True, help="Folder of records, models and logs.")
    parser.add_argument("--protocol", type=Path, default=PROTOCOL)
    parser.add_argument("--only", metavar="ROW", help="run: only this row.")
    parser.add_argument("--minutes", type=float, help="run: start no run after this many minutes.")
    parser.add_argument("--pause", type=Path, metavar="FILE", help="Pause while this file exists.")
    parser.add_argument("--results", type=Path, default=_ROOT / "benchmarks/results/quality_minilm.json")
    parser.add_argument("--docs", type=Path, default=_ROOT / "docs/results/quality.md")
    parser.add_argument("--images", type=Path, default=_ROOT / "docs/images")
    return parser.parse_args(arguments)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

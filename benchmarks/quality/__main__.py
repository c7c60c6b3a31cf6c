"""The quality campaign: ``python -m benchmarks.quality run|test|table``; protocol.toml says what is compared.

python -m benchmarks.quality run --data DIR --out DIR                 # everything that is missing, in order
python -m benchmarks.quality run --data DIR --out DIR --minutes 60    # begins no run after an hour
python -m benchmarks.quality run --data DIR --out DIR --only ROW
python -m benchmarks.quality test --data DIR --out DIR                # finalists on the test sets, once
python -m benchmarks.quality table --data DIR --out DIR               # results, tables and pictures

A sweep that was cut off goes on with the same command: runs that are written down are not done again.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.quality.protocol import PROTOCOL, read_protocol
from benchmarks.quality.sweep import Sweep
from ese_deploy.errors import EseDeployError

_ROOT = Path(__file__).parents[2]


def main(arguments: list[str]) -> int:
    """Do what the command line says; 2 where something is not what it must be, 130 where it was interrupted."""
    options = _options(arguments)
    try:
        sweep = Sweep(read_protocol(options.protocol), options.data, options.out, options.pause, _say)
        if options.verb == "run":
            print(f"{sweep.run(options.only, options.minutes)} runs")
        elif options.verb == "test":
            print(f"{sweep.test()} models tested")
        else:
            from benchmarks.quality.page import write_tables

            write_tables(sweep, options.results, options.docs, options.images)
    except EseDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the run under way will begin anew", file=sys.stderr)
        return 130
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=("run", "test", "table"))
    parser.add_argument("--data", type=Path, required=True, help="the folder that the protocol's files lie below")
    parser.add_argument("--out", type=Path, required=True, help="records, models and logs; a sweep goes on there")
    parser.add_argument("--protocol", type=Path, default=PROTOCOL)
    parser.add_argument("--only", metavar="ROW", help="run: this row alone")
    parser.add_argument("--minutes", type=float, help="run: begin no run after so many")
    parser.add_argument("--pause", type=Path, metavar="FILE", help="compute nothing while this file is there")
    parser.add_argument("--results", type=Path, default=_ROOT / "benchmarks/results/quality_minilm.json")
    parser.add_argument("--docs", type=Path, default=_ROOT / "docs/quality.md")
    parser.add_argument("--images", type=Path, default=_ROOT / "docs/images")
    return parser.parse_args(arguments)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

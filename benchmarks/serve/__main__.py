"""``python -m benchmarks.serve load ...`` and ``python -m benchmarks.serve plot ...``."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.serve.load import Plan, measure, numbered_texts
from benchmarks.serve.plot import plot as draw
from ese_deploy.cli.app import main
from ese_deploy.errors import InputError
from ese_deploy.system.files import write_atomic

app = typer.Typer(add_completion=False, help="Put load on an embeddings server.", no_args_is_help=True)


@app.command()
def load(
    url: Annotated[str, typer.Argument(help="Address of the server, for example http://127.0.0.1:8000.")],
    model: Annotated[str, typer.Option(help="Model name of the requests.")],
    rates: Annotated[str, typer.Option(help="Requests a second, for example 50,100,200: one step for each.")],
    out: Annotated[Path, typer.Option(help="Write the results to this .json file.")],
    seconds: Annotated[float, typer.Option(help="Length of a step.")] = 20.0,
    texts: Annotated[int, typer.Option(help="Texts of a request.")] = 1,
    words: Annotated[int, typer.Option(help="Words of a text.")] = 16,
    key: Annotated[str | None, typer.Option(help="API key.")] = None,
    pid: Annotated[int | None, typer.Option(help="Count the CPU time of this process and its children.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Check the answers against this bundle.")] = None,
    target: Annotated[str | None, typer.Option(help="Target of the bundle to check against.")] = None,
) -> None:
    """Send requests on schedule, and write latency, throughput and CPU time at each rate."""
    plan = Plan(url, model, tuple(map(float, rates.split(","))), seconds, texts, words, key, pid)
    expected, pool = None, numbered_texts(512, words)
    if bundle is not None:
        from ese_deploy import Encoder

        expected = Encoder.open(bundle, target).encode(pool)
    result = measure(plan, expected, pool)
    with write_atomic(out) as file:
        file.write(json.dumps(result, indent=1).encode() + b"\n")
    for step in result["steps"]:
        print(json.dumps(step))


@app.command()
def plot(
    results: Annotated[list[str], typer.Argument(help="Results as NAME=FILE, one for each server.")],
    out: Annotated[Path, typer.Option(help="Write this .png or .svg file.")],
) -> None:
    """Plot median and 99th percentile against load."""
    pairs = [one.partition("=") for one in results]
    for name, equals, file in pairs:
        if not equals or not Path(file).is_file():
            raise InputError(f"'{name}{equals}{file}' is not NAME=FILE with a file that exists.")
    draw({name: Path(file) for name, _, file in pairs}, out)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], app))

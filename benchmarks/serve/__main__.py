"""``python -m benchmarks.serve load ...`` and ``python -m benchmarks.serve plot ...``."""

import asyncio
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from benchmarks.serve.compare import Settings, compare
from benchmarks.serve.contenders import Contender, fastapi, infinity, running_other
from benchmarks.serve.load import Plan, measure, numbered_texts
from benchmarks.serve.malformed import send_malformed
from benchmarks.serve.plot import plot as draw
from benchmarks.serve.plot import plot_throughput
from benchmarks.serve.running import our_server
from benchmarks.serve.soak import mix_of, soak
from ese_deploy.cli.app import main
from ese_deploy.errors import InputError
from ese_deploy.report.files import ServeFile
from ese_deploy.system.files import write_atomic
from ese_deploy.system.threads import available_threads

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
    _write(result, out)
    for step in result.steps:
        print(msgspec.json.encode(step).decode())


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
    draw({name: msgspec.json.decode(Path(file).read_bytes(), type=ServeFile) for name, _, file in pairs}, out)


@app.command("soak")
def soak_server(
    bundle: Annotated[Path, typer.Argument(help="The bundle to serve.")],
    targets: Annotated[str, typer.Option(help="Targets of the requests, for example 3x128,1x384.")],
    out: Annotated[Path, typer.Option(help="Write the result to this .json file.")],
    seconds: Annotated[float, typer.Option(help="How long the load lasts.")] = 600.0,
    factor: Annotated[float, typer.Option(help="Load as a multiple of what the server can answer.")] = 2.0,
    workers: Annotated[int, typer.Option(help="Processes of the server.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Threads of each process.")] = None,
    timeout: Annotated[float, typer.Option(help="Time limit of a request in seconds.")] = 10.0,
) -> None:
    """Start a server, send it more than it can answer, and check every answer, the memory and the end.

    Ends with 1 if the server crashed, an answer was lost, wrong or another refusal than 429 or 503, or memory grew by
    5% after the first minute.
    """
    names = [name.strip() for name in targets.split(",")]
    options = [word for name in names for word in ("--target", name)]
    options += ["--workers", str(workers), "--timeout", f"{timeout:g}"]
    options += [] if threads is None else ["--threads", str(threads)]
    with our_server(bundle, "soak", options) as server:
        mix = mix_of(server.url, bundle, "soak", names)
        running = server.process
        result = asyncio.run(soak(server.url, mix, seconds, server.rss, lambda: running.poll() is None, factor))
    problems = [*result.problems, *(f"the log says: {line}" for line in server.alarms)]
    if running.returncode:
        problems.append(f"the server ended with {running.returncode}")
    result = msgspec.structs.replace(result, problems=problems)
    _write(result, out)
    print(msgspec.json.encode(msgspec.structs.replace(result, rss_mb=result.rss_mb[-1:])).decode())
    raise typer.Exit(1 if problems else 0)


@app.command("compare")
def compare_servers(
    bundle: Annotated[Path, typer.Argument(help="A bundle of the model, with the targets.")],
    model: Annotated[Path, typer.Argument(help="Folder of the same model for sentence-transformers.")],
    out: Annotated[Path, typer.Option(help="Write results and plots into this folder.")],
    full: Annotated[str, typer.Option(help="Target of the whole model in fp32.")] = "6x384",
    targets: Annotated[str, typer.Option(help="Further targets of ours.")] = "6x384:int8,3x128,1x384,0x384",
    infinity_python: Annotated[Path | None, typer.Option(help="Python with infinity. Default: without it.")] = None,
    fastapi_python: Annotated[
        Path | None, typer.Option(help="Python with FastAPI and sentence-transformers. Default: without it.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of each server. Default: the available cores.")] = None,
    rounds: Annotated[int, typer.Option(help="How often each contender has its turn.")] = 3,
    seconds: Annotated[
        float, typer.Option(help="Length of a turn; a step of the latency takes 1.6 times as long.")
    ] = 2.5,
) -> None:
    """Compare servers in turns on this machine, in less than 8 minutes: throughput, CPU time, latency and vectors.

    Ends with 1 if an answer was wrong or missing. Goals that are not met are printed.
    """
    out.mkdir(parents=True, exist_ok=True)
    count, names = threads or available_threads(), [full, *targets.split(",")]
    options = ["--engine", "onnxruntime", "--threads", str(count), "--log-format", "json"]
    options += [word for name in names for word in ("--target", name)]
    others = [] if infinity_python is None else [infinity(infinity_python, model)]
    others += [] if fastapi_python is None else [fastapi(fastapi_python, model)]
    with ExitStack() as stack:
        server = stack.enter_context(our_server(bundle, "ours", options))
        ours = [Contender(f"ese-deploy {one}", server.url, f"ours:{one}", server.process.pid, one) for one in names]
        found = [
            stack.enter_context(running_other(one, out / f"server-{place}.log", count))
            for place, one in enumerate(others)
        ]
        result = compare(bundle, [*ours, *found], full, Settings(rounds, seconds, seconds * 1.6, threads=count))
    _write(result, out / "comparison.json")
    draw(result.latency, out / "latency.png")
    plot_throughput(result, out / "throughput.png")
    for line in result.throughput:
        print(msgspec.json.encode(line).decode())
    for goal in result.goals:
        print(f"{'met   ' if goal.met else 'MISSED'} {goal.value:9.2f}  goal {goal.goal:g}  {goal.text}")
    for problem in result.problems:
        print(f"problem: {problem}")
    raise typer.Exit(1 if result.problems else 0)


@app.command("malformed")
def malformed_requests(
    bundle: Annotated[Path, typer.Argument(help="The bundle to serve.")],
    out: Annotated[Path, typer.Option(help="Write the result to this .json file.")],
    count: Annotated[int, typer.Option(help="Number of malformed requests.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of the requests.")] = 1,
) -> None:
    """Start a server, and send it malformed requests. Ends with 1 on an answer of 500 or above, a hang or growth."""
    with our_server(bundle, "tiny", ["--threads", "1"]) as server:
        result = asyncio.run(send_malformed(server.url, "tiny", count, server.rss, seed))
    _write(result, out)
    print(msgspec.json.encode(result).decode())
    raise typer.Exit(1 if result.problems else 0)


def _write(result: msgspec.Struct, out: Path) -> None:
    with write_atomic(out) as file:
        file.write(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], app))

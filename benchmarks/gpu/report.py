"""Summarise the results of the kit: python -m benchmarks.gpu.report RESULTS.jsonl.

Writes summary.md and plots beside the results. With --docs docs/guides/gpu.md it also updates the table there that says
what was run on which GPU.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.plots import draw
from benchmarks.gpu.records import Record, cases, read, states

__all__ = ["GOALS", "PATHS", "main", "summary", "update_docs"]

_BEGIN, _END = "<!-- gpu runs: begin -->", "<!-- gpu runs: end -->"
_NOT_RUN = "not run"

Table = list[str]


def main(arguments: Sequence[str]) -> int:
    """Write the summary, the plots, and the table of the documentation if it is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results.jsonl of a run")
    parser.add_argument("--out", type=Path, help="folder for summary.md and plots (default: beside the results)")
    parser.add_argument("--docs", type=Path, help="the page whose table of runs is updated")
    options = parser.parse_args(arguments)
    records = last_run(read(options.results))
    if not records:
        print(f"error: {options.results} holds no results", file=sys.stderr)
        return 2
    out = options.out or options.results.parent
    out.mkdir(parents=True, exist_ok=True)
    plots = draw(records, out)
    (out / "summary.md").write_text(summary(records, plots), "utf-8")
    print(f"wrote {out / 'summary.md'} and {len(plots)} plots")
    if options.docs:
        options.docs.write_text(update_docs(options.docs.read_text("utf-8"), records), "utf-8")
        print(f"updated {options.docs}")
    return 0


def last_run(records: list[Record]) -> list[Record]:
    """The records of the last start of the kit in a file that holds several."""
    starts = [index for index, record in enumerate(records) if record["kind"] == "run"]
    return records[starts[-1] :] if starts else []


def summary(records: list[Record], plots: Iterable[Path] = ()) -> str:
    """The Markdown summary of one run."""
    parts = [
        f"# GPU run of {records[0]['date']}",
        _machine(records),
        *(["This is a dry run: its figures say nothing about speed."] if records[0]["tiny"] else []),
        "## Steps",
        _steps(records),
        "## Goals",
        _goals(records),
        *_section("Correctness", _parity(records)),
        *_section("Texts per second", _speeds(records, "texts")),
        *_section("Tokens to vectors, share of the measured matrix peak", _speeds(records, "tokens")),
        *_section("Latency of one query", _latencies(records)),
        *_section("GPU memory", _memory(records)),
        *(f"![{path.stem}]({path.name})" for path in plots),
    ]
    return "\n\n".join(parts) + "\n"


def _section(title: str, table: str) -> list[str]:
    return [f"## {title}", table] if table else []


def _machine(records: list[Record]) -> str:
    peaks = cases(records, "peak")
    machine = next((record for record in peaks if record["case"] == "machine"), {})
    versions = ", ".join(f"{name} {version}" for name, version in machine.get("versions", {}).items())
    peak = ", ".join(f"{one['dtype']} {one['tflops']:.4g} TFLOP/s" for one in peaks if "tflops" in one)
    copy = "".join(f", copy {one['gb_per_second']:.4g} GB/s" for one in peaks if "gb_per_second" in one)
    lines = [
        f"GPU: {machine.get('gpu', 'unknown')}, driver {machine.get('driver') or 'none'}; "
        f"CUDA {machine.get('cuda') or 'none'}.",
        f"Machine: {machine.get('machine', 'unknown')}.",
        f"Versions: {versions}.",
        f"Measured peak: {peak}{copy}.",
    ]
    return "  \n".join(lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """A Markdown table whose last ``numbers`` columns are aligned to the right; empty without rows."""
    rows = list(rows)
    if not rows:
        return ""
    rule = ["---"] * (len(head) - numbers) + ["---:"] * numbers
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _steps(records: list[Record]) -> str:
    return _table(
        ("step", "state", "seconds"),
        (
            (name, f"{one['state']}{': ' if one['reason'] else ''}{one['reason']}", f"{one['seconds']:.0f}")
            for name, one in states(records).items()
        ),
        numbers=1,
    )


def _outcome(record: Record) -> str:
    """Why a case has no result."""
    return f"skipped: {record['skipped']}" if "skipped" in record else record.get("error", "")


def _parity(records: list[Record]) -> str:
    names = ("cosine_min", "max_abs", "batch_max_abs", "padding_max_abs")
    return _table(
        ("model", "depth", "dtype", "result", "nodes on the CPU", "cosine", "difference", "batch", "padding"),
        (
            (
                one["model"],
                str(one["depth"]),
                one["dtype"],
                _outcome(one) or "passed",
                ", ".join(f"{name} x {count}" for name, count in one.get("nodes_on_cpu", {}).items()) or "none",
                *(f"{one[name]:.3g}" if name != "cosine_min" else f"{one[name]:.6f}" for name in names if name in one),
                *("" for name in names if name not in one),
            )
            for one in cases(records, "correctness")
            if one["case"] == "parity"
        ),
        numbers=4,
    )


def _speed_records(records: list[Record]) -> list[Record]:
    return [one for one in records if one["kind"] == "case" and one.get("case") == "speed"]


def _speeds(records: list[Record], what: str) -> str:
    """One row for each case; what was skipped is listed with its reason."""
    found = [one for one in _speed_records(records) if one["what"] == what]
    order: Callable[[Record], tuple[object, ...]] = lambda one: tuple(  # noqa: E731
        one.get(name, 0) for name in ("model", "dtype", "length", "batch", "depth", "contender")
    )
    return _table(
        ("model", "dtype", "tokens", "batch", "depth", "contender", "texts/s", "TFLOP/s", "share of peak"),
        (
            (
                one["model"],
                one.get("dtype", ""),
                str(one.get("length") or "mixed"),
                str(one.get("batch", "")),
                str(one["depth"]),
                one["contender"],
                f"{one['texts_per_second']:,.0f}" if "texts_per_second" in one else _outcome(one),
                f"{one['tflops']:.3g}" if "tflops" in one else "",
                f"{one['share_of_peak']:.0%}" if "share_of_peak" in one else "",
            )
            for one in sorted(found, key=order)
        ),
        numbers=3,
    )


def _latencies(records: list[Record]) -> str:
    return _table(
        ("model", "depth", "dtype", "contender", "p50 ms", "p99 ms"),
        (
            (
                one["model"],
                str(one["depth"]),
                one["dtype"],
                one["contender"],
                f"{one['p50_ms']:.2f}" if "p50_ms" in one else _outcome(one),
                f"{one['p99_ms']:.2f}" if "p99_ms" in one else "",
            )
            for one in cases(records, "latency")
        ),
        numbers=2,
    )


def _memory(records: list[Record]) -> str:
    return _table(
        ("model", "depth", "MiB after loading", "MiB after a batch"),
        (
            (one["model"], str(one["depth"]), f"{one['loaded_mib']:.0f}", f"{one['after_batch_mib']:.0f}")
            for one in cases(records, "memory")
            if "after_batch_mib" in one and "note" not in one
        ),
        numbers=2,
    )


@dataclass(frozen=True)
class Goal:
    """A figure that the first run is compared with.

    Attributes:
        text: what is wanted.
        least: the figure.
        measure: finds it in the records; None where it was not measured.
    """

    text: str
    least: float
    measure: Callable[[list[Record]], float | None]


def _main_case(records: list[Record], what: str, depth: int, ours: bool) -> list[Record]:
    """Results at BERT-base, length 128, batch 128, fp16."""
    wanted = {"what": what, "model": "bert-base", "dtype": "fp16", "batch": 128, "length": 128, "depth": depth}
    return [
        one
        for one in _speed_records(records)
        if "texts_per_second" in one
        and one["contender"].startswith("ese-deploy") == ours
        and all(one.get(name) == value for name, value in wanted.items())
    ]


def _best(found: list[Record], name: str) -> float | None:
    return max((one[name] for one in found if name in one), default=None)


def _ratio(top: float | None, bottom: float | None) -> float | None:
    return top / bottom if top and bottom else None


GOALS = (
    Goal(
        "texts to vectors, BERT-base, 128 tokens, batch 128, fp16: times the best way in PyTorch",
        1.3,
        lambda records: _ratio(
            _best(_main_case(records, "texts", 12, True), "texts_per_second"),
            _best(_main_case(records, "texts", 12, False), "texts_per_second"),
        ),
    ),
    Goal(
        "tokens to vectors, same case: share of the measured matrix peak",
        0.6,
        lambda records: _best(_main_case(records, "tokens", 12, True), "share_of_peak"),
    ),
    Goal(
        "depth 3 of 12, tokens to vectors, same case: times depth 12",
        3.5,
        lambda records: _ratio(
            _best(_main_case(records, "tokens", 3, True), "texts_per_second"),
            _best(_main_case(records, "tokens", 12, True), "texts_per_second"),
        ),
    ),
)


def _goals(records: list[Record]) -> str:
    rows = []
    for goal in GOALS:
        got = goal.measure(records)
        outcome = "not measured" if got is None else f"{got:.2f} ({'reached' if got >= goal.least else 'missed'})"
        rows.append((goal.text, f"{goal.least:g}", outcome))
    parity = [one for one in cases(records, "correctness") if "skipped" not in one]
    failed = sum("error" in one for one in parity)
    outcome = f"{len(parity) - failed} of {len(parity)} checks passed" if parity else "not measured"
    return _table(("goal", "at least", "measured"), [*rows, ("tolerances of the manifest hold", "all", outcome)], 2)


@dataclass(frozen=True)
class PathRun:
    """A way of computing on a GPU, as a row of the table in the documentation.

    Attributes:
        name: as the table shows it.
        step: the step that runs it.
        wanted: fields that a case of that step must have.
    """

    name: str
    step: str
    wanted: dict[str, object]


PATHS = (
    *(
        PathRun(f"`onnxruntime-cuda`, {dtype}, encoders", "correctness", {"dtype": dtype, "model": "bert-base"})
        for dtype in ("fp32", "fp16", "bf16")
    ),
    PathRun("`onnxruntime-cuda`, fp16, decoder", "correctness", {"dtype": "fp16", "model": "decoder-0.6b"}),
    PathRun("`onnxruntime-cuda`, 16 threads", "correctness", {"case": "threads"}),
    PathRun("`onnxruntime-cuda` with CUDA graphs (kit only)", "throughput", {"contender": "ese-deploy, CUDA graph"}),
    PathRun("`tensorrt`, fp16", "tensorrt", {"contender": "tensorrt"}),
    PathRun("`tensorrt`, int8-fp16", "tensorrt", {"contender": "tensorrt", "dtype": "int8-fp16"}),
    PathRun("`onnxruntime-tensorrt`, fp16", "tensorrt", {"contender": "onnxruntime-tensorrt"}),
    PathRun("training with `--bf16`", "training", {"case": "training"}),
    PathRun("`ese-deploy serve` on a GPU", "server", {"case": "server"}),
)


def update_docs(text: str, records: list[Record]) -> str:
    """Replace the table of runs between its two marks; rows that this run did not reach stay as they are.

    Raises:
        ValueError: the text has no marks.
    """
    found = re.search(f"{_BEGIN}\n(.*?){_END}", text, re.DOTALL)
    if found is None:
        raise ValueError(f"there is no table between {_BEGIN} and {_END}")
    lines = (line.strip("| ").split(" | ") for line in found[1].splitlines())
    held = {cells[0].strip(): cells[1].strip() for cells in lines if len(cells) == 2}
    fresh = {path.name: _run_of(path, records) for path in PATHS}
    rows = [(path.name, fresh[path.name] or held.get(path.name, _NOT_RUN)) for path in PATHS]
    table = _table(("path", "run on"), rows)
    return text[: found.start()] + f"{_BEGIN}\n{table}\n{_END}" + text[found.end() :]


def _run_of(path: PathRun, records: list[Record]) -> str:
    """GPU, versions and date of a path that this run measured; empty where it did not."""
    machine = next((one for one in cases(records, "peak") if one["case"] == "machine"), None)
    if machine is None or records[0]["device"] != "cuda" or records[0]["tiny"]:
        return ""
    found = [
        one
        for one in cases(records, path.step)
        if "skipped" not in one and all(one.get(name) == value for name, value in path.wanted.items())
    ]
    if not found:
        return ""
    versions = {name: machine["versions"].get(name, "").split(" ")[0] for name in ("onnxruntime", "torch")}
    with_what = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    failed = ", **failed**" if any("error" in one for one in found) else ""
    return f"{machine['gpu']}, {with_what}, {records[0]['date']}{failed}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
import pytest
from helpers.tiny import HIDDEN, LAYERS

from ese_deploy.bench import bench
from ese_deploy.bench.baseline_runs import BaselinePlan, start_baselines
from ese_deploy.bench.baselines import BaselineError, RunningBaseline, read_baselines
from ese_deploy.bench.contenders import thin
from ese_deploy.bench.memory import cold_start, measure_memory
from ese_deploy.bench.operations import OperationCount, count_operations
from ese_deploy.bench.peak import find_products, instruction_sets, torch_peak
from ese_deploy.bench.plan import STOP_RULES, Request, plan_groups, select_entries
from ese_deploy.bench.results import Baseline, Results, read_results, write_results
from ese_deploy.bench.run import new_results, run_bench
from ese_deploy.bench.texts import bench_texts
from ese_deploy.bench.timing import StopRule
from ese_deploy.bundle.reader import Bundle, choose_entry, read_graph
from ese_deploy.cli.app import main
from ese_deploy.errors import InputError
from ese_deploy.system.progress import silent
from ese_deploy.target import Target
from ese_deploy.texts.sample import sample_corpus

BASELINES = Path(__file__).parents[2] / "benchmarks/baselines"
Capture = pytest.CaptureFixture[str]

WRONG = """
import numpy as np
from serve import batch_sizes, serve
serve([], lambda request: (lambda texts, setting: np.ones((len(texts), request["width"])), batch_sizes()[:1]))
"""
# Embeds three times, which are two trials and its vectors, and then dies while it is timed.
MORTAL = """
import sys
import numpy as np
from serve import serve
left = [3]
def load(request):
    def encode(texts, setting):
        left[0] -= 1
        return np.ones((len(texts), request["width"])) if left[0] >= 0 else sys.exit("out of memory")
    return encode, [{"batch": 4}]
serve([], load)
"""
DYING = "import sys\nsys.stdin.readline()\nsys.exit('out of luck')\n"


@pytest.fixture
def two_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough rounds to see that something was timed, too few to say how fast it is."""
    for effort in STOP_RULES:
        monkeypatch.setitem(STOP_RULES, effort, StopRule(least=2, most=2))
    monkeypatch.setattr("ese_deploy.bench.peak._SHAPES", ((64, 64, 64),))


@pytest.fixture
def baselines(tmp_path: Path) -> Path:
    """The project's drivers, and two that go wrong, all in this environment."""
    folder = tmp_path / "baselines"
    folder.mkdir()
    for path in BASELINES.glob("*.py"):
        shutil.copy(path, folder)
    (folder / "wrong.py").write_text(WRONG)
    (folder / "dying.py").write_text(DYING)
    (folder / ".envs").mkdir()
    (folder / ".envs/here").symlink_to(sys.prefix)
    lines = []
    for name, environment, driver in (
        ("PyTorch", "here", "drive_pytorch.py"),
        ("wrong", "here", "wrong.py"),
        ("dying", "here", "dying.py"),
        ("absent", "nowhere", "drive_pytorch.py"),
    ):
        lines.append(f'[[baseline]]\nname = "{name}"\nenvironment = "{environment}"\ndriver = "{driver}"')
        lines.append('engine = "x"\noptions = { dtype = "fp32" }\n')
    (folder / "baselines.toml").write_text("\n".join(lines))
    return folder


def request_of(bundle: Bundle, **changes) -> Request:
    given = {"effort": "quick", "engines": ("onnxruntime",), "lengths": ("query",), "threads": (1,), **changes}
    return Request(entries=select_entries(bundle, [], given["engines"]), **given)


def run(bundle: Bundle, request: Request, out: Path, baselines: BaselinePlan | None = None) -> Results:
    texts = bench_texts()
    return run_bench(bundle, request, texts, new_results(bundle, request, texts, {}, {}), out, baselines)


@pytest.mark.parametrize(("given", "kept"), [(0, []), (2, [0, 1]), (3, [0, 1, 2]), (5, [0, 1, 3]), (9, [0, 3, 6])])
def test_few_texts_are_taken_from_all_over_a_file(given: int, kept: list[int]) -> None:
    assert thin([str(number) for number in range(given)], 3) == [str(number) for number in kept]


def test_operations_are_those_of_the_matrix_products(tiny_bundle: Bundle) -> None:
    batch, tokens, inner = 3, 11, 48
    for depth in (1, 2, 3):
        entry = next(entry for entry in tiny_bundle.manifest.targets if entry.depth == depth)
        block = 4 * HIDDEN * HIDDEN + 2 * HIDDEN * inner
        attention = 2 * tokens * tokens * HIDDEN
        expected = 2 * batch * depth * (tokens * block + attention)
        assert count_operations(read_graph(tiny_bundle, entry), batch, tokens) == expected


def test_operations_of_texts_are_the_sum_over_their_lengths(tiny_bundle: Bundle) -> None:
    graph = read_graph(tiny_bundle, choose_entry(tiny_bundle))
    count = OperationCount.of(graph)
    assert count([5, 40]) == (count_operations(graph, 2, 5) + count_operations(graph, 2, 40)) / 2
    assert count([]) == 0


def test_the_machines_own_products_are_right_and_timed() -> None:
    products, missing = find_products(1)
    assert "fp32" in [product.peak.dtype for product in products]
    assert all(peak.reason and not peak.rates for peak in missing)
    for product in products:
        assert all(seconds > 0 for seconds in product.turn())
        m, k, n = product.peak.shape
        assert product.operations == 2 * m * k * n
        assert np.asarray(product.multiply() if product.peak.kernel.startswith("ONNX") else np.ones((m, n))).shape == (
            m,
            n,
        )


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_peak_gemm_can_be_measured_with_pytorch_alone(dtype: str) -> None:
    assert torch_peak(dtype, "cpu", seconds=0.001, sizes=[64]) > 0


def test_instruction_sets_are_read_where_the_system_names_them(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("model name : x\nflags : fpu avx2 amx_int8 sse\n")
    assert instruction_sets(tmp_path) == ["avx2", "amx_int8"]
    (tmp_path / "proc/cpuinfo").write_text("Features : fp asimd bf16 i8mm\n")
    assert instruction_sets(tmp_path) == ["asimd", "bf16", "i8mm"]
    assert instruction_sets(tmp_path / "nowhere") == []


def test_the_texts_are_the_collection_or_a_file(tmp_path: Path) -> None:
    lengths = bench_texts().lengths
    assert {name: len(texts) for name, texts in lengths.items()} == {
        "query": 96,
        "sentence": 216,
        "passage": 72,
        "mixed": len(sample_corpus()),
    }
    (tmp_path / "own.txt").write_text("one\ntwo\n")
    assert bench_texts(tmp_path / "own.txt").lengths == {"file": ["one", "two"]}
    with pytest.raises(InputError, match="There is no file"):
        bench_texts(tmp_path / "none.txt")


def test_a_full_bench_varies_depth_length_threads_width_and_budget(tiny_bundle: Bundle) -> None:
    lengths = ("query", "sentence", "passage", "mixed")
    quick = plan_groups(request_of(tiny_bundle, lengths=lengths))
    assert [plan.length for plan in quick] == [*lengths, "query"]
    full = plan_groups(request_of(tiny_bundle, effort="full", lengths=lengths, threads=(2, 1), batch_tokens=(128, 512)))
    keys = [plan.key for plan in full]
    assert len(set(keys)) == len(keys)
    assert keys == [
        *[("throughput", "depth", length, 2) for length in lengths],
        ("throughput", "depth", "mixed", 1),
        ("throughput", "dim", "sentence", 2),
        ("throughput", "batch_tokens", "mixed", 2),
        ("latency", "depth", "query", 2),
        ("latency", "depth", "query", 1),
    ]
    by_key = dict(zip(keys, full, strict=True))
    assert [str(one.entry.target) for one in full[0].runs] == ["1x8", "2x16", "3x32"]
    assert len(by_key["throughput", "dim", "sentence", 2].runs) == 4
    budgets = by_key["throughput", "batch_tokens", "mixed", 2].runs
    assert [(one.entry.depth, one.batch_tokens) for one in budgets] == [
        *[(1, 128), (1, 256), (1, 512)],
        *[(3, 128), (3, 256), (3, 512)],
    ]
    assert [plan.with_baselines for plan in full] == [True] * 4 + [False] * 3 + [True, False]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--threads", "1,2"], {"threads": (2, 1)}),
        ([], {"lengths": ("query", "sentence", "passage")}),
        (["--full"], {"lengths": ("query", "sentence", "passage", "mixed")}),
        (["--lengths", "mixed,query"], {"lengths": ("query", "mixed")}),
    ],
)
def test_what_the_options_ask_for_is_timed(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: dict
) -> None:
    requests = []

    def take(bundle: Bundle, request: Request, *_: object) -> Results:
        requests.append(request)
        raise InputError("not now")

    monkeypatch.setattr("ese_deploy.bench.run.run_bench", take)
    command = ["bench", str(tiny_bundle.path), "--engine", "onnxruntime", "--out", str(tmp_path / "r.json")]
    assert main([*command, *arguments]) == 2
    assert {name: getattr(requests[0], name) for name in expected} == expected


def test_targets_that_are_not_there_are_refused(tiny_bundle: Bundle) -> None:
    with pytest.raises(InputError, match=r"contains no target 9x8\. Choose from: 1x8, 2x16, 3x16, 3x32"):
        select_entries(tiny_bundle, [Target(9, 8)], ["onnxruntime"])
    with pytest.raises(InputError, match="contains none of these targets for the engines tensorrt"):
        select_entries(tiny_bundle, [], ["tensorrt"])


@pytest.mark.slow
@pytest.mark.usefixtures("two_rounds")
def test_a_run_that_was_cut_off_goes_on_where_it_stood(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    from ese_deploy.bench import run as module

    out = tmp_path / "r.json"
    command = [
        "bench",
        str(tiny_bundle.path),
        "--out",
        str(out),
        "--lengths",
        "query,query",
        "--engine",
        "onnxruntime",
        "--threads",
        "1",
    ]
    with monkeypatch.context() as patched:
        patched.setattr(module, "write_results", interrupt_after(2, module.write_results))
        assert main(command) == 130
    cut = read_results(out)
    assert (len(cut.groups), cut.complete, cut.costs) == (1, False, [])
    assert main([*command[:-1], "2"]) == 2
    assert "is an interrupted run with other inputs or options" in capsys.readouterr().err
    write_results(out, msgspec.structs.replace(cut, baselines=[Baseline("PyTorch", "fp32", "torch", {}, {})]))
    assert main(command) == 2
    assert (
        "was started with --baselines. Resume it with them, write to another file, or replace it with --force."
        in capsys.readouterr().err
    )
    write_results(out, cut)
    assert main(command) == 0
    assert "Resuming" in capsys.readouterr().err
    whole = read_results(out)
    assert whole.complete
    assert whole.groups[0] == cut.groups[0]
    assert [group.kind for group in whole.groups] == ["throughput", "latency"]
    for group in whole.groups:
        assert [row.size for row in group.rows] == ["1x8", "2x16", "3x32"]
        assert all(len(row.timing.seconds) == 2 and min(row.timing.seconds) > 0 for row in group.rows)
        assert all(row.operations > 0 for row in group.rows)
    single = whole.groups[1].rows[0]
    times = single.timing.percentiles
    assert 0 < times["p50"] <= times["p95"] <= times["p99"]
    assert [cost.target for cost in whole.costs] == ["1x8", "2x16", "3x32"]
    assert all(cost.cold_seconds > cost.load_seconds > 0 for cost in whole.costs)
    if sys.platform == "linux":
        assert all(0 < (cost.growth_bytes or 0) <= (cost.peak_bytes or 0) for cost in whole.costs)
    assert main(command) == 2
    assert "is complete. Write to another file, or replace it with --force." in capsys.readouterr().err


@pytest.mark.usefixtures("two_rounds")
def test_the_python_function_takes_strings(tiny_bundle: Bundle) -> None:
    results = bench(str(tiny_bundle.path), targets=["1x8"], engines=["onnxruntime"], threads=[1], lengths=["query"])
    assert repr(results) == "Results('tiny', quick, 2 groups)"
    assert results.restricted == {"targets": "1x8", "engines": "onnxruntime", "threads": "1", "lengths": "query"}
    assert [row.target for row in results.groups[0].rows] == ["1x8"]
    with pytest.raises(InputError, match="`batch_tokens` are compared in a full bench only"):
        bench(tiny_bundle, engines=["onnxruntime"], batch_tokens=[128])


@pytest.mark.slow
def test_what_a_process_costs_is_measured_with_any_text(tiny_bundle: Bundle, capfd: pytest.CaptureFixture[str]) -> None:
    text, target = "ferry \0 é " * 20_000, Target(LAYERS, HIDDEN)
    assert len(text) > 1 << 17, "Linux takes no such argument"
    assert cold_start(tiny_bundle, target, "onnxruntime", 1, text) > 0
    assert measure_memory(tiny_bundle, target, "onnxruntime", 1, text).load_seconds > 0
    assert capfd.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:some texts are longer")
@pytest.mark.usefixtures("two_rounds")
def test_baselines_run_beside_us_and_wrong_vectors_never_count(
    tiny_bundle: Bundle, tiny_checkpoint: Path, baselines: Path, tmp_path: Path
) -> None:
    plan = BaselinePlan(baselines, tuple(read_baselines(baselines)), tiny_checkpoint)
    # The sample corpus' passages are longer than this model accepts: both sides must truncate alike.
    results = run(tiny_bundle, request_of(tiny_bundle, lengths=("passage",)), tmp_path / "r.json", plan)
    for group in results.groups:
        rows = {row.name: row for row in group.rows}
        assert set(rows) == {"ese-deploy", "PyTorch", "wrong"}
        assert rows["PyTorch"].counted
        assert (rows["PyTorch"].cosine_min or 0) > 0.99999
        assert not rows["wrong"].counted
        assert rows["PyTorch"].size == f"{LAYERS}x{HIDDEN}"
        assert rows["PyTorch"].timing.median > 0
    listed = {one.name: one for one in results.baselines}
    assert [trial.batch for trial in listed["PyTorch"].trials["passage"]] == [4, 8, 16, 32, 64, 128]
    assert "torch" in listed["PyTorch"].versions
    assert "dying fp32 died at 'hello': out of luck" in listed["dying"].reason
    assert listed["absent"].reason == "absent fp32 is not installed; run: make baselines"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:some texts are longer")
@pytest.mark.usefixtures("two_rounds")
def test_a_baseline_that_dies_while_it_is_timed_is_left_out(
    tiny_bundle: Bundle, tiny_checkpoint: Path, baselines: Path, tmp_path: Path
) -> None:
    (baselines / "dying.py").write_text(MORTAL)
    entries = tuple(entry for entry in read_baselines(baselines) if entry.name in ("wrong", "dying"))
    plan = BaselinePlan(baselines, entries, tiny_checkpoint)
    results = run(tiny_bundle, request_of(tiny_bundle), tmp_path / "r.json", plan)
    assert results.complete
    for group in results.groups:
        assert {row.name for row in group.rows} == {"ese-deploy", "wrong"}
        assert all(len(row.timing.seconds) == 2 for row in group.rows)
    assert [one.reason for one in results.baselines] == ["", "dying fp32 died at 'passes': out of memory"]


def test_a_baseline_that_died_unseen_is_stopped_without_a_word(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.wait()
    (tmp_path / "log").touch()
    baseline = RunningBaseline(read_baselines(BASELINES)[0], tmp_path, process, tmp_path / "log")
    with pytest.raises(BaselineError, match="died at 'hello': it wrote no message"):
        baseline.ask("hello")
    baseline.stop()
    assert process.stdin.closed
    assert process.stdout.closed


def test_a_baseline_that_failed_to_install_is_listed_with_the_reason(
    tiny_bundle: Bundle, tiny_checkpoint: Path, baselines: Path
) -> None:
    (baselines / ".envs/nowhere.failed.txt").write_text("ERROR: No matching distribution found\nfor nothing==1")
    entries = tuple(entry for entry in read_baselines(baselines) if entry.name == "absent")
    with ExitStack() as stack:
        plan = BaselinePlan(baselines, entries, tiny_checkpoint)
        table = start_baselines(tiny_bundle, request_of(tiny_bundle), bench_texts(), plan, stack, silent)
    assert table.running == []
    (one,) = table.listed
    assert one.reason == "absent fp32 is not installed: ERROR: No matching distribution found for nothing==1"


def test_baselines_run_without_the_telemetry_of_onnxruntime(
    tiny_bundle: Bundle, tiny_checkpoint: Path, baselines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    (baselines / "dying.py").write_text("import os, sys\nsys.exit(os.environ['ORT_DISABLE_TELEMETRY'] + ' is set')\n")
    entries = tuple(entry for entry in read_baselines(baselines) if entry.name == "dying")
    with ExitStack() as stack:
        plan = BaselinePlan(baselines, entries, tiny_checkpoint)
        table = start_baselines(tiny_bundle, request_of(tiny_bundle), bench_texts(), plan, stack, silent)
    assert table.listed[0].reason.endswith(": 1 is set")


def test_the_projects_own_baselines_are_described_and_pinned() -> None:
    entries = read_baselines(BASELINES)
    assert {"PyTorch", "sentence-transformers", "optimum", "fastembed", "OpenVINO"} <= {entry.name for entry in entries}
    for entry in entries:
        assert (BASELINES / entry.driver).is_file()
        lines = (BASELINES / f"{entry.environment}.txt").read_text("utf-8").splitlines()
        assert all("==" in line for line in lines if not line.startswith("#"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "steam"], "Unknown engine 'steam'"),
        (["--engine", "tensorrt:x"], "Unknown engine 'tensorrt:x'. Write tensorrt or tensorrt:1."),
        (["--lengths", "novel"], "Unknown text length 'novel'. Choose from: query, sentence, passage, mixed."),
        (["--threads", "0"], "--threads must be at least 1, got 0"),
        (["--full", "--batch-tokens", "0"], "--batch-tokens must be at least 1, got 0"),
        (["--batch-tokens", "512"], "--batch-tokens are compared in a full bench only. Add --full."),
        (["--target", "9x8"], "contains no target 9x8"),
        (["--targets", "1x8,9x8"], "contains no target 9x8"),
        (["--baseline", "PyTorch"], "--baseline needs --baselines, a folder such as benchmarks/baselines."),
        (["--peer", "PyTorch"], "--baseline needs --baselines"),
        (["--baselines", "nowhere"], "Cannot read nowhere/baselines.toml"),
        (["--peers", str(BASELINES), "--baseline", "nobody"], "has no baseline 'nobody'. Choose from: "),
        (["--out", "nowhere/r.json"], "cannot write nowhere/r.json"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(
    tiny_bundle: Bundle, tmp_path: Path, capsys: Capture, arguments: list[str], message: str
) -> None:
    assert main(["bench", str(tiny_bundle.path), "--out", str(tmp_path / "r.json"), *arguments]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert out == ""


@pytest.mark.parametrize("text", ["baseline = 3", "[[baseline]]\nname = 1", "[[", '[[baseline]]\nname = "a"'])
def test_a_broken_list_of_baselines_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "baselines.toml").write_text(text)
    with pytest.raises(InputError, match=r"baselines\.toml does not describe baselines"):
        read_baselines(tmp_path)


def interrupt_after(calls: int, write):
    """Write this many times, and then interrupt the run."""
    left = [calls]

    def wrapped(*arguments) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(*arguments)

    return wrapped

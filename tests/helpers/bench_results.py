"""Made-up results of a bench with round numbers, for tests only."""

from collections.abc import Sequence

from ese_deploy.bench.results import (
    SCHEMA_VERSION,
    Baseline,
    Cost,
    Group,
    Host,
    Peak,
    Results,
    Row,
    TextSet,
    Trial,
)
from ese_deploy.bench.timing import Timing
from ese_deploy.bundle.manifest import Quality
from ese_deploy.system.machine import Machine

LENGTHS = {"query": (4, 40), "sentence": (8, 200), "mixed": (12, 600)}


def make_row(
    size: str = "6x384",
    seconds: Sequence[float] = (1.0, 1.0, 1.0, 1.0, 1.0),
    *,
    name: str = "ese-deploy",
    dtype: str = "fp32",
    batch: int | None = 512,
    is_default: bool = True,
    cosine: float | None = None,
    counted: bool = True,
) -> Row:
    """A row of a target, or with another name of a baseline."""
    depth, dim = map(int, size.split("x"))
    baseline = name != "ese-deploy"
    median = sorted(seconds)[len(seconds) // 2]
    return Row(
        kind="baseline" if baseline else "target",
        name=name,
        depth=depth,
        dim=dim,
        dtype=dtype,
        engine="other" if baseline else "onnxruntime",
        device="cpu",
        batch=batch,
        is_default=is_default and not baseline,
        timing=Timing(list(seconds), 5, {"p50": median, "p95": 2 * median, "p99": 3 * median}),
        padding=0.05,
        operations=1e9 * depth,
        cosine_min=cosine,
        counted=counted,
    )


def make_group(
    rows: Sequence[Row], kind: str = "throughput", length: str = "mixed", study: str = "depth", threads: int = 2
) -> Group:
    """A group whose machine multiplies 10 GFLOP/s in fp32 and was not measured in bf16."""
    peaks = [
        Peak("fp32", "cpu", "a product", [8, 8, 8], [1e10] * 5),
        Peak("bf16", "cpu", "", [], [], "the processor lists no instructions for it"),
    ]
    return Group(kind, study, length, threads, list(rows), peaks, 5, 12.5, 0.25)  # type: ignore[arg-type]


def depth_rows(scale: float = 1.0, batch: int | None = 512) -> list[Row]:
    """Depths 1, 3 and 6 on the line 0.2 + 0.8 d / 6, except depth 3, which is 5% above it."""
    times = {1: 0.2 + 0.8 / 6, 3: 0.6 * 1.05, 6: 1.0}
    return [make_row(f"{depth}x384", [scale * time] * 5, batch=batch) for depth, time in times.items()]


def baseline_rows(scale: float = 1.0, batch: int | None = 32) -> list[Row]:
    """A slower baseline, a faster one, and one whose vectors are wrong."""
    return [
        make_row(name="sentence-transformers", seconds=[2.5 * scale] * 5, batch=batch, cosine=0.999999),
        make_row(name="OpenVINO", seconds=[0.8 * scale] * 5, batch=batch, cosine=0.99999),
        make_row(name="wrong", seconds=[0.1 * scale] * 5, batch=batch, cosine=0.3, counted=False),
    ]


def make_results(groups: Sequence[Group] | None = None, speed: float = 1.0) -> Results:
    """All kinds of groups over three lengths."""
    if groups is None:
        groups = [make_group([*depth_rows(speed), *baseline_rows(speed)], length=length) for length in LENGTHS]
        singles = [*depth_rows(speed / 100, None), *baseline_rows(speed / 100, None)]
        groups = [*groups, make_group(singles, "latency", "query")]
    trials = {"query": [Trial(8, "", 0.2), Trial(32, "", 0.1)]}
    baselines = [
        Baseline("sentence-transformers", "fp32", "torch", {"torch": "2"}, trials),
        Baseline("OpenVINO", "fp32", "openvino", {"openvino": "9"}, {}),
        Baseline("fastembed", "fp32", "onnxruntime", {}, {}, "fastembed fp32 is not installed; run: make baselines"),
    ]
    quality = [Quality(metric="agreement", data="texts", data_sha256="d" * 64, n=4, value=0.5, share_of_full=0.5)]
    return Results(
        schema_version=SCHEMA_VERSION,
        name="tiny",
        model="tiny",
        weights_sha256="a" * 64,
        bundle="b" * 64,
        depth=6,
        width=384,
        host=Host(Machine("a <processor>", 2, 2**34, "x86_64", "Linux"), ["avx2"], 2, []),
        versions={"numpy": "2"},
        engines={"onnxruntime": {"onnxruntime": "1"}},
        absent={"openvino": "OpenVINO is not installed; pip install 'ese-deploy[openvino]'"},
        started="2026-01-01 00:00 UTC",
        effort="full",
        restricted={},
        stop="at least 5 rounds",
        texts_name="texts",
        texts={
            name: TextSet(n, tokens, tokens // n, tokens // n, 0, "e" * 64) for name, (n, tokens) in LENGTHS.items()
        },
        quality={f"{depth}x384": quality for depth in (1, 3, 6)},
        groups=list(groups),
        costs=[Cost(f"{depth}x384", "onnxruntime", depth * 10**6, 0.05, 0.3, 10**6, 2 * 10**6, 3) for depth in (1, 6)],
        baselines=baselines,
        complete=True,
    )

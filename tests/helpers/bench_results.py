"""Results of a bench with numbers that are easy to reckon with; made up, and only ever read by tests."""

from collections.abc import Sequence

from ese_deploy.bench.results import OWN, SCHEMA_VERSION, Cost, Group, Host, Limit, Peer, Results, Row, TextSet
from ese_deploy.bundle.manifest import Quality
from ese_deploy.system.machine import Machine

LENGTHS = {"query": (4, 40), "sentence": (8, 200), "mixed": (12, 600)}


def make_row(
    target: str = "6x384",
    seconds: Sequence[float] = (1.0, 1.0, 1.0, 1.0, 1.0),
    *,
    who: str = OWN,
    dtype: str = "fp32",
    setting: str = "512 tokens (default)",
    cosine: float | None = None,
    counted: bool = True,
) -> Row:
    """A row; for latency its percentiles follow from its seconds."""
    median = sorted(seconds)[len(seconds) // 2]
    percentiles = {"p50": median, "p95": 2 * median, "p99": 3 * median} if setting == "one text" else {}
    engine = "onnxruntime" if who == OWN else "other"
    work = 1e9 * int(target[0])
    return Row(who, target, engine, "cpu", dtype, setting, list(seconds), percentiles, 5, 0.05, work, cosine, counted)


def make_group(
    rows: Sequence[Row], kind: str = "throughput", length: str = "mixed", study: str = "depth", threads: int = 2
) -> Group:
    """A group whose machine multiplies 10 GFLOP/s in fp32 and was not measured in bf16."""
    limits = [
        Limit("fp32", "cpu", "a product", [8, 8, 8], [1e10] * 5),
        Limit("bf16", "cpu", "", [], [], "the processor names no instructions for it"),
    ]
    return Group(kind, study, length, threads, list(rows), limits, 5, 12.5, 0.25)  # type: ignore[arg-type]


def depth_rows(scale: float = 1.0, setting: str = "512 tokens (default)") -> list[Row]:
    """Depths 1, 3 and 6 on the line 0.2 + 0.8 d / 6, but for depth 3, which is 5% above it."""
    times = {1: 0.2 + 0.8 / 6, 3: 0.6 * 1.05, 6: 1.0}
    return [make_row(f"{depth}x384", [scale * time] * 5, setting=setting) for depth, time in times.items()]


def peer_rows(scale: float = 1.0, setting: str = "32 texts") -> list[Row]:
    """One peer that loses, one that wins, and one whose vectors are wrong."""
    return [
        make_row(who="sentence-transformers", seconds=[2.5 * scale] * 5, setting=setting, cosine=0.999999),
        make_row(who="OpenVINO", seconds=[0.8 * scale] * 5, setting=setting, cosine=0.99999),
        make_row(who="wrong", seconds=[0.1 * scale] * 5, setting=setting, cosine=0.3, counted=False),
    ]


def make_results(groups: Sequence[Group] | None = None, speed: float = 1.0) -> Results:
    """All kinds of groups over three lengths."""
    if groups is None:
        groups = [make_group([*depth_rows(speed), *peer_rows(speed)], length=length) for length in LENGTHS]
        singles = [*depth_rows(speed / 100, "one text"), *peer_rows(speed / 100, "one text")]
        groups = [*groups, make_group(singles, "latency", "query")]
    peers = [
        Peer("sentence-transformers", "fp32", "torch", {"torch": "2"}, {"query": {"8 texts": 0.2, "32 texts": 0.1}}),
        Peer("OpenVINO", "fp32", "openvino", {"openvino": "9"}, {}),
        Peer("fastembed", "fp32", "onnxruntime", {}, {}, "fastembed fp32 is not installed; make peers"),
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
        restricted="",
        stop="at least 5 rounds",
        texts_name="texts",
        texts={
            name: TextSet(n, tokens, tokens // n, tokens // n, 0, "e" * 64) for name, (n, tokens) in LENGTHS.items()
        },
        quality={f"{depth}x384": quality for depth in (1, 3, 6)},
        groups=list(groups),
        costs=[Cost(f"{depth}x384", "onnxruntime", depth * 10**6, 0.05, 0.3, 10**6, 2 * 10**6, 3) for depth in (1, 6)],
        peers=peers,
        complete=True,
    )

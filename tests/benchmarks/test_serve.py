"""The load generator, on a server with a tiny bundle. Its figures mean nothing here."""

import base64
import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("prometheus_client", reason="needs the extra serve")

from helpers.server import running

from benchmarks.serve.__main__ import app
from benchmarks.serve.client import Reply
from benchmarks.serve.compare import Comparison, Throughput, goals_of
from benchmarks.serve.soak import judge, mix_of
from ese_deploy.bundle.reader import Bundle
from ese_deploy.cli.app import main
from ese_deploy.report.files import ServeFile, ServeStep
from ese_deploy.server.settings import ServeSettings


def load(bundle: Bundle, out: Path, *options: str) -> list[dict[str, Any]]:
    settings = ServeSettings({"tiny": Path(bundle.path)})
    with running(settings) as server:
        words = ["load", server.url, "--model", "tiny:3x16", "--seconds", "1", "--out", str(out)]
        assert main([*words, *options], app) == 0
    return list(json.loads(out.read_text())["steps"])


def test_every_request_is_answered_and_checked(tiny_bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    checked = ["--bundle", str(tiny_bundle.path), "--target", "3x16"]
    steps = load(tiny_bundle, out, "--rates", "20,40", "--texts", "3", *checked)
    assert [step["rate"] for step in steps] == [20, 40]
    for step in steps:
        assert (step["statuses"], step["wrong"]) == ({"200": step["requests"]}, 0)
        assert 0 < step["p50_ms"] <= step["p99_ms"]
    assert main(["plot", f"ese-deploy={out}", "--out", str(tmp_path / "load.png")], app) == 0
    assert (tmp_path / "load.png").stat().st_size > 1000
    assert main(["plot", "nothing", "--out", str(tmp_path / "load.png")], app) == 2


def test_vectors_of_another_target_are_wrong(tiny_bundle: Bundle, tmp_path: Path) -> None:
    other = ["--bundle", str(tiny_bundle.path), "--target", "2x16"]
    (step,) = load(tiny_bundle, tmp_path / "out.json", "--rates", "20", *other)
    assert step["wrong"] == step["requests"] > 0


def test_a_short_soak_finds_nothing(tiny_bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    words = ["soak", str(tiny_bundle.path), "--targets", "3x16,1x8", "--seconds", "2", "--threads", "1"]
    assert main([*words, "--out", str(out)], app) == 0
    result = json.loads(out.read_text())
    assert result["problems"] == []
    assert set(result["statuses"]) <= {"200", "429"}
    assert result["requests"] == sum(result["statuses"].values()) > 50
    assert result["growth"] is None and result["rss_mb"][0] > 10


def test_a_soak_that_fails_says_why() -> None:
    assert judge(Counter({"200": 5, "429": 2, "503": 1}), 0, 0, 0, 0.01, True) == []
    problems = judge(Counter({"504": 2, "0": 1}), 3, 1, 4, 0.05, False)
    assert len(problems) == 7
    assert "{'504': 2, '0': 1}" in problems[1]


def test_a_soak_notices_a_mixed_up_answer(tiny_bundle: Bundle) -> None:
    first, second = mix_of("http://x", Path(tiny_bundle.path), "tiny", ["3x16"], count=2)
    data = [
        {"index": index, "embedding": base64.b64encode(row.tobytes()).decode()}
        for index, row in enumerate(first.target.expected[first.rows])
    ]
    reply = Reply(200, json.dumps({"model": "tiny:3x16", "data": data}).encode(), 0.0)
    assert first.right(reply)
    assert not second.right(reply)
    other = Reply(200, json.dumps({"model": "tiny:1x8", "data": data}).encode(), 0.0)
    assert not first.right(other)


def test_a_comparison_measures_checks_and_plots(tiny_bundle: Bundle, tmp_path: Path) -> None:
    words = ["compare", str(tiny_bundle.path), "unused", "--full", "3x32", "--targets", "1x8", "--threads", "1"]
    assert main([*words, "--rounds", "1", "--seconds", "0.5", "--out", str(tmp_path)], app) == 0
    found = msgspec.json.decode((tmp_path / "comparison.json").read_bytes(), type=Comparison)
    assert found.problems == []
    assert [(one.name, one.texts) for one in found.throughput] == [
        (f"ese-deploy {target}", count) for count in (1, 32) for target in ("3x32", "1x8")
    ]
    assert all(one.texts_per_second > 0 and 0 < one.difference <= 1e-6 for one in found.throughput)
    assert list(found.latency) == ["ese-deploy 3x32"]
    assert [goal.goal for goal in found.goals] == [2000, 0.95, 0.95]
    assert (tmp_path / "latency.png").stat().st_size > 1000 < (tmp_path / "throughput.png").stat().st_size


def test_goals_compare_with_other_servers_at_their_half_load() -> None:
    def line(name: str, texts: int, speed: float) -> Throughput:
        return Throughput(name, texts, speed, speed, None, None, 0.0, 0, [speed])

    def steps(p99: float) -> ServeFile:
        return ServeFile({}, [ServeStep(5.0, 10, {"200": 10}, 5.0, 1.0, p99, 0.0)])

    lines = [
        line(name, texts, speed)
        for name, speed in (("ese-deploy 6x384", 25.0), ("infinity", 10.0))
        for texts in (1, 32)
    ]
    found = goals_of(lines, {"ese-deploy 6x384": steps(3.0), "infinity": steps(2.0)})
    assert [(goal.value, goal.met) for goal in found] == [(2.5, True), (2.5, True), (1.5, False)]

"""The load generator, on a server with a tiny bundle. Its figures mean nothing here."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("prometheus_client", reason="needs the extra serve")

from helpers.server import running

from benchmarks.serve.__main__ import app
from ese_deploy.bundle.reader import Bundle
from ese_deploy.cli.app import main
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

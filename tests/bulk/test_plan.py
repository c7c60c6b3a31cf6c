"""Plans of jobs: arithmetic from a rate, and the command."""

import json
from pathlib import Path

import pytest

from ese_deploy.bulk.plan import plan_job
from ese_deploy.bundle.reader import Bundle
from ese_deploy.cli.app import main
from ese_deploy.errors import InputError


def test_a_plan_follows_from_the_rate(tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ese_deploy.bulk.plan._measure", lambda *_: (200.0, 12.0))
    plan = plan_job(tiny_bundle.path, "2x16", texts=[7_200_000], cores=10, threads=2, price_per_core_hour=0.5)
    (size,) = plan.sizes
    assert (size.core_hours, size.hours, size.cost) == (20.0, 2.0, 10.0)
    assert size.storage_bytes == {
        "float32": 7_200_000 * 64,
        "float16": 7_200_000 * 32,
        "int8": 7_200_000 * 16,
        "binary": 7_200_000 * 2,
    }
    with pytest.raises(InputError, match="must be above 0"):
        plan_job(tiny_bundle.path, texts=[0])
    with pytest.raises(InputError, match="There is no file"):
        plan_job(tiny_bundle.path, sample=tmp_path / "none.txt")


def test_the_command_measures_a_sample_and_prints_its_assumptions(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.txt").write_text("one two three\nfour\n")
    command = ["plan-job", str(tiny_bundle.path), "--target", "2x16", "--sample", str(tmp_path / "in.txt")]
    command += ["--seconds", "0.01", "--texts", "500k,2G", "--threads", "1"]
    assert main([*command, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [size["texts"] for size in plan["sizes"]] == [500_000, 2_000_000_000]
    assert plan["texts_per_second"] > 0 and plan["tokens_per_text"] > 2
    assert main([*command, "--price-per-core-hour", "0.04"]) == 0
    printed = capsys.readouterr().out
    assert "2,000,000,000" in printed and "cost" in printed and printed.count("\n- ") == 4
    assert main([*command, "--texts", "many"]) == 2
    assert "--texts 'many' is not a number" in capsys.readouterr().err

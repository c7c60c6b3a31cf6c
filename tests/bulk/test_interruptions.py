"""A job that is killed, or whose disk fails, at any point ends with the bytes of an unbroken run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ese_deploy.bundle.reader import Bundle

ROOT = Path(__file__).parents[2]


def trials(bundle: Bundle, folder: Path, kind: str, count: int) -> None:
    command = [sys.executable, "-m", "helpers.interruptions", str(bundle.path), str(folder), kind, str(count)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20, done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["kills", "errors"])
def test_an_interrupted_job_ends_with_the_bytes_of_an_unbroken_one(
    tiny_bundle: Bundle, tmp_path: Path, kind: str
) -> None:
    trials(tiny_bundle, tmp_path, kind, 6)


@pytest.mark.skipif(os.name == "nt", reason="needs signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_complete_parts_and_says_how_to_go_on(
    tiny_bundle: Bundle, tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "in.txt").write_text("".join(f"row {n} of rain {'and bread ' * 20}\n" for n in range(200_000)))
    out = tmp_path / "v"
    command = [sys.executable, "-m", "ese_deploy", "embed", str(tiny_bundle.path), str(tmp_path / "in.txt")]
    command += ["--out", str(out), "--part-rows", "500", "--threads", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        while not list(out.glob("_records/part-*.json")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        printed, error = process.communicate(timeout=60)
    assert (process.returncode, printed) == (128 + number, "")
    assert error.startswith("error: Stopped. ") and error.count("\n") == 1 and "--resume" in error
    assert not list(out.glob(".part-*"))

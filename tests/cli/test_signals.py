import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ese_deploy.bundle.reader import Bundle

WAITS = """
import sys, time
from ese_deploy.cli import app, run

def wait(arguments, standalone_mode):
    print("ready", flush=True)
    try:
        time.sleep(60)
    except BaseException as error:
        {then}

real = app.main
app.main = lambda arguments: real(arguments, wait)
run()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that a program can handle")
@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
@pytest.mark.parametrize("then", ["raise", "raise ValueError('38,000 characters') from error"])
def test_a_signal_ends_a_command_with_one_line(number: signal.Signals, code: int, word: str, then: str) -> None:
    command = [sys.executable, "-c", WAITS.format(then=then)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (code, f"{word}; nothing was changed\n")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that a program can handle")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_embed_leaves_nothing_behind(number: signal.Signals, code: int, tiny_bundle: Bundle, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("some text of a line\n" * 300_000)
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-m", "ese_deploy", "embed", tiny_bundle.path, texts, "--out", out / "v.npy"]
    with subprocess.Popen([*map(str, command), "--target", "1x8"], stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 30
        while not list(out.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert len(errors.strip().splitlines()) >= 1
    assert not (out / "v.npy").exists()

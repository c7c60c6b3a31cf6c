"""Pages of the documentation: their fenced blocks and the commands in them."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ese_deploy.cli.app import main

__all__ = ["ROOT", "Block", "blocks", "commands", "environment", "run"]

ROOT = Path(__file__).parents[2]
# Lines that install, or that run for minutes: seen by people and by other jobs.
NOT_RUN = re.compile(r"(pip|make|git|source|py|torchrun|pre-commit)\b|\.venv")
OF_A_SHELL = re.compile(r"[|<>&;$`*]")


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    skip: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    """Fenced blocks of a page; ``<!-- skip: reason -->`` on the line before a block leaves it out."""
    text = page.read_text("utf-8")
    pattern = r"(?:<!-- skip: (?P<skip>.+?) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```"
    for match in re.finditer(pattern, text, re.DOTALL | re.MULTILINE):
        yield Block(match["language"], match["code"], match["skip"] or "", text.count("\n", 0, match.start("code")) + 1)


def commands(block: Block) -> Iterator[str]:
    """Commands of a console block: lines that begin with ``$``, joined where a backslash ends them."""
    for line in re.sub(r"\\\n\s*>?", " ", block.code).splitlines():
        if line.startswith("$ "):
            command = line[2:].partition("    #")[0].strip()
            if not NOT_RUN.match(command):
                yield command


def environment(folder: Path) -> dict[str, str]:
    """Put an ``ese-deploy`` of this checkout on the path."""
    shim = folder / "bin"
    shim.mkdir()
    for name, module in (("ese-deploy", "-m ese_deploy"), ("python", "")):
        script = shim / name
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {module} "$@"\n')
        script.chmod(0o755)
    return {**os.environ, "PATH": f"{shim}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def run(command: str, folder: Path, env: dict[str, str]) -> str:
    """Run a command that must succeed in a folder, which is the current one; returns all that it prints.

    Commands of ``ese-deploy`` run in this process, where PyTorch is imported already.
    """
    if command.startswith("ese-deploy ") and not OF_A_SHELL.search(command):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            code = main(shlex.split(command)[1:])
    else:
        done = subprocess.run(command, shell=True, cwd=folder, env=env, capture_output=True, text=True)
        printed, code = io.StringIO(done.stdout + done.stderr), done.returncode
    assert code == 0, f"$ {command}\n{printed.getvalue()}"
    return printed.getvalue()

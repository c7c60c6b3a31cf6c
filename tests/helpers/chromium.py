"""Chromium without a window, driven over its debugging pipe."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Tab", "open_page"]


@dataclass
class Tab:
    reader: int
    writer: int
    session: str = ""
    number: int = 0
    rest: bytes = b""

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol, and wait for its result."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.writer, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                data = os.read(self.reader, 1 << 16)
                assert data, "chromium has ended"
                self.rest += data
            line, _, self.rest = self.rest.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def run(self, script: str) -> Any:
        """The value of a script, after its promise."""
        result = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until an expression is true, at most ten seconds."""
        waiting = f"""(async () => {{
            for (let i = 0; i < 500; i++) {{ if ({condition}) return true; await new Promise(r => setTimeout(r, 20)); }}
            return false; }})()"""
        assert self.run(waiting), condition


@contextmanager
def open_page(url: str, folder: Path, width: int, dark: bool) -> Iterator[Tab]:
    """A page in a window of this width; skips the test where there is no Chromium."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("needs chromium")
    commands_out, commands_in = os.pipe()
    answers_out, answers_in = os.pipe()
    options = f"--headless --no-sandbox --disable-gpu --no-first-run --remote-debugging-pipe --user-data-dir={folder}"
    process = subprocess.Popen(
        ["bash", "-c", f"exec {program} {options} about:blank 3<&{commands_out} 4>&{answers_in}"],
        pass_fds=(commands_out, answers_in),
        stderr=subprocess.DEVNULL,
    )
    os.close(commands_out)
    os.close(answers_in)
    tab = Tab(answers_out, commands_in)
    try:
        target = tab.send("Target.createTarget", url="about:blank")["targetId"]
        tab.session = tab.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        tab.send("Emulation.setEmulatedMedia", features=[scheme])
        tab.send("Page.navigate", url=url)
        tab.until(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")
        yield tab
    finally:
        process.kill()
        process.wait()
        os.close(answers_out)
        os.close(commands_in)

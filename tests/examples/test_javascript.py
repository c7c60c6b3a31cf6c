"""The examples for Node.js and the browser give the vectors of ``Encoder``. Skipped where packages are missing."""

import functools
import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ese_deploy.bundle.reader import Bundle
from ese_deploy.runtime import Encoder
from ese_deploy.texts.sample import sample_corpus

EXAMPLES = Path(__file__).parents[2] / "examples"
TEXTS = [
    *[item.text for item in sample_corpus() if len(item.text) < 200][:20],
    "",
    "word " * 100,
    "[CLS] [PAD]",
    "e\u0301 \u00e9 😀 日本語 Привет",
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed"),
]


def needs_modules(example: str) -> pytest.MarkDecorator:
    installed = (EXAMPLES / example / "node_modules").is_dir()
    return pytest.mark.skipif(not installed, reason=f"run: npm install --ignore-scripts, in examples/{example}")


@needs_modules("node")
def test_node_gives_the_vectors_of_the_encoder(tiny_bundle: Bundle) -> None:
    command = ["node", "embed.mjs", str(tiny_bundle.path), "3x16"]
    options: Any = {"cwd": EXAMPLES / "node", "capture_output": True, "text": True}
    done = subprocess.run(command, input=json.dumps(TEXTS), check=True, **options)
    np.testing.assert_allclose(json.loads(done.stdout), Encoder.open(tiny_bundle, "3x16").encode(TEXTS), atol=1e-5)
    done = subprocess.run([*command, "query"], input='["a cat"]', check=True, **options)
    expected = Encoder.open(tiny_bundle, "3x16").encode_query(["a cat"])
    np.testing.assert_allclose(json.loads(done.stdout), expected, atol=1e-5)
    done = subprocess.run([*command[:-1], "9x9"], input="[]", check=False, **options)
    assert done.returncode != 0 and "Choose one of: 1x8, 2x16, 3x16, 3x32" in done.stderr


@pytest.fixture
def site(tiny_bundle: Bundle, tmp_path: Path) -> Iterator[str]:
    """The address of the page, served until the test stops the server."""
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps([text for text in TEXTS if text]))
    command = ["node", "prepare.mjs", str(tiny_bundle.path), "3x16", str(texts)]
    subprocess.run(command, cwd=EXAMPLES / "browser", check=True, capture_output=True)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(EXAMPLES / "browser/site"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


@needs_modules("browser")
def test_a_browser_gives_the_vectors_of_the_encoder_also_offline(site: str, tiny_bundle: Bundle) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    encoder = Encoder.open(tiny_bundle, "3x16")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 360, "height": 740})
        page = context.new_page()
        page.goto(site)
        page.wait_for_selector("body[data-offline=ready]", timeout=120_000)
        script = "async (texts) => (await window.embedder.embed(texts)).map((vector) => Array.from(vector))"
        np.testing.assert_allclose(page.evaluate(script, TEXTS), encoder.encode(TEXTS), atol=1e-5)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        context.set_offline(True)
        page.reload()
        page.wait_for_selector("#query:enabled", timeout=120_000)
        page.fill("#query", "a cat")
        page.wait_for_selector("#results li")
        texts = [text for text in TEXTS if text]
        best = texts[int((encoder.encode(texts) @ encoder.encode_query("a cat")).argmax())]
        assert best[:40] in page.inner_text("#results li:first-child")
        browser.close()

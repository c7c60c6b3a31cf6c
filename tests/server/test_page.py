"""The page at ``/``, in a real browser."""

import hashlib
import re
from pathlib import Path

import pytest
from helpers.chromium import open_page
from helpers.server import Running, running
from server.conftest import settings_of

from ese_deploy import Encoder
from ese_deploy.bundle.reader import Bundle
from ese_deploy.server.keys import ApiKeys

KEY = "a-key-of-some-length"


def test_the_page_names_no_other_place(server: Running) -> None:
    reply = server.get("/")
    text = reply.body.decode()
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert not re.findall(r"(?:src|href|url\()\s*=?\s*[\"']?(?!data:)[a-z]*:?//", text)
    assert set(re.findall(r"https?://[^\"' )]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_status_counts_requests_and_shows_quality(server: Running) -> None:
    before = {one["name"]: one for one in server.get("/status").json["targets"]}
    server.embed(model="tiny:2x16", input=["a", "b"])
    after = {one["name"]: one for one in server.get("/status").json["targets"]}
    assert after["tiny:2x16"]["requests"] == before["tiny:2x16"]["requests"] + 1
    assert after["tiny:2x16"]["texts"] == before["tiny:2x16"]["texts"] + 2
    assert after["tiny:2x16"]["p99_ms"] >= after["tiny:2x16"]["p50_ms"] > 0
    assert after["tiny:2x16"]["warm_ms"] > 0
    assert 0 < after["tiny:2x16"]["agreement"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1200, False)])
def test_the_page_works_in_chromium(
    server: Running, tiny_bundle: Bundle, tmp_path: Path, width: int, dark: bool
) -> None:
    with open_page(f"{server.url}/", tmp_path, width, dark) as tab:
        tab.until("document.querySelectorAll('#targets tr').length === 4")
        assert tab.run("document.documentElement.scrollWidth") <= width
        assert tab.run("document.querySelectorAll('#chart circle').length") == 4
        background = tab.run("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == dark
        tab.run("$('first').value = 'a cat'; $('second').value = 'a dog'; $('depth').value = '2'; choices(); 1")
        tab.run("$('go').click(); 1")
        tab.until("$('answer').textContent.startsWith('Cosine')")
        first, second = Encoder.open(tiny_bundle, "2x16").encode(["a cat", "a dog"])
        shown = tab.run("$('answer').textContent")
        assert float(shown.split()[1]) == pytest.approx(float(first @ second), abs=1e-4)
        assert "2x16" in shown
        loaded = tab.run("performance.getEntriesByType('resource').map(one => new URL(one.name).host)")
        assert set(loaded) == {f"127.0.0.1:{server.port}"}


@pytest.mark.slow
def test_the_page_asks_for_a_key_where_one_is_needed(tiny_bundle: Bundle, tmp_path: Path) -> None:
    keys = ApiKeys({"team": hashlib.sha256(KEY.encode()).digest()})
    with running(settings_of(tiny_bundle), keys) as server, open_page(f"{server.url}/", tmp_path, 800, False) as tab:
        tab.until("!$('key-section').hidden")
        tab.run(f"$('key').value = '{KEY}'; document.querySelector('#key-form button').click(); 1")
        tab.until("document.querySelectorAll('#targets tr').length === 4")

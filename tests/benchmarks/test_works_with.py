"""The page "Works with" is what its script writes, and every tool agrees with the bundle."""

import json

from benchmarks.works_with.page import PAGE, RESULTS, page
from benchmarks.works_with.texts import texts
from benchmarks.works_with.tools import TOOLS

ROWS = json.loads(RESULTS.read_text("utf-8"))


def test_the_page_is_generated_from_the_results() -> None:
    assert PAGE.read_text("utf-8") == page()


def test_every_tool_gives_the_vectors_of_the_bundle() -> None:
    assert {row["tool"] for row in ROWS} == {tool.name for tool in TOOLS}
    shallow = {tool.name for tool in TOOLS if tool.shallow}
    for row in ROWS:
        wanted = {"6x384", "6x128", *(["3x128"] if row["tool"] in shallow else [])}
        assert set(row["largest"]) == wanted, row["tool"]
        assert max(row["largest"].values()) <= 1e-5, row["tool"]


def test_the_texts_are_the_hard_ones_too() -> None:
    found = texts()
    assert len(found) == ROWS[0]["texts"] == 50
    assert "" in found and max(map(len, found)) > 1000 and any(not text.isascii() for text in found)

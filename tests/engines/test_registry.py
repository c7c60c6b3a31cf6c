"""The table of engines, which help pages, doctor and the documentation read."""

import re
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from ese_deploy.engines import DEFAULT_ENGINE, ENGINES, OPT_IN_ENGINES, REGISTRY, EngineRow, find_engine
from ese_deploy.errors import EngineError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("row", REGISTRY.values(), ids=lambda row: row.name)
def test_a_row_names_a_class_and_the_requirements_of_its_extra(row: EngineRow) -> None:
    module, _, attribute = row.factory.partition(":")
    assert getattr(import_module(module), attribute).name == row.name
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    least = dict(re.match(r"([\w-]+)>=([\d.]+)", line).groups() for line in extras[row.extra])  # type: ignore[union-attr]
    named = row.packages.keys() & least.keys()
    assert named and all(row.packages[name] == least[name] for name in named)


@pytest.mark.parametrize("row", REGISTRY.values(), ids=lambda row: row.name)
def test_a_page_of_the_documentation_lists_the_engine(row: EngineRow) -> None:
    text = (ROOT / f"docs/guides/{row.device}.md").read_text("utf-8")
    line = next(line for line in text.splitlines() if line.startswith(f"| `{row.name}`") and "pip install" in line)
    assert f".[{row.extra}]" in line.replace("cli,", "")
    assert ", ".join(row.dtypes) in line


def test_names_take_a_number_or_an_option_where_the_row_says_so() -> None:
    for row in REGISTRY.values():
        for name in row.spellings:
            assert find_engine(name)[0] is row
    assert find_engine("tensorrt:3")[1] == {"index": 3}
    assert find_engine("openvino:bf16")[1] == {"bf16": True}
    assert find_engine("onnxruntime:mapped")[1] == {"mapped": True}
    for wrong in ("openvino:1", "onnxruntime:1", "tensorrt:", "tensorrt:-1"):
        with pytest.raises(EngineError, match=f"Unknown engine '{wrong}'. Write "):
            find_engine(wrong)


def test_one_engine_is_the_default_and_all_others_are_opt_in() -> None:
    assert DEFAULT_ENGINE == ENGINES[0] == "onnxruntime"
    assert set(ENGINES[1:]) == OPT_IN_ENGINES

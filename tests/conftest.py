import os

# Tests never reach for the network, whatever a library would like to do; read when the libraries are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# Workers side by side share the cores: threads of torch that wait for each other would take several times as long.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from helpers.backbone_table import BackboneRow, write_table
from helpers.tiny import MINILM, make_checkpoint, write_json
from helpers.traces import kept_traces, pytorch_untraced

from ese_deploy.bundle.reader import Bundle, open_bundle
from ese_deploy.engines.tensorrt.api import Api, import_tensorrt
from ese_deploy.errors import EngineError
from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.export.trace import trace
from ese_deploy.target import Target
from ese_deploy.texts.sample import sample_corpus


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Measurements of a test go into a folder of its own."""
    monkeypatch.setenv("ESE_DEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session", autouse=True)
def quick_traces() -> Iterator[None]:
    """No model is traced twice in a process, and no coverage is measured while PyTorch traces."""
    with pytorch_untraced(), kept_traces():
        yield


@pytest.fixture
def fresh_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each export of the test traces its model, also one that another export has traced."""
    monkeypatch.setattr("ese_deploy.export.pipeline.trace", trace)


@pytest.fixture(scope="session")
def backbone_table(request: pytest.FixtureRequest) -> Iterator[list[BackboneRow]]:
    """Where tests of backbones put what they measured; written as a page at the end, if --backbone-table names one."""
    rows: list[BackboneRow] = []
    yield rows
    path: Path | None = request.config.getoption("--backbone-table")
    if path is not None:
        write_table(path, rows)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backbone-table", type=Path, help="Write what the tests of backbones measured; not with -n.")


@pytest.fixture(scope="session")
def tensorrt_api() -> Api:
    """TensorRT, or TensorRT for RTX, which parse and build on a machine without a GPU."""
    try:
        return import_tensorrt()
    except EngineError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 3 blocks and 32 dimensions with mean pooling; read only."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", prompts={"query": "find: "})


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny checkpoint at 1x8, 2x16, 3x16 and 3x32; read only."""
    targets = [Target(1, 8), Target(2, 16), Target(3, 16), Target(3, 32)]
    out = tmp_path_factory.mktemp("bundle") / "tiny"
    return export_bundle(ExportRequest(str(tiny_checkpoint), out, targets)).bundle


@pytest.fixture(scope="session")
def aligned_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny checkpoint, said to have exits 2 and 3 in one space, at 1x16, 2x16, 3x16 and 3x32; read only."""
    folder = tmp_path_factory.mktemp("aligned")
    checkpoint = Path(shutil.copytree(tiny_checkpoint, folder / "checkpoint"))
    contract = {"schema_version": 1, "variant": "espresso", "trained_exits": [2, 3], "trained_dims": [16, 32]}
    write_json(checkpoint / "ese.json", {**contract, "aligned_exits": True})
    targets = [Target(1, 16), Target(2, 16), Target(3, 16), Target(3, 32)]
    return export_bundle(ExportRequest(str(checkpoint), folder / "bundle", targets)).bundle


@pytest.fixture(scope="session")
def calibration_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample corpus as a file of calibration texts."""
    path = tmp_path_factory.mktemp("calibration") / "texts.txt"
    path.write_text("\n".join(" ".join(item.text.split()) for item in sample_corpus()), "utf-8")
    return path


@pytest.fixture(scope="session")
def projected_bundle(tiny_checkpoint: Path, calibration_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny checkpoint with fitted projections, so that all exits share principal components; read only."""
    targets = [Target(0, 16), Target(0, 32), Target(1, 32), Target(2, 16), Target(3, 16), Target(3, 32)]
    out = tmp_path_factory.mktemp("projected") / "tiny"
    request = ExportRequest(str(tiny_checkpoint), out, targets, projection="aligned", calibration=calibration_file)
    return export_bundle(request).bundle


@pytest.fixture(scope="session")
def minilm_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The real all-MiniLM-L6-v2 at 18 targets, exported once for all processes of a parallel run; read only."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    out = shared / "minilm-18-targets"
    with FileLock(f"{out}.lock"):
        if out.is_dir():
            return open_bundle(out)
        return export_bundle(ExportRequest(MINILM, out, depths=range(1, 7), dims=(64, 128, 384))).bundle

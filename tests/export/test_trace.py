"""What is said of an architecture that PyTorch cannot trace."""

from pathlib import Path

import pytest
import torch

from ese_deploy.errors import InputError
from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.target import Target

pytestmark = pytest.mark.usefixtures("fresh_traces")


def test_an_architecture_that_cannot_be_traced_gets_one_line(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        try:
            raise RuntimeError("Data-dependent control flow in Router. Rewrite it.\nfor example with torch.where")
        except RuntimeError as error:
            raise torch.onnx.OnnxExporterError("Failed to export the model.\n" + "advice\n" * 900) from error

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(InputError) as caught:
        export_bundle(ExportRequest(str(tiny_checkpoint), tmp_path / "out", [Target(1, 8)]))
    assert str(caught.value) == (
        f"Architecture 'bert' of {tiny_checkpoint} cannot be exported, because PyTorch cannot trace it: "
        "RuntimeError: Data-dependent control flow in Router. docs/reference/backbones.md lists what can."
    )
    assert not (tmp_path / "out").exists()


def test_running_out_of_memory_is_not_blamed_on_the_architecture(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(MemoryError):
        export_bundle(ExportRequest(str(tiny_checkpoint), tmp_path / "out", [Target(1, 8)]))

"""The target as OpenVINO's intermediate representation."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ese_deploy.engines.openvino import import_openvino
from ese_deploy.pack.graphs import golden_batch, write_graph
from ese_deploy.pack.job import Layout, PackJob, Vectors, write_settings

__all__ = ["OPENVINO"]

# The name that optimum-intel looks for.
_MODEL = "openvino_model.xml"


def _check(_: PackJob) -> None:
    import_openvino()


def _write(job: PackJob, folder: Path) -> None:
    openvino = import_openvino()
    with TemporaryDirectory() as name:
        path = Path(name, "model.onnx")
        write_graph(job, path)
        model = openvino.convert_model(path)
        openvino.save_model(model, folder / _MODEL, compress_to_fp16=False)
    write_settings(job, folder)


def _embed(job: PackJob, folder: Path) -> dict[str, Vectors]:
    core = import_openvino().Core()
    compiled = core.compile_model(folder / _MODEL, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    rows = []
    for row in range(len(job.golden.texts)):
        request = compiled.create_infer_request()
        request.infer(golden_batch(job, row))
        rows.append(np.array(request.get_output_tensor(0).data[0], np.float32))
    return {job.entry.name: np.stack(rows)}


OPENVINO = Layout("openvino", "OpenVINO's openvino_model.xml and .bin.", _check, _write, _embed)

"""A stand-in for TensorRT that runs the graph with ONNX Runtime, and what a parsed network consists of."""

import ctypes
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np

from ese_deploy.engines import EngineInput, load_engine
from ese_deploy.engines.cuda import Gpu
from ese_deploy.engines.tensorrt.api import Api, Log
from ese_deploy.engines.tensorrt.build import parse_graph

GPU = Gpu(0, "Some GPU", (9, 0), 1 << 34, "13.0")


API = Api(None, "tensorrt", "10.16.0.72")


class FakeEngine:
    """An engine and its context: runs a graph over the addresses that it is told."""

    num_io_tensors = 4
    device_memory_size_v2 = 8 << 30

    def __init__(self, source: EngineInput, room: bool = True) -> None:
        self.session = load_engine("onnxruntime").load(source, 1)
        self.room = room
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.profiles: list[int] = []

    def get_tensor_name(self, number: int) -> str:
        return [*self.session.inputs, "sentence_embedding"][number]

    def get_tensor_mode(self, name: str) -> str:
        return "out" if name == "sentence_embedding" else "in"

    def get_tensor_dtype(self, name: str) -> type:
        return np.int64

    def get_tensor_shape(self, name: str) -> tuple[int, int]:
        return (-1, 32)

    def create_execution_context(self) -> "FakeEngine | None":
        return self if self.room else None

    def set_optimization_profile_async(self, number: int, stream: int) -> bool:
        self.profiles.append(number)
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        def at(name: str, shape: tuple[int, ...], kind: Any, dtype: Any) -> np.ndarray:
            count = int(np.prod(shape))
            return np.frombuffer((kind * count).from_address(self.addresses[name]), dtype).reshape(shape)

        inputs = {name: at(name, shape, ctypes.c_int64, np.int64) for name, shape in self.shapes.items()}
        rows = len(next(iter(inputs.values())))
        at("sentence_embedding", (rows, 32), ctypes.c_float, np.float32)[:] = self.session.run(inputs)
        return True


def fake_api(engine: FakeEngine | None) -> Api:
    class Logger:
        Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0)

    runtime = SimpleNamespace(deserialize_cuda_engine=lambda plan: engine)
    modes = SimpleNamespace(INPUT="in")
    module = SimpleNamespace(
        ILogger=Logger, Runtime=lambda logger: runtime, TensorIOMode=modes, nptype=lambda dtype: dtype
    )
    return Api(module, "tensorrt", "10.16.0.72")


def layers_of(api: Api, source: EngineInput) -> Counter[str]:
    """Kinds of layers of the parsed network."""
    log = Log(api)
    network, _parser = parse_graph(api, log, api.module.Builder(log.logger), source)
    return Counter(_last(network.get_layer(number).type) for number in range(network.num_layers))


def products_of(api: Api, source: EngineInput) -> Counter[tuple[str, str, str]]:
    """Of each product of matrices in the network what makes its factors, changes of shape aside, and its dtype."""
    log = Log(api)
    network, _parser = parse_graph(api, log, api.module.Builder(log.logger), source)
    layers = [network.get_layer(number) for number in range(network.num_layers)]
    makers = {layer.get_output(number).name: layer for layer in layers for number in range(layer.num_outputs)}

    def maker(value: Any) -> str:
        layer = makers.get(value.name)
        if layer is None:
            return ""
        return maker(layer.get_input(0)) if _last(layer.type) == "SHUFFLE" else _last(layer.type)

    products = [layer for layer in layers if _last(layer.type) == "MATRIX_MULTIPLY"]
    return Counter(
        (maker(layer.get_input(0)), maker(layer.get_input(1)), _last(layer.get_output(0).dtype)) for layer in products
    )


def _last(value: object) -> str:
    return str(value).rpartition(".")[2]

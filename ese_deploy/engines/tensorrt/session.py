"""Running a plan: one context, reused buffers, one batch at a time."""

import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ese_deploy.engines.cuda import CudaMemory, OutOfMemoryError
from ese_deploy.engines.memory import explain_out_of_memory
from ese_deploy.engines.tensorrt.api import Api, Log
from ese_deploy.engines.tensorrt.build import Profile
from ese_deploy.errors import EngineError

__all__ = ["TensorRtSession"]

Batch = Mapping[str, NDArray[np.int64]]


class TensorRtSession:
    """A plan loaded onto a GPU.

    Args:
        api: TensorRT.
        plan: the plan's bytes.
        profiles: its optimization profiles, in the order in which they were built.
        memory: buffers and a stream on the GPU.

    Raises:
        EngineError: the plan was built for another GPU or version, or there is not enough memory.
    """

    def __init__(self, api: Api, plan: bytes, profiles: list[Profile], memory: CudaMemory) -> None:
        log = Log(api)
        memory.use()
        self._runtime = api.module.Runtime(log.logger)  # must outlive the engine
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(
                f"The plan does not load: {log.first_error}. Build it again: ese-deploy build BUNDLE --force"
            )
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise OutOfMemoryError(_no_room(self._engine, profiles, memory.free_bytes()))
        module, names = api.module, [self._engine.get_tensor_name(n) for n in range(self._engine.num_io_tensors)]
        self._inputs = [n for n in names if self._engine.get_tensor_mode(n) == module.TensorIOMode.INPUT]
        self._dtypes = {name: np.dtype(module.nptype(self._engine.get_tensor_dtype(name))) for name in self._inputs}
        (self._output,) = set(names) - set(self._inputs)
        self._dim = int(self._engine.get_tensor_shape(self._output)[-1])
        self._profiles, self._memory, self._log = profiles, memory, log
        self._active = 0
        weakref.finalize(self, memory.close)
        self._lock = threading.Lock()

    @property
    def inputs(self) -> list[str]:
        """Names of the graph's inputs."""
        return list(self._inputs)

    def run(self, inputs: Batch) -> NDArray[np.float32]:
        """Compute one batch; see :meth:`ese_deploy.engines.base.Session.run`."""
        with self._lock:
            try:
                return self._run(inputs)
            except OutOfMemoryError as error:
                self._memory.release()
                raise explain_out_of_memory(inputs, self._run) from error

    def prepare(self, inputs: Batch) -> Callable[[], None]:
        """Copy a batch to the GPU, and return a function that computes it there and waits for the end.

        The vectors stay on the GPU. For measurements without copies; no other batch may run in between.
        """
        _held, _ = self._send(inputs)
        self._memory.wait()

        def run() -> None:
            self._execute()
            self._memory.wait()

        return run

    def _run(self, inputs: Batch) -> NDArray[np.float32]:
        held, address = self._send(inputs)
        self._execute()
        vectors = np.empty((len(held[0]), self._dim), np.float32)
        self._memory.copy_out(vectors, address)
        self._memory.wait()
        return vectors

    def _send(self, inputs: Batch) -> tuple[list[NDArray[Any]], int]:
        """Queue the copies of a batch. The arrays must stay alive until the stream has waited."""
        rows, length = next(iter(inputs.values())).shape
        number = self._profile(rows, length)
        memory, context = self._memory, self._context
        memory.use()
        if number != self._active:
            if not context.set_optimization_profile_async(number, memory.stream):
                raise EngineError(f"TensorRT rejects profile {number}: {self._log.first_error}")
            memory.wait()
            self._active = number
        held = []
        for name in self._inputs:
            array = np.ascontiguousarray(inputs[name], self._dtypes[name])
            address = memory.buffer(name, array.nbytes)
            memory.copy_in(address, array)
            if not (context.set_input_shape(name, array.shape) and context.set_tensor_address(name, address)):
                raise EngineError(f"TensorRT rejects the shape {array.shape} of {name}: {self._log.first_error}")
            held.append(array)
        address = memory.buffer(self._output, rows * self._dim * 4)
        context.set_tensor_address(self._output, address)
        return held, address

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._memory.stream):
            if any("out of memory" in error.lower() for error in self._log.errors):
                self._log.errors.clear()
                raise OutOfMemoryError("The GPU is out of memory.")
            raise EngineError(f"TensorRT failed on a batch: {self._log.first_error}")

    def _profile(self, rows: int, length: int) -> int:
        """The number of the profile that takes a batch."""
        number = next((n for n, one in enumerate(self._profiles) if one.shortest <= length <= one.longest), None)
        if number is None:
            longest = self._profiles[-1].longest
            raise EngineError(
                f"A text has {length} tokens, and the plan takes {longest}. Build it for longer ones: "
                f"ese-deploy build BUNDLE --engine tensorrt --lengths ...,{length}"
            )
        most = self._profiles[number].most_rows
        if rows > most:
            raise EngineError(
                f"A batch has {rows} texts of {length} tokens, and the plan takes {most}. Set `batch_size={most}`, or "
                f"build for more: ese-deploy build BUNDLE --engine tensorrt --batch {rows} --tokens {rows * length}"
            )
        return number


def _no_room(engine: Any, profiles: list[Profile], free: int) -> str:
    needed = int(engine.device_memory_size_v2)
    tokens = max(one.most_rows * one.longest for one in profiles)
    # Memory grows with the tokens of a batch, in attention a little faster. Half of what fits by proportion is safe.
    fitting = tokens * free // max(1, needed) // 2
    return (
        f"A plan for batches of {tokens} tokens needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB of the GPU are "
        f"free. Build it for fewer: ese-deploy build BUNDLE --engine tensorrt --tokens {fitting}"
    )

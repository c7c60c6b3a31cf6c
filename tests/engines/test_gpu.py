"""Engines on GPUs, as far as a machine without one can tell; CUDA's runtime is the one thing that is faked."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from helpers.gpu import batch_of, fake_runtime

from ese_deploy.bundle.reader import Bundle, choose_entry
from ese_deploy.engines import batch_for, engines_for, load_engine
from ese_deploy.engines.cuda import CudaMemory, Gpu, OutOfMemoryError, find_gpu
from ese_deploy.engines.libraries import missing_library
from ese_deploy.engines.memory import explain_out_of_memory
from ese_deploy.engines.onnxruntime_cuda import cuda_options
from ese_deploy.engines.onnxruntime_gpu import GpuSession, Placement, check_placement, load_session, require_provider
from ese_deploy.errors import EngineError
from ese_deploy.runtime.loaded import engine_input

CUDA = "CUDAExecutionProvider"


def test_a_gpu_is_described_by_what_plans_and_figures_depend_on() -> None:
    gpu = find_gpu(runtime=fake_runtime())
    assert gpu == Gpu(0, "Some GPU", (9, 0), 1 << 34, "13.0")
    assert gpu.architecture == "sm_90"


@pytest.mark.parametrize(
    ("runtime", "index", "message"),
    [
        (fake_runtime(driver=0, error=35), 0, r"No NVIDIA driver was found\. .* the engine 'onnxruntime'"),
        (fake_runtime(driver=12040, error=35), 0, r"supports CUDA 12.4, but CUDA 13.0 is needed\. Update the driver"),
        (fake_runtime(count=0, error=100), 0, "shows no GPU .*CUDA_VISIBLE_DEVICES"),
        (fake_runtime(count=2), 2, r"There is no GPU 2\. This process sees 2, numbered from 0"),
    ],
)
def test_a_gpu_that_is_not_there_is_said_to_be_missing_and_why(
    runtime: SimpleNamespace, index: int, message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        find_gpu(index, runtime)


def test_buffers_are_used_again_and_grow(capsys: pytest.CaptureFixture[str]) -> None:
    runtime = fake_runtime(free=100)
    memory = CudaMemory(0, runtime)
    first = memory.buffer("input_ids", 40)
    assert memory.buffer("input_ids", 8) == first
    second = memory.buffer("input_ids", 80)
    assert list(runtime.held) == [second]
    sent, back = np.arange(5, dtype=np.float32), np.empty(5, np.float32)
    memory.copy_in(second, sent)
    memory.copy_out(back, second)
    memory.wait()
    np.testing.assert_array_equal(back, sent)
    with pytest.raises(OutOfMemoryError):
        memory.buffer("mask", 40)
    memory.close()
    assert not runtime.held


def test_an_engine_is_named_with_the_number_of_its_device() -> None:
    with pytest.raises(
        EngineError, match=r"Unknown engine 'onnxruntime:1'\. Write onnxruntime or onnxruntime:mapped\."
    ):
        load_engine("onnxruntime:1")
    with pytest.raises(EngineError, match="Write onnxruntime-cuda or onnxruntime-cuda:1"):
        load_engine("onnxruntime-cuda:one")
    assert "onnxruntime-cuda" in engines_for("fp16")
    assert batch_for("onnxruntime-cuda").tokens > batch_for("onnxruntime").tokens


def test_a_package_without_the_provider_is_named_and_replaced() -> None:
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed")
    with pytest.raises(
        EngineError, match=r"has no CUDAExecutionProvider\. Run: pip uninstall -y onnxruntime onnxruntime-gpu"
    ):
        require_provider(onnxruntime, CUDA)


def test_tf32_is_off_unless_asked_for() -> None:
    assert (cuda_options(0, tf32=False)["use_tf32"], cuda_options(1, tf32=True)["use_tf32"]) == ("0", "1")
    assert cuda_options(1, tf32=False)["device_id"] == "1"


def test_nodes_that_compute_on_the_cpu_are_an_error_and_shapes_are_not() -> None:
    shapes = [Placement("CPUExecutionProvider", kind, "n") for kind in ("Shape", "Concat", "Gather")]
    inside = Placement(CUDA, "MatMul", "m")
    check_placement([*shapes, inside], [CUDA])
    stray = Placement("CPUExecutionProvider", "Attention", "a")
    with pytest.raises(EngineError, match=r"left 1 nodes that compute to the CPU \(Attention\)"):
        check_placement([*shapes, inside, stray], [CUDA])
    check_placement([inside, stray], [CUDA], allow_cpu=True)
    with pytest.raises(EngineError, match="took no node"):
        check_placement(shapes, [CUDA])


@pytest.fixture(scope="module")
def bound(tiny_bundle: Bundle) -> GpuSession:
    """A session with IO binding, on the one provider that every machine has."""
    source = engine_input(tiny_bundle, choose_entry(tiny_bundle, "3x32"))
    return load_session(onnxruntime, [("CPUExecutionProvider", {})], source, 1, device="cpu")


def test_io_binding_gives_the_vectors_of_a_plain_run(bound: GpuSession, tiny_bundle: Bundle) -> None:
    source = engine_input(tiny_bundle, choose_entry(tiny_bundle, "3x32"))
    plain = load_engine("onnxruntime").load(source, 1)
    for shape in ((1, 1), (7, 5), (3, 48)):
        batch = batch_of(shape, bound.inputs)
        # On the CPU alone one fusion is left out, which rounds otherwise.
        np.testing.assert_allclose(bound.run(batch), plain.run(batch), atol=1e-6)
    bound.prepare(batch_of((4, 9), bound.inputs))()


def test_a_batch_of_more_rows_than_the_provider_takes_is_computed_in_parts(
    bound: GpuSession, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = engine_input(tiny_bundle, choose_entry(tiny_bundle, "3x32"))
    providers = [("CPUExecutionProvider", {})]
    parted = load_session(onnxruntime, providers, source, 1, device="cpu", most_rows=3)
    bind, rows = parted._bind, []
    monkeypatch.setattr(
        parted, "_bind", lambda inputs, *rest: rows.append(len(inputs["input_ids"])) or bind(inputs, *rest)
    )
    for count, parts in ((2, [2]), (3, [3]), (7, [3, 3, 1])):
        batch = batch_of((count, 5), bound.inputs)
        np.testing.assert_allclose(parted.run(batch), bound.run(batch), atol=1e-6)
        parted.prepare(batch)()
        assert rows == [*parts, *parts]
        rows.clear()


def test_the_session_says_where_every_node_runs(bound: GpuSession) -> None:
    kinds = [one.operator for one in bound.placements]
    assert kinds.count("Attention") == 3
    assert {one.provider for one in bound.placements} == {"CPUExecutionProvider"}


def test_a_provider_that_did_not_load_is_an_error_and_not_another_provider(tiny_bundle: Bundle) -> None:
    source = engine_input(tiny_bundle, choose_entry(tiny_bundle, "3x32"))
    with pytest.raises(EngineError, match="CUDAExecutionProvider"):
        load_session(onnxruntime, [(CUDA, {})], source, 1)


def test_a_batch_that_ran_on_no_longer_fits_gets_told_which_would() -> None:
    batch = batch_of((100, 32), ["input_ids", "attention_mask"])

    def run(inputs: dict[str, np.ndarray]) -> None:
        if inputs["input_ids"].size > 30 * 32:
            raise RuntimeError("Failed to allocate memory for requested buffer")

    message = str(explain_out_of_memory(batch, run))
    assert "A batch of 100 texts of 32 tokens does not fit" in message
    assert "Set `batch_size=25` or `batch_tokens=800`" in message
    one = str(explain_out_of_memory({name: array[:1] for name, array in batch.items()}, run))
    assert "nor does a single text of that length" in one


def test_a_missing_library_is_named(tmp_path: Path) -> None:
    assert "is missing" in str(missing_library(tmp_path / "libonnxruntime_providers_cuda.so"))


def test_plans_are_named_by_graph_and_weights(tiny_bundle: Bundle) -> None:
    source = engine_input(tiny_bundle, choose_entry(tiny_bundle, "3x32"))
    others = [replace(source, weights_sha256="0" * 64), engine_input(tiny_bundle, choose_entry(tiny_bundle, "2x16"))]
    assert len({source.digest, *(other.digest for other in others)}) == 3

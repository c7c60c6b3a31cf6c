"""Plans and their runner; what stands in for TensorRT runs the graph with ONNX Runtime over the same addresses."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.gpu import batch_of, fake_runtime
from helpers.tensorrt import API, GPU, FakeEngine, fake_api

from ese_deploy.bundle.reader import Bundle, choose_entry
from ese_deploy.engines.cuda import CudaMemory, Gpu
from ese_deploy.engines.tensorrt.api import Api
from ese_deploy.engines.tensorrt.build import BuildSettings, Profile, profiles_for
from ese_deploy.engines.tensorrt.plans import PlanKey, find_plan, plan_key, plans_folder, read_timing, save_plan
from ese_deploy.engines.tensorrt.session import TensorRtSession
from ese_deploy.errors import EngineError
from ese_deploy.runtime.loaded import engine_input
from ese_deploy.system.install import install_hint

PROFILES = [Profile(1, 16, 8, 32), Profile(17, 48, 4, 8)]


@pytest.fixture
def engine(tiny_bundle: Bundle) -> FakeEngine:
    return FakeEngine(engine_input(tiny_bundle, choose_entry(tiny_bundle, "3x32")))


def session_of(engine: FakeEngine | None, free: int = 1 << 24) -> TensorRtSession:
    runtime = fake_runtime(free=free)
    runtime.cudaMemGetInfo = lambda: (0, free, 1 << 34)
    return TensorRtSession(fake_api(engine), b"plan", PROFILES, CudaMemory(0, runtime))


def test_batches_of_every_shape_give_the_vectors_of_the_graph(engine: FakeEngine) -> None:
    session = session_of(engine)
    for shape in ((1, 1), (32, 16), (3, 7), (8, 48), (2, 17), (5, 5)):
        batch = batch_of(shape, session.inputs)
        np.testing.assert_array_equal(session.run(batch), engine.session.run(batch))
    # A profile is set only where it changes.
    assert engine.profiles == [1, 0]
    session.prepare(batch_of((4, 4), session.inputs))()


def test_a_shape_outside_every_profile_is_refused_with_what_would_do(engine: FakeEngine) -> None:
    session = session_of(engine)
    with pytest.raises(EngineError, match=r"49 tokens, and the plan takes 48\. .* --lengths \.\.\.,49"):
        session.run(batch_of((1, 49), session.inputs))
    with pytest.raises(EngineError, match=r"9 texts of 20 tokens, and the plan takes 8\. Set `batch_size=8`"):
        session.run(batch_of((9, 20), session.inputs))


def test_a_batch_that_does_not_fit_gets_told_which_would(engine: FakeEngine) -> None:
    session = session_of(engine, free=9000)
    assert len(session.run(batch_of((8, 16), session.inputs))) == 8
    with pytest.raises(EngineError, match=r"A batch of 32 texts of 16 tokens does not fit .*batch_size=16"):
        session.run(batch_of((32, 16), session.inputs))


def test_a_plan_that_does_not_load_or_fit_is_explained(tiny_bundle: Bundle, engine: FakeEngine) -> None:
    with pytest.raises(EngineError, match=r"The plan does not load: .*ese-deploy build BUNDLE --force"):
        session_of(None)
    engine.room = False
    with pytest.raises(EngineError, match=r"batches of 512 tokens needs 8\.6 GB, and 2\.0 GB .* --tokens 59"):
        session_of(engine, free=2 * 10**9)


def test_profiles_cover_every_length_once() -> None:
    found = profiles_for(BuildSettings(), 200)
    assert [one.longest for one in found] == [16, 32, 64, 128, 200]
    assert [one.shortest for one in found] == [1, *(one.longest + 1 for one in found[:-1])]
    assert all(1 <= one.best_rows <= one.most_rows <= 512 for one in found)
    assert profiles_for(BuildSettings(tokens=64, best_tokens=16), 128)[-1] == Profile(65, 128, 1, 1)
    assert [one.longest for one in profiles_for(BuildSettings(lengths=(64, 128)), 200)] == [64, 128]
    with pytest.raises(EngineError, match="`lengths` must ascend from 1 up to the model's 200 tokens, got 128, 64"):
        profiles_for(BuildSettings(lengths=(128, 64)), 200)
    with pytest.raises(EngineError, match="up to the model's 200"):
        profiles_for(BuildSettings(lengths=(256,)), 200)


@pytest.fixture
def key(tiny_bundle: Bundle) -> PlanKey:
    return key_of(tiny_bundle)


def key_of(bundle: Bundle, api: Api = API, gpu: Gpu = GPU, settings: BuildSettings | None = None) -> PlanKey:
    settings = settings or BuildSettings()
    source = engine_input(bundle, choose_entry(bundle, "3x32"))
    return plan_key(api, gpu, source, settings, profiles_for(settings, 48))


def test_a_plan_is_found_again_and_a_damaged_one_is_not_taken(key: PlanKey) -> None:
    assert find_plan(key) == (None, "there is no plan of this graph yet")
    save_plan(key, b"a plan", b"learnt")
    found, why = find_plan(key)
    assert found is not None and (found.data, found.key, why) == (b"a plan", key, "")
    assert read_timing(key) == b"learnt"
    (plans_folder() / f"{key.stem}.plan").write_bytes(b"b plan")
    assert find_plan(key)[0] is None
    assert "is damaged" in find_plan(key)[1]


def test_a_plan_of_another_machine_is_not_taken_and_the_difference_is_said(tiny_bundle: Bundle, key: PlanKey) -> None:
    save_plan(key, b"a plan", b"")
    other = key_of(tiny_bundle, gpu=replace(GPU, capability=(8, 0)))
    assert find_plan(other, any_settings=True) == (
        None,
        "the existing plan was built for a GPU of sm_90, this one is sm_80",
    )
    newer = key_of(tiny_bundle, api=replace(API, version="11.0.0.1"))
    assert "tensorrt 10.16.0.72, here is tensorrt 11.0.0.1" in find_plan(newer)[1]
    longer = key_of(tiny_bundle, settings=BuildSettings(batch=64))
    assert "other settings (batch)" in find_plan(longer)[1]
    served, _ = find_plan(longer, any_settings=True)
    assert served is not None and served.key == key


def test_a_plan_for_several_architectures_serves_them(tiny_bundle: Bundle) -> None:
    settings = BuildSettings(hardware_compatible=True)
    save_plan(key_of(tiny_bundle, settings=settings), b"a plan", b"")
    other = key_of(tiny_bundle, gpu=replace(GPU, capability=(8, 6)))
    assert find_plan(other)[0] is None
    assert find_plan(other, any_settings=True)[0] is not None


def test_other_weights_make_another_plan(tiny_bundle: Bundle, key: PlanKey) -> None:
    source = replace(engine_input(tiny_bundle, choose_entry(tiny_bundle, "3x32")), weights_sha256="0" * 64)
    settings = BuildSettings()
    assert plan_key(API, GPU, source, settings, profiles_for(settings, 48)).graph != key.graph


def test_without_tensorrt_the_error_names_what_to_install() -> None:
    from ese_deploy.engines.tensorrt.api import import_tensorrt

    try:
        import_tensorrt()
    except EngineError as error:
        assert str(error) == f"TensorRT is not installed. {install_hint('tensorrt')}"
    else:
        pytest.skip("TensorRT is installed")

"""TensorRT as an engine. It finds the plan of a graph in the cache of this machine, or builds it."""

import logging

from ese_deploy.engines.base import EngineInput
from ese_deploy.engines.cuda import CudaMemory, find_gpu
from ese_deploy.engines.tensorrt.api import import_tensorrt
from ese_deploy.engines.tensorrt.build import BuildSettings, build_plan, profiles_for
from ese_deploy.engines.tensorrt.plans import Plan, PlanKey, find_plan, plan_key, read_timing, save_plan
from ese_deploy.engines.tensorrt.session import TensorRtSession
from ese_deploy.system.progress import Progress, silent

__all__ = ["TensorRt"]

_log = logging.getLogger(__name__)


class TensorRt:
    """Runs graphs on a GPU with TensorRT.

    Args:
        index: the GPU's number among the GPUs that the process sees.
        settings: how plans are built.

    Raises:
        EngineError: there is no GPU, its driver is too old, or TensorRT is missing.
    """

    name = "tensorrt"

    def __init__(self, index: int = 0, settings: BuildSettings | None = None) -> None:
        self._api = import_tensorrt()
        self._gpu = find_gpu(index)
        self._settings = settings or BuildSettings()
        self.device = self._gpu.name
        self.versions = self._api.versions

    def plan(self, source: EngineInput, force: bool = False, progress: Progress = silent) -> tuple[Plan, str]:
        """Find the plan of a graph with the engine's settings in the cache, or build it.

        Args:
            source: the graph and its weights.
            force: build it even if the cache has it.
            progress: called while it is built.

        Returns:
            The plan, and why it was built as a clause; empty if the cache had it.

        Raises:
            EngineError: TensorRT cannot build the graph.
            InputError: the cache cannot be written.
        """
        key = self._key(source)
        existing, why = find_plan(key)
        if existing is not None and not force:
            return existing, ""
        return self._build(key, source, progress), why or "--force was given"

    def load(self, source: EngineInput, threads: int) -> TensorRtSession:
        """Load a graph; see :meth:`ese_deploy.engines.base.Engine.load`.

        It takes the newest plan that runs here, whatever its settings. Without a plan it builds one and logs why.
        """
        key = self._key(source)
        plan, why = find_plan(key, any_settings=True)
        if plan is None:
            _log.warning("Building a TensorRT plan, because %s. Build plans ahead with: ese-deploy build", why)
            plan = self._build(key, source)
        return self.open(plan)

    def open(self, plan: Plan) -> TensorRtSession:
        """Load a plan.

        Raises:
            EngineError: it was built for another GPU or version, or does not fit into memory.
        """
        return TensorRtSession(self._api, plan.data, plan.key.shapes, CudaMemory(self._gpu.index))

    def _key(self, source: EngineInput) -> PlanKey:
        profiles = profiles_for(self._settings, source.max_length)
        return plan_key(self._api, self._gpu, source, self._settings, profiles)

    def _build(self, key: PlanKey, source: EngineInput, progress: Progress = silent) -> Plan:
        built = build_plan(self._api, source, key.shapes, self._settings, read_timing(key), progress)
        return save_plan(key, *built)

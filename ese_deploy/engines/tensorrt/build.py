"""From a graph to a plan: parsing, optimization profiles, building."""

from dataclasses import dataclass
from typing import Any

from ese_deploy.engines.base import EngineInput
from ese_deploy.engines.tensorrt.api import Api, Log, create_network
from ese_deploy.errors import EngineError
from ese_deploy.system.progress import Progress, silent

__all__ = ["LENGTHS", "BuildSettings", "Profile", "build_plan", "parse_graph", "profiles_for"]

LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


@dataclass(frozen=True)
class Profile:
    """The shapes of one optimization profile.

    Attributes:
        shortest: least tokens of a row.
        longest: most tokens of a row. Kernels are chosen for it.
        best_rows: rows of the batch for which kernels are chosen.
        most_rows: most rows.
    """

    shortest: int
    longest: int
    best_rows: int
    most_rows: int


@dataclass(frozen=True)
class BuildSettings:
    """How plans are built. The settings are part of a plan's key.

    Attributes:
        lengths: the longest row of each profile, ascending. Empty: powers of two up to the model's longest row.
        batch: most rows of a batch.
        tokens: most tokens of a batch. A profile of long rows takes fewer rows.
        best_tokens: tokens of the batch for which kernels are chosen.
        hardware_compatible: build plans that also run on other GPUs from Ampere on, at some cost in speed.
        optimization: TensorRT's builder optimization level, 0 to 5. A higher level takes longer.
    """

    lengths: tuple[int, ...] = ()
    batch: int = 512
    tokens: int = 65536
    best_tokens: int = 16384
    hardware_compatible: bool = False
    optimization: int = 3


def profiles_for(settings: BuildSettings, longest: int) -> list[Profile]:
    """One profile for each range of lengths, so that short rows run kernels for short rows.

    Args:
        settings: how to build.
        longest: the model's longest row in tokens.

    Raises:
        EngineError: the lengths do not ascend, or exceed the model's longest row.
    """
    lengths = settings.lengths or (*(length for length in LENGTHS if length < longest), longest)
    if list(lengths) != sorted(set(lengths)) or not 1 <= lengths[0] <= lengths[-1] <= longest:
        raise EngineError(
            f"`lengths` must ascend from 1 up to the model's {longest} tokens, got {', '.join(map(str, lengths))}."
        )
    found, shortest = [], 1
    for length in lengths:
        most = max(1, min(settings.batch, settings.tokens // length))
        best = max(1, min(most, settings.best_tokens // length))
        found.append(Profile(shortest, length, best, most))
        shortest = length + 1
    return found


def parse_graph(api: Api, log: Log, builder: Any, source: EngineInput) -> tuple[Any, Any]:
    """Parse a graph into a network.

    Args:
        api: TensorRT.
        log: its log.
        builder: makes the network.
        source: the graph and its weights.

    Returns:
        The network, and the parser, which owns the weights and must stay alive as long as the network.

    Raises:
        EngineError: TensorRT does not support an operator, or not in this form.
    """
    network = create_network(api, builder)
    parser = api.module.OnnxParser(network, log.logger)
    # TensorRT looks for the weights in the folder of the path; it does not read the file.
    if not parser.parse(source.graph, str(source.path)):
        errors = [parser.get_error(number) for number in range(parser.num_errors)]
        reasons = [f"{error.node_operator()}: {error.desc()}" for error in errors]
        reason = " ".join((reasons or [log.first_error])[0].split())
        raise EngineError(
            f"{api.flavour} {api.version} cannot parse the graph: {reason[:300]}. Update it, or export with `opset=18`."
        )
    return network, parser


def build_plan(
    api: Api,
    source: EngineInput,
    profiles: list[Profile],
    settings: BuildSettings,
    timing_cache: bytes = b"",
    progress: Progress = silent,
) -> tuple[bytes, bytes]:
    """Build a plan. It takes seconds to minutes.

    Args:
        api: TensorRT.
        source: the graph and its weights.
        profiles: the shapes of the plan.
        settings: how to build.
        timing_cache: TensorRT's timing cache of earlier builds.
        progress: called after each step.

    Returns:
        The plan, and the new timing cache.

    Raises:
        EngineError: TensorRT cannot parse or build the graph.
    """
    log = Log(api)
    builder = api.module.Builder(log.logger)
    network, _parser = parse_graph(api, log, builder, source)
    config = builder.create_builder_config()
    config.builder_optimization_level = settings.optimization
    if settings.hardware_compatible and not api.rtx:
        config.hardware_compatibility_level = api.module.HardwareCompatibilityLevel.AMPERE_PLUS
    for one in profiles:
        profile = builder.create_optimization_profile()
        for number in range(network.num_inputs):
            shapes = ((1, one.shortest), (one.best_rows, one.longest), (one.most_rows, one.longest))
            profile.set_shape(network.get_input(number).name, *shapes)
        config.add_optimization_profile(profile)
    if not api.rtx:
        config.set_timing_cache(config.create_timing_cache(timing_cache), False)
    monitor = _monitor(api, progress)
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{api.flavour} {api.version} cannot build the graph: {log.first_error}")
    learnt = b"" if api.rtx else bytes(config.get_timing_cache().serialize())
    return bytes(plan), learnt


def _monitor(api: Api, progress: Progress) -> Any:
    """Report the outermost phase that has steps. Inner phases are too short to read."""
    module, totals = api.module, dict[str, int]()

    class Monitor(module.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                totals[phase_name] = num_steps
                progress("build", 0, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            if phase_name in totals:
                progress("build", totals[phase_name], totals[phase_name])

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in totals:
                progress("build", step + 1, totals[phase_name])
            return True

    return Monitor()

"""Embedding on Ray: a class for ``map_batches`` of Ray Data, and the parts of a job computed by actors."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ese_deploy.bulk.embedder import Embedder, column_name, describe_model
from ese_deploy.bulk.job import WorkFolder
from ese_deploy.bulk.parts import Advance, Part, PartRecord, PartVectors, StoppedError
from ese_deploy.bulk.settings import ModelSettings
from ese_deploy.bulk.workers import PartWork, Stop
from ese_deploy.errors import InputError
from ese_deploy.system.install import install_hint

__all__ = ["RayEmbedder", "RaySettings", "compute_on_ray"]

_DEPTH = 2


@dataclass(frozen=True)
class RaySettings:
    """Where and how a job runs on Ray.

    Attributes:
        address: of the cluster, such as ``auto`` or ``ray://head:10001``; ``local`` starts Ray on this machine.
        actors: actors that embed. None: as many as the cluster's free cores allow.
        gpus: GPUs of an actor, for example 0.5.
    """

    address: str = "local"
    actors: int | None = None
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if (self.actors is not None and self.actors < 1) or self.gpus < 0:
            raise InputError(f"`ray_actors` must be at least 1 and `ray_gpus` 0, got {self.actors} and {self.gpus}.")


class RayEmbedder:
    """Embeds batches of a Ray data set; pass the class to ``map_batches``.

    Each actor opens the bundle once. The folder of the bundle must be readable on every node.

    Example:
        ``dataset.map_batches(RayEmbedder, fn_constructor_kwargs={"bundle": "exports/minilm", "target": "3x128"},
        batch_size=4096, concurrency=2, num_cpus=1)``

    Args:
        bundle: the folder of the bundle.
        target: one target, or several.
        text_field: the column of the texts.
        prompt_name: the prompt before each text.
        precision: of the vectors; see :data:`ese_deploy.bulk.settings.BULK_PRECISIONS`.
        engine: the inference engine.
        threads: threads of an actor. Set ``num_cpus`` to the same number.
    """

    def __init__(
        self,
        bundle: str | Path,
        target: str | list[str] | None = None,
        *,
        text_field: str = "text",
        prompt_name: str | None = None,
        precision: str = "float32",
        engine: str | None = None,
        threads: int = 1,
    ) -> None:
        targets = (target,) if isinstance(target, str) else tuple(target or ())
        model = ModelSettings(
            Path(bundle), targets, prompt_name=prompt_name, precision=precision, engine=engine, threads=threads
        )
        self._embedder = Embedder.open(model)
        names = describe_model(model).targets
        self._columns = [column_name(name, alone=len(names) == 1) for name in names]
        self._field = text_field

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add a column of vectors for each target.

        Args:
            batch: NumPy arrays by column, as ``map_batches`` gives them.

        Raises:
            InputError: the batch has no such column, or a text is not a string.
        """
        if self._field not in batch:
            raise InputError(f"The batch has no '{self._field}'; it has {', '.join(batch)}. Pass text_field=NAME.")
        texts = batch[self._field].tolist()
        wrong = next((text for text in texts if not isinstance(text, str)), None)
        if wrong is not None or None in texts:
            raise InputError(f"Column '{self._field}' has {type(wrong).__name__}, which must be str. Filter such rows.")
        found = [self._embedder.embed(window).vectors for window in self._embedder.windows(texts)]
        vectors = [np.concatenate(parts) for parts in zip(*found, strict=True)]
        return {**batch, **dict(zip(self._columns, vectors, strict=True))}


class _Actor:
    """Embeds parts of a job in a process of the cluster."""

    def __init__(self, work: PartWork) -> None:
        self._work = work
        self._embedder = Embedder.open(work.settings.model, work.settings.window)

    def embed(self, part: Part) -> PartVectors:
        """Embed a part."""
        return self._work.embed(part, self._embedder, lambda rows, tokens: None)


def compute_on_ray(
    parts: Iterator[Part], work: PartWork, settings: RaySettings, stop: Stop, advance: Advance
) -> Iterator[PartRecord]:
    """Compute parts by actors of a Ray cluster; this process reads the input and writes the parts.

    An actor or a node that dies is replaced, and its parts are computed again.

    Yields:
        The record of each part, once it is complete, in any order.

    Raises:
        InputError: Ray is not installed, or its cluster cannot be reached.
        StoppedError: ``stop`` became true.
    """
    ray = _connect(settings)
    threads = work.settings.model.threads or 1
    count = settings.actors or max(1, int(ray.available_resources().get("CPU", 1)) // threads)
    remote = ray.remote(num_cpus=threads, num_gpus=settings.gpus, max_restarts=-1, max_task_retries=-1)(_Actor)
    # Paths of an actor's process are its own: only the driver writes.
    plain = PartWork(work.settings, work.dims, work.layout, WorkFolder(Path(), Path()))
    actors = [remote.remote(plain) for _ in range(count)]
    futures: dict[Any, tuple[int, int]] = {}
    waiting: dict[int, Part] = {}
    copied: set[int] = set()
    load = [0] * count

    def submit(actor: int, part: Part) -> None:
        futures[actors[actor].embed.remote(part)] = actor, part.index
        load[actor] += 1

    left = True
    try:
        while left or waiting:
            # Two parts for each actor: while it embeds one, the next one arrives.
            while left and min(load) < _DEPTH:
                part = next(parts, None)
                left = part is not None
                if part is not None:
                    waiting[part.index] = part
                    submit(load.index(min(load)), part)
            # An actor whose node is gone waits for another node. An idle actor takes over its parts.
            for actor in range(count) if not left else ():
                stuck = next((index for index in waiting if index not in copied), None)
                if load[actor] == 0 and stuck is not None:
                    copied.add(stuck)
                    submit(actor, waiting[stuck])
            done, _ = ray.wait(list(futures), num_returns=1, timeout=0.5)
            if stop():
                raise StoppedError("stopped")
            for future in done:
                actor, index = futures.pop(future)
                load[actor] -= 1
                if waiting.pop(index, None) is not None:
                    record = work.write(_result(ray, future))
                    advance(record.rows, record.tokens)
                    yield record
    finally:
        for actor in actors:
            ray.kill(actor)
        if settings.address == "local":
            ray.shutdown()


def _result(ray: Any, future: Any) -> PartVectors:
    try:
        found: PartVectors = ray.get(future)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"Ray lost a part: {reason} Complete parts stay; run with --resume to go on.") from None
    return found


def _connect(settings: RaySettings) -> Any:
    try:
        import ray
    except ImportError:
        raise InputError(f"`ray` needs Ray. {install_hint('ray')}") from None
    if not ray.is_initialized():
        try:
            ray.init(address=settings.address, log_to_driver=False, logging_level="error", include_dashboard=False)
        except (ConnectionError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise InputError(f"Cannot reach a Ray cluster at {settings.address}: {reason}") from None
    return ray

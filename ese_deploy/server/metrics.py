"""Prometheus metrics, and the latencies that the page shows."""

import os
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from ese_deploy.server.catalog import Lane

__all__ = ["MULTIPROCESS_VARIABLE", "Metrics", "Recorded"]

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable with the folder in which the workers share their metrics."""

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
_KEPT = 512


@dataclass
class Recorded:
    """What one request did, for logs and metrics.

    Attributes:
        model: name of the bundle; empty if the request did not get that far.
        target: the target that answered.
        texts: texts of the request.
        tokens: their tokens.
        truncated: texts that were truncated.
        degraded_from: the target that was asked for, if another one answered.
        key: label of the API key.
    """

    model: str = ""
    target: str = ""
    texts: int = 0
    tokens: int = 0
    truncated: int = 0
    degraded_from: str | None = None
    key: str = ""


@dataclass
class _Seen:
    requests: int = 0
    texts: int = 0
    seconds: "deque[float]" = field(default_factory=lambda: deque(maxlen=_KEPT))


class Metrics:
    """The metrics of a process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._several = MULTIPROCESS_VARIABLE in os.environ
        labels = ["model", "target"]

        def counter(name: str, text: str, names: list[str] = labels) -> Any:
            return Counter(f"ese_{name}", text, names, registry=self._registry)

        def gauge(name: str, text: str) -> Any:
            return Gauge(f"ese_{name}", text, registry=self._registry, multiprocess_mode="livesum")

        self._requests = counter("requests", "Requests by status", [*labels, "path", "status"])
        self._texts = counter("texts", "Texts embedded")
        self._tokens = counter("tokens", "Tokens embedded")
        self._truncated = counter("truncated_texts", "Texts truncated")
        self._degraded = counter("degraded_requests", "Requests that a shallower target answered", [*labels, "to"])
        self._seconds = Histogram(
            "ese_request_seconds", "Time of a request", labels, registry=self._registry, buckets=_SECONDS
        )
        self._batch_texts = Histogram(
            "ese_batch_texts", "Texts of a batch", ["lane"], registry=self._registry, buckets=_TEXTS
        )
        self._batch_tokens = counter("batch_tokens", "Tokens computed", ["lane"])
        self._batch_seconds = Histogram(
            "ese_batch_seconds", "Time of a batch", ["lane"], registry=self._registry, buckets=_SECONDS
        )
        self._waiting_texts = gauge("queue_texts", "Texts that wait")
        self._waiting_tokens = gauge("queue_tokens", "Tokens that wait")
        self._in_flight = gauge("requests_in_flight", "Requests that are being answered")
        self._seen: defaultdict[str, _Seen] = defaultdict(_Seen)

    def request(self, recorded: Recorded, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(recorded.model, recorded.target, path, str(status)).inc()
        if not recorded.target or status != 200:
            return
        labels = (recorded.model, recorded.target)
        self._texts.labels(*labels).inc(recorded.texts)
        self._tokens.labels(*labels).inc(recorded.tokens)
        self._seconds.labels(*labels).observe(seconds)
        if recorded.truncated:
            self._truncated.labels(*labels).inc(recorded.truncated)
        if recorded.degraded_from:
            self._degraded.labels(recorded.model, recorded.degraded_from, recorded.target).inc()
        seen = self._seen[f"{recorded.model}:{recorded.target}"]
        seen.requests += 1
        seen.texts += recorded.texts
        seen.seconds.append(seconds)

    def batch(self, lane: Lane, texts: int, tokens: int, seconds: float) -> None:
        """Count a batch."""
        self._batch_texts.labels(lane.name).observe(texts)
        self._batch_tokens.labels(lane.name).inc(tokens)
        self._batch_seconds.labels(lane.name).observe(seconds)

    def render(self, texts: int, tokens: int, in_flight: int) -> bytes:
        """The metrics in Prometheus' text format, with the present state of the queue."""
        self.update(texts, tokens, in_flight)
        if not self._several:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        collect: Callable[[CollectorRegistry], object] = MultiProcessCollector
        collect(together)
        return generate_latest(together)

    def update(self, texts: int, tokens: int, in_flight: int) -> None:
        """Set the state of the queue."""
        self._waiting_texts.set(texts)
        self._waiting_tokens.set(tokens)
        self._in_flight.set(in_flight)

    def summary(self, name: str) -> dict[str, Any]:
        """Requests, texts and latency of a target in this process; the latency is that of the last 512 requests."""
        seen = self._seen[name]
        milliseconds = np.asarray(seen.seconds) * 1000
        p50, p99 = np.percentile(milliseconds, [50, 99]).round(2).tolist() if len(milliseconds) else (None, None)
        return {"requests": seen.requests, "texts": seen.texts, "p50_ms": p50, "p99_ms": p99}

"""OpenTelemetry spans, if its API is installed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ese_deploy.server.http import Call

__all__ = ["traced"]

_tracer: Any
try:
    from opentelemetry import propagate, trace
except ImportError:
    _tracer = None
else:
    _tracer = trace.get_tracer("ese_deploy.server")


@contextmanager
def traced(call: Call) -> Iterator[None]:
    """A span around a request, with the trace of its header ``traceparent`` as parent; nothing without the library."""
    if _tracer is None:
        yield
        return
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in call.headers.items()}
    with _tracer.start_as_current_span(
        f"{call.scope['method']} {call.path}", context=propagate.extract(headers), kind=trace.SpanKind.SERVER
    ) as span:
        yield
        recorded = call.recorded
        span.set_attribute("ese.target", recorded.target)
        span.set_attribute("ese.model", recorded.model)
        span.set_attribute("ese.texts", recorded.texts)
        span.set_attribute("ese.tokens", recorded.tokens)

"""OpenTelemetry spans, if its API is installed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ese_deploy.server.http import Call, ClientGoneError

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
    name, kind = f"{call.scope['method']} {call.path}", trace.SpanKind.SERVER
    # An error of the client is not one of the span.
    quiet = {"record_exception": False, "set_status_on_exception": False}
    with _tracer.start_as_current_span(name, context=propagate.extract(headers), kind=kind, **quiet) as span:
        try:
            yield
        except Exception as error:
            status = getattr(error, "status", getattr(error, "status_code", 500))
            if status >= 500 and not isinstance(error, ClientGoneError):
                span.set_status(trace.StatusCode.ERROR, str(error))
            raise
        finally:
            recorded = call.recorded
            span.set_attribute("ese.model", recorded.model)
            span.set_attribute("ese.target", recorded.target)
            span.set_attribute("ese.texts", recorded.texts)
            span.set_attribute("ese.tokens", recorded.tokens)

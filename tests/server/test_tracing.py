"""OpenTelemetry spans, where the library is installed."""

import pytest

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")

from helpers.server import Running
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ese_deploy.server import tracing


def test_a_request_is_a_span_of_the_trace_of_its_client(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))
    parent = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
    server.post("/v1/embeddings", {"model": "tiny:2x16", "input": ["a", "b"]}, parent)
    server.post("/v1/embeddings", {"model": "tiny:9x99", "input": "a"}, parent)
    good, bad = exporter.get_finished_spans()
    for span in (good, bad):
        assert span.context is not None and span.parent is not None
        assert (f"{span.context.trace_id:x}", f"{span.parent.span_id:x}") == ("ab" * 16, "cd" * 8)
        assert (span.name, span.kind) == ("POST /v1/embeddings", trace.SpanKind.SERVER)
        assert span.status.status_code is trace.StatusCode.UNSET
    assert good.attributes is not None
    assert (good.attributes["ese.target"], good.attributes["ese.texts"]) == ("2x16", 2)

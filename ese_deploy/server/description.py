"""The OpenAPI description, made from the structs of the bodies."""

from functools import cache
from typing import Any

import msgspec

from ese_deploy import __version__
from ese_deploy.server.bodies import Embeddings, EmbeddingsRequest, ModelList, TeiEmbedRequest, TeiTokenizeRequest

__all__ = ["describe"]

_BODIES = (EmbeddingsRequest, Embeddings, ModelList, TeiEmbedRequest, TeiTokenizeRequest)
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {name: {"type": ["string", "null"]} for name in ("message", "type", "param", "code")},
        }
    },
}
_ERRORS = {
    "400": "Malformed, or an unknown model, target or option.",
    "401": "No valid API key.",
    "408": "The body did not arrive in time.",
    "413": "Too large.",
    "422": "Too long, with `truncate: false`.",
    "429": "The queue is full; the header Retry-After says for how long.",
    "503": "The server is shutting down, or the request only waited; the header Retry-After says for how long.",
    "504": "No answer in time.",
}


@cache
def describe() -> dict[str, Any]:
    """The OpenAPI 3.1 description of the server."""
    _, schemas = msgspec.json.schema_components(_BODIES, ref_template="#/components/schemas/{name}")
    paths = {
        "/v1/embeddings": _post("Embed texts (OpenAI).", "EmbeddingsRequest", _ref("Embeddings")),
        "/v1/models": _get("List the models (OpenAI).", _ref("ModelList")),
        "/embed": _post(
            "Embed texts (text-embeddings-inference).",
            "TeiEmbedRequest",
            {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
        ),
        "/tokenize": _post("Tokenize texts.", "TeiTokenizeRequest", {"type": "array"}),
        "/info": _get("Describe the default model and the limits.", {"type": "object"}),
        "/status": _get("Describe each target: requests, latency, quality.", {"type": "object"}),
        "/livez": _get("Whether the process runs.", None),
        "/readyz": _get("Whether the server takes requests.", None),
        "/metrics": _get("Prometheus metrics.", None),
        "/reload": {"post": {"summary": "Open the bundles again.", "responses": _responses({"type": "object"})}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "ese-deploy", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": {**schemas, "Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _responses(schema: dict[str, Any] | None) -> dict[str, Any]:
    done: dict[str, Any] = {"description": "Done."}
    if schema is not None:
        done["content"] = _content(schema)
    errors = {status: {"description": text, "content": _content(_ref("Error"))} for status, text in _ERRORS.items()}
    return {"200": done, **(errors if schema is not None else {})}


def _get(summary: str, schema: dict[str, Any] | None) -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": _responses(schema)}}


def _post(summary: str, body: str, schema: dict[str, Any]) -> dict[str, Any]:
    request = {"required": True, "content": _content(_ref(body))}
    return {"post": {"summary": summary, "requestBody": request, "responses": _responses(schema)}}

"""The ASGI application: routes, keys, errors, logs and metrics of every request."""

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import cast

from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from ese_deploy.errors import EseDeployError
from ese_deploy.server import openai, tei
from ese_deploy.server.description import describe
from ese_deploy.server.errors import ApiError
from ese_deploy.server.http import (
    Answer,
    Call,
    ClientGoneError,
    Receive,
    Scope,
    Send,
    discard_body,
    failure,
    json_answer,
)
from ese_deploy.server.logs import log_event
from ese_deploy.server.page import page, status
from ese_deploy.server.service import Service
from ese_deploy.server.tracing import traced

__all__ = ["Application", "with_cors"]

_log = logging.getLogger(__name__)

# Answered without a key: probes, metrics, and what holds no data.
_OPEN = frozenset({"/", "/livez", "/readyz", "/health", "/metrics", "/openapi.json"})
# What nginx logs for a client that has closed the connection.
_CLIENT_GONE = 499

_Headers = list[tuple[bytes, bytes]]
_Handler = Callable[[Service, Call], Awaitable[Answer]]


async def _live(service: Service, call: Call) -> Answer:
    return Answer(b"live\n", content_type="text/plain")


async def _ready(service: Service, call: Call) -> Answer:
    if service.draining:
        return Answer(b"draining\n", 503, "text/plain")
    return Answer(b"ready\n", content_type="text/plain")


async def _metrics(service: Service, call: Call) -> Answer:
    scheduler = service.scheduler
    body = service.metrics.render(scheduler.waiting_texts, scheduler.waiting_tokens, service.in_flight)
    return Answer(body, content_type="text/plain; version=0.0.4; charset=utf-8")


async def _openapi(service: Service, call: Call) -> Answer:
    return json_answer(describe())


async def _reload(service: Service, call: Call) -> Answer:
    if not service.keys:
        raise ApiError(403, "POST /reload needs a server with API keys. Send it SIGHUP instead.", code="no_keys")
    try:
        await service.reload()
    except EseDeployError as error:
        raise ApiError(409, f"The bundles stay as they are: {error}", code="reload_failed") from None
    return json_answer({"status": "reloaded" if service.settings.workers == 1 else "reloading"})


_ROUTES: tuple[tuple[str, str, _Handler], ...] = (
    ("POST", "/v1/embeddings", openai.embeddings),
    ("POST", "/embeddings", openai.embeddings),
    ("GET", "/v1/models", openai.models),
    ("GET", "/v1/models/{name:path}", openai.model),
    ("POST", "/embed", tei.embed),
    ("POST", "/tokenize", tei.tokenize_texts),
    ("GET", "/info", tei.info),
    ("GET", "/livez", _live),
    ("GET", "/readyz", _ready),
    ("GET", "/health", _ready),
    ("GET", "/metrics", _metrics),
    ("GET", "/openapi.json", _openapi),
    ("GET", "/status", status),
    ("POST", "/reload", _reload),
    ("GET", "/", page),
)


class _Endpoint:
    """A handler as an ASGI application."""

    def __init__(self, service: Service, handler: _Handler) -> None:
        self._handle = partial(handler, service)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call: Call = scope["ese_deploy.call"]
        answer = await self._handle(call)
        await answer.send(send, call.request_id)


class Application:
    """Answers requests.

    Args:
        service: the state of the process.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._router = Router(
            [Route(path, _Endpoint(service, handler), methods=[method]) for method, path, handler in _ROUTES],
            redirect_slashes=False,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        service = self._service
        call = Call(scope, receive, service.settings.limits.timeout)
        scope["ese_deploy.call"] = call
        # With it, the router raises an exception where there is no route.
        scope["app"] = self
        sent = 0

        async def note(message: MutableMapping[str, object]) -> None:
            nonlocal sent
            if message["type"] == "http.response.start":
                sent = int(str(message["status"]))
                if service.draining:
                    message["headers"] = [*cast(_Headers, message["headers"]), (b"connection", b"close")]
            await send(message)

        service.in_flight += 1
        code = None
        try:
            with traced(call):
                self._admit(call)
                await self._router(scope, receive, note)
        except ClientGoneError:
            sent = sent or _CLIENT_GONE
        except ApiError as error:
            code = error.code
            if service.draining or error.headers.get("connection") == "close":
                await discard_body(call)
            await failure(error).send(note, call.request_id)
        except HTTPException as error:
            await failure(_no_route(call, error)).send(note, call.request_id)
        except Exception:
            _log.exception("Request %s failed", call.request_id)
            if not sent:
                await failure(ApiError(500, "The server failed; its log says why.")).send(note, call.request_id)
        finally:
            service.in_flight -= 1
            self._record(call, sent, code)

    def _admit(self, call: Call) -> None:
        """Check the key, and whether the server takes requests."""
        if call.path in _OPEN:
            return
        service = self._service
        if service.draining:
            raise ApiError(503, "The server is shutting down.", code="draining", headers={"retry-after": "1"})
        if service.keys and call.scope["method"] != "OPTIONS":
            label = service.keys.label(call.headers.get(b"authorization", b""))
            if label is None:
                raise ApiError(
                    401,
                    "No valid API key. Send the header `Authorization: Bearer KEY`.",
                    code="invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )
            call.recorded.key = label

    def _record(self, call: Call, status: int, code: str | None) -> None:
        recorded, service = call.recorded, self._service
        seconds = service.settings.limits.timeout - call.seconds_left
        path = call.path if any(call.path == path for _, path, _ in _ROUTES) else "other"
        service.metrics.request(recorded, path, status, seconds)
        if path in _OPEN:
            return
        values = {
            "request_id": call.request_id,
            "trace_id": call.trace_id,
            "method": call.scope["method"],
            "path": call.path[:200],
            "status": status,
            "code": code,
            "milliseconds": round(seconds * 1000, 2),
            "model": recorded.model,
            "target": recorded.target,
            "degraded_from": recorded.degraded_from,
            "texts": recorded.texts,
            "tokens": recorded.tokens,
            "truncated": recorded.truncated,
            "key": recorded.key,
        }
        log_event("request", **{name: value for name, value in values.items() if value not in (None, "")})


def _no_route(call: Call, error: HTTPException) -> ApiError:
    method, path = call.scope["method"], call.path[:200]
    if error.status_code == 405:
        return ApiError(405, f"{path} does not take {method}.", code="method_not_allowed", headers=error.headers)
    paths = ", ".join(path for _, path, _ in _ROUTES)
    return ApiError(404, f"There is nothing at {path}. Paths: {paths}.", code="not_found")


def with_cors(application: Application, origins: tuple[str, ...]) -> ASGIApp:
    """Let browsers call from these origins; from none, the application stays as it is."""
    if not origins:
        return application
    return CORSMiddleware(
        application,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["authorization", "content-type", "x-request-id", "traceparent"],
        expose_headers=["x-ese-target", "x-ese-degraded-from", "x-request-id", "retry-after"],
    )

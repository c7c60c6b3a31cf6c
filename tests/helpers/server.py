"""A real server in a thread, and a small HTTP client."""

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from ese_deploy.server.app import Application, with_cors
from ese_deploy.server.keys import ApiKeys
from ese_deploy.server.loading import load_catalog
from ese_deploy.server.protocol import HttpProtocol
from ese_deploy.server.service import Service
from ese_deploy.server.settings import ServeSettings

__all__ = ["Reply", "Running", "running"]


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return dict(self.json["error"])


@dataclass(frozen=True)
class Running:
    port: int
    service: Service
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, data, headers or {})
        answer = connection.getresponse()
        reply = Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        connection.close()
        return reply

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Reply:
        return self.request("POST", path, body, headers)

    def get(self, path: str) -> Reply:
        return self.request("GET", path)

    def embed(self, **fields: Any) -> Reply:
        return self.post("/v1/embeddings", {"model": "tiny", **fields})


@contextmanager
def running(settings: ServeSettings, keys: ApiKeys | None = None) -> Iterator[Running]:
    started = threading.Event()
    found: list[Running] = []
    listener = socket.create_server(("127.0.0.1", 0))
    servers: list[uvicorn.Server] = []

    async def main() -> None:
        service = Service(settings, keys or ApiKeys({}), load_catalog(settings, 1))
        app = with_cors(Application(service), settings.cors_origins)
        config = uvicorn.Config(app, http=HttpProtocol, ws="none", lifespan="off", log_config=None, access_log=False)
        config.timeout_graceful_shutdown = 1
        servers.append(uvicorn.Server(config))
        found.append(Running(listener.getsockname()[1], service, asyncio.get_running_loop()))
        started.set()
        try:
            await servers[0].serve(sockets=[listener])
        finally:
            service.close()

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    assert started.wait(30)
    try:
        yield found[0]
    finally:
        servers[0].should_exit = True
        thread.join(30)

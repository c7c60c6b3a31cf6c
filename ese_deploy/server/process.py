"""One server process: loads the models, answers requests, drains and reloads on signals."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn

from ese_deploy.server.app import Application, with_cors
from ese_deploy.server.drain import drain
from ese_deploy.server.keys import load_keys
from ese_deploy.server.loading import load_catalog
from ese_deploy.server.logs import log_event
from ese_deploy.server.protocol import HttpProtocol
from ese_deploy.server.service import Service, threads_of
from ese_deploy.server.settings import ServeSettings

__all__ = ["serve_process"]

_POLL_SECONDS = 0.02
_WATCH_SECONDS = 1.0
# Longer than load balancers keep idle connections, so that the server does not close one that is being used again.
_KEEP_ALIVE_SECONDS = 75


class _Uvicorn(uvicorn.Server):
    """Leaves signals to :func:`serve_process`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_process(
    settings: ServeSettings, listener: socket.socket, ready: Callable[[], None], parent: int | None = None
) -> None:
    """Serve until a signal ends it.

    Args:
        settings: of the server.
        listener: a bound socket.
        ready: called when requests are taken.
        parent: process id of the process that looks after the workers. It reloads all of them, and without it a worker
            ends.

    Raises:
        EseDeployError: the models or keys cannot be loaded.
    """
    keys = load_keys(settings.key_file)
    catalog = await asyncio.to_thread(load_catalog, settings, threads_of(settings))
    service = Service(settings, keys, catalog)
    server = _Uvicorn(
        uvicorn.Config(
            with_cors(Application(service), settings.cors_origins),
            http=HttpProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            ssl_certfile=settings.ssl_certfile,
            ssl_keyfile=settings.ssl_keyfile,
        )
    )
    if parent is not None:
        service.reload = _ask(parent)
    tasks = [asyncio.create_task(_watch(server, service, parent, ready))]
    _handle_signals(server, listener, service, tasks, worker=parent is not None)
    try:
        await server.serve(sockets=[listener])
    finally:
        for task in tasks:
            task.cancel()
        service.close()
        log_event("stopped")


def _ask(parent: int) -> Callable[[], "asyncio.Future[None]"]:
    def ask() -> "asyncio.Future[None]":
        os.kill(parent, signal.SIGHUP)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    return ask


def _handle_signals(
    server: uvicorn.Server,
    listener: socket.socket,
    service: Service,
    tasks: "list[asyncio.Task[None]]",
    *,
    worker: bool,
) -> None:
    loop = asyncio.get_running_loop()

    def handle(number: int, action: Callable[[], None]) -> None:
        # Not loop.add_signal_handler, which Windows does not have.
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(action))

    def end() -> None:
        if service.draining:
            server.should_exit = True
            return
        service.draining = True
        tasks.append(asyncio.create_task(drain(server, listener, service)))

    def reload() -> None:
        tasks.append(asyncio.create_task(_reload(service)))

    handle(signal.SIGTERM, end)
    # Ctrl-C in a terminal reaches the workers too; the process that looks after them tells them what to do.
    handle(signal.SIGINT, (lambda: None) if worker else end)
    if hasattr(signal, "SIGHUP"):
        handle(signal.SIGHUP, reload)


async def _reload(service: Service) -> None:
    with contextlib.suppress(Exception):  # logged where it happens
        await service.reload_here()


async def _watch(server: uvicorn.Server, service: Service, parent: int | None, ready: Callable[[], None]) -> None:
    """Report readiness, keep the metrics of the queue up to date, and end a worker that has lost its parent."""
    while not server.started:
        await asyncio.sleep(_POLL_SECONDS)
    ready()
    while True:
        scheduler = service.scheduler
        service.metrics.update(scheduler.waiting_texts, scheduler.waiting_tokens, service.in_flight)
        if parent is not None and os.getppid() != parent:
            server.should_exit = True
        await asyncio.sleep(_WATCH_SECONDS)

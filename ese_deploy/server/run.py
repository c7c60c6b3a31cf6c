"""Running a server: in this process, or in several workers that are started again if they die."""

import asyncio
import contextlib
import errno
import logging
import multiprocessing
import os
import signal
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from ese_deploy.errors import EngineError, EseDeployError, InputError
from ese_deploy.server.keys import load_keys
from ese_deploy.server.logs import configure_logs, log_event
from ese_deploy.server.metrics import MULTIPROCESS_VARIABLE
from ese_deploy.server.process import serve_process
from ese_deploy.server.settings import ServeSettings

__all__ = ["serve"]

_BACKLOG = 2048
_POLL_SECONDS = 0.2
_PAUSE_SECONDS = 1.0
_GRACE_SECONDS = 5.0


def serve(settings: ServeSettings) -> None:
    """Serve bundles over HTTP until SIGTERM or SIGINT.

    Args:
        settings: what to serve, where, and within which limits.

    Raises:
        EseDeployError: the address is in use, or a bundle, key or engine cannot be loaded.

    Example:
        >>> serve(ServeSettings(bundles=parse_bundles(["exports/minilm"]), port=8000))
    """
    configure_logs(settings.log_format)
    load_keys(settings.key_file)
    _allow_connections()
    with _listener(settings) as listener:
        if settings.workers == 1:
            asyncio.run(serve_process(settings, listener, lambda: _log_address(settings, listener)))
        else:
            _Workers(settings, listener).run()


def _allow_connections() -> None:
    """Let the process have as many connections as the system allows: each takes a file descriptor, often 1,024."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows has no such limit
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextlib.contextmanager
def _listener(settings: ServeSettings) -> Iterator[socket.socket]:
    """A bound socket.

    Raises:
        InputError: the address is in use or does not exist.
    """
    if settings.uds is not None:
        with _unix_listener(settings.uds) as listener:
            yield listener
        return
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"Cannot listen on {settings.host}: {error.strerror}. Choose another `host`.") from None
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            where = f"{settings.host}:{settings.port}"
            other = "host" if error.errno == errno.EADDRNOTAVAIL else "port"
            raise InputError(f"Cannot listen on {where}: {error.strerror}. Choose another `{other}`.") from None
        # The accepted sockets inherit it on Linux. Without it, an answer in two parts waits for an acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.listen(_BACKLOG)
        yield listener


@contextlib.contextmanager
def _unix_listener(path: Path) -> Iterator[socket.socket]:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise InputError(f"{path} exists and is not a socket. Choose another `uds`.")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except OSError:
                path.unlink()  # of a server that was killed
            else:
                raise InputError(f"Another server listens on {path}. Choose another `uds`.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            listener.bind(str(path))
        except OSError as error:
            raise InputError(f"Cannot listen on {path}: {error.strerror}. Choose another `uds`.") from None
        listener.listen(_BACKLOG)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _log_address(settings: ServeSettings, listener: socket.socket) -> None:
    if settings.uds is not None:
        address = f"unix:{settings.uds}"
    else:
        host, port = listener.getsockname()[:2]
        scheme = "http" if settings.ssl_certfile is None else "https"
        address = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
    log_event("listening", address=address, models=list(settings.bundles), workers=settings.workers, pid=os.getpid())


def _work(settings: ServeSettings, listener: socket.socket, parent: int, report: Connection) -> None:
    """A worker process."""
    configure_logs(settings.log_format)
    try:
        asyncio.run(serve_process(settings, listener, lambda: report.send(""), parent))
    except EseDeployError as error:
        report.send(str(error))


class _Workers:
    """Starts workers, starts those again that die, and hands signals on.

    They are spawned: a fork would copy the threads of engines and tokenizers in the middle of their work.
    """

    def __init__(self, settings: ServeSettings, listener: socket.socket) -> None:
        self._settings = settings
        self._listener = listener
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[BaseProcess, Connection] = {}
        # Workers that have not reported yet. A signal would end them; those of the second set reload when they report.
        self._loading: set[BaseProcess] = set()
        self._stale: set[BaseProcess] = set()
        self._stopping = False
        self._reload = False

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        self._handle_signals()
        with tempfile.TemporaryDirectory(prefix="ese-deploy-metrics-") as folder:
            os.environ[MULTIPROCESS_VARIABLE] = folder
            try:
                self._start_all()
                _log_address(self._settings, self._listener)
                while not self._stopping:
                    self._look_after()
            finally:
                self._end_all()
                del os.environ[MULTIPROCESS_VARIABLE]

    def _handle_signals(self) -> None:
        def stop(*_: object) -> None:
            self._stopping = True

        def reload(*_: object) -> None:
            self._reload = True

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, reload)

    def _start(self) -> None:
        receive, send = self._context.Pipe(duplex=False)
        worker = self._context.Process(
            target=_work, args=(self._settings, self._listener, os.getpid(), send), name="ese-deploy worker"
        )
        worker.start()
        send.close()
        self._workers[worker] = receive
        self._loading.add(worker)

    def _start_all(self) -> None:
        for _ in range(self._settings.workers):
            self._start()
        for report in self._workers.values():
            while not self._stopping and not report.poll(_POLL_SECONDS):
                pass
            try:
                problem = "" if self._stopping else report.recv()
            except EOFError:
                problem = "A worker ended before it was ready; its log says why."
            if problem:
                raise EngineError(problem)
        self._loading.clear()

    def _look_after(self) -> None:
        if self._reload:
            self._reload = False
            self._stale |= self._loading
            self._signal(signal.SIGHUP, [worker for worker in self._workers if worker not in self._loading])
        for worker in [worker for worker in self._loading if self._workers[worker].poll()]:
            with contextlib.suppress(EOFError):
                if problem := self._workers[worker].recv():
                    log_event("a worker cannot start", logging.ERROR, pid=worker.pid, error=problem)
            self._loading.discard(worker)
            if worker in self._stale:
                self._stale.discard(worker)
                self._signal(signal.SIGHUP, [worker])
        wait([worker.sentinel for worker in self._workers], timeout=_POLL_SECONDS)
        for worker in [worker for worker in self._workers if not worker.is_alive()]:
            if self._stopping:
                return
            self._workers.pop(worker).close()
            self._loading.discard(worker)
            self._stale.discard(worker)
            log_event("a worker died and is replaced", logging.ERROR, pid=worker.pid, exitcode=worker.exitcode)
            _forget_metrics(worker.pid)
            time.sleep(_PAUSE_SECONDS)
            self._start()

    def _signal(self, number: int, workers: Iterable[BaseProcess]) -> None:
        for worker in workers:
            if worker.pid is not None and worker.is_alive():
                os.kill(worker.pid, number)

    def _end_all(self) -> None:
        self._signal(signal.SIGTERM, self._workers)
        end = time.monotonic() + self._settings.drain_seconds + _GRACE_SECONDS
        for worker in self._workers:
            worker.join(max(0.0, end - time.monotonic()))
            if worker.is_alive():
                log_event("a worker did not end and is killed", logging.ERROR, pid=worker.pid)
                worker.kill()
                worker.join()


def _forget_metrics(pid: int | None) -> None:
    """Drop the state of a worker that died from the sums; what it counted stays."""
    from prometheus_client.multiprocess import mark_process_dead

    forget: Callable[[int | None], object] = mark_process_dead
    forget(pid)

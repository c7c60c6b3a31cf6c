"""A small Hugging Face hub on this machine: one repository, kept in memory."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """What the hub holds, and what it was asked.

    Attributes:
        name: the repository.
        files: its files by name.
        downloads: files that were sent, in order.
        private: as it was created; None before.
        unknown: requests without an answer.
    """

    name: str
    files: dict[str, bytes] = field(default_factory=dict)
    downloads: list[str] = field(default_factory=list)
    private: bool | None = None
    unknown: list[str] = field(default_factory=list)
    address: str = ""

    @property
    def commit(self) -> str:
        """A hash over all files."""
        return hashlib.sha1(b"".join(name.encode() + data for name, data in sorted(self.files.items()))).hexdigest()


@contextmanager
def run_hub(name: str) -> Iterator[Hub]:
    hub = Hub(name)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def answer(self, status: int, body: Any = b"", headers: dict[str, str] | None = None) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            prefix = f"/{hub.name}/resolve/"
            if path.startswith(prefix):
                revision, _, file = path.removeprefix(prefix).partition("/")
                self.resolve(revision, file)
            elif path.startswith(f"/api/models/{hub.name}"):
                siblings = [{"rfilename": name, "size": len(data)} for name, data in hub.files.items()]
                if "/tree/" in path:
                    self.answer(
                        200,
                        [{"type": "file", "path": n, "size": len(d), "oid": "0" * 40} for n, d in hub.files.items()],
                    )
                else:
                    self.answer(200, {"id": hub.name, "modelId": hub.name, "sha": hub.commit, "siblings": siblings})
            else:
                self.missing("RepoNotFound")

        def resolve(self, revision: str, file: str) -> None:
            if revision not in ("main", hub.commit):
                self.missing("RevisionNotFound")
            elif file not in hub.files:
                self.missing("EntryNotFound")
            else:
                data = hub.files[file]
                if self.command == "GET":
                    hub.downloads.append(file)
                etag = f'"{hashlib.sha256(data).hexdigest()}"'
                self.answer(200, data, {"ETag": etag, "X-Repo-Commit": hub.commit})

        def missing(self, code: str) -> None:
            hub.unknown.append(f"{self.command} {self.path}")
            headers = {"X-Error-Code": code, "X-Error-Message": "nothing here", "X-Repo-Commit": hub.commit}
            self.answer(404, {"error": "nothing here"}, headers)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = urlsplit(self.path).path
            if path == "/api/repos/create":
                asked = json.loads(body)
                hub.private = bool(asked.get("private")) or asked.get("visibility") == "private"
                self.answer(200, {"url": f"{hub.address}/{hub.name}", "name": hub.name, "id": "1"})
            elif path == "/api/validate-yaml":
                self.answer(200, {"errors": [], "warnings": []})
            elif path.endswith("/preupload/main"):
                files = json.loads(body)["files"]
                answers = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
                self.answer(200, {"files": answers})
            elif path.endswith("/commit/main"):
                for line in body.splitlines():
                    self.apply(json.loads(line))
                self.answer(
                    200, {"commitUrl": f"{hub.address}/{hub.name}/commit/{hub.commit}", "commitOid": hub.commit}
                )
            else:
                self.missing("EntryNotFound")

        def apply(self, item: dict[str, Any]) -> None:
            value = item["value"]
            if item["key"] == "file":
                hub.files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "deletedFile":
                del hub.files[value["path"]]

    return Handler

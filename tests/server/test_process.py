"""The command in processes of its own: signals, workers, sockets, TLS."""

import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

import pytest
from helpers.command import command, post

from ese_deploy.bundle.reader import Bundle


def test_sigterm_answers_what_was_accepted_and_sighup_reloads(tiny_bundle: Bundle) -> None:
    with command(tiny_bundle, "--port", "0") as found:
        assert found.embed(["a"]) == 200
        found.process.send_signal(signal.SIGHUP)
        found.wait_for("reloaded")
        assert found.embed(["a"]) == 200
        statuses: list[int] = []
        port = found.port

        def client() -> None:
            statuses.append(post(http.client.HTTPConnection("127.0.0.1", port, timeout=30), ["word " * 60] * 2000))

        thread = threading.Thread(target=client)
        thread.start()
        time.sleep(0.3)
        found.process.send_signal(signal.SIGTERM)
        found.wait_for("draining")
        thread.join()
        assert found.process.wait(30) == 0
        assert statuses == [200]


def test_a_bundle_that_is_gone_leaves_the_server_as_it_is(tiny_bundle: Bundle, tmp_path: Path) -> None:
    link = tmp_path / "bundle"
    link.symlink_to(tiny_bundle.path)
    with command(tiny_bundle, f"other={link}", "--port", "0") as found:
        assert found.embed(["a"]) == 200
        link.unlink()
        found.process.send_signal(signal.SIGHUP)
        assert "bundle" in found.wait_for("reload failed; the bundles stay as they are")["error"]
        assert found.embed(["a"]) == 200


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced(tiny_bundle: Bundle) -> None:
    with command(tiny_bundle, "--port", "0", "--workers", "2") as found:
        assert [found.embed(["a"]) for _ in range(20)] == [200] * 20
        listing = subprocess.run(
            ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(found.process.pid)], capture_output=True, text=True
        ).stdout
        victim = next(int(line.split()[0]) for line in listing.splitlines() if "spawn_main" in line)
        os.kill(victim, signal.SIGKILL)
        assert found.wait_for("a worker died and is replaced")["pid"] == victim
        assert [found.embed(["a"]) for _ in range(20)] == [200] * 20
        connection = http.client.HTTPConnection("127.0.0.1", found.port)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        assert 'path="/v1/embeddings",status="200",target="3x32"} 40.0' in text
        assert found.end() == 0
        found.wait_for("stopped")  # the new worker may still have been loading


def test_a_unix_socket(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with command(tiny_bundle, "--uds", str(path)) as found:
        found.wait_for("listening")
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.connect(str(path))
        assert post(connection, ["a"]) == 200
        with command(tiny_bundle, "--uds", str(path)) as second:
            assert second.process.wait(30) == 2
            time.sleep(0.1)
            assert "Another server listens" in second.lines[-1]
        assert found.end() == 0
    assert not path.exists()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_tls(tiny_bundle: Bundle, tmp_path: Path) -> None:
    words = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 1 -subj /CN=localhost"
    made = subprocess.run([*words.split(), "-addext", "subjectAltName=IP:127.0.0.1"], cwd=tmp_path, capture_output=True)
    assert made.returncode == 0, made.stderr
    files = ["--ssl-certfile", str(tmp_path / "cert.pem"), "--ssl-keyfile", str(tmp_path / "key.pem")]
    with command(tiny_bundle, "--port", "0", *files) as found:
        trusted = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        assert post(http.client.HTTPSConnection("127.0.0.1", found.port, context=trusted, timeout=30), ["a"]) == 200


def test_mistakes_are_one_line(tiny_bundle: Bundle) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with command(tiny_bundle, "--port", str(port)) as found:
            assert found.process.wait(30) == 2
            time.sleep(0.1)
            assert found.lines == [
                f"error: Cannot listen on 127.0.0.1:{port}: Address already in use. Choose another --port.\n"
            ]

import errno
import os
import resource
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.tiny import names

from ese_deploy.errors import InputError
from ese_deploy.system import files
from ese_deploy.system.files import (
    replace_folder,
    restore_folder,
    sha256_file,
    staging_folder,
    write_atomic,
)
from ese_deploy.system.locks import lock_folder


def make_folder(path: Path, content: str) -> Path:
    path.mkdir()
    (path / "file").write_text(content)
    return path


def test_a_hash_is_the_files_and_advance_counts_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert sha256_file(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (tmp_path / "large").write_bytes(b"x" * 3_000_000)
    pieces: list[int] = []
    sha256_file(tmp_path / "large", pieces.append)
    assert sum(pieces) == 3_000_000


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.npy"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), write_atomic(path) as file:
        file.write(b"new, but cut o")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["out.npy"]


def test_a_written_file_has_the_permissions_that_the_umask_gives(tmp_path: Path) -> None:
    with write_atomic(tmp_path / "a") as file:
        file.write(b"x")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_missing_folder_is_one_line_that_names_it(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"Cannot write .*nowhere/out.npy: No such file"),
        write_atomic(tmp_path / "nowhere/out.npy"),
    ):
        pass


@pytest.mark.parametrize(
    ("number", "advice"), [(errno.ENOSPC, " Free some space .*"), (errno.EROFS, " .* may write to.*"), (errno.EIO, "")]
)
def test_an_os_error_says_what_to_do(tmp_path: Path, number: int, advice: str) -> None:
    with (
        pytest.raises(InputError, match=f"Nothing was changed\\.{advice}$"),
        staging_folder(tmp_path / "out"),
    ):
        raise OSError(number, os.strerror(number))
    assert names(tmp_path) == []


def test_a_real_limit_on_file_size_is_reported_and_cleaned_up(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from ese_deploy.system.files import write_atomic\n"
        "with write_atomic(Path(sys.argv[1])) as file:\n    file.write(b'x' * 1_000_000)"
    )
    limit = 100_000
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "big")],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert "InputError: Cannot write" in done.stderr
    assert "Free some space" in done.stderr
    assert names(tmp_path) == []


def test_what_a_killed_process_left_is_removed_but_not_what_another_builds(tmp_path: Path) -> None:
    abandoned = make_folder(tmp_path / ".out.staging-dead", "half")
    os.utime(abandoned, (0, 0))
    fresh = make_folder(tmp_path / ".out.staging-new", "being made")
    with staging_folder(tmp_path / "out") as held:
        os.utime(held, (0, 0))
        with staging_folder(tmp_path / "out"):
            assert held.exists()
            assert fresh.exists()
            assert not abandoned.exists()


@pytest.mark.parametrize("name", ["out.npy", "[out]*.npy"])
def test_a_file_that_a_killed_process_left_is_removed_but_not_what_another_writes(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    script = (
        "import os, sys; from pathlib import Path; from ese_deploy.system.files import write_atomic\n"
        "with write_atomic(Path(sys.argv[1])) as file:\n    os.kill(os.getpid(), 15)"
    )
    subprocess.run([sys.executable, "-c", script, str(path)])
    (abandoned,) = tmp_path.iterdir()
    os.utime(abandoned, (0, 0))
    with write_atomic(path) as held:
        os.utime(held.fileno(), (0, 0))
        assert not abandoned.exists()
        with write_atomic(path) as fresh:
            fresh.write(b"first")
        held.write(b"last")
    assert path.read_bytes() == b"last"
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_replacement_leaves_the_new_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:  # what systems without such a call do
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    out = make_folder(tmp_path / "out", "old")
    with staging_folder(out) as staging:
        (staging / "file").write_text("new")
        replace_folder(staging, out)
    assert (out / "file").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_a_reader_between_the_renames_does_not_cost_the_new_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    out = make_folder(tmp_path / "out", "old")
    rename, readers = Path.rename, [1, 2]

    def rename_and_read(path: Path, target: Path) -> Path:
        done = rename(path, target)
        if target.name == "out.previous" and readers:
            readers.pop()
            restore_folder(out)
            assert (out / "file").read_text() == "old"
        return done

    monkeypatch.setattr(Path, "rename", rename_and_read)
    with staging_folder(out) as staging:
        (staging / "file").write_text("new")
        replace_folder(staging, out)
    assert (out / "file").read_text() == "new"
    assert names(tmp_path) == ["out"]
    assert not readers


def test_a_replacement_cut_off_between_its_renames_is_undone(tmp_path: Path) -> None:
    make_folder(tmp_path / "out.previous", "old")
    restore_folder(tmp_path / "out")
    assert (tmp_path / "out/file").read_text() == "old"


def test_a_previous_folder_never_replaces_a_present_one(tmp_path: Path) -> None:
    out = make_folder(tmp_path / "out", "new")
    make_folder(tmp_path / "out.previous", "old")
    restore_folder(out)
    assert (out / "file").read_text() == "new"


def test_a_link_is_written_through_and_a_pipe_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "there/file.json")
    for content in (b"first", b"second"):
        with write_atomic(link) as file:
            file.write(content)
        assert link.is_symlink() and (tmp_path / "there/file.json").read_bytes() == content
    assert names(tmp_path) == ["link.json", "there"] and names(tmp_path / "there") == ["file.json"]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_bytes)
        with write_atomic(pipe) as file:
            file.write(b"through")
        assert read.result(10) == b"through" and pipe.is_fifo()


def test_a_folder_that_was_replaced_meanwhile_is_waited_for_under_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    inside, begun = [], threading.Event()

    def hold() -> None:
        begun.set()
        with lock_folder(folder):
            inside.append(len(inside))
            assert not busy.locked()
            with busy:
                time.sleep(0.2)

    busy = threading.Lock()
    with ThreadPoolExecutor(2) as pool:
        with lock_folder(folder):
            first = pool.submit(hold)
            begun.wait()
            time.sleep(0.2)
            with staging_folder(folder) as staged:
                replace_folder(staged, folder)
        second = pool.submit(hold)  # holds the new folder, which the first must wait for as well
        first.result(10), second.result(10)
    assert inside == [0, 1]


def test_a_file_system_that_syncs_no_folder_keeps_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def files_alone(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(handle)

    monkeypatch.setattr(os, "fsync", files_alone)
    with write_atomic(tmp_path / "a") as file:
        file.write(b"content")
    assert (tmp_path / "a").read_bytes() == b"content"


def test_a_replaced_folder_has_the_permissions_that_the_umask_gives(tmp_path: Path) -> None:
    with staging_folder(tmp_path / "out") as staging:
        (staging / "private").touch(mode=0o600)
        (staging / "inner").mkdir(mode=0o700)
        (tmp_path / "elsewhere").touch(mode=0o600)
        (staging / "link").symlink_to(tmp_path / "elsewhere")
        replace_folder(staging, tmp_path / "out")
    assert (tmp_path / "elsewhere").stat().st_mode & 0o777 == 0o600
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    assert (tmp_path / "out/private").stat().st_mode == (tmp_path / "file").stat().st_mode
    assert (tmp_path / "out/inner").stat().st_mode == (tmp_path / "folder").stat().st_mode

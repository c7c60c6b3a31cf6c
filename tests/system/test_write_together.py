from pathlib import Path
from typing import Any

import pytest

from ese_deploy.errors import InputError
from ese_deploy.system import files
from ese_deploy.system.files import write_together


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_all_files_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    write_together({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()) == (b"1", b"2")
    assert _names(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("fails", [1, 2])
def test_if_one_cannot_be_written_none_is_changed(fails: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "b").write_bytes(b"older")
    calls = []

    def fsync(handle: int) -> None:
        calls.append(handle)
        if len(calls) == fails:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(InputError, match=r"No space left on device. Nothing was changed. Free some space"):
        write_together({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()) == (b"old", b"older")
    assert _names(tmp_path) == ["a", "b"]


def test_a_failed_rename_gives_the_first_file_its_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"old")
    real: Any = Path.replace

    def replace(self: Path, to: Path) -> Path:
        if to.name == "b":
            raise OSError(5, "Input/output error")
        moved: Path = real(self, to)
        return moved

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(InputError, match=r"Input/output error\. Nothing was changed"):
        write_together({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    assert (tmp_path / "a").read_bytes() == b"old"
    assert _names(tmp_path) == ["a"]

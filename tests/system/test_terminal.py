"""Control characters of strangers' files do not reach the terminal."""

import shutil
from pathlib import Path

import msgspec
import pytest

from ese_deploy.bundle.manifest import encode_manifest
from ese_deploy.bundle.reader import Bundle
from ese_deploy.cli.app import main
from ese_deploy.system.terminal import visible


def test_control_characters_are_escaped_and_text_stays() -> None:
    assert visible("a\x1b[31mred\x07\x9b\r") == r"a\x1b[31mred\x07\x9b\r"
    assert visible("\u202eabc\u2066") == r"\u202eabc\u2066"
    assert visible("tab\tline\nÄ 你好 😀") == "tab\tline\nÄ 你好 😀"


def test_a_manifest_cannot_write_to_the_terminal(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = msgspec.structs.replace(tiny_bundle.manifest.source, model="x\x1b[2J\x1b[31m", revision="\x9b\u202e")
    manifest = msgspec.structs.replace(tiny_bundle.manifest, source=source, tool_versions={"torch": "\x1b]0;hi\x07"})
    folder = shutil.copytree(tiny_bundle.path, tmp_path / "hostile")
    (folder / "manifest.json").write_bytes(encode_manifest(manifest))
    assert main(["inspect", str(folder)]) == 0
    printed = capsys.readouterr()
    assert r"x\x1b[2J" in printed.out
    main(["verify", str(folder)])
    printed_again = capsys.readouterr()
    for text in (printed.out, printed.err, printed_again.out, printed_again.err):
        assert not set(text) & {"\x1b", "\x07", "\x9b", "\u202e"}

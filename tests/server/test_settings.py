"""Settings and keys: what is read, and what is refused before anything loads."""

from pathlib import Path

import pytest

from ese_deploy.bundle.reader import Bundle
from ese_deploy.errors import EseDeployError, InputError
from ese_deploy.server.keys import KEYS_VARIABLE, load_keys
from ese_deploy.server.settings import Limits, ServeSettings, parse_aliases, parse_bundles, parse_degrade
from ese_deploy.target import Target


def test_bundles_have_the_name_of_their_folder_or_their_own(tiny_bundle: Bundle) -> None:
    folder = str(tiny_bundle.path)
    assert parse_bundles([folder, f"other={folder}"]) == {"tiny": tiny_bundle.path, "other": tiny_bundle.path}
    for values in ([folder, folder], [f"auto={folder}"], [f"a b={folder}"], ["nowhere"]):
        with pytest.raises(EseDeployError):
            parse_bundles(values)


def test_aliases_are_pairs() -> None:
    assert parse_aliases(["a=m:3x128"]) == {"a": "m:3x128"}
    for values in (["a"], ["=m"], ["a="], ["a=m", "a=n"]):
        with pytest.raises(InputError):
            parse_aliases(values)


def test_degrade_goes_from_deep_to_shallow() -> None:
    assert parse_degrade("6x384,3x384") == (Target(6, 384), Target(3, 384))
    for text in ("6x384", "3x384,6x384", "6x384,3x128", "nonsense,1x8"):
        with pytest.raises(InputError):
            parse_degrade(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"workers": 0},
        {"threads": 0},
        {"port": 70000},
        {"drain_seconds": -1},
        {"ssl_keyfile": Path(__file__)},
        {"key_file": Path("nowhere")},
        {"aliases": {"m": "n"}},
    ],
)
def test_settings_are_checked(changes: dict[str, object]) -> None:
    with pytest.raises(InputError):
        ServeSettings({"m": Path()}, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["body_bytes", "texts", "request_tokens", "queue_tokens", "timeout"])
def test_limits_are_checked(name: str) -> None:
    with pytest.raises(InputError, match=name):
        Limits(**{name: 0})


def test_keys_come_from_a_file_and_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# comment\nteam=0123456789abcdef\n\nabcdefghijklmnop==\n")
    keys = load_keys(file, {KEYS_VARIABLE: "fedcba9876543210, ops=0000111122223333"})
    found = {
        name: keys.label(f"Bearer {key}".encode())
        for name, key in {
            "team": "0123456789abcdef",
            "key2": "abcdefghijklmnop==",
            "key3": "fedcba9876543210",
            "ops": "0000111122223333",
        }.items()
    }
    assert found == {name: name for name in found}
    assert keys.label(b"Bearer 0123456789abcdeX") is None
    assert keys.label(b"") is None
    assert "0123456789abcdef" not in repr(keys)
    assert not load_keys(None, {})


@pytest.mark.parametrize("text", ["", "# nothing\n", "short\n", "a=0123456789abcdef\na=0123456789abcdeX\n"])
def test_bad_key_files_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(InputError):
        load_keys(file, {})

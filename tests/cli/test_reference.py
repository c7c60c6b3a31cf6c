import re
from collections.abc import Iterator
from typing import Any

import pytest

from ese_deploy.cli.app import COMMANDS, Command, load_command
from ese_deploy.cli.reference import reference

# Words that begin a phrase, where a sentence begins with what the option does.
PHRASES = ("Of", "Such", "Without", "For", "From", "To", "Most", "Where", "With", "As", "At", "In", "Also for")


def helps(command: Any, name: str) -> Iterator[tuple[str, str]]:
    """The help of a command, of its options and arguments, and of its subcommands."""
    yield name, command.help or ""
    for param in command.params:
        if not param.hidden and param.name != "help":
            yield f"{name} {param.opts[0]}", param.help or ""
    for subcommand in getattr(command, "commands", {}).values():
        yield from helps(subcommand, f"{name} {subcommand.name}")


@pytest.mark.parametrize("row", COMMANDS, ids=lambda row: row.name)
def test_help_is_in_full_sentences(row: Command) -> None:
    assert row.summary[0].isupper() and row.summary.endswith(".")
    wrong = [
        f"{name}: {text!r}"
        for name, text in helps(load_command(row), row.name)
        if not text.endswith(".") or not text[0].isupper() or text.startswith(tuple(f"{word} " for word in PHRASES))
    ]
    assert wrong == []


def test_the_reference_has_every_command_and_option() -> None:
    page = reference()
    words = " ".join(page.split()).replace("\\|", "|")
    for row in COMMANDS:
        assert f"\n### {row.name}\n" in page and f"ese-deploy {row.name}" in page
        for name, text in helps(load_command(row), row.name):
            assert " ".join(text.split()) in words, name
            assert not name.split()[-1].startswith("--") or f"`{name.split()[-1]}" in page, name
    assert re.findall(r"^\| `-.*\| *\|$", page, re.MULTILINE) == []

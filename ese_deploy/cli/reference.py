"""The reference of the command line as Markdown: ``python -m ese_deploy.cli.reference``."""

import sys
from collections.abc import Iterator
from typing import Any

import typer

from ese_deploy.cli.app import COMMANDS, app, load_command

__all__ = ["reference"]


def reference() -> str:
    """Every command with its help, options and examples; generated, so that it cannot differ from the program."""
    root = typer.main.get_command(app)
    lines = ["# Command line", "", *_paragraphs(root.help or ""), *_text(root.epilog or "")]
    for group in dict.fromkeys(row.group for row in COMMANDS):
        lines += [f"## {group}", ""]
        for row in COMMANDS:
            if row.group == group:
                lines += _command(load_command(row), f"ese-deploy {row.name}", "###")
    return "\n".join(lines).rstrip() + "\n"


def _command(command: Any, name: str, heading: str) -> Iterator[str]:
    with command.make_context(name, [], resilient_parsing=True) as context:
        yield from (f"{heading} {name.removeprefix('ese-deploy ')}", "", *_paragraphs(command.help or ""))
        subcommands = getattr(command, "commands", {})
        if not subcommands:
            yield from ("```", " ".join([name, *command.collect_usage_pieces(context)]), "```", "")
        records = [record for param in command.get_params(context) if (record := param.get_help_record(context))]
        records = [record for record in records if record[0] != "--help"]
        if records:
            yield from ("| | |", "|---|---|")
            for names, text in records:
                yield f"| `{_cell(names)}` | {_cell(text)} |"
            yield ""
        yield from _text(command.epilog or "")
        for subcommand in subcommands.values():
            yield from _command(subcommand, f"{name} {subcommand.name}", f"{heading}#")


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        yield from (" ".join(paragraph.split()), "")


def _text(epilog: str) -> Iterator[str]:
    """An epilog; paragraphs after a backspace, which click does not wrap, are lists of examples."""
    for paragraph in filter(None, epilog.split("\n\n")):
        if paragraph.startswith("\b"):
            title, *lines = paragraph.removeprefix("\b").strip().splitlines()
            yield from (title, "", "```bash", *(line.strip() for line in lines), "```", "")
        else:
            yield from (" ".join(paragraph.split()), "")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())

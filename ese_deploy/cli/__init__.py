"""The command line; one file per verb."""

import io
import sys

from ese_deploy.errors import EseDeployError

__all__ = ["run"]


def run() -> None:
    """Entry point of ``ese-deploy``."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal or a pipe whose encoding lacks a character is no reason to fail.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        from ese_deploy.cli.app import main
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "click"):
            raise
        print("error: the command line needs typer and rich; pip install 'ese-deploy[cli]'", file=sys.stderr)
        sys.exit(EseDeployError.exit_code)
    sys.exit(main(sys.argv[1:]))

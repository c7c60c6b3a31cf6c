"""The command line: one file per command."""

import io
import sys

from ese_deploy.cli.signals import INTERRUPTED, TERMINATED, handle_signals, interrupted_by, report_interruption
from ese_deploy.errors import EseDeployError
from ese_deploy.system.install import install_hint

__all__ = ["run"]


def run() -> None:
    """Entry point of ``ese-deploy``."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal or pipe whose encoding lacks a character must not make a command fail.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    handle_signals()
    try:
        from ese_deploy.cli.app import main

        code = main(sys.argv[1:])
    except KeyboardInterrupt:
        code = report_interruption(interrupted_by() or INTERRUPTED)
    except SystemExit as left:
        if left.code != TERMINATED:
            raise
        code = report_interruption(TERMINATED)
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "click"):
            raise
        print(f"error: The command line needs {error.name}. {install_hint('cli')}", file=sys.stderr)
        sys.exit(EseDeployError.exit_code)
    sys.exit(code)

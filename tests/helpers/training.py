"""Short runs of ``ese-deploy train``."""

from pathlib import Path

from ese_deploy.cli.app import main

__all__ = ["short_run"]


def short_run(model: Path, data: Path, out: Path, *flags: str) -> int:
    """Train for four steps of 16 short texts on the CPU; returns the exit code."""
    short = ["--max-steps", "4", "--batch-size", "16", "--workers", "0", "--use-cpu", "1", "--max-length", "48"]
    return main(["train", "--model", str(model), "--train", str(data), "--out", str(out), *short, *flags])

"""Create an environment for each requirements file here: python benchmarks/baselines/install.py [NAME...]."""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_ENVIRONMENTS = _HERE / ".envs"


def install(requirements: Path, index: str) -> str:
    """Create one environment; returns the error, or an empty text."""
    folder = _ENVIRONMENTS / requirements.stem
    stamp, failure = folder / "installed.txt", _ENVIRONMENTS / f"{requirements.stem}.failed.txt"
    failure.unlink(missing_ok=True)
    if stamp.is_file() and stamp.read_bytes() == requirements.read_bytes():
        return ""
    shutil.rmtree(folder, ignore_errors=True)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(requirements)]
    commands = [
        [sys.executable, "-m", "venv", str(folder)],
        [*pip, *(["--extra-index-url", index] if index else [])],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
            failure.write_text(lines[-1] if lines else "no message", "utf-8")
            return failure.read_text("utf-8")
    shutil.copyfile(requirements, stamp)
    return ""


def main() -> None:
    """Install the requested environments, or all; a failure does not stop the others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="Create these environments. Default: all.")
    parser.add_argument("--index", default="", help="Use this extra package index, for example for a small torch.")
    arguments = parser.parse_args()
    _ENVIRONMENTS.mkdir(exist_ok=True)
    for requirements in sorted(_HERE.glob("*.txt")):
        if not arguments.names or requirements.stem in arguments.names:
            reason = install(requirements, arguments.index)
            print(f"{requirements.stem}: {f'not installed: {reason}' if reason else 'installed'}", flush=True)


if __name__ == "__main__":
    main()

"""Compare what other tools compute with the bundle, and write the page "Works with".

    python -m benchmarks.works_with reference BUNDLE REFERENCE.npz
    python -m benchmarks.works_with run CHECKPOINT BUNDLE REFERENCE.npz [TOOL ...]
    python -m benchmarks.works_with page

``run`` tries every tool that is installed in its Python, or those that are named, and adds the results to
benchmarks/results/works_with.json. Run it once in each environment.
"""

import json
import platform
import sys
import traceback

import numpy as np

from benchmarks.works_with.page import PAGE, RESULTS, page
from benchmarks.works_with.texts import texts
from benchmarks.works_with.tools import TOOLS, Inputs, Tool

TARGETS = ("6x384", "6x128", "3x128")


def reference(bundle: str, out: str) -> None:
    """Write the vectors of ``Encoder`` for each target."""
    from ese_deploy import Encoder

    np.savez(out, **{name: Encoder.open(bundle, name, log_truncated=False).encode(texts()) for name in TARGETS})


def run(checkpoint: str, bundle: str, expected: str, *names: str) -> None:
    """Try the installed tools, and merge their results into the file."""
    vectors = np.load(expected)
    rows = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else []
    for tool in TOOLS:
        version = tool.installed_version()
        if version is None or (names and tool.name not in names):
            continue
        try:
            found = {
                name: float(np.abs(_embed(tool, checkpoint, bundle, name) - vectors[name]).max())
                for name in TARGETS
                if tool.shallow or name.startswith("6x")
            }
        except Exception:
            traceback.print_exc(limit=-3)
            print(f"{tool.name} {version}: failed")
            continue
        print(f"{tool.name} {version}: {found}")
        row = {"tool": tool.name, "package": tool.package, "version": version, "command": tool.command}
        row |= {"reads": tool.reads, "python": platform.python_version(), "texts": len(texts()), "largest": found}
        rows = [one for one in rows if (one["tool"], one["version"]) != (tool.name, version)] + [row]
    rows.sort(key=lambda one: ([tool.name for tool in TOOLS].index(one["tool"]), one["version"]))
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def _embed(tool: Tool, checkpoint: str, bundle: str, target: str) -> np.ndarray:
    found = np.asarray(tool.embed(Inputs(checkpoint, bundle, target, texts())), np.float32)
    if found.shape != (len(texts()), int(target.partition("x")[2])):
        raise ValueError(f"{tool.name} gave {found.shape} for {target}")
    return found


def write_page() -> None:
    """Write the page from the results."""
    PAGE.write_text(page(), "utf-8")


if __name__ == "__main__":
    command, *arguments = sys.argv[1:] or [""]
    commands = {"reference": reference, "run": run, "page": write_page}
    if command not in commands:
        sys.exit(__doc__)
    commands[command](*arguments)

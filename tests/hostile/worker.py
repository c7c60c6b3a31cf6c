"""Opens mutants and says what came of each: one line of JSON for each number on standard input."""

import json
import resource
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from hostile.mutate import make_mutant

from ese_deploy.bundle.golden import load_golden
from ese_deploy.bundle.ranges import load_ranges
from ese_deploy.bundle.reader import choose_entry, open_bundle
from ese_deploy.choose.profiles import bundle_profiles
from ese_deploy.errors import EseDeployError
from ese_deploy.runtime import Encoder

TEXTS = ["a cat sat on a mat", "hello there, world! " * 12, "1,234 \u6f22\u5b57"]


def try_bundle(folder: Path, engine: str) -> str:
    """What opening a bundle and embedding texts with it comes to: ``refused``, ``vectors`` or what is wrong."""
    try:
        bundle = open_bundle(folder)
        entry = min(bundle.manifest.targets, key=lambda one: (one.depth, one.dim, one.dtype))
        vectors = Encoder.open(bundle, entry.target, engine=engine, threads=1).encode(TEXTS)
        if vectors.shape != (len(TEXTS), entry.dim):
            return f"shape {vectors.shape}"
        if not np.isfinite(vectors).all() or np.abs(np.linalg.norm(vectors, axis=1) - 1).max() > 2e-3:
            return "not unit vectors"
        load_golden(bundle)
        load_ranges(bundle, choose_entry(bundle, entry.target))
        bundle_profiles(bundle)
    except EseDeployError as error:
        return "refused" if "\n" not in str(error) and len(str(error)) < 2000 else "message of several lines"
    except BaseException as error:
        return f"raw {type(error).__name__}: {str(error)[:200]}"
    return "vectors"


def main(source: Path, engine: str) -> None:
    """Answer each number until standard input ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        seed = int(line)
        with tempfile.TemporaryDirectory(prefix="mutant-") as name:
            changed = make_mutant(source, Path(name, "b"), seed)
            outcome = try_bundle(Path(name, "b"), engine)
            shutil.rmtree(Path(name, "b"), ignore_errors=True)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(json.dumps({"seed": seed, "changed": changed, "outcome": outcome, "peak": peak}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

"""A cold start imports what opening a bundle needs, and no more."""

import subprocess
import sys

from ese_deploy.bundle.reader import Bundle

# Slow to import, and of no use to a process that opens a bundle in a folder and embeds.
UNNEEDED = (
    *("importlib.metadata", "importlib.resources", "email.message", "gzip", "csv", "multiprocessing"),
    *("ese_deploy.bundle.card", "ese_deploy.bundle.hub", "ese_deploy.texts.reader", "ese_deploy.runtime.fastest"),
)


def test_a_first_vector_imports_nothing_that_it_does_not_need(tiny_bundle: Bundle) -> None:
    code = f"""
import sys
before = set(sys.modules)
from ese_deploy import Encoder
Encoder.open({str(tiny_bundle.path)!r}, "3x16").encode("a cat")
print(*sorted(set({UNNEEDED!r}) & (set(sys.modules) - before)))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == []

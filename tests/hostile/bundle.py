"""Exports the tiny bundle that mutants are made of."""

import sys
import tempfile
from pathlib import Path

from helpers.tiny import make_checkpoint

from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.target import Target

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        folder = make_checkpoint(Path(name, "model"))
        export_bundle(ExportRequest(str(folder), sys.argv[1], [Target(1, 8), Target(2, 16), Target(2, 16, "int8")]))

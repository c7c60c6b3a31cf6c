"""Evaluate a checkpoint or a bundle: ``python -m training.evaluate MODEL``, the same as ``ese-deploy evaluate``."""

import sys

from ese_deploy.cli.app import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))

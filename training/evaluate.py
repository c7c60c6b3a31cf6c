"""Evaluate every exit of a checkpoint or a bundle: ``python -m training.evaluate MODEL``."""

import sys

from ese_deploy.cli.app import main
from ese_deploy.cli.evaluate_checkpoint import app

__all__ = ["app"]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], app))

"""Train a checkpoint: ``python -m training.train``, or ``torchrun ... -m training.train``."""

import sys

from ese_deploy.cli.app import main
from ese_deploy.cli.train import train

__all__ = ["train"]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], train))

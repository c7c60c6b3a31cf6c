"""Train a checkpoint, as ``ese-deploy train``: ``python -m training.train`` or ``torchrun ... -m training.train``."""

import sys

from ese_deploy.cli.app import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))

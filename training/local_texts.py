"""Write English sentences that every Python installation has: ``python -m training.local_texts --out texts.txt``."""

import sys

from ese_deploy.training.local_texts import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())

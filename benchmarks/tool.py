"""How the small tools of this folder are started."""

import sys
from collections.abc import Callable

from ese_deploy.errors import EseDeployError

__all__ = ["start"]


def start(main: Callable[[], None]) -> None:
    """Run a tool; what it finds wrong with its arguments is one line."""
    try:
        main()
    except EseDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)

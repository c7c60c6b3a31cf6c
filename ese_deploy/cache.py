"""Where this machine keeps what it measured and compiled."""

import os
import sys
from pathlib import Path

__all__ = ["CACHE_VARIABLE", "cache_folder"]

CACHE_VARIABLE = "ESE_DEPLOY_CACHE"


def cache_folder() -> Path:
    """The folder: ``ESE_DEPLOY_CACHE``, or the platform's own for caches."""
    stated = os.environ.get(CACHE_VARIABLE)
    if stated:
        return Path(stated).expanduser()
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", home / "AppData/Local")) / "ese-deploy/cache"
    if sys.platform == "darwin":
        return home / "Library/Caches/ese-deploy"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "ese-deploy"

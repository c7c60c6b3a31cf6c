"""What is installed, and how to install what is missing."""

import re

__all__ = ["install_hint", "installed_version", "release"]


def install_hint(extra: str) -> str:
    """One sentence that says how to install an extra of this package, from a package index or in a checkout."""
    return f"Install it with: pip install 'ese-deploy[{extra}]' (in a checkout: pip install '.[{extra}]')"


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution; None without it."""
    from importlib import metadata  # slow to import, and few callers need it

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def release(version: str) -> tuple[int, ...]:
    """The first three numbers of a version, for comparisons."""
    return tuple(int(part) for part in re.findall(r"\d{1,9}", version)[:3])

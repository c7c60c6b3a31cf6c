"""Packages that import what they export when it is first used."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(package: str, modules: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a package.

    Args:
        package: the package, which is its ``__name__``.
        modules: the names that each module has.

    Example:
        >>> if not TYPE_CHECKING:
        ...     __getattr__ = lazy_names(__name__, {"ese_deploy.runtime": ["Encoder"]})
    """
    found = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> Any:
        if name not in found:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(found[name]), name)

    return get

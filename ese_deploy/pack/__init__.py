"""One target of a bundle in the repository layout of another tool."""

from ese_deploy.pack.api import LAYOUTS, Packed, pack

__all__ = ["LAYOUTS", "Packed", "pack"]

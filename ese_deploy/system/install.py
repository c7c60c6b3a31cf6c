"""How to install what is missing."""

__all__ = ["install_hint"]


def install_hint(extra: str) -> str:
    """One sentence that says how to install an extra of this package, from a package index or in a checkout."""
    return f"Install it with: pip install 'ese-deploy[{extra}]' (in a checkout: pip install '.[{extra}]')"

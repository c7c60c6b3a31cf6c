"""Training exits and prefixes with sentence-transformers' trainer."""

__all__: list[str] = []

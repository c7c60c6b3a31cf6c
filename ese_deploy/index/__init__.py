"""Existing indexes: bringing vectors that another tool made into the embedding space of a bundle."""

from ese_deploy.index.convert import ConvertedIndex, convert_index

__all__ = ["ConvertedIndex", "convert_index"]

"""The projections that the graphs of a bundle apply, as the bundle stores them for verification."""

from ese_deploy.bundle.reader import Bundle, read_projection, read_tokens
from ese_deploy.projections.projection import Projection, decode_projections
from ese_deploy.projections.tokens import decode_tokens

__all__ = ["bundle_projections"]


def bundle_projections(bundle: Bundle) -> dict[int, Projection] | None:
    """The projections of the exits of a bundle; None for plain prefixes.

    Raises:
        BundleError: a file was changed or cannot be read.
    """
    data = read_projection(bundle)
    if data is None:
        return None
    stored = read_tokens(bundle)
    tokens = None if stored is None else decode_tokens(stored, str(bundle.path))
    return decode_projections(data, str(bundle.path), tokens)

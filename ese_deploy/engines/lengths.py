"""The longest row that a graph may be given."""

from pathlib import Path

from ese_deploy.manifest import decode_manifest

__all__ = ["longest_row"]


def longest_row(folder: Path) -> int:
    """Tokens of the longest row, as the bundle in ``folder`` says; engines that compile for shapes ask.

    Raises:
        BundleError: the manifest cannot be read.
        OSError: there is none.
    """
    path = folder / "manifest.json"
    return decode_manifest(path.read_bytes(), str(path)).max_seq_length

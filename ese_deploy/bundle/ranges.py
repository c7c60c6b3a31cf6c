"""``ranges.json``: the range of each component of a target's vectors, for int8 and uint8 vectors."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from ese_deploy.bundle.manifest import Count, Sha256, TargetEntry
from ese_deploy.bundle.reader import Bundle, read_ranges_file
from ese_deploy.errors import BundleError, InputError

__all__ = ["RANGES_FILE", "TargetRanges", "decode_ranges", "encode_ranges", "load_ranges"]

RANGES_FILE = "ranges.json"
_MOST = 1.001


class TargetRanges(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ranges of one target's components.

    Attributes:
        data: name of the texts that were embedded.
        data_sha256: their hash.
        n: their number.
        lowest: the lowest value of each component.
        highest: the highest.
    """

    data: str
    data_sha256: Sha256
    n: Count
    lowest: list[float]
    highest: list[float]


def encode_ranges(ranges: dict[str, TargetRanges]) -> bytes:
    """The JSON text: the ranges by the names of the targets."""
    return msgspec.json.encode(ranges) + b"\n"


def decode_ranges(data: bytes, where: str) -> dict[str, TargetRanges]:
    """Read the JSON text of :func:`encode_ranges`.

    Raises:
        BundleError: it does not follow the format; ``where`` names the file.
    """
    try:
        return msgspec.json.decode(data, type=dict[str, TargetRanges])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{where} cannot be read: {error}. Export the bundle again.") from None


def load_ranges(bundle: Bundle, entry: TargetEntry) -> NDArray[np.float32]:
    """The ranges of one target.

    Returns:
        float32 [2, dim]: the lowest value of each component, and the highest.

    Raises:
        InputError: the bundle was exported without ranges.
        BundleError: the file was changed or cannot be read.
    """
    data = read_ranges_file(bundle)
    where = str(bundle.path / RANGES_FILE)
    found = None if data is None else decode_ranges(data, where).get(entry.name)
    if found is None:
        raise InputError(
            f"{bundle.path} has no ranges for target {entry.target}, which int8 and uint8 vectors need. Export it "
            "again, or choose float32, binary or ubinary."
        )
    if len(found.lowest) != entry.dim or len(found.highest) != entry.dim:
        raise BundleError(f"{where} has no ranges of dim {entry.dim} for target {entry.name}. Export the bundle again.")
    ranges = np.array([found.lowest, found.highest], np.float32)
    # Components of unit vectors; also False for NaN.
    if not (np.abs(ranges) <= _MOST).all() or not (ranges[0] <= ranges[1]).all():
        raise BundleError(f"{where} has ranges outside of -1 to 1 for target {entry.name}. Export the bundle again.")
    return ranges

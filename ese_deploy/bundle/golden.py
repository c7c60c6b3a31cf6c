"""``golden.json``: a few texts with token ids and PyTorch's vectors, to check a bundle on any machine."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from ese_deploy.bundle.reader import Bundle, read_golden
from ese_deploy.bundle.tolerances import TOLERANCES
from ese_deploy.errors import BundleError

if TYPE_CHECKING:
    from ese_deploy.runtime import Encoder

__all__ = [
    "GOLDEN_FILE",
    "GOLDEN_TEXTS",
    "Golden",
    "GoldenCheck",
    "check_golden",
    "encode_golden",
    "load_golden",
]

GOLDEN_FILE = "golden.json"

_MAX_LISTS = 100_000

GOLDEN_TEXTS = (
    "The night train leaves at nine.",
    "Café, naïve, Zürich: 25 °C \U0001f600",
    "One model, many sizes. A small machine keeps the first layers and the first numbers of each vector; "
    "a large one keeps them all.",
)


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of ``golden.json``.

    Attributes:
        texts: the texts.
        token_ids: the token ids of each text, including those of a default prompt.
        vectors: the vectors of the texts, by the names of the targets.
    """

    texts: list[str]
    token_ids: list[list[int]]
    vectors: dict[str, list[list[float]]]


@dataclass(frozen=True)
class GoldenCheck:
    """The vectors of the golden texts on this machine, compared with the stored ones.

    Attributes:
        target: the target's name.
        max_abs: largest difference from the stored vectors.
        cosine_min: lowest cosine with them.
        passed: whether both are within the tolerance of the target's dtype.
    """

    target: str
    max_abs: float
    cosine_min: float
    passed: bool


def encode_golden(golden: Golden) -> bytes:
    """The JSON text, with components rounded to seven decimals."""
    vectors = {name: [[round(x, 7) for x in row] for row in rows] for name, rows in golden.vectors.items()}
    return msgspec.json.encode(msgspec.structs.replace(golden, vectors=vectors)) + b"\n"


def load_golden(bundle: Bundle) -> Golden:
    """Read a bundle's golden file.

    Raises:
        BundleError: it was changed, cannot be read, or does not cover every target.
    """
    path = bundle.path / bundle.manifest.golden.file
    data = read_golden(bundle)
    if data.count(b"[") > _MAX_LISTS:
        # An empty list takes 3 bytes of text and 64 of memory.
        raise BundleError(f"{path} has more than {_MAX_LISTS} lists. Export the bundle again.")
    try:
        golden = msgspec.json.decode(data, type=Golden)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read: {error}. Export the bundle again.") from None
    for entry in bundle.manifest.targets:
        rows = golden.vectors.get(entry.name, [])
        if len(rows) != len(golden.texts) or any(len(row) != entry.dim for row in rows):
            raise BundleError(
                f"{path} has no vectors of dim {entry.dim} for target {entry.name}. Export the bundle again."
            )
    return golden


def check_golden(encoder: "Encoder", golden: Golden) -> GoldenCheck:
    """Embed the golden texts with a target and compare."""
    expected = np.asarray(golden.vectors[encoder.target.name], np.float32)
    found = encoder.encode(golden.texts)
    max_abs = float(np.nan_to_num(np.abs(found - expected), nan=float(np.finfo(np.float32).max)).max())
    cosine_min = float(np.nan_to_num((found.astype(np.float64) * expected).sum(1), nan=-1).min())
    tolerance = TOLERANCES[encoder.target.dtype]
    passed = max_abs <= tolerance.golden and cosine_min >= tolerance.cosine_min
    return GoldenCheck(encoder.target.name, max_abs, cosine_min, passed)

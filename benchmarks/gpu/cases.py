"""What is measured: model shapes, batches, and how much arithmetic they take."""

from dataclasses import dataclass

__all__ = ["BATCHES", "LENGTHS", "SHAPES", "Case", "Shape", "cases", "flops"]

BATCHES = (1, 8, 32, 128, 512)
LENGTHS = (16, 64, 128, 512)

# The case that is compared with what others publish; it is measured first.
_MAIN = (128, 128)


@dataclass(frozen=True)
class Shape:
    """A BERT of random weights.

    Attributes:
        name: such as ``bert-base``.
        depth: transformer blocks.
        hidden: width.
        inner: width of the feed-forward layers.
        heads: attention heads.
        vocabulary: entries of the embedding table.
    """

    name: str
    depth: int
    hidden: int
    inner: int
    heads: int
    vocabulary: int = 30522


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("minilm", 6, 384, 1536, 12),
        Shape("bert-base", 12, 768, 3072, 12),
        Shape("bert-large", 24, 1024, 4096, 16),
        Shape("tiny", 2, 64, 128, 4, vocabulary=600),
    )
}


@dataclass(frozen=True)
class Case:
    """A batch: ``batch`` rows of ``length`` tokens, none of them padding."""

    batch: int
    length: int


def cases(batches: tuple[int, ...], lengths: tuple[int, ...]) -> list[Case]:
    """All combinations, the main one first, so that a run that is cut short has it."""
    found = [Case(batch, length) for length in lengths for batch in batches]
    return sorted(found, key=lambda case: (case.batch, case.length) != _MAIN)


def flops(shape: Shape, depth: int, length: int) -> float:
    """Multiplications and additions for one text, each counted as one.

    A block has four products of hidden x hidden, two of hidden x inner, and two of attention, length x length x hidden;
    embedding, norms, activations and pooling are left out, as is usual.
    """
    products = 4 * shape.hidden**2 + 2 * shape.hidden * shape.inner
    return float(depth * (2 * length * products + 4 * length**2 * shape.hidden))

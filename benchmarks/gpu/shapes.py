"""The models that are measured, and how much arithmetic they take. No weights are downloaded."""

from dataclasses import dataclass

__all__ = ["SHAPES", "TINY_SHAPES", "Shape", "flops", "shapes"]


@dataclass(frozen=True)
class Shape:
    """A model of random weights.

    Attributes:
        name: such as ``bert-base``.
        layers: transformer layers.
        hidden: width of the hidden states.
        inner: width of the feed-forward layers.
        heads: attention heads.
        kv_heads: heads of keys and values; fewer than ``heads`` in a decoder.
        head_dim: width of a head.
        vocabulary: rows of the embedding table.
        decoder: Qwen3-like (causal, rotary, gated feed-forward, last-token pooling) instead of BERT with mean pooling.
        depths: the exits that are exported, the shallowest first.
    """

    name: str
    layers: int
    hidden: int
    inner: int
    heads: int
    depths: tuple[int, ...]
    kv_heads: int = 0
    head_dim: int = 0
    vocabulary: int = 30522
    decoder: bool = False

    @property
    def pooling(self) -> str:
        """How token states become one vector."""
        return "lasttoken" if self.decoder else "mean"

    @property
    def ends(self) -> tuple[int, int]:
        """About a quarter of the layers, and all of them."""
        return (min(self.depths, key=lambda depth: abs(depth - self.layers / 4)), self.layers)


def _by_name(*found: Shape) -> dict[str, Shape]:
    return {shape.name: shape for shape in found}


SHAPES = _by_name(
    Shape("bert-base", 12, 768, 3072, 12, (3, 6, 12)),
    Shape("minilm-l6", 6, 384, 1536, 12, (2, 3, 6)),
    Shape("decoder-0.6b", 28, 1024, 3072, 16, (7, 28), kv_heads=8, head_dim=128, vocabulary=151936, decoder=True),
    Shape("bert-large", 24, 1024, 4096, 16, (6, 24)),
)
# The same names, so that the same steps run; only the dry run uses them.
_TINY = {"vocabulary": 8000, "depths": (1, 2)}
TINY_SHAPES = _by_name(
    Shape("bert-base", 2, 64, 128, 4, **_TINY),
    Shape("minilm-l6", 2, 32, 64, 4, **_TINY),
    Shape("decoder-0.6b", 2, 64, 96, 4, kv_heads=2, head_dim=16, decoder=True, **_TINY),
    Shape("bert-large", 2, 96, 192, 4, **_TINY),
)


def shapes(tiny: bool) -> dict[str, Shape]:
    """The models of a run, the most important first."""
    return TINY_SHAPES if tiny else SHAPES


def flops(shape: Shape, depth: int, length: int) -> float:
    """Floating-point operations for one text of ``length`` tokens; a multiplication and an addition count as two.

    Counts the matrix products of layers and attention, as is usual. Embedding, norms, activations and pooling are left
    out. A decoder's attention is counted in full, although half of it is masked.
    """
    attention = shape.heads * (shape.head_dim or shape.hidden // shape.heads)
    keys = shape.kv_heads * shape.head_dim or attention
    projections = shape.hidden * (2 * attention + 2 * keys)
    feed_forward = (3 if shape.decoder else 2) * shape.hidden * shape.inner
    return float(depth * (2 * length * (projections + feed_forward) + 4 * length**2 * attention))

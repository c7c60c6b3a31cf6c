"""The bodies of requests and answers, as structs from which the OpenAPI description is made."""

import json
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from ese_deploy.server.errors import ApiError

__all__ = [
    "Embedding",
    "Embeddings",
    "EmbeddingsRequest",
    "ModelCard",
    "ModelList",
    "Precision",
    "TeiEmbedRequest",
    "TeiTokenizeRequest",
    "Usage",
    "decode",
]

# msgspec allows one kind of list in a union; `inputs` checks that the items are of one kind.
Input = str | list[str | int | list[int]]
Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]
Positive = Annotated[int, Meta(ge=1, le=1_000_000)]


class EmbeddingsRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """Body of ``POST /v1/embeddings``. The fields after ``user`` extend OpenAI's."""

    input: Input
    """A text, a list of texts, token ids of this model's tokenizer, or a list of these."""
    model: str
    dimensions: Positive | None = None
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None
    """Ignored."""
    depth: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    precision: Precision = "float32"
    input_type: Literal["query", "document"] | None = None
    prompt_name: str | None = None
    truncate: bool = True
    """Whether longer texts are truncated; false refuses them."""
    max_latency_ms: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    min_quality: float | str | None = None


class TeiEmbedRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """Body of ``POST /embed``, as text-embeddings-inference takes it. ``model`` extends it."""

    inputs: Input
    normalize: bool = True
    truncate: bool = True
    truncation_direction: Literal["Left", "left", "Right", "right"] | None = None
    prompt_name: str | None = None
    dimensions: Positive | None = None
    model: str | None = None


class TeiTokenizeRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """Body of ``POST /tokenize``."""

    inputs: str | list[str]
    add_special_tokens: bool = True
    prompt_name: str | None = None
    model: str | None = None


class Embedding(Struct, kw_only=True):
    """One vector: numbers, or float32 in base64 (little-endian)."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(Struct, kw_only=True):
    """Tokens after truncation."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(Struct, kw_only=True, omit_defaults=True):
    """Answer of ``POST /v1/embeddings``. The fields after ``usage`` extend OpenAI's."""

    object: str
    data: list[Embedding]
    model: str
    usage: Usage
    space: str
    """Embedding space of the vectors."""
    truncated: int = 0
    """How many texts were truncated."""
    degraded_from: str | None = None
    """The target that was asked for, if a shallower one answered under load."""


class ModelCard(Struct, kw_only=True, omit_defaults=True):
    """A model name. The fields after ``owned_by`` extend OpenAI's."""

    id: str
    object: str
    created: int
    owned_by: str
    target: str
    depth: int
    dim: int
    dtype: str
    space: str
    max_seq_length: int
    bytes: int
    """Graph, weights and tokenizer on the disk."""
    quality: list[dict[str, Any]] = []
    alias_of: str | None = None


class ModelList(Struct, kw_only=True):
    """Answer of ``GET /v1/models``."""

    object: str
    data: list[ModelCard]


_Body = TypeVar("_Body", bound=Struct)


def _allowed(kind: type[Struct], param: str) -> list[str]:
    """The values of a field that has a few."""
    hints = get_type_hints(kind).get(param)
    kinds = (hints, *get_args(hints))
    return [str(value) for one in kinds if get_origin(one) is Literal for value in get_args(one)]


def _reason(body: bytes, error: Exception) -> str:
    """What is wrong with a body, and where; msgspec takes half of a surrogate pair and an empty body for a cut one."""
    try:
        json.loads(body)
    except json.JSONDecodeError as found:
        return f"{found.msg} at position {found.pos}" if body.strip() else "it is empty"
    except (ValueError, RecursionError):
        return str(error)
    return "an escape is half of a surrogate pair" if b"\\u" in body else str(error)


def decode(body: bytes, kind: type[_Body]) -> _Body:
    """Read a request's body.

    Raises:
        ApiError: 400 with the place of the mistake.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        param = path.rstrip("`").strip(".") or None
        where = f" at `{param}`" if param else ""
        advice = f" Fields: {', '.join(kind.__struct_fields__)}." if "unknown field" in message else ""
        if "enum value" in message and param:
            advice = f" Choose one of: {', '.join(_allowed(kind, param))}."
        raise ApiError(400, f"{message}{where}.{advice}", param=param, code="invalid_value") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, f"The body is not JSON: {_reason(body, error)}.", code="invalid_json") from None
    except RecursionError:
        raise ApiError(400, "The body is not JSON that this server reads: too deep.", code="invalid_json") from None

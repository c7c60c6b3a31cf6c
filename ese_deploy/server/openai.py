"""OpenAI's interface: embeddings and models."""

import base64
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ese_deploy.errors import InputError
from ese_deploy.runtime.precision import needs_ranges, quantize
from ese_deploy.server.bodies import Embedding, Embeddings, EmbeddingsRequest, ModelCard, ModelList, Usage, decode
from ese_deploy.server.catalog import Catalog, ServedTarget, Wanted
from ese_deploy.server.errors import ApiError
from ese_deploy.server.http import Answer, Call, json_answer, read_body
from ese_deploy.server.inputs import InputOptions, split_input, tokenize
from ese_deploy.server.service import Service

__all__ = ["embeddings", "model", "models", "target_headers"]


async def embeddings(service: Service, call: Call) -> Answer:
    """``POST /v1/embeddings``.

    Raises:
        ApiError: the request is refused.
        ClientGoneError: the client closed the connection.
    """
    limits = service.settings.limits
    service.check_queue(call)
    body = decode(await read_body(call, limits.body_bytes), EmbeddingsRequest)
    wanted = Wanted(body.model, body.dimensions, body.depth, body.max_latency_ms, body.min_quality)
    served, target = await service.resolve(wanted)
    ranges = _ranges(target, body.precision)
    items = split_input(body.input, limits, "input")
    options = InputOptions(body.input_type, body.prompt_name, body.truncate)
    tokenized = await tokenize(served, items, options, limits, service.tokenizing)
    shallower = served.shallower(target) if body.input_type == "query" else ()
    answering, vectors = await service.embed(call, target, tokenized, shallower)
    quantized = quantize(vectors, body.precision, ranges)
    answer = Embeddings(
        object="list",
        data=[
            Embedding(index=index, embedding=row)
            for index, row in enumerate(_rows(quantized, body.encoding_format == "base64"))
        ],
        model=answering.name,
        usage=Usage(prompt_tokens=tokenized.tokens, total_tokens=tokenized.tokens),
        space=answering.entry.space,
        truncated=tokenized.truncated,
        degraded_from=call.recorded.degraded_from,
    )
    return json_answer(answer, headers=target_headers(answering, call))


def target_headers(answering: ServedTarget, call: Call) -> dict[str, str]:
    """Headers that name the target that answered."""
    headers = {"x-ese-target": answering.name}
    if call.recorded.degraded_from:
        headers["x-ese-degraded-from"] = call.recorded.degraded_from
    return headers


def _ranges(target: ServedTarget, precision: str) -> NDArray[np.float32] | None:
    """The ranges of the target that was asked for: those of an index do not change under load."""
    if not needs_ranges(precision):
        return None
    try:
        return target.ranges
    except InputError as error:
        raise ApiError(400, str(error), param="precision", code="invalid_value") from None


def _rows(vectors: NDArray[Any], as_base64: bool) -> list[Any]:
    """Each vector as numbers, or float32 as base64.

    OpenAI's clients ask for base64 unless told otherwise, and read it as float32. Other precisions are always numbers.
    """
    if not as_base64 or vectors.dtype != np.float32:
        rows: list[Any] = vectors.tolist()
        return rows
    if sys.byteorder == "big":
        vectors = vectors.byteswap()
    data = np.ascontiguousarray(vectors)
    return [base64.b64encode(row.data).decode("ascii") for row in data]


async def models(service: Service, call: Call) -> Answer:
    """``GET /v1/models``."""
    return json_answer(ModelList(object="list", data=_cards(service.catalog)))


async def model(service: Service, call: Call) -> Answer:
    """``GET /v1/models/{name}``.

    Raises:
        ApiError: 404: there is no such model.
    """
    name = call.scope["path_params"]["name"]
    for card in _cards(service.catalog):
        if card.id == name:
            return json_answer(card)
    raise ApiError(404, f"Unknown model '{name[:200]}'. See GET /v1/models.", param="model", code="model_not_found")


def _cards(catalog: Catalog) -> list[ModelCard]:
    cards = []
    for served in catalog.bundles.values():
        cards.append(_card(catalog, served.name, served.default))
        cards += [_card(catalog, target.name, target) for target in served.targets.values()]
    for alias, name in catalog.aliases.items():
        cards.append(_card(catalog, alias, catalog.resolve(Wanted(name))[1], name))
    return cards


def _card(catalog: Catalog, name: str, target: ServedTarget, alias_of: str | None = None) -> ModelCard:
    entry, manifest = target.entry, target.bundle.manifest
    figures = [(figure.metric, figure.data, figure.value, figure.share_of_full) for figure in entry.quality]
    return ModelCard(
        id=name,
        object="model",
        created=catalog.created,
        owned_by="ese-deploy",
        target=target.label,
        depth=entry.depth,
        dim=entry.dim,
        dtype=entry.dtype,
        space=entry.space,
        max_seq_length=manifest.max_seq_length,
        bytes=entry.bytes + entry.weight_bytes + manifest.tokenizer.bytes,
        quality=[dict(zip(("metric", "data", "value", "share_of_full"), figure, strict=True)) for figure in figures],
        alias_of=alias_of,
    )

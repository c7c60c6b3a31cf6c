"""The interface of text-embeddings-inference: ``/embed``, ``/tokenize`` and ``/info``."""

from ese_deploy import __version__
from ese_deploy.server.bodies import TeiEmbedRequest, TeiTokenizeRequest, decode
from ese_deploy.server.catalog import Wanted
from ese_deploy.server.errors import ApiError
from ese_deploy.server.http import Answer, Call, json_answer, read_body
from ese_deploy.server.inputs import InputOptions, prompt_of, split_input, tokenize
from ese_deploy.server.openai import target_headers
from ese_deploy.server.service import Service, threads_of

__all__ = ["embed", "info", "tokenize_texts"]


async def embed(service: Service, call: Call) -> Answer:
    """``POST /embed``: a list of vectors.

    Raises:
        ApiError: the request is refused.
        ClientGoneError: the client closed the connection.
    """
    limits = service.settings.limits
    service.check_queue(call)
    body = decode(await read_body(call, limits.body_bytes), TeiEmbedRequest)
    if not body.normalize:
        raise ApiError(400, "Vectors always have norm 1. Leave out `normalize: false`.", param="normalize")
    if (body.truncation_direction or "right").lower() != "right":
        raise ApiError(400, "Texts are truncated on the right only.", param="truncation_direction")
    served, target = await service.resolve(Wanted(body.model or service.catalog.default.name, body.dimensions))
    items = split_input(body.inputs, limits, "inputs")
    options = InputOptions(None, body.prompt_name, body.truncate, "inputs")
    tokenized = await tokenize(served, items, options, limits, service.tokenizing)
    answering, vectors = await service.embed(call, target, tokenized)
    return json_answer(vectors.tolist(), headers=target_headers(answering, call))


async def tokenize_texts(service: Service, call: Call) -> Answer:
    """``POST /tokenize``: the tokens of each text, not truncated.

    Raises:
        ApiError: the request is refused.
        ClientGoneError: the client closed the connection.
    """
    limits = service.settings.limits
    body = decode(await read_body(call, limits.body_bytes), TeiTokenizeRequest)
    served, _ = await service.resolve(Wanted(body.model or service.catalog.default.name))
    prompt = prompt_of(served, InputOptions(None, body.prompt_name, param="inputs"))
    texts = [prompt + str(item) for item in split_input(body.inputs, limits, "inputs")]

    def run() -> list[list[dict[str, object]]]:
        found = served.whole_tokenizer.encode_batch(texts, add_special_tokens=body.add_special_tokens)
        return [
            [
                {
                    "id": number,
                    "text": token if special else text[start:stop],
                    "special": bool(special),
                    "start": None if special else start,
                    "stop": None if special else stop,
                }
                for number, token, special, (start, stop) in zip(
                    one.ids, one.tokens, one.special_tokens_mask, one.offsets, strict=True
                )
            ]
            for text, one in zip(texts, found, strict=True)
        ]

    return json_answer(await service.run_tokenizing(run))


async def info(service: Service, call: Call) -> Answer:
    """``GET /info``: the default model and the limits."""
    served, limits = service.catalog.default, service.settings.limits
    manifest = served.bundle.manifest
    return json_answer(
        {
            "model_id": manifest.source.model,
            "model_sha": served.bundle.sha256,
            "model_dtype": served.default.entry.dtype,
            "model_type": {"embedding": {"pooling": manifest.pooling}},
            "target": served.default.name,
            "targets": [target.name for target in served.targets.values()],
            "max_input_length": manifest.max_seq_length,
            "max_batch_tokens": served.default.lane.tokens,
            "max_client_batch_size": limits.texts,
            "auto_truncate": True,
            "tokenization_workers": 1,
            "threads": threads_of(service.settings),
            "workers": service.settings.workers,
            "version": __version__,
        }
    )

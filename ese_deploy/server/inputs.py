"""From the input of a request to token ids, within the limits of a request."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from ese_deploy.errors import InputError
from ese_deploy.runtime.prompts import DOCUMENT_PROMPTS, QUERY_PROMPTS, find_prompt
from ese_deploy.runtime.tokenize import list_texts
from ese_deploy.server.catalog import ServedBundle
from ese_deploy.server.errors import ApiError
from ese_deploy.server.settings import Limits

__all__ = ["InputOptions", "TokenizedInput", "prompt_of", "split_input", "tokenize"]

# Texts of more characters are tokenized outside the event loop, one request at a time, which bounds the memory.
_LONG = 20_000
_ROLES: dict[str | None, Sequence[str]] = {None: (), "query": QUERY_PROMPTS, "document": DOCUMENT_PROMPTS}


@dataclass(frozen=True)
class TokenIds:
    """Token ids that a request names."""

    ids: list[int]

    @property
    def type_ids(self) -> list[int]:
        """Token types: one sequence."""
        return [0] * len(self.ids)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class InputOptions:
    """How texts become tokens.

    Attributes:
        input_type: ``query``, ``document`` or None: whose prompt is put before each text.
        prompt_name: name of a prompt instead.
        truncate: whether longer texts are truncated, not refused.
        param: the field of the input, for messages.
    """

    input_type: str | None = None
    prompt_name: str | None = None
    truncate: bool = True
    param: str = "input"


@dataclass(frozen=True)
class TokenizedInput:
    """The token ids of a request.

    Attributes:
        encodings: one per text.
        tokens: their sum.
        truncated: how many texts were truncated.
    """

    encodings: Sequence[Any]
    tokens: int
    truncated: int


def split_input(value: Any, limits: Limits, param: str) -> list[str] | list[list[int]]:
    """The texts, or the token ids of each text.

    Raises:
        ApiError: 400 for an empty list or a mixture, 413 for too many texts.
    """
    items: list[Any] = [value] if isinstance(value, str) else value
    if items and all(isinstance(item, int) for item in items):
        items = [items]
    if not items:
        raise ApiError(400, f"`{param}` is empty. Pass at least one text.", param=param, code="invalid_value")
    if len(items) > limits.texts:
        raise ApiError(
            413,
            f"`{param}` has {len(items)} texts, and a request may have {limits.texts}. Send several requests.",
            param=param,
            code="too_many_texts",
        )
    kinds = {type(item) for item in items}
    if kinds not in ({str}, {list}):
        raise ApiError(400, f"`{param}` mixes texts and token ids. Pass one kind.", param=param, code="invalid_value")
    return items


async def tokenize(
    served: ServedBundle,
    items: list[str] | list[list[int]],
    options: InputOptions,
    limits: Limits,
    executor: Executor,
) -> TokenizedInput:
    """Tokenize the texts of a request.

    Raises:
        ApiError: 400 for an unknown prompt or token id, 413 for too many tokens, 422 for a text that is too long.
    """
    prompt = prompt_of(served, options)
    if isinstance(items[0], list):
        found = _check_ids(served, [TokenIds(item) for item in items if isinstance(item, list)], options, prompt)
    else:
        texts = [item for item in items if isinstance(item, str)]
        try:
            texts = [prompt + text for text in list_texts(texts)] if prompt else list_texts(texts)
            if sum(map(len, texts)) > _LONG:
                tokens = await asyncio.get_running_loop().run_in_executor(executor, served.tokenizer, texts)
            else:
                tokens = served.tokenizer(texts)
        except InputError as error:
            raise ApiError(400, str(error), param=options.param, code="invalid_value") from None
        if tokens.truncated and not options.truncate:
            raise _too_long(served, tokens.truncated, len(texts), options)
        found = TokenizedInput(tokens.encodings, int(tokens.lengths.sum()), tokens.truncated)
    if found.tokens > limits.request_tokens:
        raise ApiError(
            413,
            f"`{options.param}` has {found.tokens} tokens, and a request may have {limits.request_tokens}. Send "
            "several requests.",
            param=options.param,
            code="too_many_tokens",
        )
    return found


def prompt_of(served: ServedBundle, options: InputOptions) -> str:
    """The prompt that is put before each text; empty without one.

    Raises:
        ApiError: 400: the model has no prompt of that name.
    """
    try:
        return find_prompt(served.bundle.manifest, options.prompt_name, None, _ROLES[options.input_type])
    except InputError as error:
        raise ApiError(400, str(error), param="prompt_name", code="invalid_value") from None


def _check_ids(served: ServedBundle, encodings: list[TokenIds], options: InputOptions, prompt: str) -> TokenizedInput:
    param, limit, vocabulary = options.param, served.tokenizer.max_length, served.vocabulary
    if prompt and (options.prompt_name or options.input_type):
        raise ApiError(
            400, "A prompt cannot be put before token ids. Pass texts.", param="prompt_name", code="invalid_value"
        )
    for encoding in encodings:
        if not encoding.ids:
            raise ApiError(400, f"`{param}` has an empty list of token ids.", param=param, code="invalid_value")
        if not 0 <= min(encoding.ids) <= max(encoding.ids) < vocabulary:
            raise ApiError(
                400,
                f"`{param}` has token ids outside 0 to {vocabulary - 1}. Token ids are those of this model's tokenizer "
                "(POST /tokenize). LangChain's OpenAIEmbeddings sends ids of another tokenizer unless "
                "check_embedding_ctx_length=False.",
                param=param,
                code="invalid_value",
            )
    if too_long := sum(len(encoding) > limit for encoding in encodings):
        raise _too_long(served, too_long, len(encodings), options)
    return TokenizedInput(encodings, sum(map(len, encodings)), 0)


def _too_long(served: ServedBundle, count: int, total: int, options: InputOptions) -> ApiError:
    return ApiError(
        422,
        f"{count} of {total} inputs are longer than {served.tokenizer.max_length} tokens. Shorten them, or pass texts "
        "with `truncate: true`.",
        param=options.param,
        code="context_length_exceeded",
    )

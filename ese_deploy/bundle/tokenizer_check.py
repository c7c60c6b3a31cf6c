"""Checking a ``tokenizer.json`` before the tokenizers library reads it.

The library trusts its file: a hostile one can end the process with a panic, turn one character into millions, or search
a text for ever with a regular expression.
"""

import re
from base64 import b64decode
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ese_deploy.errors import BundleError

__all__ = ["check_tokenizer"]

_MAX_ID = 1 << 24
_MAX_ADDED = 1 << 16
_MAX_PARTS = 32
_MAX_DEPTH = 4
_MAX_CONTENT = 512
# How many times as long all replacements together may make a text.
_MAX_GROWTH = 16
_MAX_TEMPLATE = 16
_MAX_WORD = 10_000
_MAX_PATTERN = 2048
_MAX_OPEN_REPEATS = 3
_MAX_PREFIX = 16

_Id = Annotated[int, Meta(ge=0, lt=_MAX_ID)]
_Part = dict[str, Any]


class _Added(msgspec.Struct, frozen=True):
    id: _Id
    content: Annotated[str, Meta(min_length=1, max_length=_MAX_CONTENT)]
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True
    special: bool = False


class _WordPiece(msgspec.Struct, frozen=True, tag="WordPiece"):
    vocab: dict[str, _Id]
    unk_token: str = "[UNK]"
    continuing_subword_prefix: Annotated[str, Meta(max_length=_MAX_PREFIX)] = "##"
    max_input_chars_per_word: Annotated[int, Meta(ge=1, le=_MAX_WORD)] = 100


class _WordLevel(msgspec.Struct, frozen=True, tag="WordLevel"):
    vocab: dict[str, _Id]
    unk_token: str = "<unk>"


class _Bpe(msgspec.Struct, frozen=True, tag="BPE"):
    vocab: dict[str, _Id]
    merges: list[str | tuple[str, str]]
    dropout: None = None  # would choose at random
    unk_token: str | None = None
    continuing_subword_prefix: Annotated[str, Meta(max_length=_MAX_PREFIX)] | None = None
    end_of_word_suffix: Annotated[str, Meta(max_length=_MAX_PREFIX)] | None = None
    fuse_unk: bool = False
    byte_fallback: bool = False
    ignore_merges: bool = False


class _Unigram(msgspec.Struct, frozen=True, tag="Unigram"):
    vocab: Annotated[list[tuple[str, float]], Meta(max_length=_MAX_ID)]
    unk_id: _Id | None = None
    byte_fallback: bool = False


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: _WordPiece | _WordLevel | _Bpe | _Unigram
    version: str = "1.0"
    truncation: _Part | None = None
    padding: _Part | None = None
    added_tokens: Annotated[list[_Added], Meta(max_length=_MAX_ADDED)] = []
    normalizer: _Part | None = None
    pre_tokenizer: _Part | None = None
    post_processor: _Part | None = None
    decoder: _Part | None = None


def check_tokenizer(data: bytes) -> int:
    """Check types, ids, regular expressions and how much longer a text can become.

    Returns:
        The highest token id that the tokenizer can give.

    Raises:
        BundleError: a value is not allowed. The message does not name the file.
    """
    try:
        file = msgspec.json.decode(data, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(str(error)) from None
    highest = max(_check_model(file.model), max((token.id for token in file.added_tokens), default=0))
    _check_normalizer(file.normalizer)
    for part in _parts(file.pre_tokenizer, "pretokenizers"):
        _check_pre_tokenizer(part)
    return max(highest, *(_check_post_processor(part) for part in _parts(file.post_processor, "processors")), 0)


def _check_model(model: _WordPiece | _WordLevel | _Bpe | _Unigram) -> int:
    """Check the vocabulary, and return the highest id."""
    if not model.vocab:
        raise BundleError("its vocabulary is empty")
    if isinstance(model, _Unigram):
        if model.unk_id is not None and model.unk_id >= len(model.vocab):
            raise BundleError(f"unk_id {model.unk_id} is not in its vocabulary of {len(model.vocab)}")
        return len(model.vocab) - 1
    if len(set(model.vocab.values())) < len(model.vocab):
        raise BundleError("its vocabulary has one id for two tokens")
    if model.unk_token is not None and model.unk_token not in model.vocab:
        raise BundleError(f"its unknown token {model.unk_token[:_MAX_PREFIX]!r} is not in its vocabulary")
    return max(model.vocab.values())


def _parts(part: _Part | None, key: str, depth: int = 0) -> list[_Part]:
    """A step, or the steps of a sequence."""
    if part is None:
        return []
    if part.get("type") != "Sequence":
        return [part]
    inner = part.get(key)
    if not isinstance(inner, list) or depth == _MAX_DEPTH or not all(isinstance(one, dict) for one in inner):
        raise BundleError(f"a sequence has no list of {key}, or is nested too deep")
    found = [step for one in inner for step in _parts(one, key, depth + 1)]
    if len(found) > _MAX_PARTS:
        raise BundleError(f"it has {len(found)} {key}, and at most {_MAX_PARTS} are allowed")
    return found


_NORMALIZERS = (
    *("BertNormalizer", "ByteLevel", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "Prepend"),
    *("Replace", "Strip", "StripAccents"),
)
_PRE_TOKENIZERS = (
    *("BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Digits", "FixedLength", "Metaspace", "Punctuation"),
    *("Split", "UnicodeScripts", "Whitespace", "WhitespaceSplit"),
)
_PROCESSORS = ("BertProcessing", "ByteLevel", "RobertaProcessing", "TemplateProcessing")


def _kind(part: _Part, allowed: tuple[str, ...], what: str) -> str:
    kind = part.get("type")
    if kind not in allowed:
        raise BundleError(f"it has the {what} {str(kind)[:_MAX_PREFIX]!r}. Allowed: {', '.join(allowed)}")
    return str(kind)


def _check_normalizer(normalizer: _Part | None) -> None:
    growth = 1.0
    for part in _parts(normalizer, "normalizers"):
        kind = _kind(part, _NORMALIZERS, "normalizer")
        if kind == "Replace":
            growth *= _growth(part)
        elif kind == "Prepend" and len(_text(part, "prepend")) > _MAX_PREFIX:
            raise BundleError("it puts a long text before each text")
        elif kind == "Precompiled":
            _check_charsmap(part)
    if growth > _MAX_GROWTH:
        raise BundleError(f"its normalizer can make a text {growth:.0f} times as long")


def _growth(part: _Part) -> float:
    """How many times as long a replacement can make a text."""
    content, pattern = _text(part, "content"), part.get("pattern")
    if not isinstance(pattern, dict) or len(pattern) != 1:
        raise BundleError("a replacement has no pattern")
    ((kind, text),) = pattern.items()
    if not isinstance(text, str) or not text or kind not in ("String", "Regex"):
        raise BundleError("a replacement has no pattern")
    if kind == "Regex":
        _check_pattern(text)
        return max(1.0, len(content) + (0 if _consumes(text) else 1))
    return max(1.0, len(content) / len(text))


def _consumes(pattern: str) -> bool:
    """Whether a pattern surely matches at least one character; it may only seem so for plain ones."""
    return not re.search(r"[*?|^$(]|\{0", pattern)


def _check_charsmap(part: _Part) -> None:
    """A trie of 32-bit words with its size before it, then texts that end in a zero byte."""
    text = part.get("precompiled_charsmap")
    if not isinstance(text, str):
        raise BundleError("its precompiled_charsmap is not text")
    try:
        data = b64decode(text, validate=True)
    except ValueError:
        raise BundleError("its precompiled_charsmap is not base64") from None
    size = int.from_bytes(data[:4], "little")
    if len(data) < 8 or size % 4 or not 4 <= size <= len(data) - 4:
        raise BundleError("its precompiled_charsmap is cut off")
    texts = data[4 + size :]
    try:
        texts.decode()
    except UnicodeDecodeError:
        raise BundleError("its precompiled_charsmap has texts that are not UTF-8") from None
    if max(map(len, texts.split(b"\0"))) > _MAX_CONTENT:
        raise BundleError("its precompiled_charsmap replaces a character by a long text")


def _check_pre_tokenizer(part: _Part) -> None:
    kind = _kind(part, _PRE_TOKENIZERS, "pre-tokenizer")
    if kind == "FixedLength":
        length = part.get("length")
        if not isinstance(length, int) or not 1 <= length <= _MAX_CONTENT:
            raise BundleError(f"it cuts texts into pieces of {str(length)[:_MAX_PREFIX]} characters")
    if kind == "Split":
        pattern = part.get("pattern")
        if not isinstance(pattern, dict) or len(pattern) != 1:
            raise BundleError("a split has no pattern")
        ((kind, text),) = pattern.items()
        if not isinstance(text, str) or not text:
            raise BundleError("a split has no pattern")
        if kind == "Regex":
            _check_pattern(text)


_GROUP = re.compile(r"\((?:\?(?:[:=!>]|<[=!]|[imsx-]+:?))?([^()]*)\)([*+]|\{\d*,)?")
_REPEAT = re.compile(r"[*+]|\{\d*,\d*\}")
_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]")
_LARGE_COUNT = re.compile(r"\{[\d,]*\d{4,}[\d,]*\}")
# What stands for a group that can match one text in several ways. No pattern has it, because its classes are replaced.
_VARIABLE = "\0"


def _check_pattern(pattern: str) -> None:
    """Refuse regular expressions whose search can take longer than a few passes over the text."""
    if len(pattern) > _MAX_PATTERN or "\0" in pattern or re.search(r"\\[1-9kg]|\(\?[(|&PR0-9]", pattern):
        raise BundleError(f"it has a regular expression that is not allowed: {pattern[:_MAX_PREFIX]!r}")
    plain = re.sub(r"\\.", "e", _CLASS.sub("c", pattern))
    if _LARGE_COUNT.search(plain):
        raise BundleError(f"it has a regular expression with a large count: {pattern[:_MAX_PREFIX]!r}")
    repeats = sum(1 for _ in _REPEAT.finditer(plain))
    before = ""
    while before != plain:
        before, plain = plain, _GROUP.sub(_without_group, plain)
    if any(len(_REPEAT.findall(one)) > _MAX_OPEN_REPEATS for one in plain.split("|")) or repeats > _MAX_PARTS:
        raise BundleError(f"it has a regular expression that can search for ever: {pattern[:_MAX_PREFIX]!r}")


def _without_group(group: re.Match[str]) -> str:
    """A letter for a group. A group that can match a text in several ways and is repeated takes exponential time."""
    content, repeat = group[1], group[2] or ""
    variable = bool(_REPEAT.search(content)) or "|" in content or _VARIABLE in content
    if variable and repeat:
        raise BundleError("it has a regular expression that can search for ever: a repeated group with choices in it")
    if any(len(_REPEAT.findall(one)) > _MAX_OPEN_REPEATS for one in content.split("|")):
        raise BundleError("it has a regular expression that can search for ever: a group of many repeats")
    return (_VARIABLE if variable else "g") + repeat


def _check_post_processor(part: _Part) -> int:
    """Check what is put around a text, and return the highest id of it."""
    kind = _kind(part, _PROCESSORS, "post-processor")
    if kind in ("BertProcessing", "RobertaProcessing"):
        return max(_pair_id(part, "sep"), _pair_id(part, "cls"))
    if kind == "ByteLevel":
        return 0
    tokens = part.get("special_tokens")
    if not isinstance(tokens, dict) or len(tokens) > _MAX_TEMPLATE:
        raise BundleError("its template has no special tokens, or too many")
    highest = 0
    for token in tokens.values():
        ids = token.get("ids") if isinstance(token, dict) else None
        if not isinstance(ids, list) or not 1 <= len(ids) <= _MAX_TEMPLATE or not all(map(_is_id, ids)):
            raise BundleError("its template has a special token without ids")
        highest = max(highest, *ids)
    for key, most in (("single", 1), ("pair", 2)):
        pieces = part.get(key)
        if not isinstance(pieces, list) or len(pieces) > _MAX_TEMPLATE:
            raise BundleError(f"its template has no list {key!r}, or a long one")
        texts = [piece for piece in pieces if isinstance(piece, dict) and "Sequence" in piece]
        if len(texts) > most or (key == "single" and len(texts) != 1):
            raise BundleError(f"its template {key!r} has the text {len(texts)} times")
    return highest


def _pair_id(part: _Part, key: str) -> int:
    pair = part.get(key)
    if not isinstance(pair, list) or len(pair) != 2 or not _is_id(pair[1]):
        raise BundleError(f"its post-processor has no token {key!r}")
    return int(pair[1])


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_ID


def _text(part: _Part, key: str) -> str:
    value = part.get(key)
    if not isinstance(value, str) or len(value) > _MAX_CONTENT:
        raise BundleError(f"it has no text {key!r} of at most {_MAX_CONTENT} characters")
    return value

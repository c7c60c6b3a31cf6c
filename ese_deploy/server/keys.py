"""API keys: reading them, and checking a request's."""

import hashlib
import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ese_deploy.errors import InputError
from ese_deploy.system.files import explain_os_error

__all__ = ["KEYS_VARIABLE", "ApiKeys", "load_keys"]

KEYS_VARIABLE = "ESE_DEPLOY_API_KEYS"
"""Environment variable with API keys, separated by commas."""

_MIN_LENGTH = 16


@dataclass(frozen=True)
class ApiKeys:
    """The keys that a server accepts. Only their hashes are kept.

    Attributes:
        digests: SHA-256 of each key, by the label that logs and metrics show.
    """

    digests: Mapping[str, bytes]

    def __bool__(self) -> bool:
        return bool(self.digests)

    def label(self, authorization: bytes) -> str | None:
        """The label of the key in an ``Authorization`` header; None if it is none of them.

        Every key is compared, each in constant time, so that the time tells nothing about the keys.
        """
        scheme, _, key = authorization.partition(b" ")
        digest = hashlib.sha256(key.strip()).digest()
        found = None
        for label, known in self.digests.items():
            if hmac.compare_digest(digest, known):
                found = label
        return found if scheme.lower() == b"bearer" else None


def load_keys(file: Path | None, environment: Mapping[str, str] = os.environ) -> ApiKeys:
    """Read keys from a file, one a line, and from the environment variable ``ESE_DEPLOY_API_KEYS``.

    A line is ``KEY`` or ``LABEL=KEY``; empty lines and those that begin with ``#`` are skipped.

    Raises:
        InputError: the file cannot be read or holds no key, or a key is shorter than 16 characters.
    """
    lines: list[str] = []
    if file is not None:
        with explain_os_error(file):
            try:
                lines = file.read_text("utf-8").splitlines()
            except UnicodeDecodeError:
                raise InputError(f"{file} is not UTF-8 text. Write one key a line.") from None
    lines = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    if file is not None and not lines:
        raise InputError(f"{file} holds no key. Write one key a line.")
    lines += [item.strip() for item in environment.get(KEYS_VARIABLE, "").split(",") if item.strip()]
    digests: dict[str, bytes] = {}
    for number, line in enumerate(lines, start=1):
        label, equals, key = line.partition("=")
        # A key in base64 can end with "=".
        if not equals or not key.strip("="):
            label, key = f"key{number}", line
        if len(key) < _MIN_LENGTH:
            raise InputError(f"API key {number} has fewer than {_MIN_LENGTH} characters. Choose a longer one.")
        if label in digests:
            raise InputError(f"Two API keys have the label '{label}'. Give each its own.")
        digests[label] = hashlib.sha256(key.encode()).digest()
    return ApiKeys(digests)

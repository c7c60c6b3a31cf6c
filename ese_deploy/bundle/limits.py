"""The largest values that a manifest may state. They are far above those of any export."""

from pathlib import Path

from ese_deploy.bundle.graph_check import MAX_GRAPH_BYTES
from ese_deploy.bundle.manifest import FileEntry, Manifest
from ese_deploy.errors import BundleError

__all__ = ["check_limits"]

_MIB = 1 << 20
_MAX_TARGETS = 4096
_MAX_GRAPHS = 512 * _MIB
_MAX_TOKENIZER = 64 * _MIB
# Vectors and ranges of a few thousand targets, in text.
_MAX_JSON = 16 * _MIB
_MAX_PROFILES = 1 << 18
_MAX_PROJECTIONS = 512 * _MIB
# A vocabulary of 500,000 tokens with vectors of 2,048 dimensions.
_MAX_TOKENS = 4096 * _MIB
_MAX_LENGTH = 1 << 20
_MAX_PROMPTS = 1024
_MAX_PROMPT = 1 << 14
_MAX_VERSION = 64


def check_limits(manifest: Manifest, where: Path) -> None:
    """Check sizes, counts and lengths of a manifest.

    Raises:
        BundleError: one is above its limit; ``where`` is the manifest's path.
    """
    if len(manifest.targets) > _MAX_TARGETS:
        raise _too_large(where, f"{len(manifest.targets)} targets", _MAX_TARGETS)
    graphs = sum(entry.bytes for entry in manifest.targets)
    if graphs > _MAX_GRAPHS:
        raise _too_large(where, f"graphs of {graphs} bytes together", _MAX_GRAPHS)
    files: list[tuple[FileEntry | None, int]] = [
        *((entry, MAX_GRAPH_BYTES) for entry in manifest.targets),
        (manifest.tokenizer, _MAX_TOKENIZER),
        (manifest.golden, _MAX_JSON),
        (manifest.ranges, _MAX_JSON),
        (manifest.profiles, _MAX_PROFILES),
        (manifest.projection_file, _MAX_PROJECTIONS),
        (manifest.tokens, _MAX_TOKENS),
    ]
    for entry, most in files:
        if entry is not None and entry.bytes > most:
            raise _too_large(where, f"{entry.file} with {entry.bytes} bytes", most)
    if manifest.max_seq_length > _MAX_LENGTH:
        raise _too_large(where, f"max_seq_length {manifest.max_seq_length}", _MAX_LENGTH)
    if len(manifest.minimum_onnxruntime) > _MAX_VERSION:
        raise _too_large(where, f"a version of {len(manifest.minimum_onnxruntime)} characters", _MAX_VERSION)
    if len(manifest.prompts) > _MAX_PROMPTS:
        raise _too_large(where, f"{len(manifest.prompts)} prompts", _MAX_PROMPTS)
    longest = max(map(len, manifest.prompts.values()), default=0)
    if longest > _MAX_PROMPT:
        raise _too_large(where, f"a prompt of {longest} characters", _MAX_PROMPT)


def _too_large(where: Path, what: str, most: int) -> BundleError:
    return BundleError(f"{where} states {what}, and at most {most} are allowed. Export the bundle again.")

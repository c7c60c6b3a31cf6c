"""The prompt that is put before each text."""

from collections.abc import Sequence

from ese_deploy.bundle.manifest import Manifest
from ese_deploy.errors import InputError

__all__ = ["DOCUMENT_PROMPTS", "QUERY_PROMPTS", "find_prompt"]

QUERY_PROMPTS = ("query",)
DOCUMENT_PROMPTS = ("document", "passage", "corpus")


def find_prompt(manifest: Manifest, name: str | None, prompt: str | None, role: Sequence[str] = ()) -> str:
    """The text to put before each text; empty if the model has no prompt for it.

    Args:
        manifest: of the bundle.
        name: name of one of its prompts.
        prompt: the prompt itself. It has precedence over ``name``.
        role: without ``name`` and ``prompt``, the first of these prompts that the model has is used.

    Raises:
        InputError: the model has no prompt of that name, or the prompt is not text.
    """
    if prompt is not None:
        if not isinstance(prompt, str) or not _is_whole(prompt):
            raise InputError(f"`prompt` must be a str without half of a surrogate pair, got {prompt!r:.40}.")
        return prompt
    if name is None:
        of_role = (one for one in role if one in manifest.prompts)
        name = next(of_role, manifest.default_prompt_name)
    if name is None:
        return ""
    if name not in manifest.prompts:
        known = ", ".join(sorted(manifest.prompts)) or "none"
        raise InputError(f"The model has no prompt '{name}'. Its prompts: {known}.")
    return manifest.prompts[name]


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

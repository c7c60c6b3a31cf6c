"""The checkpoint that a bundle was made of."""

from dataclasses import replace

from ese_deploy.backbones.checkpoint import Checkpoint, read_checkpoint
from ese_deploy.bundle.reader import Bundle
from ese_deploy.errors import InputError

__all__ = ["checkpoint_of"]


def checkpoint_of(
    bundle: Bundle, against: str | None = None, *, allow_pickle: bool = False, same_weights: bool = True
) -> Checkpoint:
    """Read the checkpoint of a bundle, with the bundle's pooling, length limit and projections.

    The checkpoint that the bundle names is not looked up on the hub; one that ``against`` names is.

    Args:
        bundle: an open bundle.
        against: a folder, a hub id or ``package:NAME``, instead of the checkpoint that the bundle names.
        allow_pickle: also load weights in pickle files, which can run any code.
        same_weights: refuse a checkpoint whose weights have another hash.

    Raises:
        InputError: the checkpoint is missing or cannot be read, or has other weights.
    """
    manifest = bundle.manifest
    source = against or manifest.source.model
    advice = "" if against else " Name the checkpoint of the bundle with `against`."
    try:
        checkpoint = read_checkpoint(
            source,
            pooling=manifest.pooling,
            revision=None if against else manifest.source.revision,
            allow_pickle=allow_pickle,
            max_seq_length=manifest.max_seq_length,
            # The author of a bundle must not be able to make its users look something up.
            download=against is not None,
        )
    except InputError as error:
        raise InputError(f"Cannot read the checkpoint of {bundle.path}: {error}{advice}") from error
    if same_weights and checkpoint.weights_sha256() != manifest.source.weights_sha256:
        raise InputError(
            f"{source} is not the checkpoint that {bundle.path} was made of: its weights have another hash.{advice}"
        )
    # Other projections are the bundle's own: what the checkpoint has is not used.
    return checkpoint if manifest.projection == "trained" else replace(checkpoint, projections={})

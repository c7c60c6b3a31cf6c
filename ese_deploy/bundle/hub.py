"""Bundles on the Hugging Face hub: downloading what some targets need, and uploading a bundle."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ese_deploy.bundle.card import CARD_FILE, model_card
from ese_deploy.bundle.hashes import check_files
from ese_deploy.bundle.links import follow_link
from ese_deploy.bundle.manifest import Manifest, TargetEntry, decode_manifest
from ese_deploy.bundle.reader import MANIFEST_FILE, Bundle, bundle_file, choose_entry, open_bundle, optional_files
from ese_deploy.errors import InputError
from ese_deploy.system.progress import Progress, silent
from ese_deploy.target import Target

__all__ = ["fetch_bundle", "is_hub_name", "push_bundle"]

T = TypeVar("T")

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def is_hub_name(name: str) -> bool:
    """Whether a text has the form ``owner/name`` and is not a folder."""
    return bool(_HUB_NAME.fullmatch(name)) and not Path(name).exists()


def fetch_bundle(
    name: str,
    targets: Sequence[Target | str | None] = (),
    *,
    revision: str | None = None,
    projections: bool = False,
    progress: Progress = silent,
) -> Path:
    """Download a bundle of the hub, or find it in the cache.

    Args:
        name: ``owner/name``.
        targets: download only the files that these targets need; None is the default target. Empty: every file.
        revision: branch, tag or commit. Default: the main branch.
        projections: also download the projections, which connect the embedding spaces. They are part of every file.
        progress: called after each file.

    Returns:
        The snapshot in the Hugging Face cache.

    Raises:
        InputError: the name is not that of a bundle, the hub cannot be reached, or the bundle lacks a target.
        BundleError: the manifest cannot be read.
    """
    if not _HUB_NAME.fullmatch(name):
        raise InputError(f"'{name}' is not a name on the hub. Write owner/name.")
    path = _download(name, MANIFEST_FILE, revision)
    folder, data = path.parent, path.read_bytes()
    manifest = decode_manifest(data, f"{MANIFEST_FILE} of {name}")
    wanted = [choose_entry(Bundle(folder, manifest, ""), target) for target in targets] or manifest.targets
    files = list(_files(manifest, wanted, projections or not targets))
    progress("download", 0, len(files))
    for done, file in enumerate(files, start=1):
        # By commit, so that all files are of one revision.
        _download(name, file, folder.name)
        progress("download", done, len(files))
    return folder


def push_bundle(bundle: str | Path | Bundle, name: str, *, private: bool = False, progress: Progress = silent) -> str:
    """Upload a bundle to the hub, with a card that names it; files of an earlier bundle there are deleted.

    Every file is hashed first. Log in with ``hf auth login``, or set ``HF_TOKEN``.

    Args:
        bundle: the folder of the bundle, or an open bundle.
        name: ``owner/name``. It is created if it does not exist.
        private: create it as private.
        progress: called while files are hashed.

    Returns:
        Address of the commit.

    Raises:
        BundleError: the bundle is missing or damaged.
        InputError: the name is wrong, or the hub refuses or cannot be reached.
    """
    if not _HUB_NAME.fullmatch(name):
        raise InputError(f"'{name}' is not a name on the hub. Write owner/name.")
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    for _ in check_files(opened, progress):
        pass
    manifest = opened.manifest
    listed = [*manifest.weights, *manifest.targets, manifest.tokenizer, manifest.golden, *optional_files(manifest)]
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi()
    uploads: list[Any] = [CommitOperationAdd(entry.file, str(bundle_file(opened, entry))) for entry in listed]
    uploads.append(CommitOperationAdd(MANIFEST_FILE, str(follow_link(opened.path / MANIFEST_FILE))))
    uploads.append(CommitOperationAdd(CARD_FILE, model_card(manifest, name, on_hub=True).encode()))
    ours = {operation.path_in_repo for operation in uploads}

    def upload() -> str:
        api.create_repo(name, private=private, exist_ok=True)
        present = api.list_repo_files(name)
        stale = [file for file in present if file not in ours and file.endswith((".onnx", ".data"))]
        deletions = [CommitOperationDelete(file) for file in stale]
        message = f"Upload {len(manifest.targets)} targets with ese-deploy"
        return str(api.create_commit(name, [*uploads, *deletions], commit_message=message).commit_url)

    return _explained(name, upload)


def _files(manifest: Manifest, targets: Iterable[TargetEntry], projections: bool) -> Iterable[str]:
    """The files that some targets need, without the manifest."""
    kept = list(targets)
    dtypes = {entry.dtype for entry in kept}
    yield from (entry.file for entry in kept)
    yield from (entry.file for entry in manifest.weights if entry.dtype in dtypes)
    yield manifest.tokenizer.file
    yield manifest.golden.file
    # Only `verify` reads the token features.
    skipped = [manifest.tokens, *([] if projections else [manifest.projection_file])]
    yield from (entry.file for entry in optional_files(manifest) if entry not in skipped)


def _download(name: str, file: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(_explained(name, lambda: hf_hub_download(name, file, revision=revision)))


def _explained(name: str, action: Callable[[], T]) -> T:
    """Run an action on the hub.

    Raises:
        InputError: it failed; the message says what to do.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return action()
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise InputError(
            f"The hub cannot be reached, and the cache {constants.HF_HUB_CACHE} does not hold all files of '{name}' "
            "that are needed. Connect once, or name a folder."
        ) from None
    except RevisionNotFoundError:
        raise InputError(f"'{name}' has no such revision on the hub. Name a branch, tag or commit.") from None
    except RepositoryNotFoundError:
        raise InputError(
            f"There is no '{name}' on the hub, or it is private. Check the name, or log in with: hf auth login"
        ) from None
    except EntryNotFoundError:
        raise InputError(f"'{name}' on the hub is not a whole bundle. Upload it with: ese-deploy push") from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"The hub refused '{name}': {reason}") from error

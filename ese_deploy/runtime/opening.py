"""Opening the targets of an encoder, here or in another process."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from ese_deploy.bundle.manifest import TargetEntry
from ese_deploy.bundle.reader import Bundle, open_bundle
from ese_deploy.bundle.spaces import Space, check_space, source_matrix
from ese_deploy.engines import DEFAULT_ENGINE, Engine, load_engine, require_dtype
from ese_deploy.errors import BundleError
from ese_deploy.runtime.loaded import LoadedTarget, choose_entries, load_lookup_target, load_target
from ese_deploy.system.threads import available_threads, check_threads
from ese_deploy.target import Target

__all__ = ["OpenArguments", "Reopening", "open_targets"]


class OpenArguments(TypedDict):
    """What :meth:`ese_deploy.runtime.encoder.Encoder.open` takes beside the bundle."""

    target: Target | str | None
    query_target: Target | str | None
    document_target: Target | str | None
    engine: str | None
    threads: int | None
    space: Space
    log_truncated: bool


@dataclass(frozen=True)
class Reopening:
    """How another process opens an encoder: from the same folder, with the same arguments.

    Attributes:
        path: the folder of the bundle.
        sha256: hash of its manifest.
        arguments: of ``Encoder.open``.
    """

    path: Path
    sha256: str
    arguments: OpenArguments

    def open_bundle(self) -> Bundle:
        """Open the bundle again.

        Raises:
            BundleError: it is missing, or is not the one that the encoder was opened with.
        """
        bundle = open_bundle(self.path)
        if bundle.sha256 != self.sha256:
            raise BundleError(
                f"{self.path} is not the bundle that the encoder was opened with (sha256 {bundle.sha256[:12]}..., "
                f"expected {self.sha256[:12]}...). Open it again: Encoder.open({str(self.path)!r})"
            )
        return bundle


def open_targets(
    bundle: Bundle,
    target: Target | str | None,
    query_target: Target | str | None,
    document_target: Target | str | None,
    engine: str | Engine | None,
    threads: int | None,
    space: Space = "bundle",
    lookups: bool = True,
) -> tuple[LoadedTarget, LoadedTarget | None]:
    """Load the target of documents, and that of queries if it is another one.

    With ``lookups``, numpy computes targets of depth 0. The other arguments and errors are those of
    :meth:`ese_deploy.runtime.encoder.Encoder.open`.
    """
    check_threads(threads)
    check_space(space)
    documents, queries = choose_entries(bundle, target, query_target, document_target)
    # Before the engine is loaded: the error must not advise to install an engine that does not run the target.
    for entry in (queries, documents):
        if space == "source":
            source_matrix(bundle, entry)
    looked_up = {
        entry.name: None if not lookups else load_lookup_target(bundle, entry, space) for entry in (documents, queries)
    }
    chosen = engine or DEFAULT_ENGINE
    kind = chosen.partition(":")[0] if isinstance(chosen, str) else chosen.name
    for entry in (queries, documents):
        if looked_up[entry.name] is None:
            require_dtype(kind, str(entry.target), entry.dtype)
    count = threads or available_threads()
    loaded: Engine | None = None if isinstance(chosen, str) else chosen

    def load(entry: TargetEntry) -> LoadedTarget:
        nonlocal loaded
        found = looked_up[entry.name]
        if found is not None:
            return found
        loaded = loaded or load_engine(str(chosen))
        return load_target(bundle, entry, loaded, count, space)

    first = load(documents)
    return first, None if queries == documents else load(queries)

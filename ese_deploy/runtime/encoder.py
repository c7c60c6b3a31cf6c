"""The encoder: texts in, unit-norm vectors out, with nothing but an inference engine installed."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypedDict, Unpack

from ese_deploy.bundle.reader import MANIFEST_FILE, Bundle, open_bundle
from ese_deploy.bundle.spaces import Space
from ese_deploy.bundle.versions import retry_when_replaced
from ese_deploy.engines import AUTO_ENGINE, Engine
from ese_deploy.errors import InputError
from ese_deploy.runtime.base import BaseEncoder
from ese_deploy.runtime.loaded import LoadedTarget
from ese_deploy.runtime.opening import OpenArguments, Reopening, open_targets
from ese_deploy.runtime.tokenize import TextTokenizer, load_tokenizer
from ese_deploy.target import Target

__all__ = ["Encoder"]

_log = logging.getLogger(__name__)


class Opening(TypedDict, total=False):
    """The arguments of :meth:`Encoder.open` beside the bundle."""

    target: Target | str | None
    query_target: Target | str | None
    document_target: Target | str | None
    engine: str | Engine | None
    threads: int | None
    space: Space
    log_truncated: bool


class Encoder(BaseEncoder):
    """Embeds texts with a target of a bundle. Open it with :meth:`open`. Several threads may use it at once.

    It can be pickled: another process opens the same bundle from the same folder. Copies share the loaded graphs.

    Queries can have a target of their own: a shallow one, which is fast, for an index that a deep one has made.
    :meth:`encode_query` then uses the query target, and all other methods use the document target.

    Example:
        >>> encoder = Encoder.open("exports/minilm", target="3x128")
        >>> vectors = encoder.encode(["A cat sat.", "Ein Hund lief."])
        >>> vectors.shape
        (2, 128)

    Args:
        bundle: the bundle.
        tokenizer: its tokenizer.
        documents: the target that embeds texts.
        queries: the target that embeds queries, with the dim and embedding space of ``documents``. None: the same.
        log_truncated: log a warning when the first text is truncated.
        reopening: how another process opens it; None if it cannot be pickled.
    """

    def __init__(
        self,
        bundle: Bundle,
        tokenizer: TextTokenizer,
        documents: LoadedTarget,
        queries: LoadedTarget | None = None,
        *,
        log_truncated: bool = True,
        reopening: Reopening | None = None,
    ) -> None:
        super().__init__(bundle, tokenizer, documents, queries, log_truncated=log_truncated)
        self._reopening = reopening

    @classmethod
    def open(
        cls,
        bundle: str | Path | Bundle,
        target: Target | str | None = None,
        *,
        query_target: Target | str | None = None,
        document_target: Target | str | None = None,
        engine: str | Engine | None = None,
        threads: int | None = None,
        space: Space = "bundle",
        log_truncated: bool = True,
        profile: str | None = None,
    ) -> "Encoder":
        """Open a bundle and load a target, or one for queries and one for documents.

        Args:
            bundle: the folder of the bundle, or an open bundle.
            target: such as ``"3x128"``. Default: the deepest and widest fp32 target.
            query_target: the target for queries, such as ``"3x128"``. It goes with ``document_target``, and both have
                one dim and one embedding space.
            document_target: the target for documents, such as ``"6x128"``.
            engine: the inference engine. Default: ``"onnxruntime"``; targets of depth 0 are computed in numpy.
                ``"auto"`` is the fastest of those that are installed, see
                :func:`ese_deploy.runtime.fastest.fastest_engine`.
            threads: threads that compute. Default: every core that the process may use.
            space: ``"source"`` gives vectors in the embedding space of the model that the bundle was made of, for an
                index that another tool made with it. It needs targets of full width that share the space of the full
                depth. Default: the bundle's own space.
            log_truncated: log a warning when the first text is truncated. :attr:`truncated_texts` counts them anyway.
            profile: no longer supported. Resolve a budget profile with :func:`ese_deploy.choose.resolve_profile`, and
                pass its target and engine.

        Raises:
            BundleError: the bundle is missing, damaged or unsafe.
            InputError: the bundle does not contain a target, vectors of the two targets are not comparable or cannot be
                brought into ``space``, or ``threads`` is below 1.
            EngineError: the engine is not installed, does not run the target's dtype, or cannot load the graph.
        """
        if profile is not None:
            raise InputError(
                f"Encoder.open takes no profile, got '{profile}'. Resolve it first: found = ese_deploy.choose."
                "resolve_profile(bundle, profile); Encoder.open(bundle, found.target, engine=found.engine)"
            )
        chosen = engine
        named = [Target.parse(one) for one in (target, query_target, document_target) if one is not None]
        if isinstance(engine, str) and engine == AUTO_ENGINE and {one.depth for one in named} == {0}:
            chosen = None  # numpy computes them
        elif isinstance(engine, str) and engine == AUTO_ENGINE:
            from ese_deploy.runtime.fastest import fastest_engine

            found = fastest_engine(bundle, document_target or target, threads)
            _log.info(found.reason)
            chosen = found.engine
        # Depth 0 needs no engine, unless one is named.
        lookups = engine in (None, AUTO_ENGINE)

        def load() -> tuple[Bundle, LoadedTarget, LoadedTarget | None, TextTokenizer]:
            opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
            # The engine and the tokenizers library parse their files outside of Python's lock.
            with ThreadPoolExecutor(1) as pool:
                tokenizer = pool.submit(load_tokenizer, opened)
                targets = open_targets(opened, target, query_target, document_target, chosen, threads, space, lookups)
                return opened, *targets, tokenizer.result()

        folder = bundle.path if isinstance(bundle, Bundle) else Path(bundle)
        opened, documents, queries, tokenizer = retry_when_replaced(folder / MANIFEST_FILE, load)
        reopening = None
        if engine is None or isinstance(engine, str):
            arguments = OpenArguments(
                target=target,
                query_target=query_target,
                document_target=document_target,
                engine=engine,
                threads=threads,
                space=space,
                log_truncated=log_truncated,
            )
            reopening = Reopening(opened.path, opened.sha256, arguments)
        return cls(opened, tokenizer, documents, queries, log_truncated=log_truncated, reopening=reopening)

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None, **options: Unpack[Opening]) -> "Encoder":
        """Open a bundle of the Hugging Face hub, or a folder.

        Only the files that the targets need are downloaded. Files in the cache are not downloaded again.

        Args:
            name: ``owner/name`` on the hub, or a folder.
            revision: branch, tag or commit on the hub. Default: the main branch.
            **options: the arguments of :meth:`open`, such as ``target``.

        Raises:
            InputError: the hub has no such bundle or cannot be reached and the cache lacks a file, or the errors of
                :meth:`open`.
            BundleError: as for :meth:`open`.
            EngineError: as for :meth:`open`.

        Example:
            >>> encoder = Encoder.from_pretrained("owner/minilm-ese", target="3x128")
        """
        if Path(name).is_dir():
            if revision is not None:
                raise InputError(f"`revision` {revision} is of the hub, and {name} is a folder. Leave it out.")
            return cls.open(name, **options)
        pair = (options.get("query_target"), options.get("document_target"))
        targets = [options.get("target")] if pair == (None, None) else [target for target in pair if target]
        source = options.get("space") == "source"
        from ese_deploy.bundle.hub import fetch_bundle  # a bundle in a folder does not need it

        folder = fetch_bundle(str(name), targets, revision=revision, projections=source)
        return cls.open(folder, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._reopening is None:
            raise InputError(
                "This encoder was opened with an engine object. To pickle it, open it with an engine's name."
            )
        return _reopen, (type(self), self._reopening)

    def __copy__(self) -> "Encoder":
        queries = None if self._queries is self._documents else self._queries
        options: dict[str, Any] = {"log_truncated": self._log_truncated, "reopening": self._reopening}
        return type(self)(self._bundle, self._tokenizer, self._documents, queries, **options)

    def __deepcopy__(self, _: object) -> "Encoder":
        return self.__copy__()

    def __repr__(self) -> str:
        queries = "" if self._queries is self._documents else f", query_target='{self.query_target}'"
        path, engine = str(self._bundle.path), self._documents.engine
        space = "" if self.space == self._documents.entry.space else f", space='{self.space}'"
        return f"Encoder({path!r}, target='{self.target}'{queries}, engine='{engine}'{space})"


def _reopen(encoder: type[Encoder], reopening: Reopening) -> Encoder:
    """Open a pickled encoder."""
    return encoder.open(reopening.open_bundle(), **reopening.arguments)

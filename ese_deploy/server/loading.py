"""Opening the bundles of a server, and loading their targets."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import msgspec

from ese_deploy.bundle.manifest import TargetEntry
from ese_deploy.bundle.reader import Bundle, choose_entry, open_bundle
from ese_deploy.bundle.spaces import Space, reaches_source, source_matrix, space_name
from ese_deploy.engines import DEFAULT_ENGINE, SHARING_ENGINE, Engine, engines_for, load_engine, require_dtype
from ese_deploy.engines.registry import EngineRow, find_engine
from ese_deploy.errors import InputError
from ese_deploy.runtime.loaded import load_lookup_target, load_target
from ese_deploy.runtime.tokenize import load_tokenizer
from ese_deploy.server.catalog import Catalog, Lane, ServedBundle, ServedTarget
from ese_deploy.server.settings import ServeSettings
from ese_deploy.target import DTYPES, Target

__all__ = ["load_catalog"]

_WARM_TEXT = "The night train leaves at nine, and it stops in every small town."
_WARM_RUNS = 3


def load_catalog(settings: ServeSettings, threads: int) -> Catalog:
    """Open the bundles and load their targets.

    Args:
        settings: of the server.
        threads: threads that compute.

    Raises:
        BundleError: a bundle is missing or damaged.
        InputError: a bundle does not contain a target that the settings name, a target cannot give vectors of the
            source space where the settings want it, or ``degrade`` mixes embedding spaces.
        EngineError: a target needs the engine, and it is not installed or does not run the target.
    """
    row, _ = find_engine(settings.engine or DEFAULT_ENGINE)
    opened = {name: open_bundle(path) for name, path in settings.bundles.items()}
    chosen = {name: _entries(bundle, settings.targets, row.name, settings.space) for name, bundle in opened.items()}
    # Loaded with the first target that needs it: depth 0 does not.
    engine = cache(partial(load_engine, settings.engine or _default_engine(settings.workers, chosen)))
    bundles = {
        name: _load(name, opened[name], entries, engine, row, threads, settings.space)
        for name, entries in chosen.items()
    }
    for name, served in bundles.items():
        bundles[name] = replace(served, degrade=_check_degrade(served, settings.degrade))
    return Catalog(bundles, settings.aliases)


def _default_engine(workers: int, chosen: Mapping[str, Sequence[TargetEntry]]) -> str:
    """The default engine; with weights mapped from their file where copies would multiply.

    A graph on mapped weights takes longer, most of all for short texts, which is not worth it for fewer copies.
    """
    for entries in chosen.values():
        depths = {(entry.depth, entry.dtype) for entry in entries if entry.depth}
        if workers > 1 and len(depths) > len({dtype for _, dtype in depths}):
            return SHARING_ENGINE
    return DEFAULT_ENGINE


def _check_degrade(served: ServedBundle, degrade: tuple[Target, ...]) -> tuple[Target, ...]:
    missing = [str(one) for one in degrade if one not in served.targets]
    if missing:
        raise InputError(
            f"`degrade` names {', '.join(missing)}, and '{served.name}' serves {served.held}. Choose of these."
        )
    spaces = sorted({served.targets[one].entry.space for one in degrade})
    if len(spaces) > 1:
        raise InputError(
            f"The targets of `degrade` are in the embedding spaces {' and '.join(spaces)} of '{served.name}', whose "
            "vectors are not comparable. Export with --projection aligned, or leave `degrade` out."
        )
    return degrade


def _entries(bundle: Bundle, targets: Sequence[Target], engine: str, space: Space) -> list[TargetEntry]:
    if targets:
        entries = [choose_entry(bundle, target) for target in targets]
        for entry in entries:
            require_dtype(engine, str(entry.target), entry.dtype)
            if space == "source":
                source_matrix(bundle, entry)
        return entries
    entries = [entry for entry in bundle.manifest.targets if engine in engines_for(entry.dtype)]
    if not entries:
        first = bundle.manifest.targets[0]
        require_dtype(engine, str(first.target), first.dtype)
    if space == "source":
        reach = [entry for entry in entries if reaches_source(bundle.manifest, entry)]
        if not reach:
            source_matrix(bundle, max(entries, key=lambda entry: (entry.depth, entry.dim)))
        return reach
    return entries


def _load(
    name: str,
    bundle: Bundle,
    entries: Sequence[TargetEntry],
    engine: Callable[[], Engine],
    row: EngineRow,
    threads: int,
    space: Space,
) -> ServedBundle:
    tokenizer = load_tokenizer(bundle)
    groups: dict[tuple[Any, ...], list[TargetEntry]] = {}
    for entry in entries:
        own = entry.dim if DTYPES[entry.dtype].quantized and bundle.manifest.projection != "prefix" else None
        groups.setdefault((entry.depth, entry.dtype, entry.space, own), []).append(entry)
    found: dict[Target, ServedTarget] = {}
    for group in groups.values():
        widest = max(group, key=lambda entry: entry.dim)
        # numpy computes depth 0, unless another engine than the default is named.
        loaded = load_lookup_target(bundle, widest, space) if row.name == DEFAULT_ENGINE else None
        loaded = loaded or load_target(bundle, widest, engine(), threads, space)
        # Several threads need two batches each before they compute on batches of their own.
        tokens = loaded.batch.tokens * (4 * threads if row.device == "cpu" else 1)
        lane = _warmed(Lane(f"{name}:{widest.target}", tokenizer, loaded, tokens))
        for entry in group:
            stated = msgspec.structs.replace(entry, space=space_name(bundle.manifest, entry, space))
            found[entry.target] = ServedTarget(name, bundle, stated, lane)
    targets = {entry.target: found[entry.target] for entry in entries}
    best = max(targets.values(), key=lambda one: (one.entry.dtype == "fp32", one.entry.depth, one.entry.dim))
    return ServedBundle(name, bundle, tokenizer, targets, best, row.name)


def _warmed(lane: Lane) -> Lane:
    """Compute a text a few times, so that the first request does not wait for what the engine does once."""
    seconds = []
    encodings = lane.tokenizer([_WARM_TEXT]).encodings
    for _ in range(_WARM_RUNS):
        started = time.perf_counter()
        lane.embed(encodings)
        seconds.append(time.perf_counter() - started)
    return replace(lane, warm_seconds=min(seconds))

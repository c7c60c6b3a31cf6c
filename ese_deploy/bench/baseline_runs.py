"""Peers in a bench: started once, each at its best batch size, and counted only where its vectors are right."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ese_deploy.bench.baselines import PeerEntry, PeerError, PeerJob, RunningPeer, start_peer
from ese_deploy.bench.contenders import AGAIN, SINGLES, Subject, check_vectors, peer_subject, setting_words, sweep, thin
from ese_deploy.bench.operations import OperationCount
from ese_deploy.bench.plan import GroupPlan, Request
from ese_deploy.bench.results import Peer
from ese_deploy.bench.texts import BenchTexts
from ese_deploy.bundle.reader import Bundle, choose_entry
from ese_deploy.runtime import Encoder
from ese_deploy.runtime.tokenize import load_tokenizer
from ese_deploy.system.progress import Progress
from ese_deploy.target import Target

__all__ = ["PeerPlan", "PeerTable", "start_peers"]

_CALIBRATION = 64


@dataclass(frozen=True)
class PeerPlan:
    """The peers of a bench.

    Attributes:
        folder: where ``baselines.toml`` lies.
        entries: who is to take part.
        model: the checkpoint's folder.
    """

    folder: Path
    entries: tuple[PeerEntry, ...]
    model: Path


@dataclass
class PeerTable:
    """The peers that run, and what is said of all of them.

    Attributes:
        running: those that run.
        listed: all, in the file's order.
    """

    running: list[RunningPeer] = field(default_factory=list)
    listed: list[Peer] = field(default_factory=list)

    def subjects(
        self, plan: GroupPlan, texts: Sequence[str], full: Encoder, count: OperationCount, progress: Progress
    ) -> list[Subject]:
        """Every peer that runs, ready for a group.

        Args:
            plan: the group.
            texts: its texts.
            full: the full model, whose vectors are the reference.
            count: its operations.
            progress: called while batch sizes are tried.
        """
        reference = full.encode(list(texts))
        operations = _operations(full, plan, texts, count)
        trials, done = sum(len(peer.settings) + AGAIN for peer in self.running), 0

        def advance() -> None:
            nonlocal done
            done += 1
            progress(f"sizes: {plan.length}", done, trials)

        found = []
        for peer in list(self.running):
            try:
                setting = self._best_setting(peer, plan, texts, advance)
                cosine = check_vectors(peer, plan.length, setting, reference)
            except PeerError as error:
                self.drop(peer, str(error))
                continue
            found.append(peer_subject(peer, plan, setting, str(full.target), operations, cosine))
        return found

    def without_failed(self, subjects: Sequence[Subject], error: PeerError) -> list[Subject]:
        """The subjects that are left once a peer failed while it was timed.

        Raises:
            PeerError: it names no peer that runs.
        """
        if error.peer not in self.running:
            raise error
        failed = error.peer.entry
        self.drop(error.peer, str(error))
        return [one for one in subjects if (one.row.who, one.row.dtype) != (failed.name, failed.dtype)]

    def drop(self, peer: RunningPeer, reason: str) -> None:
        """Go on without a peer, and say why."""
        self.running.remove(peer)
        self.listed = [_listed(peer.entry, peer.versions, reason) if _is(one, peer) else one for one in self.listed]

    def _best_setting(
        self, peer: RunningPeer, plan: GroupPlan, texts: Sequence[str], advance: Callable[[], None]
    ) -> dict[str, Any]:
        listed = next(one for one in self.listed if _is(one, peer))
        if plan.length not in listed.sweep:
            listed.sweep[plan.length] = sweep(peer, plan.length, texts, advance)
        if plan.kind == "latency":
            return peer.settings[0]
        best = min(listed.sweep[plan.length], key=listed.sweep[plan.length].__getitem__)
        return next(one for one in peer.settings if setting_words(one) == best)


def start_peers(
    bundle: Bundle, request: Request, texts: BenchTexts, plan: PeerPlan, stack: ExitStack, progress: Progress
) -> PeerTable:
    """Start every peer; one that does not start is listed with the reason.

    Args:
        bundle: the bundle, which holds the full model.
        request: what is asked for.
        texts: all texts.
        plan: the peers.
        stack: ends them.
        progress: called after each.
    """
    manifest = bundle.manifest
    full = choose_entry(bundle, Target(manifest.depth, manifest.width))
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    every = list(dict.fromkeys(text for length in texts.lengths.values() for text in length))
    job = PeerJob(
        model=plan.model,
        graph=bundle.path / full.file,
        tokenizer=bundle.path / manifest.tokenizer.file,
        key=manifest.source.weights_sha256,
        width=manifest.width,
        max_seq_length=manifest.max_seq_length,
        threads=request.threads[0],
        calibration=thin(every, _CALIBRATION),
    )
    table = PeerTable()
    for number, entry in enumerate(plan.entries):
        progress("start peers", number, len(plan.entries))
        try:
            running = start_peer(plan.folder, entry, job, scratch)
        except PeerError as error:
            table.listed.append(_listed(entry, {}, str(error)))
            continue
        stack.callback(running.stop)
        table.running.append(running)
        table.listed.append(_listed(entry, running.versions, ""))
    progress("start peers", len(plan.entries), len(plan.entries))
    return table


def _operations(full: Encoder, plan: GroupPlan, texts: Sequence[str], count: OperationCount) -> float:
    single = plan.kind == "latency"
    timed = thin(texts, SINGLES) if single else texts
    tokenizer = load_tokenizer(full.bundle)
    return count(tokenizer(timed).lengths.tolist()) / (len(timed) if single else 1)


def _listed(entry: PeerEntry, versions: dict[str, str], reason: str) -> Peer:
    return Peer(entry.name, entry.dtype, entry.engine, versions, {}, reason)


def _is(listed: Peer, peer: RunningPeer) -> bool:
    return (listed.name, listed.dtype) == (peer.entry.name, peer.entry.dtype)

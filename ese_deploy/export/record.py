"""Measuring the targets of a draft: parity with PyTorch, agreement with the full model, golden vectors, ranges."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from ese_deploy.backbones import Checkpoint
from ese_deploy.bundle.golden import GOLDEN_FILE, GOLDEN_TEXTS, Golden, encode_golden, load_golden
from ese_deploy.bundle.manifest import Parity, Quality, TargetEntry
from ese_deploy.bundle.ranges import RANGES_FILE, decode_ranges, encode_ranges
from ese_deploy.bundle.reader import Bundle, choose_entry, read_ranges_file
from ese_deploy.bundle.tolerances import fidelity_failures
from ese_deploy.bundle.writer import BundleDraft
from ese_deploy.engines import GPU_ENGINES, Engine
from ese_deploy.evaluate import AGREEMENT, agreement
from ese_deploy.evaluate.exits import cut
from ese_deploy.export.exit_vectors import ExitVectors
from ese_deploy.export.ranges import measure_ranges
from ese_deploy.export.request import TRAINED
from ese_deploy.export.texts import CalibrationTexts, held_out_half
from ese_deploy.projections.projection import Projection
from ese_deploy.runtime import Encoder
from ese_deploy.runtime.vectors import unchecked_vectors
from ese_deploy.system.progress import Progress
from ese_deploy.target import DTYPES, Target
from ese_deploy.texts.sample import SAMPLE_CORPUS_NAME, sample_corpus, sample_corpus_sha256
from ese_deploy.verify.emulate import engine_for
from ese_deploy.verify.fidelity import measure_fidelity
from ese_deploy.verify.reference import Reference
from ese_deploy.verify.report import TargetCheck
from ese_deploy.verify.targets import check_targets

__all__ = ["verify_and_record"]


def verify_and_record(
    draft: BundleDraft,
    checkpoint: Checkpoint,
    engine: Engine,
    targets: Sequence[Target],
    *,
    projections: Mapping[int, Projection] | None,
    calibration: CalibrationTexts | None,
    existing: Bundle | None,
    progress: Progress,
) -> tuple[BundleDraft, list[TargetCheck]]:
    """Measure the new targets of a draft.

    Args:
        draft: graphs, weights and tokenizer.
        checkpoint: the checkpoint that they were made of.
        engine: the engine that runs the graphs.
        targets: the targets to measure.
        projections: the projection of each exit; None for plain prefixes.
        calibration: the user's texts, to measure output ranges on; None: the sample corpus.
        existing: the bundle whose targets the draft contains too.
        progress: called after each target.

    Returns:
        The draft with golden vectors, output ranges, parity and quality, and what verification found.
    """
    bundle = draft.bundle
    entries = [choose_entry(bundle, target) for target in targets]
    golden = Golden(list(GOLDEN_TEXTS), [], {}) if existing is None else load_golden(existing)
    vectors = dict(golden.vectors)
    checks = []
    # PyTorch's vectors of the golden and of the held-out texts, once for each depth.
    pooled: dict[int, NDArray[np.float32]] = {}
    held_out: dict[int, NDArray[np.float32]] = {}
    for check, reference in check_targets(bundle, checkpoint, engine, entries, projections, progress):
        depth, dim = check.entry.depth, check.entry.dim
        if depth not in pooled:
            pooled[depth] = reference.pool(golden.texts)
            token_ids = [reference.token_ids(text) for text in golden.texts]
            golden = msgspec.structs.replace(golden, token_ids=token_ids)
        if DTYPES[check.entry.dtype].quantized:
            if depth not in held_out:
                held_out[depth] = reference.pool(held_out_half())
            check = check_int8_quality(bundle, engine, check, reference.cut(held_out[depth], dim))
        checks.append(check)
        vectors[check.entry.name] = reference.cut(pooled[depth], dim).tolist()
    exits = ExitVectors(bundle, engine, targets)
    measured = _evaluate(bundle, checkpoint, engine, checks, exits, progress)
    data = None if existing is None else read_ranges_file(existing)
    ranges = decode_ranges(data or b"{}", RANGES_FILE)
    ranges |= measure_ranges(bundle, exits, targets, calibration, progress)
    draft = draft.add_file("golden", GOLDEN_FILE, encode_golden(msgspec.structs.replace(golden, vectors=vectors)))
    draft = draft.add_file("ranges", RANGES_FILE, encode_ranges(ranges))
    return draft.with_targets(measured).replace(calibration=calibration.entry if calibration else None), checks


def check_int8_quality(bundle: Bundle, engine: Engine, check: TargetCheck, exact: NDArray[np.float32]) -> TargetCheck:
    """Add the quality check on held-out texts to the check of a quantized target.

    Args:
        bundle: the bundle.
        engine: the engine that runs the graph.
        check: what verification found.
        exact: PyTorch's vectors of the held-out texts, float32 [n, dim].
    """
    runner = engine_for(engine, check.entry.dtype)
    encoder = Encoder.open(bundle, check.entry.target, engine=runner, log_truncated=False)
    with unchecked_vectors():
        found = encoder.encode(held_out_half())
    fidelity = msgspec.structs.replace(
        measure_fidelity(found, exact, SAMPLE_CORPUS_NAME, sample_corpus_sha256()),
        batch_max_abs=check.batch_max_abs,
        padding_max_abs=check.padding_max_abs,
    )
    failures = (*check.failures, *fidelity_failures(fidelity))
    return replace(
        check,
        entry=msgspec.structs.replace(check.entry, fidelity=fidelity),
        failures=failures,
        parity=msgspec.structs.replace(check.parity, passed=not failures),
    )


def _evaluate(
    bundle: Bundle,
    checkpoint: Checkpoint,
    engine: Engine,
    checks: Sequence[TargetCheck],
    exits: ExitVectors,
    progress: Progress,
) -> dict[str, TargetEntry]:
    """The entries of checked targets, with their parity and their agreement with the full PyTorch model."""
    texts = [item.text for item in sample_corpus()]
    progress("evaluate", 0, len(checks))
    # With trained projections, the full model applies the one of its last layer.
    projections = checkpoint.projections if bundle.manifest.projection == TRAINED else {}
    reference = Reference(checkpoint, checkpoint.depth, projections.get(checkpoint.depth))
    full = reference.cut(reference.pool(texts), checkpoint.width)
    measured = {}
    for done, check in enumerate(checks, start=1):
        value = round(agreement(cut(exits.of_sample(check.entry.target), check.entry.dim), full), 6)
        quality = Quality(
            metric=AGREEMENT,
            data=SAMPLE_CORPUS_NAME,
            data_sha256=sample_corpus_sha256(),
            n=len(texts),
            value=value,
            share_of_full=value,  # the agreement of the full model with itself is 1
        )
        parity = [check.parity, *_not_verified(check.entry, engine)]
        measured[check.entry.name] = msgspec.structs.replace(check.entry, parity=parity, quality=[quality])
        progress("evaluate", done, len(checks))
    return measured


def _not_verified(entry: TargetEntry, engine: Engine) -> list[Parity]:
    """The engines that can run the target, except the one that verified it."""
    others = [name for name in entry.engines if name != engine.name]
    return [Parity(engine=name, device="gpu" if name in GPU_ENGINES else "cpu", versions={}) for name in others]

"""Measuring what was written: parity with PyTorch, agreement with the full model, golden vectors, ranges."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ese_deploy.backbones import Checkpoint
from ese_deploy.bundle.golden import GOLDEN_FILE, Golden, encode_golden
from ese_deploy.bundle.manifest import Manifest, Parity, Quality, TargetEntry, encode_manifest
from ese_deploy.bundle.ranges import RANGES_FILE, decode_ranges, encode_ranges
from ese_deploy.bundle.reader import MANIFEST_FILE, Bundle, choose_entry, open_bundle, read_golden, read_ranges_file
from ese_deploy.engines import GPU_ENGINES, Engine
from ese_deploy.evaluate import AGREEMENT, agreement
from ese_deploy.export.calibrate import CalibrationTexts
from ese_deploy.export.graphs import describe_file
from ese_deploy.export.observe import held_half
from ese_deploy.export.projection import TRAINED
from ese_deploy.export.ranges import measure_ranges
from ese_deploy.runtime import Encoder
from ese_deploy.system.progress import Progress
from ese_deploy.target import DTYPES, Target
from ese_deploy.texts.sample import SAMPLE_CORPUS_NAME, sample_corpus, sample_corpus_sha256
from ese_deploy.verify import Reference, TargetCheck, check_targets, engine_for
from ese_deploy.verify.fidelity import fidelity_failures, measure_fidelity

__all__ = ["verify_and_record"]


def verify_and_record(
    folder: Path,
    checkpoint: Checkpoint,
    engine: Engine,
    targets: Sequence[Target],
    calibration: CalibrationTexts | None,
    progress: Progress,
) -> tuple[Manifest, list[TargetCheck]]:
    """Measure new targets and write the figures into the folder's manifest, golden file and ranges.

    Args:
        folder: a folder that opens as a bundle.
        checkpoint: the checkpoint it was made of.
        engine: the engine that runs the graphs.
        targets: the targets to measure.
        calibration: the user's texts, to measure ranges on; without them, the project's collection.
        progress: called after each target.

    Returns:
        The manifest as written, and what verification found.
    """
    bundle = open_bundle(folder)
    entries = [choose_entry(bundle, target) for target in targets]
    golden = msgspec.json.decode(read_golden(bundle), type=Golden)
    checks = []
    exact: dict[int, NDArray[np.float32]] = {}
    for check, reference in check_targets(bundle, checkpoint, engine, entries, progress):
        if DTYPES[check.entry.dtype].quantized:
            depth = check.entry.depth
            if depth not in exact:
                exact[depth] = reference.pool(held_half())
            check = check_int8_quality(bundle, engine, check, reference.cut(exact[depth], check.entry.dim))
        checks.append(check)
        token_ids = [reference.token_ids(text) for text in golden.texts]
        vectors = reference.cut(reference.pool(golden.texts), check.entry.dim)
        golden = msgspec.structs.replace(
            golden, token_ids=token_ids, vectors={**golden.vectors, check.entry.name: vectors.tolist()}
        )
    measured = _evaluate(bundle, checkpoint, engine, checks, progress)
    (folder / GOLDEN_FILE).write_bytes(encode_golden(golden))
    held = decode_ranges(read_ranges_file(bundle) or b"{}", str(folder / RANGES_FILE))
    ranges = measure_ranges(bundle, engine, targets, calibration, progress)
    (folder / RANGES_FILE).write_bytes(encode_ranges({**held, **ranges}))
    manifest = msgspec.structs.replace(
        bundle.manifest,
        targets=[measured.get(entry.name, entry) for entry in bundle.manifest.targets],
        golden=describe_file(folder / GOLDEN_FILE),
        ranges=describe_file(folder / RANGES_FILE),
        calibration=calibration.entry if calibration else None,
    )
    (folder / MANIFEST_FILE).write_bytes(encode_manifest(manifest))
    return manifest, checks


def check_int8_quality(bundle: Bundle, engine: Engine, check: TargetCheck, exact: NDArray[np.float32]) -> TargetCheck:
    """Let a target of int8 pass the gate on held texts too."""
    runner = engine_for(engine, check.entry.dtype)
    found = Encoder.open(bundle, check.entry.target, engine=runner, log_truncated=False).encode(held_half())
    fidelity = msgspec.structs.replace(
        measure_fidelity(found, exact, SAMPLE_CORPUS_NAME, sample_corpus_sha256()),
        batch_max_abs=check.batch_max_abs,
        padding_max_abs=check.padding_max_abs,
    )
    failures = (*check.failures, *fidelity_failures(fidelity))
    entry = msgspec.structs.replace(check.entry, fidelity=fidelity)
    return replace(
        check, entry=entry, failures=failures, parity=msgspec.structs.replace(check.parity, passed=not failures)
    )


def _evaluate(
    bundle: Bundle, checkpoint: Checkpoint, engine: Engine, checks: Sequence[TargetCheck], progress: Progress
) -> dict[str, TargetEntry]:
    """The entries of checked targets, with their parity and their agreement with the full PyTorch model."""
    texts = [item.text for item in sample_corpus()]
    progress("evaluate", 0, len(checks))
    # A truncated model is what its maps make of its last block.
    projections = checkpoint.projections if bundle.manifest.projection == TRAINED else {}
    reference = Reference(checkpoint, checkpoint.depth, projections.get(checkpoint.depth))
    full = reference.cut(reference.pool(texts), checkpoint.width)
    measured = {}
    for done, check in enumerate(checks, start=1):
        runner = engine_for(engine, check.entry.dtype)
        encoder = Encoder.open(bundle, check.entry.target, engine=runner, log_truncated=False)
        value = agreement(encoder.encode(texts), full)
        quality = Quality(
            metric=AGREEMENT,
            data=SAMPLE_CORPUS_NAME,
            data_sha256=sample_corpus_sha256(),
            n=len(texts),
            value=round(value, 6),
            share_of_full=round(value, 6),  # the full model agrees with itself entirely
        )
        parity = [check.parity, *_not_verified(check.entry, engine)]
        measured[check.entry.name] = msgspec.structs.replace(check.entry, parity=parity, quality=[quality])
        progress("evaluate", done, len(checks))
    return measured


def _not_verified(entry: TargetEntry, engine: Engine) -> list[Parity]:
    """Engines that run the target and that nobody has run it on."""
    others = [name for name in entry.engines if name != engine.name]
    return [Parity(engine=name, device="gpu" if name in GPU_ENGINES else "cpu", versions={}) for name in others]

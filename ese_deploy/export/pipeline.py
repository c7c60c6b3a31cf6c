"""The export, step by step: checkpoint, trace, convert, extract, verify, evaluate, bundle."""

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from ese_deploy.backbones import load_backbone, read_checkpoint
from ese_deploy.bundle.card import CARD_FILE, model_card
from ese_deploy.bundle.manifest import Manifest, encode_manifest
from ese_deploy.bundle.reader import MANIFEST_FILE, PROFILES_FILE, Bundle, open_bundle, read_profiles_file
from ese_deploy.engines import load_engine
from ese_deploy.errors import InputError
from ese_deploy.export.attempts import Attempt, build_passing
from ese_deploy.export.calibrate import LEAST_TEXTS, fit_projections, read_calibration
from ese_deploy.export.convert import Recipe
from ese_deploy.export.graphs import describe_file, write_graphs
from ese_deploy.export.observe import calibrate_int8
from ese_deploy.export.plan import (
    check_output,
    check_update,
    check_way,
    choose_projection,
    grid,
    plan_recipe,
    plan_targets,
)
from ese_deploy.export.projection import FITTED, TRAINED, Fitted
from ese_deploy.export.quantize import Activation
from ese_deploy.export.record import verify_and_record
from ese_deploy.export.trace import OPSET, trace
from ese_deploy.projections.pca import minimum_texts
from ese_deploy.system.files import expand, replace_folder, staging_folder
from ese_deploy.system.locks import lock_folder
from ese_deploy.system.progress import Progress, silent
from ese_deploy.target import DTYPES, Target
from ese_deploy.verify import TargetCheck

__all__ = ["ExportRequest", "Exported", "TargetSelection", "export_bundle"]


class TargetSelection(Protocol):
    """Decides which targets of a grid are made, and which of those that were made are kept."""

    def candidates(
        self,
        depth: int,
        width: int,
        grid: Callable[[Sequence[int] | None, Sequence[int] | None, Sequence[str]], list[Target]],
    ) -> list[Target]:
        """The targets to make of a model of ``depth`` layers and ``width`` dimensions.

        ``grid`` makes targets of depths, dims and dtypes; None stands for those of the request.
        """
        ...

    def select(self, manifest: Manifest) -> list[Target]:
        """The targets to keep of those in a manifest."""
        ...


@dataclass(frozen=True)
class ExportRequest:
    """What to export.

    Attributes:
        model: a folder, a hub id or ``package:NAME``.
        out: the bundle's folder.
        targets: the targets; without them the grid of ``depths``, ``dims`` and ``dtypes``.
        depths: depths of the grid; without them the trained exits.
        dims: dims of the grid; without them the trained prefixes.
        dtypes: dtypes of the grid.
        pooling: for a plain transformers folder.
        revision: branch, tag or commit of the hub.
        allow_pickle: accept weights in pickle files.
        projection: ``trained``, as training left the exits; ``prefix``, of their own vectors; ``pca`` or ``aligned``,
            fitted on ``calibration``. Without it the first that the checkpoint has.
        calibration: a file of texts of the user's own kind, on which projection and output ranges are fitted; without
            it the ranges are those of the project's collection.
        opset: of the graphs; 18 for engines of old.
        max_seq_length: a shorter limit than the checkpoint's, in tokens.
        reduce_range: weights of int8 in 7 bits, for x86 without VNNI.
        keep_failed: write targets that failed a gate too; the manifest says that they did. Without it those of int8
            are left out, and one of another dtype stops the export.
        update: add targets to an existing bundle.
        force: replace an existing bundle.
        selection: decides which targets of the grid are made and kept, such as
            :func:`ese_deploy.choose.select_for_profiles`.
        profiles: contents of a TOML file of budget profiles that the bundle carries.
    """

    model: str
    out: Path
    targets: Sequence[Target] = ()
    depths: Sequence[int] = ()
    dims: Sequence[int] = ()
    dtypes: Sequence[str] = ("fp32",)
    pooling: str | None = None
    revision: str | None = None
    allow_pickle: bool = False
    projection: str | None = None
    calibration: Path | None = None
    opset: int = OPSET
    max_seq_length: int | None = None
    reduce_range: bool = False
    keep_failed: bool = False
    update: bool = False
    force: bool = False
    selection: TargetSelection | None = None
    profiles: bytes | None = None


@dataclass(frozen=True)
class Exported:
    """What an export made.

    Attributes:
        bundle: the bundle, opened.
        checks: what verification found of each new target.
        left_out: what it found of targets of int8 that failed and are not in the bundle.
        untrained: depths that were exported although training did not name them.
        dense: whether Dense modules, which were trained on the full depth, follow those exits too.
    """

    bundle: Bundle
    checks: list[TargetCheck]
    untrained: list[int]
    dense: bool = False
    left_out: list[TargetCheck] = field(default_factory=list)


def export_bundle(request: ExportRequest, progress: Progress = silent) -> Exported:
    """Export, verify and evaluate a checkpoint's targets, and write them as one bundle.

    A target of int8 that fails its gate is left out. Nothing is written under ``request.out`` where another fails, or
    none is left, unless failures are asked for.

    Raises:
        InputError: the request, the checkpoint or the output folder is not what it must be, or the bundle to add to was
            changed meanwhile.
        BundleError: the bundle to add to is damaged.
        CheckFailedError: a target does not equal PyTorch, or every target failed.
    """
    out = expand(request.out).resolve()
    check_way(request.opset, request.projection, request.calibration)
    existing = check_output(out, request.update, request.force)
    engine = load_engine("onnxruntime")
    progress("read checkpoint", 0, 1)
    checkpoint = read_checkpoint(
        request.model,
        pooling=request.pooling,
        revision=request.revision,
        allow_pickle=request.allow_pickle,
        max_seq_length=request.max_seq_length,
    )
    projection = choose_projection(checkpoint, request.projection)
    calibration = None
    if request.calibration is not None:
        fitting = projection in FITTED
        wanted = max(LEAST_TEXTS, minimum_texts(checkpoint.width)) if fitting else LEAST_TEXTS
        calibration = read_calibration(request.calibration, wanted)
    asked = request.targets or grid(checkpoint, request.depths, request.dims, request.dtypes)
    if request.selection is not None:

        def grid_of(depths: Sequence[int] | None, dims: Sequence[int] | None, dtypes: Sequence[str]) -> list[Target]:
            return grid(checkpoint, depths or request.depths, dims or request.dims, dtypes)

        asked = request.selection.candidates(checkpoint.depth, checkpoint.width, grid_of)
    targets = plan_targets(checkpoint, asked, request.opset)
    if existing is not None:
        entry = calibration.entry if calibration else None
        targets = check_update(existing, checkpoint, request.opset, projection, entry, targets)
    bits = 7 if request.reduce_range else 8
    if plan_recipe(existing, targets, calibration, bits) is None and request.reduce_range:
        raise InputError("--reduce-range is for int8 and int8-fp16, and no target is of one; leave it out")
    progress("read checkpoint", 1, 1)
    with ExitStack() as stack:
        backbone = load_backbone(checkpoint)
        depths = sorted({target.depth for target in targets})
        fitted = Fitted(projection, None, checkpoint.projections) if projection == TRAINED else None
        if calibration is not None and projection in FITTED:
            fitted = fit_projections(checkpoint, backbone, depths, projection, calibration, existing, progress)
        progress("trace", 0, 1)
        traced = trace(checkpoint, backbone, depths, request.opset, fitted.projections if fitted else None)
        progress("trace", 1, 1)
        activations: dict[str, Activation] = {}

        def build(wanted: Sequence[Target]) -> Attempt:
            """Write graphs and weights, and measure them against PyTorch."""
            staging = stack.enter_context(staging_folder(out))
            if not activations and any(DTYPES[target.dtype].quantized for target in wanted):
                activations.update(calibrate_int8(checkpoint, traced, calibration, bits, progress))
            described = plan_recipe(existing, wanted, calibration, bits)
            recipe = None if described is None else Recipe(described, activations)
            write_graphs(staging, checkpoint, traced, wanted, existing, fitted, recipe, progress)
            return Attempt(staging, *verify_and_record(staging, checkpoint, engine, wanted, calibration, progress))

        def without(failed: Collection[Target]) -> list[Target]:
            return [target for target in targets if target not in failed]

        made, failed = build_passing(build, targets, without, out, request.keep_failed)
        if request.selection is not None:
            selected = request.selection.select(made.manifest)
            kept = [check.entry.target for check in made.checks if check.entry.target in selected]
            if not kept:
                raise InputError(f"{out} already contains the targets that the profiles select; nothing to add")
            if len(kept) < len(made.checks):
                made, _ = build_passing(build, kept, lambda _: (), out, request.keep_failed)
        proven = _add_profiles(made, request.profiles, existing)
        (made.folder / CARD_FILE).write_text(model_card(proven, out.name), "utf-8")
        progress("write", 0, 1)
        with lock_folder(out):
            # Others may have written here while targets were made.
            held = check_output(out, request.update, request.force)
            if existing is not None and (held is None or held.sha256 != existing.sha256):
                raise InputError(f"{out} was changed while targets were made to add to it; run the command again")
            replace_folder(made.folder, out)
        progress("write", 1, 1)
    untrained = sorted({check.entry.depth for check in made.checks} - set(proven.trained_exits))
    return Exported(open_bundle(out), made.checks, untrained, bool(checkpoint.head), failed)


def _add_profiles(made: Attempt, own: bytes | None, existing: Bundle | None) -> Manifest:
    """Write the profiles that the bundle carries; without new ones it keeps those that it has."""
    text = own if own is not None or existing is None else read_profiles_file(existing)
    if text is None:
        return made.manifest
    path = made.folder / PROFILES_FILE
    path.write_bytes(text)
    listed = msgspec.structs.replace(made.manifest, profiles=describe_file(path))
    (made.folder / MANIFEST_FILE).write_bytes(encode_manifest(listed))
    return listed

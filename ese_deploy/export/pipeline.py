"""The steps of an export, in one direction: read, trace, convert, extract, verify, evaluate, write."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from ese_deploy.backbones import load_backbone, read_checkpoint
from ese_deploy.bundle.manifest import Manifest
from ese_deploy.bundle.reader import PROFILES_FILE, Bundle, open_bundle, read_profiles_file
from ese_deploy.engines import DEFAULT_ENGINE, load_engine
from ese_deploy.errors import InputError
from ese_deploy.export.attempts import Attempt, make_passing
from ese_deploy.export.calibrate import fit_projections
from ese_deploy.export.convert import QuantizationSettings
from ese_deploy.export.graphs import make_graphs
from ese_deploy.export.observe import calibrate_int8
from ese_deploy.export.plan import (
    check_depth_0,
    check_source_space,
    check_update,
    choose_projection,
    choose_token_features,
    plan_quantization,
    plan_targets,
)
from ese_deploy.export.projection import BundleProjections
from ese_deploy.export.quantize import Activation
from ese_deploy.export.record import verify_and_record
from ese_deploy.export.request import FITTED, TRAINED, CheckedRequest, check_output
from ese_deploy.export.trace import trace
from ese_deploy.projections.pca import minimum_texts
from ese_deploy.system.files import replace_folder, staging_folder
from ese_deploy.system.locks import lock_folder
from ese_deploy.system.progress import Progress
from ese_deploy.target import DTYPES, Target
from ese_deploy.verify.report import TargetCheck

__all__ = ["Exported", "run_export"]


@dataclass(frozen=True, repr=False)
class Exported:
    """The result of an export.

    Attributes:
        bundle: the bundle, opened.
        checks: what verification found of each new target.
        untrained: depths of new targets that training did not name.
        dense: whether the exits of those depths end in Dense modules that were trained for the full depth.
        left_out: what verification found of quantized targets that failed and are not in the bundle.
    """

    bundle: Bundle
    checks: list[TargetCheck]
    untrained: list[int]
    dense: bool = False
    left_out: list[TargetCheck] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Exported({self.bundle!r}, new={len(self.checks)}, left_out={len(self.left_out)})"


def run_export(checked: CheckedRequest, progress: Progress) -> Exported:
    """Export a request whose arguments were checked; see :func:`ese_deploy.export.export`."""
    request, existing, calibration = checked.request, checked.existing, checked.calibration
    engine = load_engine(DEFAULT_ENGINE)
    progress("read checkpoint", 0, 1)
    checkpoint = read_checkpoint(
        str(request.model),
        pooling=request.pooling,
        revision=request.revision,
        allow_pickle=request.allow_pickle,
        max_seq_length=request.max_seq_length,
    )
    kind = choose_projection(checkpoint, request.projection)
    if calibration is not None and kind in FITTED:
        calibration.require(minimum_texts(checkpoint.width))
    targets = plan_targets(checkpoint, checked)
    check_depth_0(checkpoint, kind, targets)
    if request.space == "source":
        check_source_space(checkpoint, kind, targets)
    if existing is not None:
        targets = check_update(existing, checkpoint, request.opset, kind, calibration, targets)
    features = choose_token_features(checked.token_features, kind, existing, targets, checkpoint.depth)
    bits = 7 if request.reduce_range else 8
    if plan_quantization(existing, targets, calibration, bits) is None and request.reduce_range:
        raise InputError("`reduce_range` is for int8 and int8-fp16, and no target has such a dtype. Omit it.")
    progress("read checkpoint", 1, 1)
    with ExitStack() as stack:
        backbone = load_backbone(checkpoint)
        depths = sorted({target.depth for target in targets})
        projections = BundleProjections(kind, None, checkpoint.projections) if kind == TRAINED else None
        if calibration is not None and kind in FITTED:
            projections = fit_projections(checkpoint, backbone, depths, kind, calibration, existing, progress, features)
        if projections is not None and request.space == "source":
            projections = projections.to_source(checkpoint.depth)
        by_exit = projections.by_exit if projections else None
        progress("trace", 0, 1)
        traced = trace(checkpoint, backbone, depths, request.opset, by_exit)
        progress("trace", 1, 1)
        activations: dict[str, Activation] = {}

        def make(wanted: Sequence[Target]) -> Attempt:
            staging = stack.enter_context(staging_folder(checked.out))
            if not activations and any(DTYPES[target.dtype].quantized for target in wanted):
                activations.update(calibrate_int8(checkpoint, traced, calibration, bits, progress))
            entry = plan_quantization(existing, wanted, calibration, bits)
            draft = make_graphs(
                staging,
                checkpoint,
                traced,
                wanted,
                existing=existing,
                projections=projections,
                settings=QuantizationSettings(entry, activations) if entry else None,
                progress=progress,
            )
            return verify_and_record(
                draft,
                checkpoint,
                engine,
                wanted,
                projections=by_exit,
                calibration=calibration,
                existing=existing,
                progress=progress,
            )

        def select(manifest: Manifest) -> list[Target]:
            assert request.selection is not None
            selected = request.selection.select(manifest)
            if not set(selected) & set(targets):
                raise InputError(
                    f"{checked.out} already contains the targets of the profiles. There is nothing to add."
                )
            return selected

        (draft, checks), left_out = make_passing(
            make, targets, checked.out, request.keep_failed, select if request.selection else None
        )
        profiles = request.profiles
        if profiles is None and existing is not None:
            profiles = read_profiles_file(existing)
        if profiles is not None:
            draft = draft.add_file("profiles", PROFILES_FILE, profiles)
        draft.write_manifest(checked.out.name)
        progress("write", 0, 1)
        with lock_folder(checked.out):
            # Another process may have written here in the meantime.
            present = check_output(checked.out, request.update, request.force)
            if existing is not None and (present is None or present.sha256 != existing.sha256):
                raise InputError(f"{checked.out} was changed while targets were made to add to it. Export again.")
            replace_folder(draft.folder, checked.out)
        progress("write", 1, 1)
    untrained = sorted({check.entry.depth for check in checks} - set(draft.manifest.trained_exits))
    return Exported(open_bundle(checked.out), checks, untrained, bool(checkpoint.head), left_out)

"""Deciding which targets to make of a checkpoint, before any expensive work."""

from collections.abc import Sequence

from ese_deploy.backbones import Checkpoint
from ese_deploy.bundle.manifest import Calibration, Quantization
from ese_deploy.bundle.projections import bundle_projections
from ese_deploy.bundle.reader import Bundle
from ese_deploy.bundle.spaces import full_depth_space, source_space
from ese_deploy.errors import InputError
from ese_deploy.export.observe import describe_quantization
from ese_deploy.export.request import NO_DEPTH_0, TRAINED, CheckedRequest
from ese_deploy.export.texts import CalibrationTexts
from ese_deploy.projections.projection import PROJECTIONS_FILE
from ese_deploy.projections.tokens import TOKEN_FEATURES
from ese_deploy.target import DTYPES, Target

__all__ = [
    "check_depth_0",
    "check_source_space",
    "check_update",
    "choose_projection",
    "choose_token_features",
    "grid",
    "plan_quantization",
    "plan_targets",
]


def grid(
    checkpoint: Checkpoint, depths: Sequence[int] | None, dims: Sequence[int] | None, dtypes: Sequence[str]
) -> list[Target]:
    """All combinations of depths, dims and dtypes.

    Without depths or dims: those that training names in ``ese.json``, else the full model's.
    """
    contract = checkpoint.contract
    # A model that was truncated above its trained exits has none left.
    depths = depths or (contract and contract.trained_exits) or [checkpoint.depth]
    dims = dims or (contract and contract.trained_dims) or [checkpoint.width]
    return [Target(depth, dim, dtype) for depth in depths for dim in dims for dtype in dtypes]


def plan_targets(checkpoint: Checkpoint, checked: CheckedRequest) -> list[Target]:
    """The targets of a request, sorted: those that it names, those of its selection, or its grid.

    Raises:
        InputError: there are none, or one is deeper or wider than the model.
    """
    selection = checked.request.selection
    if selection is not None:
        targets = selection.candidates(
            checkpoint.depth,
            checkpoint.width,
            lambda depths, dims, dtypes: grid(checkpoint, depths or checked.depths, dims or checked.dims, dtypes),
        )
    else:
        targets = checked.targets or grid(checkpoint, checked.depths, checked.dims, checked.dtypes)
    if not targets:
        raise InputError("There is no target to make. Name one with `targets`, for example 3x128.")
    for target in targets:
        if target.depth > checkpoint.depth:
            raise InputError(f"Target '{target}' is deeper than the model. Choose a depth of 1 to {checkpoint.depth}.")
        if target.dim > checkpoint.width:
            raise InputError(f"Target '{target}' is wider than the model. Choose 8 to {checkpoint.width} dimensions.")
    return sorted(set(targets))


def choose_token_features(
    wanted: frozenset[str] | None, kind: str, existing: Bundle | None, targets: Sequence[Target], full: int
) -> frozenset[str]:
    """What aligned projections read beside pooled states.

    Args:
        wanted: the names of the request; None: all, or those of the bundle to add to.
        kind: the projection.
        existing: the bundle to add to.
        targets: the targets to make.
        full: the full depth.

    Raises:
        InputError: the bundle to add to has others, or a target of depth 0 has no table.
    """
    present = None if existing is None else _present_features(existing)
    if wanted is not None and present not in (None, wanted):
        assert existing is not None and present is not None
        raise _other_settings(existing, "token features", _named(present), _named(wanted))
    features = wanted if wanted is not None else (present if present is not None else frozenset(TOKEN_FEATURES))
    if "table" not in features and any(target.depth == 0 for target in targets):
        assert existing is not None
        raise InputError(
            f"{existing.path} has no table of token vectors, which depth 0 needs. Replace it with `force`, or choose a "
            f"depth of 1 to {full}."
        )
    return features if kind == "aligned" else frozenset()


def check_depth_0(checkpoint: Checkpoint, kind: str, targets: Sequence[Target]) -> None:
    """Check that a table of token vectors is there or will be fitted, if a target has depth 0.

    Raises:
        InputError: there is none.
    """
    lookup = kind == "aligned" or (kind == TRAINED and 0 in checkpoint.projections)
    if not lookup and any(target.depth == 0 for target in targets):
        raise InputError(NO_DEPTH_0)


def _present_features(existing: Bundle) -> frozenset[str] | None:
    """The token features of a bundle; None if its projections do not decide, because it has the full depth only."""
    found = bundle_projections(existing) or {}
    names = [one.tokens.names if one.tokens else frozenset[str]() for depth, one in found.items() if one.states]
    names += [one.tokens.names for one in found.values() if one.tokens and one.is_lookup]
    return names[0] if names else None


def _named(features: frozenset[str]) -> str:
    return ",".join(sorted(features)) or "none"


def choose_projection(checkpoint: Checkpoint, wanted: str | None) -> str:
    """The projection of the request; by default the one that training made.

    Raises:
        InputError: training made none.
    """
    if wanted == TRAINED and not checkpoint.projections:
        raise InputError(
            f"{checkpoint.location.path} has no {PROJECTIONS_FILE}, which projection '{TRAINED}' needs. Train with the "
            "loss 'espresso', or choose `projection=aligned`, which is fitted on texts."
        )
    return wanted or (TRAINED if checkpoint.projections else "prefix")


def check_source_space(checkpoint: Checkpoint, kind: str, targets: Sequence[Target]) -> None:
    """Check that all targets can have vectors in the source space.

    Raises:
        InputError: a target is a prefix in the bundle's own space, or its exit does not share the space of the full
            depth.
    """
    if kind == "pca":
        raise InputError("Projection 'pca' is a rotation, which `space=source` undoes. Choose `projection=prefix`.")
    contract = checkpoint.contract
    shared = kind == "aligned" or (contract is not None and contract.aligned_exits)
    for target in targets:
        if kind != "prefix" and target.dim < checkpoint.width:
            raise InputError(
                f"Target '{target}' is a prefix of principal components, and `space=source` undoes their rotation. "
                f"Choose {target.depth}x{checkpoint.width}, or convert the index with ese-deploy convert-index."
            )
        if target.depth < checkpoint.depth and not shared:
            raise InputError(
                f"Exit {target.depth} does not share the embedding space of the full depth, so `space=source` is not "
                f"possible. Choose depth {checkpoint.depth}, or `projection=aligned`."
            )


def check_update(
    existing: Bundle,
    checkpoint: Checkpoint,
    opset: int,
    projection: str,
    calibration: CalibrationTexts | None,
    targets: Sequence[Target],
) -> list[Target]:
    """The targets that the bundle does not contain yet.

    Raises:
        InputError: the bundle was made of another checkpoint or with other settings, or contains all targets already.
    """
    manifest = existing.manifest
    if manifest.projection != "prefix" and full_depth_space(manifest) == source_space(manifest):
        raise InputError(f"{existing.path} was exported with `space=source`. Replace it with `force`.")
    settings = {
        "weights": (manifest.source.weights_sha256, checkpoint.weights_sha256()),
        "pooling": (manifest.pooling, checkpoint.pooling),
        "max_seq_length": (manifest.max_seq_length, checkpoint.max_seq_length),
        "prompts": (manifest.prompts, checkpoint.prompts),
        "default prompt": (manifest.default_prompt_name, checkpoint.default_prompt_name),
        "opset": (manifest.opset, opset),
        "projection": (manifest.projection, projection),
        "calibration texts": (_sha256(manifest.calibration), _sha256(calibration.entry if calibration else None)),
        "trained exits": (manifest.trained_exits, checkpoint.trained_exits),
    }
    for what, (before, now) in settings.items():
        if before != now:
            raise _other_settings(existing, what, before, now)
    present = {entry.target for entry in manifest.targets}
    missing = [target for target in targets if target not in present]
    if not missing:
        raise InputError(f"{existing.path} already contains {', '.join(map(str, targets))}. There is nothing to add.")
    return missing


def plan_quantization(
    existing: Bundle | None, targets: Sequence[Target], calibration: CalibrationTexts | None, bits: int
) -> Quantization | None:
    """The quantization settings of the targets; None if no target is quantized.

    Raises:
        InputError: the bundle to add to, whose weights are shared, has other settings.
    """
    if not any(DTYPES[target.dtype].quantized for target in targets):
        return None
    wanted = describe_quantization(calibration, bits)
    present = None if existing is None else existing.manifest.quantization
    if existing is not None and present not in (None, wanted):
        assert present is not None
        raise _other_settings(existing, "settings of int8", _describe(present), _describe(wanted))
    return wanted


def _other_settings(existing: Bundle, what: str, before: object, now: object) -> InputError:
    return InputError(
        f"{existing.path} was made with other {what}: {before}, now {now}. Use the same, or replace it with `force`."
    )


def _describe(settings: Quantization) -> str:
    return f"{settings.weight_bits}-bit weights, {settings.n} texts of {settings.data} {settings.data_sha256:.12}"


def _sha256(calibration: Calibration | None) -> str | None:
    return None if calibration is None else calibration.sha256

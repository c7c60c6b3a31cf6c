"""Deciding which targets to make, before any work is done."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ese_deploy.backbones import Checkpoint
from ese_deploy.bundle.manifest import Calibration, Quantization
from ese_deploy.bundle.reader import Bundle, is_bundle, open_bundle
from ese_deploy.errors import InputError
from ese_deploy.export.calibrate import CalibrationTexts
from ese_deploy.export.observe import describe_recipe
from ese_deploy.export.projection import FITTED, PROJECTIONS, TRAINED
from ese_deploy.export.trace import MINIMUM_ONNXRUNTIME, OPSET
from ese_deploy.projections.projection import PROJECTIONS_FILE
from ese_deploy.target import DTYPES, Target

__all__ = ["check_output", "check_update", "check_way", "choose_projection", "grid", "plan_recipe", "plan_targets"]

# What an export writes, what a killed process left of it, and what a desktop leaves in any folder.
_OF_A_BUNDLE = re.compile(
    r"(manifest|tokenizer|golden|ranges)\.json|README\.md|profiles\.toml|projection\.safetensors"
    r"|weights\.[a-z0-9-]+\.data|d\d+_k\d+\.[a-z0-9-]+\.onnx|\.DS_Store|\..+\.part-.+"
)


def grid(
    checkpoint: Checkpoint, depths: Sequence[int] | None, dims: Sequence[int] | None, dtypes: Sequence[str]
) -> list[Target]:
    """All combinations of depths, dims and dtypes.

    Where depths or dims are not given, they are those that training names in ``ese.json``, else the full model's.
    """
    contract = checkpoint.contract
    # None of them is left where a model was truncated above its trained exits.
    depths = depths or (contract and contract.trained_exits) or [checkpoint.depth]
    dims = dims or (contract and contract.trained_dims) or [checkpoint.width]
    return [Target(depth, dim, dtype) for depth in depths for dim in dims for dtype in dtypes]


def plan_targets(checkpoint: Checkpoint, targets: Sequence[Target], opset: int = OPSET) -> list[Target]:
    """Check targets against the model and sort them.

    Raises:
        InputError: there are none, one stands twice, is deeper or wider than the model, or cannot be converted at that
            opset.
    """
    if not targets:
        raise InputError("no target was asked for; write for example --targets 3x128")
    for target in targets:
        if target.depth > checkpoint.depth:
            raise InputError(
                f"depth {target.depth} of target '{target}' is beyond the model's; choose 1 to {checkpoint.depth}"
            )
        if target.dim > checkpoint.width:
            raise InputError(
                f"dim {target.dim} of target '{target}' is beyond the model's; choose 8 to {checkpoint.width}"
            )
        least = DTYPES[target.dtype].minimum_opset
        if opset < least:
            raise InputError(f"Target '{target}' needs opset {least} or newer, got {opset}. Choose `opset={OPSET}`.")
        if targets.count(target) > 1:
            raise InputError(f"target '{target}' is asked for twice; name each target once")
    return sorted(targets)


def check_output(out: Path, update: bool, force: bool) -> Bundle | None:
    """Check that a bundle may be written to ``out``.

    Returns:
        The bundle to add to, where ``update`` is set.

    Raises:
        InputError: ``out`` holds something that must not be replaced, or cannot be replaced.
        BundleError: the bundle to add to is damaged.
    """
    if update and force:
        raise InputError("--update adds to a bundle and --force replaces it; choose one")
    if os.path.ismount(out):
        raise InputError(f"{out} is a mount point, and a bundle takes its folder's place whole; name one in it")
    if update:
        existing = open_bundle(out)
        _refuse_others(out)
        return existing
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; --out names a folder")
    if not out.exists() or not any(out.iterdir()):
        return None
    if not is_bundle(out):
        raise InputError(f"{out} is a folder that is not a bundle; choose another --out or empty it")
    if not force:
        raise InputError(f"{out} is a bundle already; add targets with --update, or replace it with --force")
    _refuse_others(out)
    return None


def _refuse_others(out: Path) -> None:
    """Refuse a folder of which more would be lost than a bundle, since a new one takes its place whole."""
    for path in sorted(out.iterdir()):
        if path.is_dir() or not _OF_A_BUNDLE.fullmatch(path.name):
            raise InputError(f"{path} is no part of a bundle and would be deleted with the old one; move it elsewhere")


def check_way(opset: int, projection: str | None, calibration: Path | None) -> None:
    """Check how the targets are to be made.

    Raises:
        InputError: the opset or the projection is unknown, or the projection needs a calibration.
    """
    if opset not in MINIMUM_ONNXRUNTIME:
        raise InputError(f"opset {opset} cannot be exported; choose one of {', '.join(map(str, MINIMUM_ONNXRUNTIME))}")
    if projection is not None and projection not in PROJECTIONS:
        raise InputError(f"there is no projection '{projection}'; choose one of {', '.join(PROJECTIONS)}")
    if projection in FITTED and calibration is None:
        raise InputError(
            f"projection '{projection}' is fitted on texts of your own kind; name them with --calibration FILE"
        )


def choose_projection(checkpoint: Checkpoint, wanted: str | None) -> str:
    """The projection that was asked for; without one, that which training left.

    Raises:
        InputError: training left none.
    """
    if wanted == TRAINED and not checkpoint.projections:
        raise InputError(
            f"projection '{TRAINED}' was asked for, and {checkpoint.location.path} has no {PROJECTIONS_FILE}; "
            "training writes one with the loss 'espresso'; 'aligned' fits one on texts"
        )
    return wanted or (TRAINED if checkpoint.projections else "prefix")


def check_update(
    existing: Bundle,
    checkpoint: Checkpoint,
    opset: int,
    projection: str,
    calibration: Calibration | None,
    targets: Sequence[Target],
) -> list[Target]:
    """The targets that the bundle does not hold yet.

    Raises:
        InputError: the bundle was made of another checkpoint or in another way, or holds all targets already.
    """
    manifest = existing.manifest
    wanted = {
        "weights": (manifest.source.weights_sha256, checkpoint.weights_sha256()),
        "pooling": (manifest.pooling, checkpoint.pooling),
        "max_seq_length": (manifest.max_seq_length, checkpoint.max_seq_length),
        "prompts": (manifest.prompts, checkpoint.prompts),
        "default prompt": (manifest.default_prompt_name, checkpoint.default_prompt_name),
        "opset": (manifest.opset, opset),
        "projection": (manifest.projection, projection),
        "calibration texts": (_sha256(manifest.calibration), _sha256(calibration)),
        "trained exits": (manifest.trained_exits, checkpoint.trained_exits),
    }
    for what, (held, got) in wanted.items():
        if held != got:
            raise InputError(
                f"{existing.path} was made with other {what} ({held}, now {got}); make them alike, or replace it whole "
                "with --force"
            )
    held_targets = {entry.target for entry in manifest.targets}
    missing = [target for target in targets if target not in held_targets]
    if not missing:
        raise InputError(f"{existing.path} holds {', '.join(map(str, targets))} already; nothing to add")
    return missing


def plan_recipe(
    existing: Bundle | None, targets: Sequence[Target], calibration: CalibrationTexts | None, bits: int
) -> Quantization | None:
    """How targets are quantised, where one asks for it: as those of the bundle that is added to, which share weights.

    Raises:
        InputError: the bundle's were made in another way.
    """
    if not any(DTYPES[target.dtype].quantized for target in targets):
        return None
    recipe = describe_recipe(calibration, bits)
    held = None if existing is None else existing.manifest.quantization
    if existing is not None and held is not None and held != recipe:
        raise InputError(
            f"{existing.path} was made with other settings of int8 ({_describe(held)}, now {_describe(recipe)}); "
            "make them alike, or replace it whole with --force"
        )
    return recipe


def _describe(recipe: Quantization) -> str:
    return f"weights of {recipe.weight_bits} bits, {recipe.n} texts of {recipe.data} {(recipe.data_sha256 or '')[:12]}"


def _sha256(calibration: Calibration | None) -> str | None:
    return None if calibration is None else calibration.sha256

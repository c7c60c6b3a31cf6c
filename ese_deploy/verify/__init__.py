"""Verifying that a bundle computes what PyTorch computes."""

from pathlib import Path

from ese_deploy.backbones.source import locate
from ese_deploy.bundle.hashes import check_files
from ese_deploy.bundle.manifest import TargetEntry
from ese_deploy.bundle.reader import Bundle, open_bundle
from ese_deploy.engines import DEFAULT_ENGINE, GPU_ENGINES, Engine, load_engine, runs_dtype
from ese_deploy.errors import InputError
from ese_deploy.system.progress import Progress, silent
from ese_deploy.verify.report import TargetCheck, VerifyReport

__all__ = ["TargetCheck", "VerifyReport", "verify"]


def verify(
    bundle: str | Path | Bundle,
    *,
    against: str | None = None,
    engine: str | Engine = DEFAULT_ENGINE,
    save: bool = False,
    allow_pickle: bool = False,
    progress: Progress = silent,
) -> VerifyReport:
    """Check the hash of every file of a bundle, and compare every target with PyTorch.

    An engine on the CPU emulates the dtypes that it does not compute in; an accelerator checks only the targets of
    dtypes that it computes in.

    Args:
        bundle: the folder of a bundle, or an open one.
        against: a folder, a hub id or ``package:NAME``, instead of the checkpoint that the bundle names.
        engine: the engine that runs the graphs.
        save: write the figures into the manifest and the model card.
        allow_pickle: also load weights in pickle files, which can run any code.
        progress: called with a stage, the steps done and their number.

    Raises:
        BundleError: the bundle is missing or damaged.
        EngineError: the engine is missing or cannot run a graph.
        InputError: the checkpoint is missing or has other weights, the engine runs no target of the bundle, or the
            figures cannot be saved.

    Example:
        >>> verify("exports/minilm").passed
        True
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    if against is not None:
        locate(against, allow_pickle=allow_pickle)
    loaded = load_engine(engine) if isinstance(engine, str) else engine
    entries = _entries(opened, loaded.name)
    for _ in check_files(opened, progress):
        pass
    # Imported here: torch takes seconds to import, and a wrong argument should not.
    from ese_deploy.backbones.bundled import checkpoint_of
    from ese_deploy.bundle.projections import bundle_projections
    from ese_deploy.verify.save import save_parity
    from ese_deploy.verify.targets import check_targets

    checkpoint = checkpoint_of(opened, against, allow_pickle=allow_pickle, same_weights=against is None)
    found = check_targets(opened, checkpoint, loaded, entries, bundle_projections(opened), progress)
    checks = [check for check, _ in found]
    return VerifyReport(save_parity(opened, checks) if save else opened, loaded.name, checks)


def _entries(bundle: Bundle, engine: str) -> list[TargetEntry]:
    entries = bundle.manifest.targets
    if engine not in GPU_ENGINES:
        return list(entries)
    running = [entry for entry in entries if runs_dtype(engine, entry.dtype)]
    if not running:
        raise InputError(f"Engine '{engine}' computes in the dtype of no target of {bundle.path}. Choose another.")
    return running

"""The evaluation as one function. Arguments are checked before any large library is imported."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ese_deploy.backbones import locate
from ese_deploy.bundle.manifest import Quality
from ese_deploy.bundle.reader import Bundle, is_bundle, open_bundle
from ese_deploy.engines import DEFAULT_ENGINE, load_engine
from ese_deploy.errors import InputError
from ese_deploy.evaluate.data import RetrievalData, StsData, read_retrieval, read_sts
from ese_deploy.system.machine import Machine, describe_machine, library_versions
from ese_deploy.system.progress import Progress, silent
from ese_deploy.target import Target
from ese_deploy.texts.dialect import dialect_of

if TYPE_CHECKING:
    from ese_deploy.evaluate.exits import BundleExits, ExitModel
    from ese_deploy.evaluate.grid import AsymmetricCell
    from ese_deploy.evaluate.intervals import Resampling

__all__ = ["Baseline", "Evaluation", "evaluate"]

_LOG = logging.getLogger(__name__)
_Data = TypeVar("_Data", StsData, RetrievalData)


@dataclass(frozen=True, repr=False)
class Baseline:
    """What finds documents without the model.

    Attributes:
        name: ``BM25``.
        figures: its figures on each retrieval collection, with their shares of the full model's.
    """

    name: str
    figures: list[Quality]


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The quality of each target of a model.

    Attributes:
        model: the name of the bundle's folder, or the checkpoint as it was named.
        figures: for each target its figures, with their shares of the full model's.
        asymmetric: retrieval with queries of one depth and documents of another.
        skipped: targets whose dtype the engine does not compute in.
        machine: where it ran.
        versions: of the libraries.
        full: the full model's figures, which shares and differences refer to.
        baselines: BM25 on the retrieval collections.
        prompts: what was put before each text, query and document.
        resamples: the number of resamples behind each confidence interval.
    """

    model: str
    figures: dict[Target, list[Quality]]
    asymmetric: "list[AsymmetricCell]"
    skipped: list[Target] = field(default_factory=list)
    machine: Machine = field(default_factory=describe_machine)
    versions: dict[str, str] = field(default_factory=library_versions)
    full: list[Quality] = field(default_factory=list)
    baselines: list[Baseline] = field(default_factory=list)
    prompts: dict[str, str] = field(default_factory=dict)
    resamples: int = 0

    def __repr__(self) -> str:
        data = dict.fromkeys(figure.data for figures in self.figures.values() for figure in figures)
        return f"Evaluation({self.model}: {len(self.figures)} targets on {', '.join(data)})"

    def find(self, target: Target | str, metric: str, data: str | None = None) -> Quality | None:
        """The figure of a target by a metric, such as ``sts_spearman``, on the data of that name or on any."""
        wanted = target if isinstance(target, Target) else Target.parse(target)
        figures = self.figures.get(wanted, [])
        return next((one for one in figures if one.metric == metric and data in (None, one.data)), None)

    def document(self) -> dict[str, Any]:
        """Everything as one JSON document."""
        return {
            "model": self.model,
            "machine": self.machine,
            "versions": self.versions,
            "targets": [
                {"target": str(one), "depth": one.depth, "dim": one.dim, "dtype": one.dtype, "quality": figures}
                for one, figures in self.figures.items()
            ],
            "full_model": self.full,
            "baselines": [asdict(one) for one in self.baselines],
            "asymmetric": [asdict(cell) for cell in self.asymmetric],
            "prompts": self.prompts,
            "intervals": {"level": 0.95, "method": "bootstrap, percentiles", "resamples": self.resamples},
        }


def evaluate(
    model: Bundle | str | Path,
    *,
    sts: Sequence[str | Path | StsData] = (),
    retrieval: Sequence[str | Path | RetrievalData] = (),
    against: str | None = None,
    columns: str | Mapping[str, str] | None = None,
    encoding: str = "utf-8",
    separator: str | None = None,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    save: bool = False,
    engine: str | None = None,
    threads: int | None = None,
    depths: Sequence[int] = (),
    dims: Sequence[int] = (),
    pooling: str | None = None,
    device: str | None = None,
    bf16: bool = False,
    allow_pickle: bool = False,
    progress: Progress = silent,
) -> Evaluation:
    """Evaluate every target of a bundle, or every depth and dim of a checkpoint.

    Agreement with the full model is always measured, on the sample corpus.

    Args:
        model: a bundle (open, or its folder), or a checkpoint: a folder, a hub id or ``package:NAME``.
        sts: files of scored pairs, see :func:`read_sts`.
        retrieval: folders of retrieval collections, see :func:`read_retrieval`.
        against: for a bundle without the full model: the checkpoint that it was made of, instead of the one it names.
        columns: the columns of the files of pairs, such as ``text1=question,text2=answer,score=relevance``.
        encoding: of the files of pairs.
        separator: between the columns of their ``.csv``: comma, semicolon, tab or pipe.
        query_prompt: put this before each query, in place of the model's prompt; an empty one is none.
        document_prompt: put this before each document, likewise.
        save: write the figures into the manifest and the model card of the bundle.
        engine: for a bundle: the inference engine; ``onnxruntime`` by default.
        threads: for a bundle: threads to compute with; all available by default.
        depths: of a checkpoint; all by default.
        dims: of a checkpoint; by default 16, 32, 64 and so on up to the full width.
        pooling: of a checkpoint that is a plain transformers folder.
        device: for a checkpoint: a PyTorch device; ``cpu`` by default.
        bf16: for a checkpoint: multiply in bf16, which is faster and changes figures slightly.
        allow_pickle: also load weights in pickle files, which can run any code.
        progress: called between batches.

    Raises:
        InputError: an argument does not apply to the model, data is broken, or two data sets have one name.
        BundleError: the bundle is damaged.
        EngineError: the engine is unknown or not installed, or runs no target.

    Example:
        >>> found = evaluate("exports/minilm", sts=["stsb_test.tsv.gz"])
        >>> found.find("3x128", "sts_spearman").value
    """
    bundle = model if isinstance(model, Bundle) else open_bundle(model) if is_bundle(Path(model)) else None
    if bundle is None:
        _refuse(model, "a bundle", against=against, save=save, engine=engine, threads=threads)
        locate(str(model))
    else:
        _refuse(bundle.path, "a checkpoint", depths=depths, dims=dims, pooling=pooling, device=device, bf16=bf16)
        load_engine(engine or DEFAULT_ENGINE)
    dialect = dialect_of(encoding, separator)
    pairs = _read_all(sts, StsData, lambda path: read_sts(path, columns, dialect))
    collections = _read_all(retrieval, RetrievalData, read_retrieval)
    for data in collections:
        if data.missing:
            _LOG.warning(
                "%d judgements of %s name a missing query or document: %s", data.missing, data.name, data.first_missing
            )

    from ese_deploy.evaluate.exits import ROLES, BundleExits
    from ese_deploy.evaluate.grid import evaluate_grid, share_figures, with_shares
    from ese_deploy.evaluate.intervals import Resampling, with_intervals

    prompts = {"query": query_prompt, "document": document_prompt}
    prompted = {role: prompt for role, prompt in prompts.items() if prompt is not None}
    exits: ExitModel
    full, skipped = None, list[Target]()
    if bundle is None:
        exits = _checkpoint_exits(str(model), depths, dims, pooling, device, bf16, allow_pickle, prompted)
    else:
        exits = BundleExits(bundle, engine or DEFAULT_ENGINE, threads, prompted)
        full, skipped = _full_model(bundle, exits, against, allow_pickle, prompted), exits.skipped
    resampling = Resampling()
    figures, cells = evaluate_grid(exits, pairs, collections, progress, full, resampling)
    if full is None:
        assert exits.full is not None
        whole = _Whole(figures[exits.full], exits.full, resampling)
    else:
        _LOG.info("The bundle lacks the full model; shares are of %s in PyTorch", full.name)
        own = Resampling()
        full_figures, _ = evaluate_grid(full, pairs, collections, progress, None, own)
        last = full.exits[-1].targets[-1]
        whole = _Whole(full_figures[last], last, own)
    reference = whole.target, whole.resampling
    compared = with_intervals(with_shares(figures, whole.figures), resampling, *reference)
    shared = {whole.target: share_figures(whole.figures, whole.figures)}
    found = Evaluation(
        exits.name,
        compared,
        cells,
        skipped,
        full=with_intervals(shared, whole.resampling, *reference)[whole.target],
        baselines=_baselines(collections, whole),
        prompts={role: exits.prompt(role) for role in ROLES},
        resamples=resampling.resamples,
    )
    if save and bundle is not None:
        from ese_deploy.evaluate.save import save_quality

        save_quality(bundle, found.figures)
    return found


def _refuse(model: object, kind: str, **arguments: object) -> None:
    given = [f"`{name}`" for name, value in arguments.items() if value]
    if given:
        other = "checkpoint" if kind == "a bundle" else "bundle"
        raise InputError(f"{' and '.join(given)} need {kind}, and {model} is a {other}. Leave them out.")


def _read_all(
    sources: Sequence[str | Path | _Data], kind: type[_Data], read: Callable[[str | Path], _Data]
) -> list[_Data]:
    first: dict[str, object] = {}
    found = []
    for source in [sources] if isinstance(sources, str | Path) else sources:
        data = source if isinstance(source, kind) else read(source)  # type: ignore[arg-type]
        where = data.name if isinstance(source, kind) else source
        if data.name in first:
            raise InputError(f"{first[data.name]} and {where} are both named '{data.name}'. Rename one of them.")
        first[data.name] = where
        found.append(data)
    return found


@dataclass(frozen=True)
class _Whole:
    """The full model, which targets and baselines are compared with."""

    figures: list[Quality]
    target: Target
    resampling: "Resampling"


def _baselines(collections: Sequence[RetrievalData], whole: _Whole) -> list[Baseline]:
    from ese_deploy.evaluate.bm25 import BM25, bm25_scores
    from ese_deploy.evaluate.grid import retrieval_figures, share_figures
    from ese_deploy.evaluate.intervals import Resampling, add_intervals
    from ese_deploy.evaluate.retrieval import mean_score

    resampling, figures = Resampling(), list[Quality]()
    for data in collections:
        scores = bm25_scores(data)
        if scores is not None:
            resampling.add_queries(BM25, data.sha256, scores)
            figures += share_figures(retrieval_figures(data, mean_score(scores)), whole.figures)
    compared = [add_intervals(one, BM25, resampling, whole.target, whole.resampling) for one in figures]
    return [Baseline(BM25, compared)] if compared else []


def _checkpoint_exits(
    model: str,
    depths: Sequence[int],
    dims: Sequence[int],
    pooling: str | None,
    device: str | None,
    bf16: bool,
    allow_pickle: bool,
    prompts: Mapping[str, str],
) -> "ExitModel":
    from ese_deploy.backbones import read_checkpoint
    from ese_deploy.evaluate.checkpoint import CheckpointExits

    checkpoint = read_checkpoint(model, pooling=pooling, allow_pickle=allow_pickle)
    return CheckpointExits(checkpoint, depths, dims, device or "cpu", bf16, prompts)


def _full_model(
    bundle: Bundle, exits: "BundleExits", against: str | None, allow_pickle: bool, prompts: Mapping[str, str]
) -> "ExitModel | None":
    """The full model in PyTorch, where the bundle lacks it."""
    if exits.full is not None:
        if against is not None:
            raise InputError(f"`against` is for a bundle without the full model, and {bundle.path} contains it.")
        return None
    from ese_deploy.backbones.bundled import checkpoint_of
    from ese_deploy.evaluate.checkpoint import CheckpointExits

    try:
        checkpoint = checkpoint_of(bundle, against, allow_pickle=allow_pickle)
    except InputError as error:
        raise InputError(f"{bundle.path} lacks the full model, which figures are compared with: {error}") from error
    return CheckpointExits(checkpoint, [checkpoint.depth], [checkpoint.width], prompts=prompts)

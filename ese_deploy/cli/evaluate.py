"""``ese-deploy evaluate``, and what ``python -m training.evaluate`` shares with it."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from ese_deploy.bundle.manifest import Quality
from ese_deploy.bundle.metrics import AGREEMENT, NEIGHBOURS, RETRIEVAL_METRICS, STS_METRICS
from ese_deploy.bundle.reader import Bundle, open_bundle
from ese_deploy.cli.console import (
    EngineOption,
    JsonOption,
    PickleOption,
    check_file,
    print_json,
    print_table,
    progress_bars,
    say,
)
from ese_deploy.cli.tables import extra_error
from ese_deploy.errors import InputError
from ese_deploy.system.files import explain_os_error, write_atomic
from ese_deploy.system.machine import describe_machine, library_versions
from ese_deploy.system.progress import Progress
from ese_deploy.target import Target

if TYPE_CHECKING:
    from ese_deploy.evaluate import AsymmetricCell, ExitModel, Figures

__all__ = [
    "AgainstOption",
    "OutOption",
    "PlotsOption",
    "RetrievalOption",
    "StsOption",
    "check_outputs",
    "evaluate",
    "evaluate_model",
    "full_checkpoint",
    "show",
]

StsOption = Annotated[list[Path], typer.Option("--sts", help="Scored pairs: .tsv, .csv or .jsonl, plain or .gz.")]
RetrievalOption = Annotated[
    list[Path], typer.Option("--retrieval", help="A folder with corpus.jsonl, queries.jsonl and qrels.")
]
OutOption = Annotated[Path | None, typer.Option("--out", help="Write all figures to this .json file too.")]
PlotsOption = Annotated[Path | None, typer.Option("--plots", help="Draw heat maps into this folder, as PNG and SVG.")]
AgainstOption = Annotated[
    str | None, typer.Option("--against", help="The checkpoint, where a bundle lacks the full model.")
]


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.", metavar="BUNDLE")],
    sts: StsOption = [],  # noqa: B006, typer copies it
    retrieval: RetrievalOption = [],  # noqa: B006
    against: AgainstOption = None,
    save: Annotated[bool, typer.Option("--save", help="Write the figures into the bundle's manifest.")] = False,
    engine: EngineOption = "onnxruntime",
    threads: Annotated[int | None, typer.Option(help="Without it, as many as this process is given.")] = None,
    out: OutOption = None,
    plots: PlotsOption = None,
    allow_pickle: PickleOption = False,
    json: JsonOption = False,
) -> None:
    """Measure what every target of a bundle is worth: agreement with the full model, and labelled data."""
    check_outputs(out, plots)
    with extra_error("evaluate"):
        from ese_deploy.evaluate import BundleExits
    opened = open_bundle(bundle)
    with progress_bars() as progress:
        model = BundleExits(opened, engine, threads)
        full = full_checkpoint(opened, against, allow_pickle) if model.full is None else None
        figures, pairs = evaluate_model(model, sts, retrieval, progress, full)
    if model.left_out:
        names = ", ".join(map(str, model.left_out))
        say(f"left out, since the engine {engine} does not compute in their dtype: {names}")
    if save:
        from ese_deploy.evaluate.save import save_quality

        opened = save_quality(opened, figures)
        say(f"wrote {opened.path / 'manifest.json'}: {sum(map(len, figures.values()))} figures")
    show(model, figures, pairs, out, plots, json)


def check_outputs(out: Path | None, plots: Path | None) -> None:
    """Check before any work is done that what was found can be written where :func:`show` is to write it.

    Raises:
        InputError: it cannot.
    """
    if out is not None:
        check_file(out)
    if plots is not None and plots.exists() and not plots.is_dir():
        raise InputError(f"cannot draw into {plots}: it is a file; name a folder")


def evaluate_model(
    model: "ExitModel",
    sts: Sequence[Path],
    retrieval: Sequence[Path],
    progress: Progress,
    full: "ExitModel | None" = None,
) -> "tuple[Figures, list[AsymmetricCell]]":
    """Read the data, evaluate every target, and state each figure as a share of the full model's.

    Args:
        model: a bundle, or a checkpoint at its exits.
        sts: files of scored pairs.
        retrieval: folders of collections.
        progress: called between batches.
        full: the full model, where ``model`` lacks it.

    Raises:
        InputError: data is broken, or two sets have one name.
    """
    from ese_deploy.evaluate import evaluate_grid, read_retrieval, read_sts, with_shares

    pairs_data = [read_sts(path) for path in sts]
    search_data = [read_retrieval(path) for path in retrieval]
    _check_names(sts, [data.name for data in pairs_data])
    _check_names(retrieval, [data.name for data in search_data])
    for data in search_data:
        if data.missing:
            say(f"warning: {data.missing} judgements of {data.name} name what is not there: {data.first_missing}")
    figures, pairs = evaluate_grid(model, pairs_data, search_data, progress, full)
    if full is None:
        assert model.full is not None
        return with_shares(figures, figures[model.full]), pairs
    say(f"the bundle lacks the full model; shares are taken of {full.name} in PyTorch")
    reference, _ = evaluate_grid(full, pairs_data, search_data, progress)
    return with_shares(figures, reference[full.exits[-1].targets[-1]]), pairs


def show(
    model: "ExitModel",
    figures: "Figures",
    pairs: "Sequence[AsymmetricCell]",
    out: Path | None,
    plots: Path | None,
    json: bool,
) -> None:
    """Print the figures, and write them and their pictures where that was asked for."""
    document = _document(model, figures, pairs)
    if out is not None:
        with write_atomic(out) as file:
            file.write(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
    if plots is not None:
        _draw(plots, figures, pairs)
    if json:
        print_json(document)
        return
    for metric, data in _tables(figures):
        values = {target: _find(measured, metric, data) for target, measured in figures.items()}
        _print_grid(f"{metric} x 100 on {data}", {t: q for t, q in values.items() if q is not None})
    for (data, dim), cells in _by_matrix(pairs).items():
        _print_pairs(data, dim, cells)


def _check_names(paths: Sequence[Path], names: Sequence[str]) -> None:
    first: dict[str, Path] = {}
    for path, name in zip(paths, names, strict=True):
        if name in first:
            raise InputError(f"{first[name]} and {path} are both named '{name}', as figures would be; rename one")
        first[name] = path


def full_checkpoint(bundle: Bundle, against: str | None, allow_pickle: bool = False) -> "ExitModel":
    """The full model in PyTorch, for a bundle that does not hold it.

    Args:
        bundle: what shall be measured.
        against: the checkpoint, where it is not the one that the bundle names.
        allow_pickle: also load weights in pickle files, which can run any code.

    Raises:
        InputError: there is no such checkpoint, or the bundle was made of another.
    """
    with extra_error("export"):
        from ese_deploy.backbones.bundled import checkpoint_of
        from ese_deploy.evaluate.checkpoint import CheckpointExits
    try:
        checkpoint = checkpoint_of(bundle, against, allow_pickle=allow_pickle)
    except InputError as error:
        raise InputError(f"{bundle.path} lacks the full model, which figures are compared with: {error}") from error
    return CheckpointExits(checkpoint, [checkpoint.depth], [checkpoint.width])


def _document(model: "ExitModel", figures: "Figures", pairs: "Sequence[AsymmetricCell]") -> dict[str, Any]:
    return {
        "model": model.name,
        "machine": describe_machine(),
        "versions": library_versions(),
        "targets": [
            {
                "target": str(target),
                "depth": target.depth,
                "dim": target.dim,
                "dtype": target.dtype,
                "quality": measured,
            }
            for target, measured in figures.items()
        ],
        "asymmetric": [asdict(cell) for cell in pairs],
    }


def _tables(figures: "Figures") -> list[tuple[str, str]]:
    main = (AGREEMENT, NEIGHBOURS, STS_METRICS[0], STS_METRICS[2], RETRIEVAL_METRICS[0], RETRIEVAL_METRICS[2])
    names = [(quality.metric, quality.data) for measured in figures.values() for quality in measured]
    return [name for name in dict.fromkeys(names) if name[0] in main]


def _find(measured: Sequence[Quality], metric: str, data: str) -> Quality | None:
    return next((q for q in measured if (q.metric, q.data) == (metric, data)), None)


def _print_grid(title: str, values: dict[Target, Quality]) -> None:
    dims = sorted({target.dim for target in values})
    lines = dict.fromkeys((target.dtype, target.depth) for target in values)
    rows = []
    for dtype, depth in lines:
        cells = [values.get(Target(depth, dim, dtype)) for dim in dims]
        rows.append([f"{depth}" if dtype == "fp32" else f"{depth} {dtype}", *(_cell(quality) for quality in cells)])
    print_table(["depth", *(f"{dim} " for dim in dims)], rows, title)
    print()


def _cell(quality: Quality | None) -> str:
    if quality is None:
        return ""
    share = "" if math.isnan(quality.share_of_full) else f" ({quality.share_of_full:.0%})"
    return f"{quality.value * 100:.2f}{share}"


def _by_matrix(pairs: "Sequence[AsymmetricCell]") -> "dict[tuple[str, int], list[AsymmetricCell]]":
    """The searches by data and dim, where there is more than one exit to choose of."""
    matrices: dict[tuple[str, int], list[AsymmetricCell]] = {}
    for cell in pairs:
        matrices.setdefault((cell.data, cell.dim), []).append(cell)
    return {key: cells for key, cells in sorted(matrices.items()) if len(cells) > 1}


def _print_pairs(data: str, dim: int, cells: "Sequence[AsymmetricCell]") -> None:
    documents = sorted({cell.document for cell in cells})
    found = {(cell.query, cell.document): _pair_cell(cell) for cell in cells}
    rows = [[str(query), *(found.get((query, d), "") for d in documents)] for query in sorted({c.query for c in cells})]
    title = f"ndcg_at_10 x 100 on {data}, queries of one depth among documents of another, {dim} dims"
    print_table(["queries \\ documents", *(f"{depth} " for depth in documents)], rows, title)
    print("in brackets: share of what queries of the documents' own depth find")
    if not all(cell.comparable for cell in cells):
        print("*: the two exits do not share a space")
    print()


def _pair_cell(cell: "AsymmetricCell") -> str:
    return f"{cell.score.ndcg_at_10 * 100:.1f} ({cell.share:.0%})" + ("" if cell.comparable else "*")


def _draw(folder: Path, figures: "Figures", pairs: "Sequence[AsymmetricCell]") -> None:
    from ese_deploy.report import heat_map

    with explain_os_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for metric, data in _tables(figures):
        for dtype in dict.fromkeys(target.dtype for target in figures):
            cells = {
                (str(target.depth), str(target.dim)): quality.value * 100
                for target, measured in figures.items()
                if target.dtype == dtype and (quality := _find(measured, metric, data)) is not None
            }
            name = f"{data.replace(' ', '-')}.{metric}.{dtype}"
            for kind in ("png", "svg"):
                path = folder / f"{name}.{kind}"
                heat_map(path, cells, f"{metric} x 100 on {data}, {dtype}", "depth", "dimensions")
    for (data, dim), cells_of in _by_matrix(pairs).items():
        matrix = {(str(cell.query), str(cell.document)): cell.score.ndcg_at_10 * 100 for cell in cells_of}
        title = f"ndcg_at_10 x 100 on {data}, {dim} dimensions"
        for kind in ("png", "svg"):
            path = folder / f"{data.replace(' ', '-')}.asymmetric.k{dim:03d}.{kind}"
            heat_map(path, matrix, title, "queries at depth", "documents at depth")
    say(f"wrote pictures into {folder}")

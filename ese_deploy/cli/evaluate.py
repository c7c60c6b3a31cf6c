"""``ese-deploy evaluate``."""

import importlib.util
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ese_deploy.bundle.manifest import Quality
from ese_deploy.bundle.metrics import AGREEMENT, NEIGHBOURS, RETRIEVAL_METRICS, STS_METRICS
from ese_deploy.cli.console import (
    DepthsOption,
    DimsOption,
    EngineOption,
    JsonOption,
    PickleOption,
    ThreadsOption,
    check_file,
    print_json,
    print_table,
    progress_bars,
)
from ese_deploy.errors import InputError
from ese_deploy.system.files import explain_os_error, write_atomic
from ese_deploy.target import Target, parse_range

if TYPE_CHECKING:
    from ese_deploy.evaluate import AsymmetricCell, Evaluation

__all__ = ["EXAMPLES", "evaluate"]

EXAMPLES = (
    "ese-deploy evaluate exports/minilm --sts stsb_test.tsv.gz --retrieval scifact --save",
    "ese-deploy evaluate runs/minilm --sts stsb_test.tsv.gz --depths 1-6 --dims 64,128",
)

# The metrics that are printed and drawn; --json and --out have all.
_SHOWN = (AGREEMENT, NEIGHBOURS, STS_METRICS[0], STS_METRICS[2], RETRIEVAL_METRICS[0], RETRIEVAL_METRICS[2])

logger = logging.getLogger(__name__)


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="The folder of a bundle, or a checkpoint: a folder, a hub id or package:NAME."
        ),
    ],
    sts: Annotated[
        list[Path],
        typer.Option(
            "--sts",
            metavar="FILE",
            help="Evaluate similarity on these scored pairs: .tsv, .csv or .jsonl, plain or .gz, with the columns "
            "sentence1, sentence2 and score. Repeat the option for several.",
        ),
    ] = [],  # noqa: B006, typer copies it
    retrieval: Annotated[
        list[Path],
        typer.Option(
            "--retrieval",
            metavar="DIR",
            help="Evaluate retrieval on this folder of corpus.jsonl, queries.jsonl and qrels.tsv. "
            "Repeat the option for several.",
        ),
    ] = [],  # noqa: B006
    save: Annotated[bool, typer.Option("--save", help="Write the figures into the manifest of the bundle.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all figures to this .json file.")] = None,
    plots: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw heat maps into this folder, as PNG and SVG.")
    ] = None,
    json: JsonOption = False,
    engine: EngineOption = "",
    threads: ThreadsOption = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Compare a bundle that lacks the full model with this checkpoint. Default: the one that it names.",
        ),
    ] = None,
    depths: DepthsOption = "",
    dims: DimsOption = "",
    pooling: Annotated[
        str | None, typer.Option(metavar="NAME", help="Pool a plain transformers checkpoint by mean, cls or lasttoken.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Run a checkpoint on this PyTorch device. Default: cpu.")
    ] = None,
    bf16: Annotated[
        bool,
        typer.Option("--bf16", help="Multiply in bf16 when running a checkpoint. Faster; figures change slightly."),
    ] = False,
    allow_pickle: PickleOption = False,
) -> None:
    """Evaluate every target of a bundle, or every depth and dim of a checkpoint.

    Agreement with the full model is always measured. --sts and --retrieval add labelled data. --engine, --threads,
    --against and --save apply to a bundle; --depths, --dims, --pooling, --device and --bf16 to a checkpoint.
    """
    from ese_deploy.evaluate import api

    if out is not None:
        check_file(out)
    if plots is not None:
        _check_plots(plots)
    with progress_bars() as progress:
        found = api.evaluate(
            model,
            sts=sts,
            retrieval=retrieval,
            against=against,
            save=save,
            engine=engine or None,
            threads=threads,
            depths=parse_range(depths, "--depths") if depths else (),
            dims=parse_range(dims, "--dims") if dims else (),
            pooling=pooling,
            device=device,
            bf16=bf16,
            allow_pickle=allow_pickle,
            progress=progress,
        )
    if found.skipped:
        names = ", ".join(map(str, found.skipped))
        logger.info(f"Skipped, because the engine {engine} does not compute in their dtype: {names}")
    if save:
        logger.info(f"Wrote {sum(map(len, found.figures.values()))} figures into the manifest of {model}")
    document = found.document()
    if out is not None:
        import msgspec

        with write_atomic(out) as file:
            file.write(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
    if plots is not None:
        _draw(plots, found)
    if json:
        print_json(document)
    else:
        _print(found)


def _check_plots(folder: Path) -> None:
    """Check before anything is measured that plots can be drawn into a folder."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"cannot draw into {folder}: it is a file; name a folder")
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")


def _tables(found: "Evaluation") -> dict[tuple[str, str], dict[Target, Quality]]:
    """The figures that are shown, by metric and data."""
    tables: dict[tuple[str, str], dict[Target, Quality]] = {}
    for target, figures in found.figures.items():
        for one in figures:
            if one.metric in _SHOWN:
                tables.setdefault((one.metric, one.data), {})[target] = one
    return tables


def _print(found: "Evaluation") -> None:
    for (metric, data), values in _tables(found).items():
        dims = sorted({target.dim for target in values})
        rows = [
            [
                f"{depth}" if dtype == "fp32" else f"{depth} {dtype}",
                *(_cell(values.get(Target(depth, dim, dtype))) for dim in dims),
            ]
            for dtype, depth in dict.fromkeys((target.dtype, target.depth) for target in values)
        ]
        print_table(["depth", *(f"{dim} " for dim in dims)], rows, f"{metric} x 100 on {data}")
        print()
    for (data, dim), cells in _by_matrix(found.asymmetric).items():
        _print_pairs(data, dim, cells)


def _cell(quality: Quality | None) -> str:
    if quality is None:
        return ""
    share = "" if math.isnan(quality.share_of_full) else f" ({quality.share_of_full:.0%})"
    return f"{quality.value * 100:.2f}{share}"


def _by_matrix(pairs: "Sequence[AsymmetricCell]") -> "dict[tuple[str, int], list[AsymmetricCell]]":
    """The pairs of exits by data and dim, where there is more than one."""
    matrices: dict[tuple[str, int], list[AsymmetricCell]] = {}
    for cell in pairs:
        matrices.setdefault((cell.data, cell.dim), []).append(cell)
    return {key: cells for key, cells in sorted(matrices.items()) if len(cells) > 1}


def _print_pairs(data: str, dim: int, cells: "Sequence[AsymmetricCell]") -> None:
    documents = sorted({cell.document for cell in cells})
    found = {
        (cell.query, cell.document): f"{cell.score.ndcg_at_10 * 100:.1f} ({cell.share:.0%})"
        + ("" if cell.comparable else "*")
        for cell in cells
    }
    rows = [[str(query), *(found.get((query, d), "") for d in documents)] for query in sorted({c.query for c in cells})]
    title = f"ndcg_at_10 x 100 on {data}, queries of one depth and documents of another, {dim} dims"
    print_table(["queries \\ documents", *(f"{depth} " for depth in documents)], rows, title)
    print("In brackets: the share of what queries of the documents' own depth score.")
    if not all(cell.comparable for cell in cells):
        print("*: the two exits have different embedding spaces.")
    print()


def _draw(folder: Path, found: "Evaluation") -> None:
    from ese_deploy.report import heat_map

    def draw(name: str, cells: Mapping[tuple[str, str], float], title: str, rows: str, columns: str) -> None:
        for kind in ("png", "svg"):
            heat_map(folder / f"{name.replace(' ', '-')}.{kind}", cells, title, rows, columns)

    with explain_os_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for (metric, data), values in _tables(found).items():
        for dtype in dict.fromkeys(target.dtype for target in values):
            of_dtype = {target: quality for target, quality in values.items() if target.dtype == dtype}
            cells = {(str(one.depth), str(one.dim)): quality.value * 100 for one, quality in of_dtype.items()}
            draw(f"{data}.{metric}.{dtype}", cells, f"{metric} x 100 on {data}, {dtype}", "depth", "dimensions")
    for (data, dim), pairs in _by_matrix(found.asymmetric).items():
        matrix = {(str(cell.query), str(cell.document)): cell.score.ndcg_at_10 * 100 for cell in pairs}
        title = f"ndcg_at_10 x 100 on {data}, {dim} dimensions"
        draw(f"{data}.asymmetric.k{dim:03d}", matrix, title, "queries at depth", "documents at depth")
    logger.info(f"Wrote plots into {folder}")

"""``ese-deploy evaluate``."""

import importlib.util
import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ese_deploy.cli.console import (
    DepthsOption,
    DimsOption,
    EncodingOption,
    EngineOption,
    JsonOption,
    PickleOption,
    SeparatorOption,
    ThreadsOption,
    check_file,
    print_json,
    progress_bars,
)
from ese_deploy.cli.quality_tables import draw_figures, print_figures
from ese_deploy.errors import InputError
from ese_deploy.system.files import write_atomic
from ese_deploy.target import parse_range

if TYPE_CHECKING:
    from ese_deploy.evaluate import Evaluation

__all__ = ["EXAMPLES", "evaluate"]

EXAMPLES = (
    "ese-deploy evaluate exports/minilm --sts stsb_test.tsv.gz --retrieval scifact --save",
    "ese-deploy evaluate runs/minilm --sts stsb_test.tsv.gz --depths 1-6 --dims 64,128",
)

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
            help="Evaluate similarity on these scored pairs: .tsv, .csv or .jsonl, plain, .gz or .zst, or Parquet, "
            "with the columns sentence1, sentence2 and score. Repeat the option for several.",
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
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Read these columns of the scored pairs, for example text1=question,text2=answer,score=relevance.",
        ),
    ] = None,
    encoding: EncodingOption = "utf-8",
    separator: SeparatorOption = None,
    query_prompt: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help='Put this before each query. Default: the prompt of the model; "" is none.'),
    ] = None,
    document_prompt: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help='Put this before each document. Default: the prompt of the model; "" is none.'
        ),
    ] = None,
    save: Annotated[
        bool,
        typer.Option(
            "--save",
            help="Write the figures into the manifest of the bundle. Figures on other data are kept.",
        ),
    ] = False,
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

    Agreement with the full model is always measured. --sts and --retrieval add labelled data, with 95% confidence
    intervals and BM25 as a baseline of retrieval. --engine, --threads,
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
            columns=columns,
            encoding=encoding,
            separator=separator,
            query_prompt=query_prompt,
            document_prompt=document_prompt,
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
    document = found.document()
    if out is not None:
        import msgspec

        with write_atomic(out) as file:
            file.write(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
    if plots is not None:
        draw_figures(plots, found)
        logger.info(f"Wrote plots into {plots}")
    if json:
        print_json(document)
    else:
        print_figures(found)
    if save:
        logger.info(_saved(model, found))


def _check_plots(folder: Path) -> None:
    """Check before anything is measured that plots can be drawn into a folder."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"cannot draw into {folder}: it is a file; name a folder")
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")


def _saved(model: str, found: "Evaluation") -> str:
    """What was saved, and what it is good for."""
    figures = [one for of in found.figures.values() for one in of]
    data = ", ".join(dict.fromkeys(one.data for one in figures))
    wrote = (
        f"Saved the figures of {len(found.figures)} targets on {data} in manifest.json and README.md of {model}. "
        "Figures on other data are kept."
    )
    labelled = next((one.data for one in figures if one.interval), None)
    if labelled is None:
        return wrote
    command = shlex.join(["ese-deploy", "choose", model, "--min-quality", f"95% {labelled}"])
    return f"{wrote} To choose a target by them: {command}"

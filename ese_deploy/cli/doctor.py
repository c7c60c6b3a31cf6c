"""``ese-deploy doctor``."""

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from ese_deploy import __version__
from ese_deploy.bundle.golden import check_golden, load_golden
from ese_deploy.bundle.reader import Bundle, open_bundle
from ese_deploy.cli.console import JsonOption, print_json, print_table, progress_bars
from ese_deploy.cli.verify import hash_files
from ese_deploy.engines import ENGINES, OPT_IN_ENGINES, load_engine, runs_dtype
from ese_deploy.engines.onnxruntime_cpu import installed_distributions
from ese_deploy.errors import CheckFailedError, EngineError, EseDeployError
from ese_deploy.runtime import Encoder
from ese_deploy.runtime.tokenize import load_tokenizer
from ese_deploy.system.progress import Progress
from ese_deploy.system.threads import available_threads

__all__ = ["doctor"]

_ENGINE = "onnxruntime"
_LIBRARIES = ("numpy", "tokenizers", "msgspec", "torch", "transformers", "onnx", "onnx-ir", "onnxscript")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: what was looked at.
        ok: whether it is as it should be; None for a plain fact.
        detail: what was found.
    """

    what: str
    ok: bool | None
    detail: str


def doctor(
    bundle: Annotated[Path | None, typer.Argument(help="A bundle to check too.", metavar="[BUNDLE]")] = None,
    json: JsonOption = False,
) -> None:
    """Check this machine, and a bundle on it: every hash, and every target on the golden texts. Needs no torch."""
    findings = [*_machine()]
    if bundle is not None:
        with progress_bars() as progress:
            findings.extend(_bundle(bundle, progress))
    if json:
        print_json(findings)
    else:
        marks = {True: "ok", False: "FAILED", None: ""}
        print_table(["", "result", "found"], [[item.what, marks[item.ok], item.detail] for item in findings])
    failures = [f"{item.what}: {item.detail}" for item in findings if item.ok is False]
    if failures:
        raise CheckFailedError(f"{len(failures)} checks failed", failures)


def _machine() -> Iterator[Finding]:
    yield Finding("ese-deploy", None, __version__)
    yield Finding("python", None, f"{platform.python_version()} on {platform.platform()}")
    yield Finding("threads", None, f"{available_threads()} given to this process")
    found = [f"{name} {installed}" for name in _LIBRARIES if (installed := _version(name))]
    yield Finding("libraries", None, ", ".join(found))
    packages = installed_distributions()
    if len(packages) > 1:
        yield Finding(
            "packages",
            False,
            "onnxruntime and onnxruntime-gpu overwrite each other; uninstall both, keep one",
        )
    for name in ENGINES:
        try:
            engine = load_engine(name)
        except EngineError as error:
            # Few machines have such an engine; one that lacks it is in order.
            yield Finding(f"engine {name}", None if name in OPT_IN_ENGINES else False, str(error))
        else:
            yield Finding(f"engine {name}", True, f"{engine.versions} on {engine.device}")


def _bundle(path: Path, progress: Progress) -> Iterator[Finding]:
    try:
        opened = open_bundle(path)
        yield Finding("bundle", True, f"{len(opened.manifest.targets)} graphs have the hashes of the manifest")
        for file in hash_files(opened, progress):
            yield Finding(file, True, "has the hash of the manifest")
        yield from _golden(opened, progress)
    except EseDeployError as error:
        yield Finding("bundle", False, str(error))


def _golden(opened: Bundle, progress: Progress) -> Iterator[Finding]:
    golden = load_golden(opened)
    manifest = opened.manifest
    prompt = manifest.prompts.get(manifest.default_prompt_name or "", "")
    encodings = load_tokenizer(opened)([prompt + text for text in golden.texts]).encodings
    ids = [encoding.ids for encoding in encodings]
    same = ids == golden.token_ids
    yield Finding("tokenizer", same, "gives the golden token ids" if same else "gives other token ids than at export")
    entries = manifest.targets
    for done, entry in enumerate(entries, start=1):
        progress("golden texts", done, len(entries))
        if not runs_dtype(_ENGINE, entry.dtype):
            yield Finding(
                str(entry.target), None, f"not checked: the engine '{_ENGINE}' does not compute in {entry.dtype}"
            )
            continue
        check = check_golden(Encoder.open(opened, entry.target), golden)
        yield Finding(str(entry.target), check.passed, f"differs from PyTorch by {check.max_abs:.1e} at most")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

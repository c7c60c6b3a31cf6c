"""``ese-deploy doctor``."""

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ese_deploy import __version__
from ese_deploy.bundle.golden import check_golden, load_golden
from ese_deploy.bundle.hashes import check_files
from ese_deploy.bundle.reader import Bundle, open_bundle
from ese_deploy.cli.console import JsonOption, print_json, print_table, progress_bars
from ese_deploy.engines import DEFAULT_ENGINE, REGISTRY, EngineRow, load_engine, runs_dtype
from ese_deploy.engines.onnxruntime_cpu import installed_distributions
from ese_deploy.errors import CheckFailedError, EngineError, EseDeployError
from ese_deploy.runtime import Encoder
from ese_deploy.runtime.tokenize import load_tokenizer
from ese_deploy.system.install import install_hint, installed_version, release
from ese_deploy.system.progress import Progress
from ese_deploy.system.threads import available_threads

__all__ = ["Finding", "check_bundle", "check_machine", "doctor"]

EXAMPLES = ("ese-deploy doctor", "ese-deploy doctor exports/minilm")

_LIBRARIES = ("numpy", "tokenizers", "msgspec", "torch", "transformers", "onnx", "onnx-ir", "onnxscript")


@dataclass(frozen=True)
class Finding:
    """One row of the result.

    Attributes:
        what: what was checked.
        ok: whether the check passed; None for information.
        detail: what was found.
    """

    what: str
    ok: bool | None
    detail: str


def doctor(
    bundle: Annotated[
        Path | None, typer.Argument(help="Also check the bundle in this folder.", metavar="[BUNDLE]")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check this machine and, if given, a bundle on it.

    The command reports each engine: its version, the minimum, and what to install. Of a bundle it checks the hash of
    every file, and every target on the golden texts. It needs no torch.
    """
    findings = [*check_machine()]
    if bundle is not None:
        with progress_bars() as progress:
            findings.extend(check_bundle(bundle, progress))
    if json:
        print_json(findings)
    else:
        marks = {True: "ok", False: "FAILED", None: ""}
        print_table(["", "result", "found"], [[item.what, marks[item.ok], item.detail] for item in findings])
    failures = [f"{item.what}: {item.detail}" for item in findings if item.ok is False]
    if failures:
        raise CheckFailedError(f"{len(failures)} checks failed", failures)


def check_machine() -> Iterator[Finding]:
    """Versions, threads and engines of this machine."""
    yield Finding("ese-deploy", None, __version__)
    yield Finding("python", None, f"{platform.python_version()} on {platform.platform()}")
    yield Finding("threads", None, f"This process may use {available_threads()}.")
    found = [f"{name} {installed}" for name in _LIBRARIES if (installed := installed_version(name))]
    yield Finding("libraries", None, ", ".join(found))
    if len(installed_distributions()) > 1:
        detail = "onnxruntime and onnxruntime-gpu overwrite each other. Uninstall both and install one of them."
        yield Finding("packages", False, detail)
    yield from map(_check_engine, REGISTRY.values())


def _check_engine(row: EngineRow) -> Finding:
    """Whether an engine works. A missing opt-in engine is not a failure."""
    what, failed = f"engine {row.name}", None if row.opt_in else False
    installed = {name: found for name in row.packages if (found := installed_version(name))}
    if not installed:
        return Finding(what, failed, f"Not installed. {install_hint(row.extra)}")
    versions = ", ".join(f"{name} {found} (minimum {row.packages[name]})" for name, found in installed.items())
    if any(release(found) < release(row.packages[name]) for name, found in installed.items()):
        return Finding(what, False, f"Too old: {versions}. {install_hint(row.extra)}")
    try:
        engine = load_engine(row.name)
    except EngineError as error:
        return Finding(what, failed, str(error))
    return Finding(what, True, f"{versions} on {engine.device}")


def check_bundle(path: Path, progress: Progress) -> Iterator[Finding]:
    """The hash of every file of a bundle, its tokenizer, and every target on the golden texts."""
    try:
        opened = open_bundle(path)
        yield Finding("bundle", True, f"{len(opened.manifest.targets)} graphs have the hashes of the manifest.")
        for file in check_files(opened, progress):
            yield Finding(file, True, "It has the hash of the manifest.")
        yield from _check_golden(opened, progress)
    except EseDeployError as error:
        yield Finding("bundle", False, str(error))


def _check_golden(opened: Bundle, progress: Progress) -> Iterator[Finding]:
    golden = load_golden(opened)
    manifest = opened.manifest
    prompt = manifest.prompts.get(manifest.default_prompt_name or "", "")
    encodings = load_tokenizer(opened)([prompt + text for text in golden.texts]).encodings
    same = [encoding.ids for encoding in encodings] == golden.token_ids
    token_ids = "the golden token ids" if same else "other token ids than at export"
    yield Finding("tokenizer", same, f"It gives {token_ids}.")
    for done, entry in enumerate(manifest.targets, start=1):
        progress("golden texts", done, len(manifest.targets))
        if not runs_dtype(DEFAULT_ENGINE, entry.dtype):
            detail = f"Not checked: the engine '{DEFAULT_ENGINE}' does not run {entry.dtype}."
            yield Finding(str(entry.target), None, detail)
            continue
        check = check_golden(Encoder.open(opened, entry.target, log_truncated=False), golden)
        detail = f"Largest difference from PyTorch: {check.max_abs:.1e}"
        yield Finding(str(entry.target), check.passed, detail)

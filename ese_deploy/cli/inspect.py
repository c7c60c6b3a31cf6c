"""``ese-deploy inspect``."""

from pathlib import Path
from typing import Annotated

import typer

from ese_deploy.bundle.manifest import Manifest, json_schema
from ese_deploy.bundle.reader import open_bundle
from ese_deploy.bundle.spaces import describe_spaces, source_space
from ese_deploy.cli.console import JsonOption, megabytes, print_json, print_table
from ese_deploy.cli.tables import target_rows
from ese_deploy.errors import InputError
from ese_deploy.system.terminal import visible

__all__ = ["EXAMPLES", "inspect"]

EXAMPLES = ("ese-deploy inspect exports/minilm", "ese-deploy inspect --schema")


def inspect(
    bundle: Annotated[Path | None, typer.Argument(help="The folder of the bundle.", metavar="[BUNDLE]")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of manifest.json.")] = False,
    json: JsonOption = False,
) -> None:
    """Show what a bundle contains, or the schema of its manifest."""
    if schema:
        print_json(json_schema())
        return
    if bundle is None:
        raise InputError("Name a bundle, or pass --schema.")
    manifest = open_bundle(bundle).manifest
    if json:
        print_json(manifest)
        return
    for name, value in _facts(manifest):
        print(visible(f"{name:<18}{value}"))
    print()
    print_table(*target_rows(manifest))
    print()
    for sentence in describe_spaces(manifest):
        print(visible(sentence.replace("`", "")))


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    revision = f" at {manifest.source.revision}" if manifest.source.revision else ""
    weights = ", ".join(f"{entry.file} {megabytes(entry.bytes)}" for entry in manifest.weights)
    prompts = ", ".join(f"{name} {text!r}" for name, text in manifest.prompts.items())
    return [
        ("model", f"{manifest.source.model}{revision}"),
        ("architecture", f"{manifest.architecture}, {manifest.depth} layers, width {manifest.width}"),
        ("pooling", manifest.pooling),
        ("projection", manifest.projection),
        ("source space", source_space(manifest)),
        ("maximum length", f"{manifest.max_seq_length} tokens"),
        ("prompts", prompts or "none"),
        ("trained exits", ", ".join(map(str, manifest.trained_exits))),
        ("opset", f"{manifest.opset}, ONNX Runtime {manifest.minimum_onnxruntime} or newer"),
        ("weights", weights),
    ]

"""What a layout is given, and what every layout has in common."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ese_deploy.bundle.golden import Golden
from ese_deploy.bundle.manifest import TargetEntry
from ese_deploy.bundle.reader import Bundle, read_config, read_tokenizer
from ese_deploy.errors import InputError

__all__ = ["Layout", "PackJob", "Vectors", "write_json", "write_settings"]

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class PackJob:
    """A target to pack.

    Attributes:
        bundle: the bundle.
        entries: the targets; one, unless the layout takes several.
        golden: the golden texts, their token ids and vectors.
        name: name of the folder that is written.
    """

    bundle: Bundle
    entries: tuple[TargetEntry, ...]
    golden: Golden
    name: str

    @property
    def entry(self) -> TargetEntry:
        """The target, or the first of several."""
        return self.entries[0]


@dataclass(frozen=True)
class Layout:
    """A layout of another tool.

    Attributes:
        name: what the user types.
        summary: one sentence: what is written, for which tool.
        check: refuses a target that the tool cannot run.
        write: writes the files into an empty folder.
        embed: the vectors of the golden texts, computed with the written files, for each target, float32 [n, dim].
        several: whether it takes several targets.
    """

    name: str
    summary: str
    check: Callable[[PackJob], None]
    write: Callable[[PackJob, Path], None]
    embed: Callable[[PackJob, Path], dict[str, Vectors]]
    several: bool = False


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def write_settings(job: PackJob, folder: Path) -> None:
    """Write the tokenizer and the files by which tools recognise a model, for a model that ends at the target.

    Raises:
        InputError: the bundle is of an earlier version and does not contain them.
    """
    manifest = job.bundle.manifest
    config, tokenizer_config = (
        read_config(job.bundle, entry) for entry in (manifest.config, manifest.tokenizer_config)
    )
    if config is None or tokenizer_config is None:
        raise InputError(f"{job.bundle.path} has no config.json and tokenizer_config.json. Export the bundle again.")
    settings = json.loads(config)
    full = settings["num_hidden_layers"]
    # Lists with one item a layer, such as the kinds of attention.
    cut = {
        name: value[: job.entry.depth] if isinstance(value, list) and len(value) == full > 1 else value
        for name, value in settings.items()
        if name != "architectures"
    }
    write_json(
        folder / "config.json",
        {**cut, "architectures": settings["architectures"], "num_hidden_layers": job.entry.depth},
    )
    (folder / "tokenizer_config.json").write_bytes(tokenizer_config)
    (folder / "tokenizer.json").write_bytes(read_tokenizer(job.bundle))
    tokens = {name: token for name, token in json.loads(tokenizer_config).items() if name.endswith("_token") and token}
    write_json(folder / "special_tokens_map.json", tokens)

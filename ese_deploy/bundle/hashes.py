"""Checking the hashes of all files of a bundle."""

from collections.abc import Iterator

from ese_deploy.bundle.golden import load_golden
from ese_deploy.bundle.reader import (
    Bundle,
    read_config,
    read_profiles_file,
    read_projection,
    read_ranges_file,
    read_tokenizer,
    read_tokens,
    verify_weights,
)
from ese_deploy.system.progress import Progress, silent

__all__ = ["check_files"]


def check_files(bundle: Bundle, progress: Progress = silent) -> Iterator[str]:
    """Hash every file but the graphs, whose hashes were checked when the bundle was opened.

    Yields:
        The name of each file, after its check.

    Raises:
        BundleError: a file is not the one that the manifest describes.
    """
    weights, manifest = bundle.manifest.weights, bundle.manifest
    progress("hash weights", 0, len(weights))
    for done, entry in enumerate(weights, start=1):
        verify_weights(bundle, entry)
        progress("hash weights", done, len(weights))
        yield entry.file
    for further, read in (
        (manifest.tokenizer, read_tokenizer),
        (manifest.golden, load_golden),
        (manifest.projection_file, read_projection),
        (manifest.tokens, read_tokens),
        (manifest.profiles, read_profiles_file),
        (manifest.ranges, read_ranges_file),
        (manifest.config, lambda bundle: read_config(bundle, manifest.config)),
        (manifest.tokenizer_config, lambda bundle: read_config(bundle, manifest.tokenizer_config)),
    ):
        if further is not None:
            read(bundle)
            yield further.file

"""The sample corpus, reading texts and rows from files, and splitting texts into sentences."""

from typing import TYPE_CHECKING

from ese_deploy.system.lazy import lazy_names

if TYPE_CHECKING:
    from ese_deploy.texts.reader import TextFile, TextRow, chunks, open_texts, read_rows
    from ese_deploy.texts.sample import SAMPLE_CORPUS_NAME, SampleText, sample_corpus, sample_corpus_sha256
else:
    # Opening a bundle needs a name of the sample corpus, and neither of the readers.
    __getattr__ = lazy_names(
        __name__,
        {
            "ese_deploy.texts.reader": ["TextFile", "TextRow", "chunks", "open_texts", "read_rows"],
            "ese_deploy.texts.sample": ["SAMPLE_CORPUS_NAME", "SampleText", "sample_corpus", "sample_corpus_sha256"],
        },
    )

__all__ = [
    "SAMPLE_CORPUS_NAME",
    "SampleText",
    "TextFile",
    "TextRow",
    "chunks",
    "open_texts",
    "read_rows",
    "sample_corpus",
    "sample_corpus_sha256",
]

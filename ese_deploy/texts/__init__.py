"""The sample corpus, reading texts and rows from files, and splitting texts into sentences."""

from ese_deploy.texts.reader import TextFile, TextRow, chunks, open_texts, read_rows
from ese_deploy.texts.sample import SAMPLE_CORPUS_NAME, SampleText, sample_corpus, sample_corpus_sha256

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

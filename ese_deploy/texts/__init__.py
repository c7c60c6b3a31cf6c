"""The sample corpus, and reading texts and rows from files."""

from ese_deploy.texts.sample import SampleText, sample_corpus, sample_corpus_sha256

__all__ = ["SampleText", "sample_corpus", "sample_corpus_sha256"]

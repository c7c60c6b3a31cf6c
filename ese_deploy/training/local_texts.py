"""Collects English sentences that every Python installation has: ``python -m training.local_texts --out texts.txt``.

They come from the documentation in Python's standard library and from the sample corpus. They are good enough to train
shallow exits without a network. Texts of your own domain are better.
"""

import argparse
import ast
import inspect
import random
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from ese_deploy.errors import EseDeployError
from ese_deploy.system.files import write_atomic
from ese_deploy.texts.sample import sample_corpus

__all__ = ["local_texts"]

_WORDS = (4, 60)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_MARKUP = re.compile(r"[`*|]+|:\w+:|\\")
_WORD = re.compile(r"[A-Za-z][a-z']*[,;:.]?")


def local_texts(seed: int = 0) -> list[str]:
    """Distinct English sentences in random order.

    Args:
        seed: seed of the order.

    Returns:
        About twenty thousand sentences of 4 to 60 words, which depend on the version of Python.
    """
    found = dict.fromkeys(item.text for item in sample_corpus())
    for paragraph in _paragraphs():
        found.update(dict.fromkeys(_sentences(paragraph)))
    texts = list(found)
    random.Random(seed).shuffle(texts)
    return texts


def _paragraphs() -> Iterator[str]:
    from pydoc_data.topics import topics

    for topic in topics.values():
        yield from re.split(r"\n\s*\n", topic)
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        if not {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"} & set(path.parts):
            for text in _docstrings(path):
                yield from re.split(r"\n\s*\n", text)


def _docstrings(path: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text:
                yield inspect.cleandoc(text)


def _sentences(paragraph: str) -> Iterator[str]:
    """The sentences of a paragraph that look like English and not like code."""
    text = " ".join(_MARKUP.sub(" ", paragraph).split())
    for sentence in _SENTENCE_END.split(text):
        words = sentence.split()
        plain = sum(bool(_WORD.fullmatch(word)) for word in words)
        if _WORDS[0] <= len(words) <= _WORDS[1] and plain >= 0.85 * len(words) and sentence[0].isupper():
            yield sentence


def main() -> int:
    """Write the texts, one per line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="Output file (.txt), one text per line.")
    arguments = parser.parse_args()
    texts = local_texts()
    try:
        with write_atomic(arguments.out) as file:
            file.write("".join(f"{text}\n" for text in texts).encode())
    except EseDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"Wrote {arguments.out}: {len(texts)} texts")
    return 0

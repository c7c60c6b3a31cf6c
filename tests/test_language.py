"""Names and texts use the terms of the field: one word for one thing, and no private words."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# What to say, and a pattern of what not to say. Quotes and dashes before a word exempt keys and options of old files.
TERMS = {
    "layer": r"(?<!in )\bblocks\b|\b(each|every|last|first|deeper|per|transformer) block\b",
    "projection": r"(?<!heat )(?<!that )(?<!which )(?<![-\"'`])\bmaps\b(?! (an?|to|each)\b)"
    r"|\b(its|fitted|trained) map\b|\bturn(s|ed|ing)?\b[^.]{0,40}\bonto\b|\bExitMaps?\b",
    "baseline": r"(?<![-\"'`])\bpeers?\b",
    "tolerance, quality check": r"\bgates?\b|\w_gate\b",
    "similarity": r"\blikeness",
    "retrieval collection": r"\bsearch collections?\b",
    "training preset, quantization settings": r"(?<![-\"'`])\brecipes?\b",
    "sample corpus": r"(?<!\")\b(shipped|project's( own)?|ese-deploy) collection\b|\b(half|texts) of the collection\b",
    "held-out texts": r"\bheld texts?\b",
    "edge-case texts": r"\bawkward\b|\bnasty\b",
    "opt-in, default, deprecated": r"\bby name alone\b|\bby_name\b|\bon_request\b|\bof old\b|\bto be had\b",
    "peak GEMM": r"\bceilings?\b",
    "contender": r"\bsubjects?\b",
    "command": r"\bverbs?\b",
    "repository layout": r"\bthe house\b",
    "what a measurement shows": r"\b(is|are) worth\b",
}
PATTERNS = {say: re.compile(pattern, re.IGNORECASE) for say, pattern in TERMS.items()}

# Files that are still being rewritten.
UNFINISHED: frozenset[str] = frozenset()


def documents() -> Iterator[Path]:
    """Source and documents, without generated results."""
    places = ("ese_deploy", "training", "benchmarks", "docs", "examples", "exports/README.md", "README.md")
    try:
        command = ["git", "ls-files", "--", *places]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
        paths = [ROOT / name for name in listed]
    except (OSError, subprocess.CalledProcessError):  # a source distribution
        paths = [path for place in places for path in [ROOT / place, *(ROOT / place).rglob("*")] if path.is_file()]
    for path in sorted(paths):
        generated = {"results", "reports"} & set(path.relative_to(ROOT).parts[:-1])
        if path.suffix in (".py", ".md", ".toml", ".jinja") and not generated and path.is_file():
            yield path


def offences(path: Path) -> list[str]:
    """Lines of a file that use another word, each with the word to use."""
    return [
        f"{path.relative_to(ROOT)}:{number}: '{found[0]}', say {say}"
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1)
        for say, pattern in PATTERNS.items()
        if (found := pattern.search(line))
    ]


def test_every_document_uses_the_terms_of_the_field() -> None:
    found = [
        line for path in documents() if path.relative_to(ROOT).as_posix() not in UNFINISHED for line in offences(path)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("say", "bad", "good"),
    [
        ("layer", "a model of 6 blocks", "the end of the block"),
        ("projection", "fitting maps of the exits", "a matrix that maps an exit's states"),
        ("projection", "turned onto its components", "in turn"),
        ("baseline", "timed beside its peers", "--peers"),
        ("tolerance, quality check", "COSINE_GATE", "gated-gelu"),
        ("training preset, quantization settings", "the recipe", "--recipe"),
        ("sample corpus", "half of the collection", "a retrieval collection"),
        ("command", "this verb needs torch", "adverb"),
    ],
)
def test_a_pattern_finds_the_word_in_its_private_sense(say: str, bad: str, good: str) -> None:
    assert PATTERNS[say].search(bad)
    assert not PATTERNS[say].search(good)

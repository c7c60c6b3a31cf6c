"""Searches the shipped collection at two targets of a bundle side by side: python examples/search.py BUNDLE A B."""

import sys

import numpy as np

from ese_deploy import Encoder, EseDeployError
from ese_deploy.texts.sample import sample_corpus

QUESTIONS = (
    "what makes two threads give a different result each run",
    "why do the stars flicker",
    "What should I do if my passport is lost?",
    "my parcel never came but they say it did",
    "slugs eat all my salad",
)
SHOWN = 2
COLUMN = 66


def main(bundle: str, *targets: str) -> None:
    """Print the best texts for a few questions, a column for each target."""
    texts = [item.text for item in sample_corpus() if item.kind != "query"]
    encoders = [Encoder.open(bundle, target) for target in targets]
    indexes = [encoder.encode_document(texts) for encoder in encoders]
    sizes = (
        f"{encoder.target}: {index.nbytes / 1e3:.0f} kB of vectors"
        for encoder, index in zip(encoders, indexes, strict=True)
    )
    print("".join(f"{size:<{COLUMN}}" for size in sizes))
    for question in QUESTIONS:
        print(f"\n> {question}")
        best = []
        for encoder, index in zip(encoders, indexes, strict=True):
            scores = encoder.similarity(encoder.encode_query(question), index)[0]
            best.append([(scores[row], texts[row]) for row in np.argsort(-scores)[:SHOWN]])
        for row in zip(*best, strict=True):
            cells = (f"{score:.2f}  {text[: COLUMN - 12]}..." for score, text in row)
            print("".join(f"{cell:<{COLUMN}}" for cell in cells))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(f"usage: python {sys.argv[0]} BUNDLE TARGET [TARGET ...]")
    try:
        main(*sys.argv[1:])
    except EseDeployError as error:
        sys.exit(f"error: {error}")

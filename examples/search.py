"""Search the sample corpus at several targets of a bundle, side by side.

Usage: python examples/search.py BUNDLE TARGET [TARGET ...], for example exports/minilm 3x128 6x384
"""

import sys

import numpy as np

from ese_deploy import Encoder, EseDeployError
from ese_deploy.texts import sample_corpus

QUERIES = (
    "what makes two threads give a different result each run",
    "why do the stars flicker",
    "What should I do if my passport is lost?",
    "my parcel never came but they say it did",
    "slugs eat all my salad",
)
RESULTS = 2
COLUMN = 66


def main(bundle: str, *targets: str) -> None:
    """Print the best texts for a few queries, one column a target."""
    texts = [item.text for item in sample_corpus() if item.kind != "query"]
    encoders = [Encoder.open(bundle, target) for target in targets]
    indexes = [encoder.encode_document(texts) for encoder in encoders]
    sizes = (
        f"{encoder.target}: {index.nbytes / 1e3:.0f} kB of vectors"
        for encoder, index in zip(encoders, indexes, strict=True)
    )
    print("".join(f"{size:<{COLUMN}}" for size in sizes))
    for query in QUERIES:
        print(f"\n> {query}")
        columns = []
        for encoder, index in zip(encoders, indexes, strict=True):
            scores = encoder.similarity(encoder.encode_query(query), index)[0]
            columns.append(
                [f"{scores[row]:.2f}  {texts[row][: COLUMN - 12]}..." for row in np.argsort(-scores)[:RESULTS]]
            )
        for cells in zip(*columns, strict=True):
            print("".join(f"{cell:<{COLUMN}}" for cell in cells))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(f"usage: python {sys.argv[0]} BUNDLE TARGET [TARGET ...]")
    try:
        main(*sys.argv[1:])
    except EseDeployError as error:
        sys.exit(f"error: {error}")

"""spaCy: the component ``ese_deploy``, which sets ``doc.vector``."""

from collections.abc import Iterable, Iterator
from typing import Any

from spacy.language import Language
from spacy.tokens import Doc
from spacy.util import minibatch

from ese_deploy.runtime import Encoder

__all__ = ["SpacyComponent", "make_component"]


class SpacyComponent:
    """Sets the vector of each ``Doc``. ``Doc.similarity`` is then the cosine of these vectors."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def __call__(self, doc: Doc) -> Doc:
        """Embed one document."""
        return next(self.pipe([doc]))

    def pipe(self, stream: Iterable[Doc], batch_size: int = 256) -> Iterator[Doc]:
        """Embed a stream of documents."""
        for docs in minibatch(stream, batch_size):
            for doc, vector in zip(docs, self.encoder.encode([doc.text for doc in docs]), strict=True):
                doc.vector = vector
                doc.user_hooks["similarity"] = _cosine
                yield doc


def _cosine(doc: Doc, other: Any) -> float:
    # Without this hook spaCy warns that its vocabulary has no word vectors.
    return float(doc.vector @ other.vector / max(doc.vector_norm * other.vector_norm, 1e-12))


@Language.factory("ese_deploy", assigns=["doc.vector"], default_config={"target": None})  # type: ignore[untyped-decorator, unused-ignore]
def make_component(nlp: Language, name: str, bundle: str, target: str | None) -> SpacyComponent:
    """Make the component from the settings of a pipeline."""
    return SpacyComponent(Encoder.open(bundle, target))

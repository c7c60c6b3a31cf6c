"""Every adapter gives the framework the vectors of ``Encoder``. A framework that is not installed is skipped."""

import asyncio
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ese_deploy.bundle.reader import Bundle
from ese_deploy.errors import InputError
from ese_deploy.runtime import Encoder
from ese_deploy.texts.sample import sample_corpus

TEXTS = [*[item.text for item in sample_corpus() if len(item.text) < 100][:12], "Grüße 日本語 😀"]
QUERY = "a question"


def framework(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not installed")


@pytest.fixture(scope="module")
def encoder(tiny_bundle: Bundle) -> Encoder:
    return Encoder.open(tiny_bundle, "3x16")


@pytest.fixture(scope="module")
def documents(encoder: Encoder) -> Any:
    return encoder.encode_document(TEXTS)


@pytest.fixture(scope="module")
def query(encoder: Encoder) -> Any:
    """A query has a prompt in this model, so that its vector is not that of the plain text."""
    vector = encoder.encode_query(QUERY)
    assert abs(vector - encoder.encode(QUERY)).max() > 1e-3
    return vector


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, atol=1e-6)


def test_langchain(encoder: Encoder, documents: Any, query: Any) -> None:
    framework("langchain_core")
    from langchain_core.vectorstores import InMemoryVectorStore

    from ese_deploy.integrations import LangChainEmbeddings

    embeddings = LangChainEmbeddings(encoder)
    close(embeddings.embed_documents(TEXTS), documents)
    close(asyncio.run(embeddings.aembed_query(QUERY)), query)
    close(LangChainEmbeddings(encoder, dim=8).embed_query(QUERY), encoder.encode_query(QUERY, dim=8))
    store = InMemoryVectorStore.from_texts(TEXTS, embeddings)
    assert store.similarity_search(QUERY, k=1)[0].page_content == TEXTS[int((documents @ query).argmax())]


def test_llama_index(encoder: Encoder, documents: Any, query: Any) -> None:
    framework("llama_index.core")
    from llama_index.core import Document, VectorStoreIndex

    from ese_deploy.integrations import LlamaIndexEmbedding

    embedding = LlamaIndexEmbedding(encoder, embed_batch_size=5)
    assert embedding.model_name == "tiny:3x16"
    close(embedding.get_text_embedding_batch(TEXTS), documents)
    close(embedding.get_text_embedding(TEXTS[0]), documents[0])
    close(asyncio.run(embedding.aget_query_embedding(QUERY)), query)
    index = VectorStoreIndex.from_documents([Document(text=text) for text in TEXTS], embed_model=embedding)
    found = index.as_retriever(similarity_top_k=1).retrieve(QUERY)
    assert found[0].text == TEXTS[int((documents @ query).argmax())]


def test_haystack(tiny_bundle: Bundle, documents: Any, query: Any) -> None:
    haystack = framework("haystack")
    from ese_deploy.integrations import HaystackDocumentEmbedder, HaystackTextEmbedder

    pipeline = haystack.Pipeline()
    pipeline.add_component("query", HaystackTextEmbedder(str(tiny_bundle.path), "3x16"))
    pipeline.add_component("documents", HaystackDocumentEmbedder(str(tiny_bundle.path), "3x16"))
    again = haystack.Pipeline.loads(pipeline.dumps(), allowed_modules=["ese_deploy.integrations.haystack"])
    inputs = {"query": {"text": QUERY}, "documents": {"documents": [haystack.Document(content=t) for t in TEXTS]}}
    found = again.run(inputs)
    close(found["query"]["embedding"], query)
    close([document.embedding for document in found["documents"]["documents"]], documents)


def test_chroma(tiny_bundle: Bundle, documents: Any, query: Any, tmp_path: Path) -> None:
    chromadb = framework("chromadb")
    from ese_deploy.integrations import ChromaEmbeddingFunction

    function = ChromaEmbeddingFunction(str(tiny_bundle.path), "3x16")
    client = chromadb.PersistentClient(str(tmp_path))
    collection = client.create_collection("texts", embedding_function=function)
    collection.add(ids=[str(number) for number in range(len(TEXTS))], documents=TEXTS)
    close(collection.get(include=["embeddings"])["embeddings"], documents)
    # The collection opens the bundle that it was made with, without being told.
    again = client.get_collection("texts")
    found = again.query(query_texts=[QUERY], n_results=1)
    assert found["ids"] == [[str((documents @ query).argmax())]]
    assert found["distances"][0][0] == pytest.approx(1 - (documents @ query).max(), abs=1e-5)


def test_lancedb(tiny_bundle: Bundle, documents: Any, query: Any, tmp_path: Path) -> None:
    lancedb = framework("lancedb")
    from lancedb.embeddings import get_registry
    from lancedb.pydantic import LanceModel, Vector

    from ese_deploy.integrations import LanceDbEmbeddingFunction

    function = get_registry().get("ese-deploy").create(bundle=str(tiny_bundle.path), target="3x16")
    assert isinstance(function, LanceDbEmbeddingFunction)

    class Row(LanceModel):  # type: ignore[misc]
        text: str = function.SourceField()
        vector: Vector(function.ndims()) = function.VectorField()  # type: ignore[valid-type]

    database = lancedb.connect(tmp_path)
    table = database.create_table("texts", schema=Row)
    table.add([{"text": text} for text in TEXTS])
    close(table.to_arrow()["vector"].to_pylist(), documents)
    found = database.open_table("texts").search(QUERY).limit(1).to_list()
    assert found[0]["text"] == TEXTS[int((documents @ query).argmax())]


def test_scikit_learn(encoder: Encoder) -> None:
    framework("sklearn")
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline

    from ese_deploy.integrations import TextVectorizer

    labels = [len(text) > 60 for text in TEXTS]
    pipeline = make_pipeline(TextVectorizer(encoder), LogisticRegression())
    search = GridSearchCV(pipeline, {"textvectorizer__dim": [8, None]}, cv=2).fit(TEXTS, labels)
    best = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(best.predict(TEXTS), search.predict(TEXTS))
    close(TextVectorizer(encoder, dim=8).fit_transform(TEXTS), encoder.encode(TEXTS, dim=8))
    assert list(TextVectorizer(encoder, dim=2).get_feature_names_out()) == ["ese0", "ese1"]


def test_spacy(tiny_bundle: Bundle, encoder: Encoder) -> None:
    spacy = framework("spacy")
    from ese_deploy.integrations import SpacyComponent

    language = spacy.blank("en")
    component = language.add_pipe("ese_deploy", config={"bundle": str(tiny_bundle.path), "target": "3x16"})
    assert isinstance(component, SpacyComponent)
    vectors = encoder.encode(TEXTS)
    docs = list(language.pipe(TEXTS))
    close([doc.vector for doc in docs], vectors)
    close(language(TEXTS[0]).vector, vectors[0])
    assert docs[0].similarity(docs[1]) == pytest.approx(vectors[0] @ vectors[1], abs=1e-5)


def test_sentence_transformers(tiny_bundle: Bundle, encoder: Encoder, tmp_path: Path) -> None:
    framework("sentence_transformers")
    from sentence_transformers import SentenceTransformer

    from ese_deploy.integrations import BundleModule

    model = SentenceTransformer(modules=[BundleModule(str(tiny_bundle.path), "3x16")], prompts={"query": "find: "})
    assert (model.get_embedding_dimension(), model.max_seq_length) == (16, 48)
    close(model.encode(TEXTS, batch_size=4), encoder.encode(TEXTS))
    close(model.encode_query(QUERY), encoder.encode_query(QUERY))
    with pytest.raises(InputError, match="A bundle is not saved with a model"):
        model.save_pretrained(str(tmp_path / "model"))


def test_names_that_do_not_exist_are_no_modules() -> None:
    import ese_deploy.integrations as integrations

    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = integrations.Nothing

"""How each tool embeds. A tool runs where its package is installed; others are left out."""

import functools
import http.server
import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TOOLS", "Inputs", "Tool"]

ROOT = Path(__file__).parents[2]
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Inputs:
    """What a tool gets.

    Attributes:
        checkpoint: folder of the trained checkpoint.
        bundle: folder of its bundle.
        target: such as ``3x128``.
        texts: the texts, prompts included.
    """

    checkpoint: str
    bundle: str
    target: str
    texts: Sequence[str]

    @property
    def dim(self) -> int:
        """Dimensions of the target."""
        return int(self.target.partition("x")[2])

    def encoder(self) -> Any:
        """The target, open."""
        from ese_deploy import Encoder

        return Encoder.open(self.bundle, self.target, log_truncated=False)


@dataclass(frozen=True)
class Tool:
    """A tool and how it embeds.

    Attributes:
        name: for the page.
        module: what must be importable; empty for nothing.
        package: the distribution whose version is recorded; for JavaScript a package in ``node_modules``.
        command: what the reader writes.
        embed: returns float32 [n, dim].
        reads: ``checkpoint``, ``bundle``, ``JavaScript`` (a bundle), or ``adapter`` (of ``ese_deploy.integrations``).
        shallow: whether the tool can run fewer layers than the full model.
    """

    name: str
    module: str
    package: str
    command: str
    embed: Callable[[Inputs], Any]
    reads: str
    shallow: bool = True

    def installed_version(self) -> str | None:
        """The version that is installed here, or None."""
        try:
            if self.module and not find_spec(self.module):
                return None
            if self.reads != "JavaScript":
                return version(self.package)
            places = ("examples/node", "examples/browser", "benchmarks/works_with")
            files = [ROOT / place / "node_modules" / self.package / "package.json" for place in places]
            file = next((file for file in files if file.is_file()), None)
            return None if file is None else str(json.loads(file.read_text("utf-8"))["version"])
        except ImportError:
            return None


def _sentence_transformers(inputs: Inputs) -> Any:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(inputs.checkpoint, truncate_dim=inputs.dim, device="cpu")
    return model.encode(list(inputs.texts), normalize_embeddings=True)


def _openvino(inputs: Inputs) -> Any:
    from ese_deploy import Encoder

    return Encoder.open(inputs.bundle, inputs.target, engine="openvino", log_truncated=False).encode(inputs.texts)


def _onnxruntime(inputs: Inputs) -> Any:
    """The code of the page on the bundle format: no ese-deploy."""
    import onnxruntime
    from tokenizers import Tokenizer

    folder = Path(inputs.bundle)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    tokenizer = Tokenizer.from_file(str(folder / manifest["tokenizer"]["file"]))
    tokenizer.enable_padding(pad_id=manifest["tokenizer"]["pad_id"])
    tokenizer.enable_truncation(manifest["max_seq_length"])
    entry = next(one for one in manifest["targets"] if f"{one['depth']}x{one['dim']}" == inputs.target)
    session = onnxruntime.InferenceSession(folder / entry["file"])
    encodings = tokenizer.encode_batch(list(inputs.texts))
    arrays = {
        "input_ids": [encoding.ids for encoding in encodings],
        "attention_mask": [encoding.attention_mask for encoding in encodings],
        "token_type_ids": [encoding.type_ids for encoding in encodings],
    }
    return session.run(None, {name: np.array(arrays[name], np.int64) for name in manifest["inputs"]})[0]


def _optimum(inputs: Inputs) -> Any:
    from optimum.onnxruntime import ORTModelForCustomTasks
    from transformers import AutoTokenizer

    depth, dim = inputs.target.split("x")
    tokenizer = AutoTokenizer.from_pretrained(inputs.bundle)
    model = ORTModelForCustomTasks.from_pretrained(
        inputs.bundle, file_name=f"d{int(depth):02}_k{int(dim):03}.fp32.onnx"
    )
    tokens = tokenizer(list(inputs.texts), padding=True, truncation=True, return_tensors="np")
    return model(**tokens)["sentence_embedding"]


def _fastembed(inputs: Inputs) -> Any:
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    depth, dim = inputs.target.split("x")
    name = f"ese/{inputs.target}"
    TextEmbedding.add_custom_model(
        model=name,
        pooling=PoolingType.DISABLED,
        normalization=False,
        sources=ModelSource(hf=name),
        dim=inputs.dim,
        model_file=f"d{int(depth):02}_k{int(dim):03}.fp32.onnx",
        additional_files=["weights.fp32.data"],
    )
    return np.array(list(TextEmbedding(name, specific_model_path=inputs.bundle).embed(list(inputs.texts))))


def _node(inputs: Inputs) -> Any:
    command = ["node", "embed.mjs", str(Path(inputs.bundle).resolve()), inputs.target]
    text = json.dumps(list(inputs.texts))
    done = subprocess.run(
        command, cwd=ROOT / "examples/node", input=text, capture_output=True, text=True, check=True, timeout=300
    )
    return json.loads(done.stdout)


def _transformers_js(inputs: Inputs) -> Any:
    from ese_deploy.pack import pack

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "packed"
        pack(inputs.bundle, inputs.target, folder, layout="transformers.js")
        command = ["node", "transformers.mjs", str(folder)]
        options: Any = {"cwd": Path(__file__).parent, "capture_output": True, "text": True, "check": True}
        done = subprocess.run(command, input=json.dumps(list(inputs.texts)), timeout=300, **options)
    return json.loads(done.stdout)


def _browser(inputs: Inputs) -> Any:
    """The page of ``examples/browser`` in Chromium, with WebAssembly."""
    from playwright.sync_api import sync_playwright

    folder = ROOT / "examples/browser"
    with tempfile.TemporaryDirectory() as temporary:
        few = Path(temporary) / "texts.json"
        few.write_text('["a text"]', "utf-8")
        command = ["node", "prepare.mjs", str(Path(inputs.bundle).resolve()), inputs.target, str(few)]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as driver:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_selector("#query:enabled", timeout=120_000)
        script = "async (texts) => (await window.embedder.embed(texts)).map((vector) => Array.from(vector))"
        found = page.evaluate(script, list(inputs.texts))
        browser.close()
        server.shutdown()
    return found


def _langchain(inputs: Inputs) -> Any:
    from ese_deploy.integrations import LangChainEmbeddings

    return LangChainEmbeddings(inputs.encoder()).embed_documents(list(inputs.texts))


def _llama_index(inputs: Inputs) -> Any:
    from ese_deploy.integrations import LlamaIndexEmbedding

    return LlamaIndexEmbedding(inputs.encoder()).get_text_embedding_batch(list(inputs.texts))


def _haystack(inputs: Inputs) -> Any:
    from haystack import Document

    from ese_deploy.integrations import HaystackDocumentEmbedder

    documents = [Document(content=text) for text in inputs.texts]
    found = HaystackDocumentEmbedder(inputs.bundle, inputs.target).run(documents)["documents"]
    return [document.embedding for document in found]


def _chroma(inputs: Inputs) -> Any:
    import chromadb

    from ese_deploy.integrations import ChromaEmbeddingFunction

    function = ChromaEmbeddingFunction(inputs.bundle, inputs.target)
    collection = chromadb.EphemeralClient().create_collection(f"works{inputs.target}", embedding_function=function)
    collection.add(ids=[str(row) for row in range(len(inputs.texts))], documents=list(inputs.texts))
    return collection.get(include=["embeddings"])["embeddings"]


def _lancedb(inputs: Inputs) -> Any:
    from ese_deploy.integrations import LanceDbEmbeddingFunction

    function = LanceDbEmbeddingFunction.create(bundle=inputs.bundle, target=inputs.target)
    return function.compute_source_embeddings(list(inputs.texts))


def _sklearn(inputs: Inputs) -> Any:
    from ese_deploy.integrations import TextVectorizer

    return TextVectorizer(inputs.encoder()).fit_transform(inputs.texts)


def _spacy(inputs: Inputs) -> Any:
    import spacy

    from ese_deploy.integrations import SpacyComponent

    documents = spacy.blank("en").pipe(inputs.texts)
    return [document.vector for document in SpacyComponent(inputs.encoder()).pipe(documents)]


def _bundle_module(inputs: Inputs) -> Any:
    from sentence_transformers import SentenceTransformer

    from ese_deploy.integrations import BundleModule

    model = SentenceTransformer(modules=[BundleModule(inputs.bundle, inputs.target)], device="cpu")
    return model.encode(list(inputs.texts))


_ST = "sentence_transformers"
TOOLS: Sequence[Tool] = (
    Tool(
        "sentence-transformers",
        _ST,
        "sentence-transformers",
        "SentenceTransformer(checkpoint, truncate_dim=dim)",
        _sentence_transformers,
        "checkpoint",
        shallow=False,
    ),
    Tool("ONNX Runtime", "onnxruntime", "onnxruntime", "InferenceSession(graph)", _onnxruntime, "bundle"),
    Tool("OpenVINO", "openvino", "openvino", 'Encoder.open(bundle, engine="openvino")', _openvino, "bundle"),
    Tool("optimum-onnx", "optimum", "optimum-onnx", "ORTModelForCustomTasks", _optimum, "bundle"),
    Tool("fastembed", "fastembed", "fastembed", "TextEmbedding.add_custom_model", _fastembed, "bundle"),
    Tool("onnxruntime-node", "", "onnxruntime-node", "node examples/node/embed.mjs bundle target", _node, "JavaScript"),
    Tool(
        "transformers.js in Node.js",
        "onnx",
        "@huggingface/transformers",
        "ese-deploy pack --layout transformers.js",
        _transformers_js,
        "JavaScript",
    ),
    Tool("onnxruntime-web in Chromium", "playwright", "onnxruntime-web", "examples/browser", _browser, "JavaScript"),
    Tool("LangChain", "langchain_core", "langchain-core", "LangChainEmbeddings", _langchain, "adapter"),
    Tool("LlamaIndex", "llama_index", "llama-index-core", "LlamaIndexEmbedding", _llama_index, "adapter"),
    Tool("Haystack", "haystack", "haystack-ai", "HaystackDocumentEmbedder", _haystack, "adapter"),
    Tool("Chroma", "chromadb", "chromadb", "ChromaEmbeddingFunction", _chroma, "adapter"),
    Tool("LanceDB", "lancedb", "lancedb", "LanceDbEmbeddingFunction", _lancedb, "adapter"),
    Tool("scikit-learn", "sklearn", "scikit-learn", "TextVectorizer", _sklearn, "adapter"),
    Tool("spaCy", "spacy", "spacy", "SpacyComponent", _spacy, "adapter"),
    Tool("sentence-transformers (module)", _ST, "sentence-transformers", "BundleModule", _bundle_module, "adapter"),
)

"""The server that many projects write first: FastAPI around sentence-transformers' ``encode``.

Needs fastapi, uvicorn and sentence-transformers:

    python benchmarks/serve/sentence_transformers_server.py MODEL PORT
"""

import base64
import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer


class Request(BaseModel):
    """The fields of OpenAI's request that the load generator sends."""

    input: str | list[str]
    model: str
    encoding_format: str = "float"


def make_app(model: SentenceTransformer) -> FastAPI:
    """An application with one path. FastAPI calls it in a thread for each request."""
    app = FastAPI()

    @app.post("/v1/embeddings")
    def embed(request: Request) -> dict[str, object]:
        texts = [request.input] if isinstance(request.input, str) else request.input
        vectors = model.encode(texts, normalize_embeddings=True, batch_size=32)
        rows = (
            [base64.b64encode(row.tobytes()).decode() for row in vectors]
            if request.encoding_format == "base64"
            else vectors.tolist()
        )
        data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
        return {"object": "list", "data": data, "model": request.model}

    return app


if __name__ == "__main__":
    uvicorn.run(make_app(SentenceTransformer(sys.argv[1])), port=int(sys.argv[2]), log_level="warning")

"""The driver's side of the protocol: one JSON object a line, requests on standard input, answers on standard output.

    {"op": "hello"}                                     -> {"versions": {...}}
    {"op": "load", "model", "graph", "tokenizer",
     "cache", "threads", "options"}                     -> {"settings": [{"batch", "mode"}, ...]}
    {"op": "texts", "name", "file"}                     -> {"texts": n}
    {"op": "vectors", "texts", "setting", "file"}       -> {"shape": [n, dim]}      written as .npy
    {"op": "passes", "texts", "setting", "seconds"}     -> {"seconds": [...]}       whole passes, at least one
    {"op": "singles", "texts", "setting"}               -> {"seconds": [...]}       each text alone

A failure is answered with {"error": "one line"}. Drivers run in their own environments and import nothing of
ese-deploy.
"""

import importlib.metadata
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

__all__ = ["batch_sizes", "serve"]

Encode = Callable[[list, dict], "object"]


def batch_sizes() -> list[dict]:
    """Settings to try for a library that batches by number of texts."""
    return [{"batch": size} for size in (4, 8, 16, 32, 64, 128)]


def serve(packages: list[str], load: Callable[[dict], tuple[Encode, list[dict]]]) -> None:
    """Answer requests until standard input ends.

    Args:
        packages: packages whose versions are reported.
        load: takes the request; returns a function that embeds a list of texts with a setting, and the settings.
    """
    # Libraries print to standard output; answers need a channel of their own.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    texts: dict[str, list[str]] = {}
    encode = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["op"] == "hello":
                answer = {"versions": {name: importlib.metadata.version(name) for name in packages}}
            elif request["op"] == "load":
                encode, settings = load(request)
                answer = {"settings": settings}
            elif request["op"] == "texts":
                texts[request["name"]] = json.loads(Path(request["file"]).read_text("utf-8"))
                answer = {"texts": len(texts[request["name"]])}
            else:
                answer = _run(encode, texts[request["texts"]], request)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"}
        channel.write(json.dumps(answer) + "\n")
        channel.flush()


def _run(encode: Encode, texts: list[str], request: dict) -> dict:
    setting = request["setting"]
    if request["op"] == "vectors":
        import numpy as np

        vectors = np.ascontiguousarray(encode(texts, setting), np.float32)
        np.save(request["file"], vectors)
        return {"shape": list(vectors.shape)}
    if request["op"] == "singles":
        return {"seconds": [_time(encode, [text], setting) for text in texts]}
    if request["op"] == "passes":
        seconds = [_time(encode, texts, setting)]
        while sum(seconds) < request["seconds"]:
            seconds.append(_time(encode, texts, setting))
        return {"seconds": seconds}
    raise ValueError(f"unknown operation {request['op']}")


def _time(encode: Encode, texts: list[str], setting: dict) -> float:
    start = time.perf_counter()
    encode(texts, setting)
    return time.perf_counter() - start

"""Bundles with one to three changes that know the format, and hashes that fit. A number determines each mutant."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from helpers.hostile import forge

__all__ = ["make_mutant"]

_INTEGERS = (0, 1, -1, 2, 7, 255, 2**31 - 1, 2**31, 2**40, 2**63 - 1, -(2**63))
_TEXTS = ("", "x" * 600, "\u202e\x1b[2J")
_VALUES: tuple[Any, ...] = (None, True, *_TEXTS, [], {}, -1, 0, 1, 2**40, 1e308, 0.5, [[]], {"a": 1})
_KINDS = ("graph", "graph", "graph", "tokenizer", "tokenizer", "weights", "manifest", "json", "bytes")
_ACTIONS = (
    *("attribute", "input", "operator", "constant", "place", "dims"),
    *("type", "remove", "insert", "ends", "opset", "swap"),
)
_OPERATORS = ("Exp", "Neg", "Mul", "Expand", "Tile", "Loop", "Range", "MatMul", "Concat", "ConstantOfShape", "Identity")


def make_mutant(source: Path, out: Path, seed: int) -> str:
    """Write the mutant of a number.

    Args:
        source: a bundle with at least a graph, weights and a tokenizer.
        out: the folder to make.
        seed: the number.

    Returns:
        What was changed.
    """
    chance = random.Random(seed)
    files: dict[str, bytes] = {}
    changes: list[str] = []
    graphs = sorted(path.name for path in source.glob("*.onnx"))
    edits: list[Callable[[dict[str, Any]], None]] = []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        kind = chance.choice(
            ("graph", "graph", "graph", "tokenizer", "tokenizer", "weights", "manifest", "json", "bytes")
        )
        if kind == "graph":
            name = graphs[0] if chance.random() < 0.8 else chance.choice(graphs)
            changes.append(_change_graph(name, files, source, chance))
        elif kind == "weights":
            changes.append(_change_weights(files, source, chance))
        elif kind == "manifest":
            place = chance.random()
            edits.append(lambda manifest, place=place: _change_json(manifest, random.Random(place)))
            changes.append("manifest.json")
        elif kind == "bytes":
            name = chance.choice([path.name for path in sorted(source.iterdir()) if path.name != "manifest.json"])
            data = bytearray(files.get(name) or (source / name).read_bytes())
            for _ in range(chance.choice((1, 2, 8))):
                data[chance.randrange(len(data))] = chance.randrange(256)
            files[name] = bytes(data[: chance.choice((len(data), len(data), chance.randrange(len(data))))])
            changes.append(f"bytes of {name}")
        else:
            name = "tokenizer.json" if kind == "tokenizer" else chance.choice(("golden.json", "ranges.json"))
            try:
                value = json.loads(files.get(name) or (source / name).read_bytes())
            except ValueError:
                continue
            _change_json(value, chance)
            files[name] = json.dumps(value).encode()
            changes.append(name)
    forge(source, out, files, lambda manifest: [edit(manifest) for edit in edits])
    return ", ".join(changes)


def _change_json(value: Any, chance: random.Random) -> None:
    """Change one place of a JSON value, chosen with equal chances on each level."""
    while True:
        keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = chance.choice(keys)
        inner = value[key]
        if isinstance(inner, dict | list) and inner and chance.random() < 0.85:
            value = inner
            continue
        action = chance.randrange(6)
        if action == 0:
            del value[key]
        elif action == 1 and isinstance(inner, int | float):
            value[key] = inner * chance.choice((-1, 2, 1000, 10**12))
        elif action == 2 and isinstance(inner, str):
            value[key] = inner * chance.choice((0, 2, 50)) + chance.choice(("", "(a+)+$", "\x00", "\ud83d\ude00"))
        elif action == 3:
            value[key] = value[chance.choice(keys)]
        elif action == 4 and isinstance(value, list):
            value.extend([inner] * chance.choice((1, 50)))
        else:
            value[key] = chance.choice(_VALUES)
        return


def _change_graph(name: str, files: dict[str, bytes], source: Path, chance: random.Random) -> str:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(files.get(name) or (source / name).read_bytes())
    except Exception:
        return f"{name} as it was"
    graph = model.graph
    node = chance.choice(graph.node) if graph.node else None
    tensor = chance.choice(graph.initializer) if graph.initializer else None
    if node is None or tensor is None:
        return f"{name} as it was"
    action = chance.choice(_ACTIONS)
    if action == "attribute" and node.attribute:
        one = chance.choice(node.attribute)
        one.i, one.f = chance.choice(_INTEGERS[:8]), chance.choice((0.0, -1.0, 1e38, float("nan")))
    elif action == "input" and node.input:
        names = [other for item in graph.node for other in item.output] + [item.name for item in graph.initializer]
        node.input[chance.randrange(len(node.input))] = chance.choice(names)
    elif action == "operator":
        node.op_type = chance.choice([*_OPERATORS, *(item.op_type for item in graph.node)])
    elif action == "constant":
        small = [item for item in graph.initializer if item.raw_data and item.data_type in (1, 7)]
        one = chance.choice(small or [tensor])
        if one.raw_data and one.data_type == 7:
            values = np.frombuffer(one.raw_data, np.int64).copy()
            values[chance.randrange(len(values))] = chance.choice(_INTEGERS)
            one.raw_data = values.tobytes()
        elif one.raw_data and one.data_type == 1:
            floats = np.frombuffer(one.raw_data, np.float32).copy()
            floats[chance.randrange(len(floats))] = chance.choice((0, -1, 1e30, np.nan, np.inf, 1e-30))
            one.raw_data = floats.tobytes()
    elif action == "place":
        outside = [item for item in graph.initializer if item.external_data]
        if outside:
            item = chance.choice(chance.choice(outside).external_data)
            places = ("*/_ORT_MEM_ADDR_/*", "/etc/passwd", "../x", "tokenizer.json", "", "-1", str(2**62), "64", "0")
            item.value = chance.choice(places)
    elif action == "dims" and tensor.dims:
        tensor.dims[chance.randrange(len(tensor.dims))] = chance.choice(_INTEGERS)
    elif action == "type":
        tensor.data_type = chance.randrange(20)
    elif action == "remove":
        graph.node.remove(node)
    elif action == "insert":
        more = graph.node.add()
        more.CopyFrom(node)
        more.output[0] = f"more_{chance.randrange(1000)}"
    elif action == "swap":
        other = chance.choice(graph.node)
        node.output[0], other.output[0] = other.output[0], node.output[0]
    elif action == "ends":
        axis = chance.choice([*graph.input, *graph.output]).type.tensor_type.shape.dim[chance.randrange(2)]
        axis.dim_value = chance.choice(_INTEGERS[:6])
    elif action == "opset":
        model.opset_import[0].version = chance.choice((1, 13, 18, 22, 24, 99))
    files[name] = model.SerializeToString()
    return f"{action} of {name}"


def _change_weights(files: dict[str, bytes], source: Path, chance: random.Random) -> str:
    name = chance.choice(sorted(path.name for path in source.glob("weights.*.data")))
    values = np.frombuffer(files.get(name) or (source / name).read_bytes(), np.uint8).copy()
    values = values[: len(values) // 4 * 4].view(np.float32)
    count = chance.choice((1, 16, len(values)))
    places = np.random.default_rng(chance.randrange(2**32)).integers(0, len(values), count)
    values[places] = np.float32(chance.choice((0, 1e30, -1e30, np.nan, np.inf, 1e-40)))
    files[name] = values.tobytes()
    return f"{count} values of {name}"

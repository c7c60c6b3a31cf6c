"""Writes ``ese_deploy/bundle/operators.py`` from graphs; see :mod:`hostile.exported_graphs`."""

import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from ese_deploy.bundle import operators
from ese_deploy.bundle.graph_reader import AttributeValue, read_graph_file

# Sizes and places, which depend on the model.
_FREE = {
    *("axis", "batch_dims", "dilations", "end", "epsilon", "group", "kernel_shape", "kv_num_heads", "num_heads"),
    *("num_outputs", "pads", "perm", "q_num_heads", "rotary_embedding_dim", "scale", "start", "strides", "alpha"),
}
_HEADER = '''"""The operators and attributes that a graph of a bundle may have: those that the exporter writes.

Written by ``tests/hostile/operators.py`` from graphs of every backbone, pooling, head, opset and dtype of the
tests. ``int``, ``float`` and ``tuple`` stand for any value of that type.
"""

from collections.abc import Mapping

__all__ = ["OPERATORS"]

OPERATORS: Mapping[str, Mapping[str, type | frozenset[int | float | str]]] = {
'''


def collect(graphs: Iterable[bytes]) -> dict[str, dict[str, set[AttributeValue]]]:
    """The values of each attribute of each operator."""
    found: dict[str, dict[str, set[AttributeValue]]] = defaultdict(lambda: defaultdict(set))
    for data in graphs:
        for node in read_graph_file(data).nodes:
            attributes = found[node.op]
            for name, value in node.attributes.items():
                attributes[name].add(value)
    return found


def render(found: dict[str, dict[str, set[AttributeValue]]]) -> str:
    """The source of ``operators.py``. What it lists now stays, because bundles of earlier versions have it."""
    lines = [_HEADER]
    for op in sorted({*found, *operators.OPERATORS}):
        now, before = found.get(op, {}), operators.OPERATORS.get(op, {})
        names = sorted({*now, *before})
        rows = [f'"{name}": {_allowed(name, now.get(name, set()), before.get(name))}' for name in names]
        lines.append(f'    "{op}": {{{", ".join(rows)}}},\n')
    return "".join([*lines, "}\n"])


def _allowed(name: str, values: set[AttributeValue], before: object) -> str:
    listed = set(values) | (set(before) if isinstance(before, frozenset) else set())
    if isinstance(before, type):
        return before.__name__
    if name in _FREE:
        return type(next(iter(listed))).__name__
    return f"frozenset({{{', '.join(_literal(value) for value in sorted(listed, key=str))}}})"


def _literal(value: AttributeValue) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


if __name__ == "__main__":
    graphs = [path.read_bytes() for folder in sys.argv[1:] for path in sorted(Path(folder).glob("*.onnx"))]
    Path(operators.__file__).write_text(render(collect(graphs)), "utf-8")

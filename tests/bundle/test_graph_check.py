from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.hostile import forge
from onnx import TensorProto, helper, numpy_helper

from ese_deploy.bundle.graph_check import GraphRules, check_graph
from ese_deploy.bundle.reader import Bundle, choose_entry, open_bundle, read_graph, weights_of
from ese_deploy.errors import BundleError

Change = Callable[[onnx.ModelProto], object]


def _rules(bundle: Bundle) -> GraphRules:
    entry = choose_entry(bundle, "1x8")
    weights, manifest = weights_of(bundle, "fp32"), bundle.manifest
    names = tuple(manifest.inputs)
    return GraphRules(weights.file, weights.bytes, names, manifest.output, entry.dim, manifest.opset, 48)


def _node(op: str, inputs: list[str], **attributes: object) -> Change:
    """Put an operator before the last one, which then has no effect on the output."""
    return lambda model: model.graph.node.append(helper.make_node(op, inputs, ["more"], **attributes))


def _constant(name: str, values: object) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, np.int64), name)


def _external(key: str, value: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(one for one in model.graph.initializer if one.external_data)
        next(one for one in tensor.external_data if one.key == key).value = value

    return change


def _expand(*shape: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.extend([_constant("shape", shape), _constant("zero", [0])])
        _node("Expand", ["zero", "shape"])(model)

    return change


def _loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["input_ids"], ["more"], body=body))


def _grow(model: onnx.ModelProto) -> None:
    """Twenty steps, each of which makes a tensor twice as long."""
    model.graph.initializer.append(_constant("step0", range(64)))
    for place in range(20):
        names = [f"step{place}"] * 2
        model.graph.node.append(helper.make_node("Concat", names, [f"step{place + 1}"], axis=0))


def _add_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"]))


def _rename_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "pixels"


def _widen(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 16


def _sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add()


def _function(model: onnx.ModelProto) -> None:
    model.functions.add(name="Add", domain="")


def _domain(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _twice(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def _longer(model: onnx.ModelProto) -> None:
    next(one for one in model.graph.initializer if one.external_data).dims[0] += 1


def _unordered(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))


CASES: dict[str, tuple[Change, str]] = {
    "memory": (_external("location", "*/_ORT_MEM_ADDR_/*"), "and only weights.fp32.data is allowed"),
    "other file": (_external("location", "../../etc/passwd"), "and only weights.fp32.data is allowed"),
    "past the end": (_external("offset", "1000000000"), "has .* bytes and reads"),
    "negative": (_external("offset", "-8"), "is at '-8'"),
    "other length": (_external("length", "4"), "has .* bytes and reads 4"),
    "longer": (_longer, "has .* bytes and reads"),
    "loop": (_loop, "a part that no export writes|another type than it says"),
    "control flow": (_node("If", ["input_ids"]), "the operator 'If', which no export writes"),
    "custom": (_node("Add", ["input_ids", "input_ids"], domain="evil"), "of the domain 'evil'"),
    "domain": (_domain, "2 opsets|domain"),
    "attribute": (_node("Cast", ["input_ids"], to=8), "Cast has the attribute to = 8"),
    "expand": (_expand(1 << 20, 1 << 20), "Expand makes a tensor of shape .* too large"),
    "growth": (_grow, "too large"),
    "data-dependent": (_node("Expand", ["input_ids", "input_ids"]), "depends on the texts"),
    "unknown input": (_node("Add", ["input_ids", "nothing"]), "reads 'nothing' before it is computed"),
    "order": (_unordered, "before it is computed"),
    "outputs": (_add_output, "its outputs are"),
    "inputs": (_rename_input, "its inputs are"),
    "width": (_widen, "its outputs are"),
    "sparse": (_sparse, "a part that no export writes"),
    "function": (_function, "a part that no export writes"),
    "twice": (_twice, "is there twice"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_no_export_writes_is_refused(name: str, tiny_bundle: Bundle) -> None:
    change, message = CASES[name]
    model = onnx.load_from_string(read_graph(tiny_bundle, choose_entry(tiny_bundle, "1x8")))
    change(model)
    with pytest.raises(BundleError, match=message):
        check_graph(model.SerializeToString(), _rules(tiny_bundle))


def test_a_graph_of_an_export_passes_and_shows_its_vocabulary(tiny_bundle: Bundle) -> None:
    graph = read_graph(tiny_bundle, choose_entry(tiny_bundle, "1x8"))
    assert check_graph(graph, _rules(tiny_bundle)).vocabulary == 600


@pytest.mark.parametrize("cut", [1, 100, 5000])
def test_a_graph_that_is_cut_off_is_refused(cut: int, tiny_bundle: Bundle) -> None:
    graph = read_graph(tiny_bundle, choose_entry(tiny_bundle, "1x8"))
    with pytest.raises(BundleError):
        check_graph(graph[:-cut], _rules(tiny_bundle))


def test_the_message_names_the_file(tiny_bundle: Bundle, tmp_path: Path) -> None:
    entry = choose_entry(tiny_bundle, "1x8")
    model = onnx.load_from_string(read_graph(tiny_bundle, entry))
    _external("location", "other.data")(model)
    forged = open_bundle(forge(tiny_bundle.path, tmp_path / "b", {entry.file: model.SerializeToString()}))
    with pytest.raises(BundleError, match=rf"{entry.file} is not a graph that an export writes: .*'other.data'"):
        read_graph(forged, choose_entry(forged, "1x8"))

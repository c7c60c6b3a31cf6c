import onnx
import pytest

from ese_deploy.bundle.location import relocate
from ese_deploy.bundle.reader import Bundle
from ese_deploy.errors import BundleError


def locations(graph: bytes) -> set[str]:
    model = onnx.load_from_string(graph)
    return {e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"}


@pytest.mark.parametrize("name", ["w", "a" * 64, "b" * 300])
def test_only_the_name_of_the_weights_file_changes(tiny_bundle: Bundle, name: str) -> None:
    graph = (tiny_bundle.path / "d03_k016.fp32.onnx").read_bytes()
    moved = relocate(graph, "weights.fp32.data", name)
    assert locations(moved) == {name}
    back = onnx.load_from_string(relocate(moved, name, "weights.fp32.data"))
    assert back.SerializeToString(deterministic=True) == onnx.load_from_string(graph).SerializeToString(
        deterministic=True
    )


def test_other_files_keep_their_name(tiny_bundle: Bundle) -> None:
    graph = (tiny_bundle.path / "d03_k016.fp32.onnx").read_bytes()
    assert relocate(graph, "another.data", "new") == graph


def test_a_graph_without_a_weights_file_stays_as_it_is() -> None:
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    value = [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in "xy"]
    inline = onnx.helper.make_tensor("t", 1, [1], [2.0])
    graph = onnx.helper.make_model(onnx.helper.make_graph([node], "g", value[:1], value[1:], [inline]))
    assert relocate(graph.SerializeToString(), "weights.fp32.data", "other") == graph.SerializeToString()


@pytest.mark.parametrize("graph", [b"\x3a\x05ab", b"\xff" * 12, b"\x0b", b"\x80"])
def test_what_is_no_graph_is_refused(graph: bytes) -> None:
    with pytest.raises(BundleError, match=r"field|number|wire"):
        relocate(graph, "weights.fp32.data", "other")

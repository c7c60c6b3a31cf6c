import numpy as np
import pytest

from ese_deploy.errors import EngineError
from ese_deploy.runtime.vectors import check_vectors, unchecked_vectors

UNIT = np.full((3, 4), 0.5, np.float32)


def test_unit_vectors_pass() -> None:
    check_vectors(UNIT, 3, 4, "onnxruntime")
    check_vectors(UNIT * np.float32(1.01), 3, 4, "openvino", bf16=True)


@pytest.mark.parametrize(
    "vectors",
    [UNIT[:2], UNIT[:, :2], UNIT.astype(np.float64), UNIT * np.float32(1.01), UNIT * 0, UNIT * np.float32("nan")],
)
def test_anything_else_is_an_error_of_the_engine(vectors: np.ndarray) -> None:
    with pytest.raises(EngineError, match="Engine 'onnxruntime' returned"):
        check_vectors(vectors, 3, 4, "onnxruntime")


def test_one_bad_row_is_enough() -> None:
    vectors = UNIT.copy()
    vectors[1, 2] = np.inf
    with pytest.raises(EngineError, match="a vector of norm inf"):
        check_vectors(vectors, 3, 4, "onnxruntime")
    with unchecked_vectors():
        check_vectors(vectors, 3, 4, "onnxruntime")

"""Wrong arguments are refused before PyTorch, the checkpoint or the calibration texts are read."""

from pathlib import Path
from typing import Any

import pytest

from ese_deploy.errors import InputError
from ese_deploy.export import ExportRequest
from ese_deploy.export.request import check_request
from ese_deploy.target import Target


def test_strings_mean_the_same_as_lists(tiny_checkpoint: Path, tmp_path: Path) -> None:
    named = check_request(ExportRequest(tiny_checkpoint, tmp_path / "out", targets="1x16, 3x32:int8"))
    assert named.targets == [Target(1, 16), Target(3, 32, "int8")]
    assert (
        named.targets
        == check_request(ExportRequest(tiny_checkpoint, tmp_path / "out", ["1x16", Target(3, 32, "int8")])).targets
    )
    grid = check_request(
        ExportRequest(str(tiny_checkpoint), str(tmp_path / "out"), depths="1-3", dims="16,32", dtypes="fp32,int8")
    )
    assert (grid.targets, grid.depths, grid.dims, grid.dtypes) == ([], [1, 2, 3], [16, 32], ["fp32", "int8"])
    assert grid.out == tmp_path / "out"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": "3*128"}, r"Target '3\*128' is not DEPTHxDIM"),
        ({"targets": ["1x16"], "depths": "1-3"}, "`targets` and a grid of `depths`, `dims` and `dtypes` exclude"),
        ({"targets": ["1x16"], "dtypes": "int8"}, "`targets` and a grid of `depths`, `dims` and `dtypes` exclude"),
        ({"depths": "a"}, "`depths` 'a' is not a list of numbers and ranges"),
        ({"depths": [0]}, "Depth 0 is a table of token vectors, fitted on texts"),
        ({"depths": [-1]}, "Choose a depth of at least 0"),
        ({"dims": [4]}, "Choose at least 8"),
        ({"dtypes": "int4"}, "Unknown dtype 'int4'"),
        ({"opset": 17}, "Unknown opset 17. Choose one of: 18, 23"),
        ({"opset": 18, "dtypes": "int8-fp16"}, "Dtype int8-fp16 needs opset 19 or newer, got 18"),
        ({"projection": "umap"}, "Unknown projection 'umap'. Choose one of: prefix, pca, aligned, trained"),
        ({"projection": "pca"}, "Name a file with `calibration`"),
        ({"calibration": "none.txt"}, "There is no file none.txt"),
        ({"update": True, "force": True}, "`update` adds to a bundle and `force` replaces it"),
        ({"model": "./none"}, "There is no folder ./none"),
    ],
)
def test_a_wrong_argument_is_named(
    tiny_checkpoint: Path, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    request = {"model": tiny_checkpoint, "out": tmp_path / "out", **arguments}
    with pytest.raises(InputError, match=message):
        check_request(ExportRequest(**request))

"""Labels that the objective cannot read, and the rows that a run shows before it starts."""

from pathlib import Path

import pytest

from ese_deploy.errors import InputError
from ese_deploy.training.data import TrainingData, load_data
from ese_deploy.training.labels import check_labels, examples
from ese_deploy.training.settings import TrainingSettings


def data(tmp_path: Path, *labels: float) -> TrainingData:
    path = tmp_path / "scored.csv"
    path.write_text("question,answer,relevance\n" + "".join(f"a{label},{'b' * 99},{label}\n" for label in labels))
    return load_data([str(path)])


def settings(**changed: float) -> TrainingSettings:
    return TrainingSettings(model="m", train=("t",), out="o", **changed)  # type: ignore[arg-type]


def test_scores_need_an_objective_that_reads_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scored = data(tmp_path, 0, 2.5, 5)
    with pytest.raises(InputError, match=r"scores from 0 to 5, .* `cosine_w` 1 and `ibn_w` 0"):
        check_labels(settings(), [scored])
    check_labels(settings(cosine_w=1, ibn_w=0), [scored])
    assert not caplog.records
    check_labels(settings(ibn_w=1), [scored])
    assert "cut them to whole numbers" in caplog.text


def test_zero_and_one_are_labels(tmp_path: Path) -> None:
    check_labels(settings(), [data(tmp_path, 0, 1, 1)])


def test_examples_are_the_first_rows_as_training_reads_them(tmp_path: Path) -> None:
    lines = examples(data(tmp_path, 0, 1, 1, 0))
    assert len(lines) == 3
    assert lines[0] == f"  row 1: text1 'a0', text2 '{'b' * 60}...', label 0"

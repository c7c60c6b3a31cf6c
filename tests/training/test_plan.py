"""What a run says before its first step, and how long it still takes."""

from pathlib import Path

import pytest

from ese_deploy.cli.app import main
from ese_deploy.texts.sample import sample_corpus
from ese_deploy.training.plan import warm_up_warning
from ese_deploy.training.timing import TimeLeft, duration, with_log_lines

Capture = pytest.CaptureFixture[str]
SHORT = ("--batch-size", "8", "--workers", "0", "--use-cpu", "1", "--logging-steps", "1", "--save-strategy", "no")


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_time_left_is_said_from_the_tenth_step_on_and_leaves_out_the_first() -> None:
    clock = Clock()
    left = TimeLeft(clock)
    for step in range(1, 11):
        clock.now += 30 if step == 1 else 2
        assert left.step(step) == (step == 10)
        assert left.words(100) == ("2.00 s a step, about 3 min left" if step == 10 else "")
    assert left.words(10) == "", "the last step"


def test_a_run_that_resumes_counts_its_own_steps() -> None:
    clock = Clock()
    left = TimeLeft(clock)
    for step in range(501, 511):
        clock.now += 1
        left.step(step)
    assert left.words(1110) == "1.00 s a step, about 10 min left"


@pytest.mark.parametrize(("seconds", "words"), [(4.4, "4 s"), (100, "2 min"), (3600 * 2.1, "2 h 6 min")])
def test_a_duration_is_said_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_long_phases_are_logged_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "ese_deploy")
    clock, seen = Clock(), []
    report = with_log_lines(lambda *step: seen.append(step), clock)
    for done in range(0, 1001, 50):
        report("fit projections", done, 1000)
        clock.now += 5
    assert len(seen) == 21
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "fit projections: 200 of 1,000, about 80 s left"
    assert len(lines) == 4, "the end is not logged"


def test_a_warm_up_longer_than_the_run_is_noticed() -> None:
    assert "`warmup_steps=3`" in warm_up_warning(100, 30)
    assert warm_up_warning(29, 30) == ""
    assert warm_up_warning(100, 0) == "", "the number of steps is not known"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(" ".join(item.text.split()) for item in sample_corpus()))
    return path


def test_a_dry_run_says_what_a_run_would_do_and_writes_nothing(
    tiny_checkpoint: Path, texts: Path, tmp_path: Path, capsys: Capture
) -> None:
    before = sorted(tmp_path.iterdir())
    command = ["train", "--model", str(tiny_checkpoint), "--train", str(texts), "--out", str(tmp_path / "out"), *SHORT]
    assert main([*command, "--epochs", "2", "--warmup-steps", "500", "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert "Dry run: 96 steps of 8 rows, 2.0 passes over 48 batches." in said
    assert "Exits that are trained: 1, 2, 3." in said and "row 3: text" in said
    assert "Use --warmup-steps 9" in said and "Without --dry-run, the model goes into" in said
    assert sorted(tmp_path.iterdir()) == before
    missing = [*command[:4], str(tmp_path / "none.txt"), *command[5:], "--dry-run"]
    assert main(missing) == 2


def test_a_run_says_how_long_it_takes_and_that_its_warm_up_is_too_long(
    tiny_checkpoint: Path, texts: Path, tmp_path: Path, capsys: Capture
) -> None:
    command = ["train", "--model", str(tiny_checkpoint), "--train", str(texts), "--out", str(tmp_path / "out"), *SHORT]
    assert main([*command, "--max-steps", "12", "--warmup-steps", "12", "--projections", "0"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert any("The warm-up of 12 steps does not end within the run of 12" in line for line in said)
    assert [line.split()[1] for line in said if " left" in line] == ["10/12", "10/12", "11/12"]

import re
from pathlib import Path

import msgspec
import pytest
from helpers.bench_results import make_group, make_results, make_row

from ese_deploy.bench.results import Trial, check_comparable, read_results, reference_row, write_results
from ese_deploy.bench.timing import StopRule, Timing, interleave, ratio, repeat, time_alone, uncertainty
from ese_deploy.errors import InputError


def test_turns_go_round_by_round_after_a_warm_up() -> None:
    seen: list[str] = []

    def turn(name: str, seconds: float) -> list[float]:
        seen.append(name)
        return [seconds]

    timed = interleave([lambda: turn("a", 1.0), lambda: turn("b", 2.0)], StopRule(least=3, most=5), warm_up=1)
    assert "".join(seen) == "ab" + "ab" * 3
    assert [one.seconds for one in timed] == [[1.0] * 3, [2.0] * 3]
    assert timed[0].calls == 3


def test_rounds_go_on_until_medians_are_stable_or_the_cap() -> None:
    drifting = iter(range(1, 100))
    timed = interleave([lambda: [float(next(drifting))]], StopRule(least=3, most=7, precision=0.02))
    assert len(timed[0].seconds) == 7
    settling = iter([9.0, 1.0, 5.0, *[3.0] * 50])
    timed = interleave([lambda: [next(settling)]], StopRule(least=3, most=40, precision=0.02), warm_up=0)
    assert 3 < len(timed[0].seconds) < 40
    assert uncertainty(timed[0].seconds) <= 0.02


def test_no_round_begins_after_the_time_is_up_but_the_least_are_kept() -> None:
    drifting = iter(range(1, 100))
    timed = interleave([lambda: [float(next(drifting))]], StopRule(least=4, most=50, seconds=0.0001))
    assert len(timed[0].seconds) == 4


def test_progress_ends_at_one_and_never_falls() -> None:
    used: list[float] = []
    interleave([lambda: [1.0], lambda: [1.0]], StopRule(least=2, most=9), used.append)
    assert used == sorted(used)
    assert used[-1] == 1.0


def test_uncertainty_is_the_notch_of_a_box_plot() -> None:
    # Quartiles 2 and 4 around 3, five samples: 1.57 * 2 / sqrt(5) / 3.
    assert uncertainty([1, 2, 3, 4, 5]) == pytest.approx(0.46808, abs=1e-4)
    assert uncertainty([2.0, 2.0, 2.0]) == 0
    assert uncertainty([1.0, 1.0]) == float("inf")


def test_a_ratio_is_taken_round_by_round_so_that_a_drift_of_both_cancels() -> None:
    drift = [1.0, 1.5, 2.0, 3.0, 4.0]
    fast, slow = Timing(drift, 5), Timing([2 * value for value in drift], 5)
    found = ratio(fast, slow)
    assert (found.value, found.low, found.high, found.noisy) == (2.0, 2.0, 2.0, False)
    assert fast.noisy
    wild = ratio(Timing([1, 2, 1, 2, 1], 5), Timing([2, 1, 2, 1, 2], 5))
    assert wild.noisy


def test_the_reference_is_the_full_model_in_fp32_as_it_runs_by_default() -> None:
    wide = make_row("6x384", batch=1024, is_default=False)
    rows = [make_row("3x384"), wide, make_row("6x384"), make_row("6x384", dtype="int8"), make_row(name="PyTorch")]
    group = make_group(rows)
    assert reference_row(group, make_results([group])) is rows[2]
    assert reference_row(make_group(rows[:1]), make_results([])) is None
    assert reference_row(make_group(rows[:2]), make_results([])) is wide


def test_a_rate_is_that_of_the_median_round() -> None:
    assert Timing([1.0, 2.0, 4.0], 3).rate(96) == 48


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    results = make_results()
    write_results(tmp_path / "r.json", results)
    assert read_results(tmp_path / "r.json") == results


def test_files_of_schema_version_1_are_still_read() -> None:
    results = read_results(Path(__file__).parent / "results_v1.json")
    assert (results.schema_version, results.restricted, results.complete) == (
        2,
        {"engine": "a b", "targets": "x"},
        True,
    )
    throughput, latency = results.groups
    assert (throughput.study, throughput.other_load) == ("batch_tokens", 0.5)
    assert throughput.peaks[0].rates == [3e11]
    default, budget, baseline = throughput.rows
    assert (default.kind, default.name, default.size, default.batch, default.is_default) == (
        *("target", "ese-deploy", "6x384", 256, True),
    )
    assert default.timing == Timing([0.2, 0.1], 4, {})
    assert (budget.batch, budget.is_default, budget.target) == (1024, False, "6x384:int8")
    assert (baseline.kind, baseline.batch, baseline.mode, baseline.is_default) == ("baseline", 32, "throughput", False)
    assert reference_row(throughput, results) is default
    (single,) = latency.rows
    assert (latency.kind, single.batch, single.timing.percentiles["p95"]) == ("latency", None, 0.003)
    assert results.baselines[0].trials == {"query": [Trial(4, "", 0.3), Trial(32, "throughput", 0.1)]}


def test_a_call_is_repeated_for_a_time_and_a_number_of_times() -> None:
    calls: list[int] = []
    assert len(repeat(lambda: calls.append(1), least=4)) == len(calls) == 4
    assert sum(repeat(lambda: None, seconds=0.001)) >= 0.001
    alone = time_alone(lambda: sum(range(1000)), seconds=0.002)
    assert alone.calls == len(alone.seconds) >= 5
    assert alone.median > 0
    assert alone.spread >= 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema_version": 9}', r"r\.json has schema_version 9; this ese-deploy reads 1 to 2\. Update ese-deploy\."),
        ('{"schema_version": 0}', r"r\.json has schema_version 0; this ese-deploy reads 1 to 2\. Measure again with"),
        ('{"schema_version": 1}', r"r\.json is not a results file: .*Measure again with: ese-deploy bench"),
        ('{"schema_version": 1, "groups": 3}', r"r\.json is not a results file"),
        ('{"schema_version": 2}', r"r\.json is not a results file: .*Measure again with: ese-deploy bench"),
        ("[]", r"r\.json is not a results file"),
        ("{", r"r\.json is not a results file"),
    ],
)
def test_a_file_of_another_kind_is_named_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_results(tmp_path / "r.json")


def test_a_missing_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Cannot read .*r\.json: .*\. Create it with: ese-deploy bench"):
        read_results(tmp_path / "r.json")


def test_results_of_another_model_or_of_other_texts_cannot_be_compared() -> None:
    results = make_results()
    other = msgspec.structs.replace(results, weights_sha256="b" * 64, model="other")
    with pytest.raises(InputError, match=re.escape("Cannot compare a.json with b.json: one is of tiny (aaaaaaaaaaaa)")):
        check_comparable(results, other, ("a.json", "b.json"))
    texts = {name: msgspec.structs.replace(one, sha256="c" * 64) for name, one in results.texts.items()}
    with pytest.raises(InputError, match="they embedded different texts"):
        check_comparable(results, msgspec.structs.replace(results, texts=texts), ("a.json", "b.json"))
    with pytest.raises(InputError, match="they embedded different texts"):
        check_comparable(results, msgspec.structs.replace(results, texts={}), ("a.json", "b.json"))
    check_comparable(results, results, ("a.json", "b.json"))

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ese_deploy.choose.budgets import (
    LatencyBudget,
    QualityBudget,
    ThroughputBudget,
    parse_latency,
    parse_quality,
    parse_size,
    parse_throughput,
)
from ese_deploy.errors import InputError
from ese_deploy.measurements.cases import Case


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5ms", LatencyBudget(0.005)),
        (" 0.2 s ", LatencyBudget(0.2)),
        ("800us p99", LatencyBudget(0.0008, 99)),
        ("20ms p50 128 tokens 1 thread", LatencyBudget(0.02, 50, Case(128, 1))),
        ("20ms, 4 threads", LatencyBudget(0.02, 95, Case(32, 4))),
    ],
)
def test_a_latency_names_its_percentile_and_case(text: str, expected: LatencyBudget) -> None:
    found = parse_latency(text)
    assert (found.percentile, found.case) == (expected.percentile, expected.case)
    assert found.seconds == pytest.approx(expected.seconds)


def test_other_budgets_are_read_with_their_units() -> None:
    assert parse_throughput("200/s") == ThroughputBudget(200)
    assert parse_throughput("60/min 128 tokens") == ThroughputBudget(1, Case(128))
    assert parse_size("40MB") == 40_000_000
    assert parse_size("1.5 MiB") == 1_572_864
    assert parse_quality("0.97") == QualityBudget(0.97)
    assert parse_quality("97%") == QualityBudget(0.97)
    assert parse_quality("0.80 stsb") == QualityBudget(0.8, "stsb", share=False)
    assert parse_quality("0.2 sts_pearson@a set, v2 ") == QualityBudget(0.2, "sts_pearson@a set, v2", share=False)
    assert parse_quality("90% ndcg_at_10@scifact") == QualityBudget(0.9, "ndcg_at_10@scifact", share=True)


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_latency, "5", "has no unit; units are us, ms, s: write for example 5ms"),
        (parse_latency, "5 MB", "has the unit 'MB'"),
        (parse_latency, "fast", "is a number and a unit, got 'fast'"),
        (parse_latency, "0ms", "must be above 0"),
        (parse_latency, "-5ms", "is a number and a unit"),
        (parse_latency, "5ms p90", "names percentile 90; choose p50, p95 or p99"),
        (parse_latency, "5ms soon", "is not understood"),
        (parse_latency, "5ms 0 threads", "is not understood"),
        (parse_throughput, "200/s 0 tokens", "is not understood"),
        (parse_throughput, "200", "has no unit"),
        (parse_size, "40", "has no unit"),
        (parse_size, "40 Mb", "has the unit 'Mb'"),
        (parse_size, "40MB extra", "is a number and a unit, got '40MB extra'"),
        (parse_quality, "97", "is above 1; write 0.97 or 97%"),
        (parse_quality, "good", "is not understood"),
        (parse_quality, "120%", "is above 1"),
        (parse_quality, "0,97", "is not understood"),
    ],
)
def test_a_budget_that_is_not_understood_says_how_to_write_it(parse, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(text)


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_latency, parse_throughput, parse_size, parse_quality):
        try:
            parse(text)
        except InputError as error:
            assert "write" in str(error) or "choose" in str(error) or "must be" in str(error)

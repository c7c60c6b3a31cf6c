"""Choosing the targets of documents and queries for a use in words."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ese_deploy.bundle.reader import Bundle
from ese_deploy.choose import choose_for
from ese_deploy.choose.candidates import find_candidates
from ese_deploy.choose.choice import Budgets, Candidate
from ese_deploy.choose.pairs import PairChoice, choose_pair
from ese_deploy.choose.scenario import Need, pairs_of, parse_need
from ese_deploy.cli.app import main
from ese_deploy.errors import InputError
from ese_deploy.measurements.cases import Kind
from ese_deploy.measurements.store import Measurement, store_measurements
from ese_deploy.system.threads import available_threads

Capture = pytest.CaptureFixture[str]
USE = "10M documents, 50 queries/s, 2 cores, 512 MB"


@pytest.mark.parametrize(
    ("text", "need"),
    [
        (USE, Need(10_000_000, 50, 2, 512_000_000)),
        ("1.5 million docs, 4 GiB of memory, 20ms", Need(1_500_000, memory=4 * 2**30, latency=0.02)),
        ("12,000 texts, 1 vCPU, 120 requests per minute", Need(12_000, 2.0, 1)),
        ("300k vectors", Need(300_000)),
    ],
)
def test_a_use_is_read(text: str, need: Need) -> None:
    assert parse_need(text) == need


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("50 queries/s", "needs a number of documents"),
        ("10M documents, fast", "has 'fast', which is not understood"),
        ("1k documents, 2 cores, 4 cores", "names cores twice"),
        ("1k documents, 0 cores", "at least 1 core"),
        ("1k documents, 512", "has '512'"),
    ],
)
def test_a_use_that_cannot_be_read_is_named(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_need(text)


def candidates(bundle: Bundle) -> list[Candidate]:
    """Targets of 1 ms and 10 MB a layer, whose quality grows with depth and dim."""
    every = find_candidates(bundle.manifest, Budgets(engines=("onnxruntime",)), None)
    return [
        replace(
            one,
            latency=one.entry.depth / 1000,
            throughput=600 / one.entry.depth,
            memory=one.entry.depth * 10e6,
            quality=0.5 + one.entry.depth / 10 + one.entry.dim / 1000,
        )
        for one in every
        if one.engine == "onnxruntime"
    ]


def chosen(bundle: Bundle, need: Need) -> PairChoice:
    return choose_pair(pairs_of(candidates(bundle), need, 2), need, 2, "agreement")


def test_figures_of_a_pair_follow_from_measurements(aligned_bundle: Bundle) -> None:
    best = chosen(aligned_bundle, Need(1_000_000, 100, 2)).best
    assert best is not None and best.symmetric and best.index.name == "3x32"
    assert (best.precision, best.index_bytes) == ("float32", 32 * 4 * 1_000_000)
    assert best.memory == best.index_bytes + 30e6
    assert best.indexing_seconds == 1_000_000 / 200
    assert best.load == pytest.approx(100 * 0.003 / 2)


def test_little_memory_takes_fewer_dims_then_fewer_bits(aligned_bundle: Bundle) -> None:
    tight = chosen(aligned_bundle, Need(1_000_000, memory=100_000_000))
    assert tight.best is not None
    assert (tight.best.index.entry.dim, tight.best.precision) == (16, "float32")
    assert [limit for limit, _ in tight.binding] == ["memory"]
    tighter = chosen(aligned_bundle, Need(10_000_000, memory=100_000_000))
    assert tighter.best is not None and tighter.best.precision == "binary"
    assert "what binary vectors lose" in str(tighter)


def test_many_queries_take_a_shallow_target_for_queries_and_the_deepest_of_its_space_for_documents(
    aligned_bundle: Bundle,
) -> None:
    found = chosen(aligned_bundle, Need(1_000_000, 500, 2))
    assert found.best is not None and not found.best.symmetric
    assert (found.best.index.name, found.best.query.name) == ("3x16", "2x16")
    said = str(found).splitlines()
    assert [line.split(":")[0] for line in said] == ["Best", "Binding", "Next better", "Not measured"]
    assert said[0].startswith("Best: 3x16 for documents, 2x16 for queries, float32 vectors")
    assert "500 a second take 50% of the cores" in said[0]
    assert "queries per second: without it the answer is 3x32" in said[1]
    assert said[2].startswith("Next better: 3x16 for documents and queries")
    assert "the quality of queries and documents of different depths" in said[3]


def test_where_nothing_fits_the_nearest_pair_is_named(aligned_bundle: Bundle) -> None:
    nothing = chosen(aligned_bundle, Need(1_000_000, 50_000, 2))
    assert nothing.best is None and repr(nothing) == "PairChoice(no pair fits)"
    assert str(nothing).startswith("No pair fits. The nearest is ") and "It exceeds: queries per second" in str(nothing)


def store(bundle: Bundle) -> None:
    """Measurements of all targets on one core and on all."""
    kinds: list[tuple[Kind, int, int, dict[str, float]]] = [
        ("latency", 32, 1, dict.fromkeys(("p50", "p95", "p99"), 0.002)),
        ("throughput", 128, available_threads(), {"texts_per_second": 100.0}),
        ("memory", 32, available_threads(), {"process_peak_bytes": 90e6}),
    ]
    found = [
        Measurement(entry.name, "onnxruntime", {}, kind, tokens, threads, 9, values)
        for entry in bundle.manifest.targets
        for kind, tokens, threads, values in kinds
    ]
    store_measurements(bundle, found)


def test_the_command_explains_and_refuses(aligned_bundle: Bundle, capsys: Capture, tmp_path: Path) -> None:
    command = ["choose", str(aligned_bundle.path), "--for", "1k documents, 10 queries/s, 1 GB", "--no-measure"]
    assert main(command) == 2
    assert "ese-deploy measurements make" in capsys.readouterr().err
    store(aligned_bundle)
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "Best: 3x32 for documents and queries" in said and "Not measured: " in said
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["best"]["index_bytes"] == 1000 * 32 * 4
    assert document["best"]["load"] == pytest.approx(10 * 0.002 / document["cores"])
    assert main([*command[:3], "1G documents, 1 MB", "--no-measure"]) == 1
    assert "No pair fits. The nearest is" in capsys.readouterr().err
    for options, message in (
        (["--max-latency", "5ms"], "--for states its own limits. Leave out --max-latency."),
        (["--engine", "onnxruntime,openvino"], "--for measures one engine"),
    ):
        assert main([*command, *options]) == 2
        assert message in capsys.readouterr().err
    assert main([*command[:3], f"1k documents, {available_threads() + 1} cores"]) == 2
    assert "cores, and this process may use" in capsys.readouterr().err


def test_targets_with_a_doubt_are_left_out_and_a_quality_is_required(
    aligned_bundle: Bundle, tiny_bundle: Bundle
) -> None:
    store(aligned_bundle)
    found = choose_for(aligned_bundle, "1k documents", min_quality=0.99)
    assert found.best is not None and found.best.quality >= 0.99
    untrained = {one.name for one in find_candidates(tiny_bundle.manifest, Budgets(), None) if one.doubt}
    store(tiny_bundle)
    answer = choose_for(tiny_bundle, "1k documents").best
    assert untrained and answer is not None and answer.query.name not in untrained

"""The sentences of a report: headlines, how it was measured, and what was not measured."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ese_deploy.bench.results import Results, reference_row
from ese_deploy.bench.timing import Ratio, ratio
from ese_deploy.report.analysis import (
    BaselineRatio,
    agreement,
    baseline_ratios,
    depth_lines,
    main_group,
    share_of_peak,
)
from ese_deploy.report.tables import number

__all__ = ["Headline", "agreement_lines", "headlines", "losses", "measured_on", "noise_line", "not_measured"]


@dataclass(frozen=True)
class Headline:
    """A figure at the top of the report.

    Attributes:
        detail: its spread and its case.
    """

    figure: str
    what: str
    detail: str


def headlines(results: Results) -> list[Headline]:
    """The main figures, all of the most mixed texts that were timed."""
    group = main_group(results)
    reference = reference_row(group, results) if group else None
    if group is None or reference is None:
        return []
    case = f"{group.length} texts, {group.threads} threads"
    rate = reference.timing.rate(results.texts[group.length].texts)
    found = [Headline(f"{number(rate)}/s", "texts through the full model, fp32", case)]
    exact = [one for one in baseline_ratios(results) if one.group is group and one.baseline.dtype == "fp32"]
    if exact:
        closest = min(exact, key=lambda one: one.ratio.value)
        what = f"the speed of the fastest fp32 baseline, {closest.baseline.name}"
        found.append(Headline(f"{closest.ratio.value:.2f} ×", what, _detail(closest)))
    found += [
        Headline(f"{one.ratio.value:.2f} ×", "the speed of sentence-transformers' encode", _detail(one))
        for one in exact
        if one.baseline.name == "sentence-transformers"
    ]
    share = share_of_peak(reference, group)
    if share is not None:
        found.append(Headline(f"{share:.0%}", "of peak GEMM in fp32: the machine's own matrix products", case))
    lines = [line for line in depth_lines(results) if line.group is group and line.dtype == "fp32"]
    if lines:
        detail = "largest deviation of a depth from the line through the least and the greatest depth"
        found.append(Headline(f"{lines[0].worst[1]:+.1%}", "deviation from linear time over depth", detail))
    own = [row for row in group.rows if row.name == reference.name and row.dtype == "fp32"]
    shallow = min(own, key=lambda row: row.depth)
    if shallow is not reference:
        times = ratio(shallow.timing, reference.timing).value
        detail = f"the full model has {reference.depth / shallow.depth:.3g} × the layers"
        found.append(Headline(f"{times:.1f} ×", f"the full model's throughput at depth {shallow.depth}", detail))
    return found


def losses(results: Results) -> list[str]:
    """Every case in which a baseline is faster; empty where none is."""
    found = []
    for one in baseline_ratios(results):
        if one.ratio.value < 1:
            sure = "" if one.ratio.high < 1 else "; the quartiles include 1"
            found.append(
                f"{one.baseline.name} {one.baseline.dtype} is faster on {one.group.kind} of {one.group.length} texts: "
                f"ese-deploy's {one.own.dtype} runs at {_words(one.ratio)} of its speed{sure}"
            )
    return found


def noise_line(results: Results) -> str:
    """How many rows are noisy, and what that means; empty where none is."""
    rows = [row for group in results.groups for row in group.rows]
    noisy = sum(row.timing.noisy for row in rows)
    if not noisy:
        return ""
    return (
        f"{noisy} of {len(rows)} rows are noisy: their median is known less precisely than 5%, so that another run may "
        "differ by 10%. They are marked."
    )


def measured_on(results: Results) -> list[tuple[str, str]]:
    """Machine, versions and method."""
    host = results.host
    load = [group.other_load for group in results.groups if group.other_load is not None]
    texts = "; ".join(
        f"{name}: {one.texts} texts, {one.tokens:,} tokens, median {one.median}, longest {one.longest}"
        + (f", {one.cut} truncated" if one.cut else "")
        for name, one in results.texts.items()
    )
    baselines = [f"{one.name} ({_versions(one.versions)})" for one in results.baselines if not one.reason]
    engines = "; ".join(f"{name} ({_versions(versions)})" for name, versions in results.engines.items())
    return [
        ("model", f"{results.model}, {results.depth} layers, {results.width} dimensions"),
        ("weights", results.weights_sha256),
        ("bundle", f"{results.name}, {results.bundle[:16]}"),
        ("machine", str(host.machine)),
        ("instruction sets", ", ".join(host.instruction_sets) or "not reported by the system"),
        ("available cores", str(host.cores)),
        ("GPUs", ", ".join(host.gpus) or "none"),
        ("engines", engines),
        ("libraries", _versions(results.versions)),
        ("baselines", "; ".join(dict.fromkeys(baselines)) or "none"),
        ("texts", f"{results.texts_name} - {texts}"),
        ("started", results.started),
        ("effort", results.effort + (f", restricted to {_options(results)}" if results.restricted else "")),
        ("rounds", f"interleaved, A B C A B C; {results.stop}"),
        ("duration", f"{sum(group.seconds for group in results.groups) / 60:.1f} minutes"),
        (
            "load of other processes",
            f"{statistics.median(load):.2f} cores (median of groups), {max(load):.2f} at most"
            if load
            else "not reported by the system",
        ),
        ("noisy rows", noise_line(results) or "none"),
    ]


def not_measured(results: Results) -> list[str]:
    """What is missing from the report, and why."""
    found = [] if results.complete else ["This run was interrupted; its last groups are missing."]
    found += [f"engine {name}: {reason}" for name, reason in results.absent.items()]
    found += [f"baseline {one.reason}" for one in results.baselines if one.reason]
    if not results.baselines:
        found.append("baselines: ese-deploy bench --baselines benchmarks/baselines runs them too")
    peaks = {(one.dtype, one.device, one.reason) for group in results.groups for one in group.peaks if one.reason}
    found += [f"peak GEMM of {dtype} on {device}: {reason}" for dtype, device, reason in sorted(peaks)]
    if not results.host.gpus:
        found.append("GPUs: the driver reports none on this machine")
    if results.restricted:
        found.append(f"what these options exclude: {_options(results)}")
    if results.effort == "quick":
        mixed = "" if any(group.length == "mixed" for group in results.groups) else "mixed texts, "
        found.append(f"{mixed}dims, token budgets and single threads: ese-deploy bench --full")
    found.append("energy; several processes at once; baselines with fewer threads")
    return found


def agreement_lines(results: Sequence[Results], names: Sequence[str]) -> list[str]:
    """How well each later run agrees with the first, where both ran on the same kind of machine."""
    found = []
    for other, name in zip(results[1:], names[1:], strict=True):
        if other.host.machine.key != results[0].host.machine.key:
            found.append(f"{names[0]} and {name} ran on different machines; their ratios can differ")
            continue
        same = agreement(results[0], other)
        within = same.ratios - len(same.outside)
        line = f"{names[0]} and {name} agree within 10% on {within} of {same.ratios} ratios"
        if same.outside:
            line += f"; of the other {len(same.outside)}, {same.noisy} are marked as noisy:"
        found += [line, *(f"{key}: {apart:+.0%}" for key, apart in same.outside.items())]
    return found


def _options(results: Results) -> str:
    return ", ".join(f"{name} {value}" for name, value in results.restricted.items())


def _detail(one: BaselineRatio) -> str:
    noisy = ", noisy" if one.ratio.noisy else ""
    return f"quartiles {one.ratio.low:.2f} to {one.ratio.high:.2f}{noisy}; {one.group.length} texts"


def _words(found: Ratio) -> str:
    return f"{found.value:.2f} × ({found.low:.2f} to {found.high:.2f})"


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())

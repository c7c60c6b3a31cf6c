"""What a report says in words: headlines, what it was measured on, and what was not measured."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ese_deploy.bench.results import Ratio, Results, median_rate, ratio, reference_row
from ese_deploy.report.analysis import (
    Agreement,
    PeerRatio,
    agreement,
    depth_lines,
    depth_of,
    main_group,
    peer_ratios,
    share_of_limit,
)
from ese_deploy.report.tables import number

__all__ = ["Headline", "agreement_lines", "headlines", "losses", "measured_on", "not_measured"]


@dataclass(frozen=True)
class Headline:
    """A figure that stands at the top.

    Attributes:
        figure: the figure.
        what: what it is.
        detail: its spread and its case.
    """

    figure: str
    what: str
    detail: str


def headlines(results: Results) -> list[Headline]:
    """The figures that a reader looks for first, of the most mixed texts that were timed."""
    group = main_group(results)
    reference = reference_row(group, results) if group else None
    if group is None or reference is None:
        return []
    texts = results.texts[group.length]
    case = f"{group.length} texts, {group.threads} threads"
    rate = median_rate(texts.texts, reference.seconds)
    found = [Headline(f"{number(rate)}/s", "texts through the full model, fp32", case)]
    peers = [one for one in peer_ratios(results) if one.group is group]
    exact = [one for one in peers if one.peer.dtype == "fp32"]
    if exact:
        worst = min(exact, key=lambda one: one.ratio.value)
        found.append(Headline(f"{worst.ratio.value:.2f} ×", f"the fastest fp32 peer, {worst.peer.who}", _detail(worst)))
    found += [
        Headline(f"{one.ratio.value:.2f} ×", "sentence-transformers' encode", _detail(one))
        for one in exact
        if one.peer.who == "sentence-transformers"
    ]
    share = share_of_limit(reference, group)
    if share is not None:
        found.append(Headline(f"{share:.0%}", "of the machine's own fp32 matrix products", case))
    lines = [line for line in depth_lines(results) if line.group is group and line.dtype == "fp32"]
    if lines:
        detail = "largest distance of a depth between the ends from the line through them"
        found.append(Headline(f"{lines[0].worst:+.1%}", "off the line of time over depth", detail))
    own = [row for row in group.rows if row.who == reference.who and row.dtype == "fp32"]
    shallow = min(own, key=depth_of)
    if shallow is not reference:
        times = ratio(shallow, reference).value
        ideal = depth_of(reference) / depth_of(shallow)
        detail = f"the whole model costs {ideal:.3g} × the blocks"
        found.append(Headline(f"{times:.1f} ×", f"the full model's rate at depth {depth_of(shallow)}", detail))
    return found


def losses(results: Results) -> list[str]:
    """Every case in which a peer is faster, in words; empty where none is."""
    found = []
    for one in peer_ratios(results):
        if one.ratio.value < 1:
            sure = "" if one.ratio.high < 1 else "; the spread reaches 1"
            found.append(
                f"{one.peer.who} {one.peer.dtype} is faster on {one.group.kind} of {one.group.length} texts: "
                f"ese-deploy's {one.own.dtype} runs at {_words(one.ratio)} of its speed{sure}"
            )
    return found


def measured_on(results: Results) -> list[tuple[str, str]]:
    """Where, with what and how the figures were taken."""
    host = results.host
    load = [group.others for group in results.groups if group.others is not None]
    rows = sum(len(group.rows) for group in results.groups)
    noisy = sum(row.noisy for group in results.groups for row in group.rows)
    texts = "; ".join(
        f"{name}: {one.texts} texts, {one.tokens:,} tokens, median {one.median}, longest {one.longest}"
        + (f", {one.cut} cut there" if one.cut else "")
        for name, one in results.texts.items()
    )
    engines = "; ".join(f"{name} ({_versions(versions)})" for name, versions in results.engines.items())
    return [
        ("model", f"{results.model}, {results.depth} blocks, {results.width} dimensions"),
        ("weights", results.weights_sha256),
        ("bundle", f"{results.name}, {results.bundle[:16]}"),
        ("machine", str(host.machine)),
        ("instruction sets", ", ".join(host.instruction_sets) or "the system does not name them"),
        ("given to this run", f"{host.cores} cores"),
        ("GPUs", ", ".join(host.gpus) or "none"),
        ("engines", engines),
        ("libraries", _versions(results.versions)),
        ("texts", f"{results.texts_name} - {texts}"),
        ("started", results.started),
        ("effort", results.effort + (f", restricted to {results.restricted}" if results.restricted else "")),
        ("rounds", f"interleaved, A B C A B C; {results.stop}"),
        ("timed for", f"{sum(group.seconds for group in results.groups) / 60:.1f} minutes"),
        (
            "load by others",
            f"{statistics.median(load):.2f} cores (median of groups), {max(load):.2f} at most"
            if load
            else "the system does not say",
        ),
        ("noisy rows", f"{noisy} of {rows}: the median is less certain than 5%"),
    ]


def not_measured(results: Results) -> list[str]:
    """What is missing from the report, and why."""
    found = [] if results.complete else ["this run was cut off; groups at its end are missing"]
    found += [f"engine {name}: {reason}" for name, reason in results.absent.items()]
    found += [f"peer {peer.reason}" for peer in results.peers if peer.reason]
    if not results.peers:
        found.append("peers: ese-deploy bench --peers benchmarks/baselines runs them too")
    found += [
        f"peer {peer.name} {peer.dtype} versions: {_versions(peer.versions)}"
        for peer in results.peers
        if not peer.reason and not peer.versions
    ]
    limits = {(limit.dtype, limit.device, limit.reason) for group in results.groups for limit in group.limits}
    found += sorted(f"limit of {dtype} on {device}: {reason}" for dtype, device, reason in limits if reason)
    if not results.host.gpus:
        found.append("GPUs: this machine has none that the driver reports")
    if results.restricted:
        found.append(f"what the options left out: {results.restricted}")
    if results.effort == "quick":
        mixed = "" if any(group.length == "mixed" for group in results.groups) else "mixed texts, "
        found.append(f"{mixed}widths, token budgets and single threads: ese-deploy bench --full")
    found.append("energy; several processes at once; peers at fewer threads")
    return found


def agreement_lines(results: Sequence[Results], names: Sequence[str]) -> list[str]:
    """How well each later run agrees with the first, where both ran on one kind of machine."""
    found = []
    for one, name in zip(results[1:], names[1:], strict=True):
        if one.host.machine.key != results[0].host.machine.key:
            found.append(f"{names[0]} and {name} ran on different machines; their ratios need not agree")
            continue
        same = agreement(results[0], one)
        found.append(_agreement_line(same, names[0], name))
        found += [f"{what}: {apart:+.0%}" for what, apart in same.outside.items()]
    return found


def _agreement_line(same: Agreement, first: str, second: str) -> str:
    within = same.ratios - len(same.outside)
    line = f"{first} and {second} agree within 10% on {within} of {same.ratios} ratios"
    if not same.outside:
        return line
    return f"{line}; of the {len(same.outside)} others {same.noisy} are marked as noisy:"


def _detail(one: PeerRatio) -> str:
    noisy = ", noisy" if one.ratio.noisy else ""
    return f"quartiles {one.ratio.low:.2f} to {one.ratio.high:.2f}{noisy}; {one.group.length} texts"


def _words(found: Ratio) -> str:
    return f"{found.value:.2f} × ({found.low:.2f} to {found.high:.2f})"


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())

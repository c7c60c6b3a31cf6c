import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ese_deploy.bundle.manifest import TargetEntry
from ese_deploy.choose.budgets import LatencyBudget, QualityBudget, ThroughputBudget
from ese_deploy.choose.choice import Budgets, Candidate, Doubt, Prefer, choose_among, dominates, limits_of

# Few values, so that ties are common.
costs = st.sampled_from([1.0, 2.0, 3.0, 5.0])
unknown = st.none() | costs


def entry(depth: int, dim: int, dtype: str = "fp32") -> TargetEntry:
    name = f"d{depth:02d}_k{dim:03d}.{dtype}"
    return TargetEntry(
        file=f"{name}.onnx",
        bytes=1,
        sha256="0" * 64,
        name=name,
        depth=depth,
        dim=dim,
        dtype=dtype,
        space="exit",
        trained=True,
        weight_bytes=1,
        engines=["onnxruntime"],
    )


def candidate(depth: int, dim: int = 64, dtype: str = "fp32", **known) -> Candidate:
    return Candidate(entry(depth, dim, dtype), "onnxruntime", **{"size": 1, **known})


@st.composite
def candidates(draw) -> list[Candidate]:
    keys = draw(st.lists(st.tuples(st.integers(1, 6), st.sampled_from([64, 128])), min_size=1, max_size=8, unique=True))
    return [
        candidate(
            depth,
            dim,
            draw(st.sampled_from(["fp32", "int8"])),
            size=int(draw(costs)),
            quality=draw(st.none() | st.sampled_from([0.2, 0.5, 0.9, 1.0])),
            latency=draw(unknown),
            throughput=draw(unknown),
            memory=draw(unknown),
            doubt=draw(st.sampled_from([None, None, *Doubt])),
        )
        for depth, dim in keys
    ]


budgets = st.builds(
    Budgets,
    latency=st.none() | st.builds(LatencyBudget, costs),
    throughput=st.none() | st.builds(ThroughputBudget, costs),
    size=st.none() | st.sampled_from([1, 2, 3]),
    memory=st.none() | st.sampled_from([1, 2, 3]),
    quality=st.none() | st.builds(QualityBudget, st.sampled_from([0.0, 0.4, 0.9])),
    dtypes=st.sampled_from([(), ("fp32",), ("int8", "fp32")]),
    prefer=st.sampled_from([None, "quality", "speed", "size"]),
    allow_untrained=st.booleans(),
)


def keeps(one: Candidate, budget: Budgets) -> bool:
    """The budgets, written out once more."""
    kept = not budget.dtypes or one.entry.dtype in budget.dtypes
    kept &= budget.allow_untrained or one.doubt is None
    if budget.latency is not None:
        kept &= one.latency is not None and one.latency <= budget.latency.seconds
    if budget.throughput is not None:
        kept &= one.throughput is not None and one.throughput >= budget.throughput.texts_per_second
    if budget.size is not None:
        kept &= one.size <= budget.size
    if budget.memory is not None:
        kept &= one.memory is not None and one.memory <= budget.memory
    if budget.quality is not None:
        kept &= one.quality is not None and one.quality >= budget.quality.value
    return kept


@given(candidates(), budgets, st.randoms())
def test_no_target_within_the_budgets_dominates_the_answer(found, budget, random) -> None:
    choice = choose_among(found, budget)
    fitting = [one for one in found if keeps(one, budget)]
    assert {one.name for one in choice.fitting} == {one.name for one in fitting}
    assert (choice.best is None) == (not fitting)
    if choice.best is not None:
        assert keeps(choice.best, budget)
        assert not any(dominates(one, choice.best) for one in fitting)
        others = [one for one in fitting if one is not choice.best]
        assert (choice.runner_up is None) == (not others)
        if choice.runner_up is not None:
            assert not any(dominates(one, choice.runner_up) for one in others)
    shuffled = list(found)
    random.shuffle(shuffled)
    assert choose_among(shuffled, budget) == choice


@given(candidates(), budgets)
def test_a_binding_budget_is_one_without_which_the_answer_changes(found, budget) -> None:
    choice = choose_among(found, budget)
    bound = {outcome.budgets[0]: outcome for outcome in choice.binding}
    for limit in limits_of(budget) if choice.best else []:
        field = {"dtype": "dtypes", "engine": "engines"}.get(limit.name, limit.name)
        # The aim stays, although it would follow from the budgets that are left.
        without = {"allow_untrained": True} if limit.name == "trained" else {field: () if field.endswith("s") else None}
        looser = dataclasses.replace(budget, prefer=budget.aim, **without)
        if limit.name == "throughput":
            continue  # it also decides whether speed means texts a second
        assert (choose_among(found, looser).best != choice.best) == (limit.name in bound)


@given(candidates(), budgets)
def test_a_relaxation_is_enough(found, budget) -> None:
    choice = choose_among(found, budget)
    for outcome in choice.relax:
        changes = dict(zip(outcome.budgets, outcome.needed, strict=True))
        relaxed = budget
        for name, value in changes.items():
            field = {
                "latency": lambda v: {"latency": LatencyBudget(v)},
                "throughput": lambda v: {"throughput": ThroughputBudget(v)},
                "size": lambda v: {"size": v},
                "memory": lambda v: {"memory": v},
                "quality": lambda v: {"quality": QualityBudget(v)},
                "trained": lambda v: {"allow_untrained": True},
                "dtype": lambda v: {"dtypes": (*budget.dtypes, v)},
            }[name](value)
            relaxed = dataclasses.replace(relaxed, **field)
        assert keeps(outcome.candidate, relaxed)
        assert choose_among(found, relaxed).best is not None


@given(candidates(), budgets)
def test_the_front_holds_what_nothing_beats_in_quality_and_cost(found, budget) -> None:
    choice = choose_among(found, budget)
    sign = -1 if choice.cost == "throughput" else 1

    def point(one: Candidate) -> tuple[float, float] | None:
        cost = getattr(one, choice.cost)
        return None if cost is None or one.quality is None else (sign * cost, -one.quality)

    points = [p for one in found if (p := point(one)) is not None]
    expected = {p for p in points if not any(o != p and o[0] <= p[0] and o[1] <= p[1] for o in points)}
    assert [point(one) for one in choice.front] == sorted(expected)


def test_the_answer_says_what_binds_and_what_to_relax() -> None:
    found = [
        candidate(1, quality=0.5, size=10, latency=1.0),
        candidate(3, quality=0.9, size=20, latency=2.0),
        candidate(6, quality=1.0, size=40, latency=4.0),
    ]
    choice = choose_among(found, Budgets(latency=LatencyBudget(2.5), size=30))
    assert choice.best is found[1]
    assert choice.runner_up is found[0]
    assert choice.binding == []  # without either of the two the other one still excludes depth 6
    choice = choose_among(found, Budgets(latency=LatencyBudget(2.5), size=50))
    assert [(one.budgets, one.candidate) for one in choice.binding] == [(("latency",), found[2])]
    choice = choose_among(found, Budgets(latency=LatencyBudget(1.5), quality=QualityBudget(0.8)))
    assert choice.best is None
    assert [(one.budgets, one.needed) for one in choice.relax] == [(("latency",), (2.0,)), (("quality",), (0.5,))]
    choice = choose_among(found, Budgets(dtypes=("int8",), size=5))
    assert [one.budgets for one in choice.relax] == [("dtype", "size")]


def test_a_target_with_a_doubt_is_left_out_until_it_is_allowed() -> None:
    found = [candidate(3, quality=0.4, doubt=Doubt.UNTRAINED), candidate(6, quality=1.0, latency=4.0, size=9)]
    cheap = Budgets(size=3)
    choice = choose_among(found, cheap)
    assert choice.best is None
    assert "With allow_untrained, 3x64 (quality 0.400, 0.0 MB) fits, which has an untrained exit" in str(choice)
    assert choose_among(found, dataclasses.replace(cheap, allow_untrained=True)).best is found[0]
    assert choose_among(found, dataclasses.replace(cheap, depth=3)).best is found[0]
    choice = choose_among(found, Budgets(prefer=Prefer.SIZE))
    assert choice.best is found[1]
    assert "Left out: 3x64 (quality 0.400, 0.0 MB), because it has an untrained exit" in str(choice)


@pytest.mark.parametrize(
    ("budget", "aim"),
    [
        (Budgets(), "quality"),
        (Budgets(quality=QualityBudget(0.9)), "size"),
        (Budgets(quality=QualityBudget(0.9), size=3), "quality"),
        (Budgets(size=3, prefer="speed"), "speed"),
    ],
)
def test_the_aim_is_quality_but_where_quality_alone_is_bounded(budget: Budgets, aim: str) -> None:
    assert budget.aim == aim

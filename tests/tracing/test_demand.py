"""Demands are united where that is cheap, and pairs are picked the same way every time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safesteer_interp.errors import UsageError
from safesteer_interp.requests import Attack, Request, Split
from safesteer_interp.runner.analysis import as_tables, like_returned
from safesteer_interp.tracing.demand import SMALL, Demand, Want, unite
from safesteer_interp.tracing.spec import TraceSpec, pick

LAYERS = tuple(f"resid_post.{i}" for i in range(30))
PROMPT = Demand("bundled", LAYERS, ("last_prompt",))
STEPS = Demand("bundled", ("final_norm",), tuple(f"step:{k}" for k in range(1, 25)), max_new_tokens=24)


def want(demand: Demand, *contents: str) -> Want:
    """A want whose requests are named like their contents."""
    return Want(demand, tuple(Request(id=content, text="text") for content in contents), contents=contents)


def test_a_small_model_runs_each_request_once_and_a_large_one_does_not_fill_the_disk() -> None:
    wants = [want(PROMPT, "a", "b"), want(STEPS, "a")]
    small = unite(wants, width=64)
    assert [g.contents for g in small] == [("a",), ("b",)] and [[r.id for r in g.requests] for g in small] == [["a"], ["b"]]
    assert small[0].demand.covers(PROMPT) and small[0].demand.covers(STEPS) and small[1].demand == PROMPT
    large = unite(wants, width=4096)
    assert {g.demand for g in large} == {PROMPT, STEPS}
    assert PROMPT.united(STEPS).n_bytes(64) <= SMALL < PROMPT.united(STEPS).n_bytes(4096)


def test_one_content_runs_once_however_many_requests_have_it() -> None:
    twice = want(PROMPT, "a", "b", "a")
    assert [g.contents for g in unite([twice, want(PROMPT, "b")], width=64)] == [("a", "b")]
    assert list(twice.distinct) == ["a", "b"] and twice.distinct["a"] is twice.requests[0]
    assert twice.of(["b"]).contents == ("b",) and twice.of(["b"]).requests == (twice.requests[1],)


def test_a_demand_has_one_form_in_the_order_of_the_stream() -> None:
    one = Demand.of(
        TraceSpec(sites=("final_norm", "resid_post.10", "resid_post.2", "embed"), reads=("step:10,step:9", "last_prompt")), "d", 12
    )
    assert one.sites == ("embed", "resid_post.2", "resid_post.10", "final_norm") and one.reads == ("last_prompt", "step:9", "step:10")
    assert (one.max_new_tokens, one.steps) == (10, 10) and Demand.from_record(one.record()) == one
    assert Demand("d", ("embed",), ("last_prompt",), 7).steps == 6, "the last token is chosen, and consumed by no pass"
    other = Demand.of(TraceSpec(sites=("embed,resid_post.3",), reads=("user_mean",), logits=True), "d", 12)
    both = one.united(other)
    assert both.sites == ("embed", "resid_post.2", "resid_post.3", "resid_post.10", "final_norm") and both.logits
    assert both.covers(one) and both.covers(other) and not one.covers(other)


def test_edits_keep_a_stream_of_their_own() -> None:
    plain, pushed = Demand("d", ("embed",), ("last_prompt",)), Demand("d", ("embed",), ("last_prompt",), edits=("push",))
    assert plain.stream != pushed.stream and not plain.covers(pushed) and not pushed.covers(plain)


def test_sampled_tokens_keep_their_own_stream_but_share_the_prompt() -> None:
    hot = Demand.of(TraceSpec(reads=("step:1-2",), temperature=1.0, seed=3), "bundled", 4)
    assert (hot.max_new_tokens, hot.temperature, hot.seed) == (2, 1.0, 3)
    assert Demand.of(TraceSpec(temperature=1.0, seed=3), "bundled", 4).stream == ("bundled", 0.0, 0, ())
    greedy = Demand.of(TraceSpec(reads=("step:1-2",)), "bundled", 4)
    assert not greedy.covers(hot) and not hot.covers(greedy)
    assert Demand("bundled", hot.sites, ("last_prompt",)).stream != hot.stream
    assert Demand("bundled", hot.sites, ("last_prompt", "step:1"), 2, 1.0, 3).covers(Demand("bundled", hot.sites, ("last_prompt",)))


def test_a_site_the_model_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match="layers 0-3"):
        Demand.of(TraceSpec(sites=("resid_post.4",)), "bundled", 4)


def requests_of(pairs: int, scenarios: int) -> list[Request]:
    return [
        Request(
            "text",
            id=f"{p}/{a}/{h}",
            harmful=h,
            attack=a,
            pair=f"p{p}",
            scenario=f"s{p % scenarios}",
            split=Split.FIT if p % 2 else Split.TEST,
        )
        for p in range(pairs)
        for a in (Attack.CB, Attack.SD)
        for h in (True, False)
    ]


@given(st.integers(1, 9), st.integers(1, 4), st.randoms(use_true_random=False))
def test_pairs_are_picked_whole_evenly_and_whatever_the_order(limit: int, scenarios: int, random: object) -> None:
    requests = requests_of(24, scenarios)
    chosen = {r.id for r in pick(requests, TraceSpec(pairs=limit))}
    shuffled = list(requests)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert {r.id for r in pick(shuffled, TraceSpec(pairs=limit))} == chosen
    assert chosen <= {r.id for r in pick(requests, TraceSpec(pairs=limit + 1))}
    pairs = {r.pair for r in requests if r.id in chosen}
    assert len(pairs) == 2 * limit and len(chosen) == 4 * len(pairs)
    harmful = pick(requests, TraceSpec(pairs=limit, harmful=True, attacks=(Attack.SD,), split=Split.TEST))
    assert {r.pair for r in harmful} <= pairs and len(harmful) == limit
    counts = [sum(r.scenario == s for r in harmful) for s in {r.scenario for r in requests if r.split is Split.TEST}]
    assert max(counts) - min(counts) <= 1


def test_one_table_or_several() -> None:
    import pandas as pd

    table = pd.DataFrame({"a": [1]})
    assert like_returned(as_tables(table)) is table
    assert set(as_tables({"table": table, "more": table})) == {"table", "more"}
    with pytest.raises(ValueError, match="at least one DataFrame"):
        as_tables({})

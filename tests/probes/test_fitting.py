"""Fitting on a trace: which split is seen, what is held out, and that nothing of the test split can move a fitted number."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np
import pandas as pd
import pytest

from safesteer_interp.datasets.pairs import load_pairs
from safesteer_interp.defenses.safesteer import SafeSteer
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.models.planted import planted_requests
from safesteer_interp.probes.fitting import FITS, fit_probe, held_out, training_trace
from safesteer_interp.probes.token_spec import TokenSpec
from safesteer_interp.probes.tokens import SITE, token_states
from safesteer_interp.requests import Attack, Request, Split, select
from safesteer_interp.tracing.collecting import collect
from safesteer_interp.tracing.spec import TraceSpec
from safesteer_interp.tracing.trace import labels_of
from safesteer_interp.tracing.tracer import Sampling
from safesteer_interp.tracing.view import TraceView
from safesteer_interp.vectors.alignment import alignment_vectors
from safesteer_interp.vectors.refusal import refusal_directions


def labelled(trace: TraceView, requests: list[Request]) -> TraceView:
    """The same states under other labels."""
    return TraceView(
        trace.parts,
        requests,
        sites=[str(site) for site in trace.sites],
        reads=[str(read) for read in trace.reads],
        max_new_tokens=trace.max_new_tokens,
        decode=trace._decode,
    )


def tampered_with(trace: TraceView, split: str, what: str) -> TraceView:
    """A trace whose rows of one split carry other labels, or the states and answers of other requests of that split."""
    if what == "labels":
        return labelled(trace, [replace(r, harmful=r.harmful ^ (r.split == split)) for r in trace.requests])
    rows = np.array([r.split == split for r in trace.requests])
    order = np.arange(len(trace))
    order[rows] = np.random.default_rng(0).permutation(np.flatnonzero(rows))
    return Reordered(labelled(trace, trace.requests), order)


class Reordered(TraceView):
    """A trace that hands out the states and answers of other rows."""

    def __init__(self, view: TraceView, order: np.ndarray) -> None:
        self.__dict__.update(view.__dict__)
        self.order = order

    def rows(self, site: Any, read: Any = "last_prompt") -> np.ndarray:
        return super().rows(site, read)[self.order]

    def present(self, read: Any) -> np.ndarray:
        return super().present(read)[self.order]

    @property
    def texts(self) -> list[str]:
        written = super().texts
        return [written[i] for i in self.order]


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    return planted_requests(60, attacks=(Attack.CB, Attack.SD))


@pytest.fixture(scope="module")
def trace(planted: Any, requests: list[Request]) -> TraceView:
    """Every split, the test split among them."""
    tokens = TokenSpec()
    return collect(
        planted, requests, sites=(SITE,), reads=tokens.reads, sampling=Sampling(tokens.max_new_tokens, 1.0), tracer="hooks",
        store=None, progress=False,
    )  # fmt: skip


def numbers(fitted: Any) -> dict[str, Any]:
    """Everything a fit found, to the bit."""
    tensors, record = fitted.to_state()
    return {name: x.tobytes() for name, x in tensors.items()} | {"record": repr(record)}


@pytest.mark.parametrize("what", ["labels", "states"])
@pytest.mark.parametrize("validation", [True, False])
def test_nothing_of_the_test_split_reaches_a_fit(planted: Any, trace: TraceView, what: str, validation: bool) -> None:
    if not validation:  # the sign test then holds training pairs out by hash
        trace = labelled(trace, [replace(r, split=Split.FIT if r.split is Split.VALIDATION else r.split) for r in trace.requests])
    tampered, seen = tampered_with(trace, "test", what), tampered_with(trace, "fit", what)
    for fit in ("prompt", "centred", "token"):  # the contrastive fit is made on candidates, which are no part of a trace
        probes = [fit_probe(planted, x, fit) for x in (trace, tampered, seen)]
        assert numbers(probes[0]) == numbers(probes[1])
        if fit != "token" or what == "labels":  # the answers of a split, in another order, fit the same token probe up to rounding
            assert numbers(probes[0]) != numbers(probes[2]), "what is tampered with would be seen in the training split"
    defenses = [SafeSteer.from_trace(planted, x, fit="prompt") for x in (trace, tampered, seen)]
    assert numbers(defenses[0]) == numbers(defenses[1]) != numbers(defenses[2])
    for split in ("fit", None):
        for one, two in zip(refusal_directions(trace, split=split), refusal_directions(tampered, split=split), strict=True):
            assert numbers(one) == numbers(two)
        assert numbers(alignment_vectors(trace, split=split)[str(SITE)]) == numbers(alignment_vectors(tampered, split=split)[str(SITE)])


def test_a_fit_sees_the_split_it_is_told(planted: Any, trace: TraceView) -> None:
    counts = trace.index["split"].value_counts()
    by_train, by_validation, by_both = (fit_probe(planted, trace, split=split) for split in ("fit", "validation", None))
    assert by_train.origin_.data.endswith(f" {counts['fit']} requests")
    held = held_out(trace.index, "validation")
    assert by_validation.origin_.data.endswith(f" {counts['validation'] - held.sum()} requests")
    assert numbers(by_both)["mean"] == numbers(by_train)["mean"], "validation pairs are held out for the sign test"
    rows = labels_of(trace.index)
    for probe, fitted in ((by_train, rows.train), (by_validation, (rows.splits == "validation") & ~held)):
        np.testing.assert_array_equal(probe.mean_, trace.rows(SITE)[fitted].astype(np.float64).mean(axis=0))
    for fit in (fit_probe, SafeSteer.from_trace):
        with pytest.raises(UsageError, match='nothing is fitted on the "test" split'):
            fit(planted, trace, split="test")
    for vectors in (alignment_vectors, refusal_directions):
        with pytest.raises(UsageError, match='nothing is fitted on the "test" split'):
            vectors(trace, split="test")
    unlabelled = labelled(trace, [replace(r, split=Split.TEST) for r in trace.requests])
    with pytest.raises(InputError, match=r"no request to fit a probe on in the fit split \(it holds test: 240\)"):
        fit_probe(planted, unlabelled)


def test_nothing_is_held_back_where_nothing_is_tested(planted: Any, trace: TraceView) -> None:
    one = labelled(trace, [replace(r, split=Split.FIT if r.split is Split.VALIDATION else r.split) for r in trace.requests])
    rows = labels_of(one.index).train
    held = held_out(one.index)
    assert 0 < held.sum() < rows.sum()
    settings: dict[str, Any] = {"fit": "prompt", "force": True, "scaled": False, "alignment": False}
    kept, whole = (SafeSteer.from_trace(planted, one, **settings, whole=w).probe for w in (False, True))
    assert kept.origin_.data.endswith(f" {rows.sum() - held.sum()} requests") and whole.origin_.data.endswith(f" {rows.sum()} requests")
    np.testing.assert_array_equal(whole.mean_, one.rows(SITE)[rows].astype(np.float64).mean(axis=0))
    tested = SafeSteer.from_trace(planted, one, **{**settings, "force": False}, whole=True)
    assert tested.probe.origin_.data == kept.origin_.data == tested.prompt_probe.origin_.data and tested.probe.sign_test_ is not None
    training = [r for r in one.requests if r.split is Split.FIT]
    built = SafeSteer.build(planted, training, preset="paper", force=True)
    assert built.prompt_probe.origin_.data.endswith(f" {rows.sum()} requests"), "by name, as `replicate` and `compare` build it"


def test_the_fits_and_their_held_out_pairs(planted: Any, trace: TraceView) -> None:
    held = held_out(trace.index)
    assert set(trace.index["split"][held]) == {"validation"}
    for fit in ("prompt", "centred", "token"):
        probe = fit_probe(planted, trace, fit)
        assert probe.fit_ == fit and probe.sign_test_ is None, "the sign test needs candidates"
        assert probe.origin_.site == "final_norm" and probe.origin_.read == ("step" if fit == "token" else "last_prompt")
    assert set(FITS) == {"prompt", "centred", "token", "contrastive"}
    with pytest.raises(UsageError, match="is made on candidates; give `candidates`"):
        fit_probe(planted, trace, "contrastive")
    with pytest.raises(UsageError, match='"promt" is not a fit'):
        fit_probe(planted, trace, "promt")


def test_the_sign_test_keeps_a_fifth_of_any_selection_of_training_pairs() -> None:
    pairs = sorted((p.id for p in load_pairs() if p.split is Split.FIT), key=lambda p: sha256(p.encode()).hexdigest())
    for chosen in (pairs[:10], pairs[:40], pairs[-20:]):  # analyses take the pairs of lowest hash first
        index = pd.DataFrame({"split": "fit", "pair": np.repeat(chosen, 2), "attack": "CB", "harmful": [True, False] * len(chosen)})
        kept = held_out(index)
        assert index["pair"][kept].nunique() == round(0.2 * len(chosen)) and kept.sum() == 2 * round(0.2 * len(chosen))
    assert not held_out(pd.DataFrame({"split": ["fit"], "pair": ["a"], "attack": ["CB"], "harmful": [True]})).any()


def test_the_training_trace_leaves_the_test_split_out_and_follows_its_specification(planted: Any, requests: list[Request]) -> None:
    found = training_trace(planted, requests[:40], TokenSpec(steps=2, answer_tokens=1, temperature=0.0), progress=False)
    kept = [r.id for r in requests[:40] if r.split is not Split.TEST]
    assert list(found.index["request"]) == kept and 0 < len(kept) < 40
    assert [str(read) for read in found.reads] == ["last_prompt", "step:1", "step:2"]
    assert max(map(len, found.generated)) == 3, "a token more than steps, since the last one is never read"
    with pytest.raises(InputError, match="of the test or the align split"):
        training_trace(planted, select(requests, split=Split.TEST), progress=False)


def test_token_states_are_the_first_tokens_of_answers_to_harmful_requests(trace: TraceView) -> None:
    rows, everything = labels_of(trace.index), np.ones(len(trace), dtype=bool)
    found = token_states(trace, rows.train)
    assert sorted(set(found.steps)) == [1, 2, 3, 4, 5] and found.refusal.any() and not found.refusal.all()
    asked = rows.train & rows.harmful
    first = found.at(1)
    np.testing.assert_array_equal(first.states, trace.rows(SITE, "step:1")[asked & trace.present("step:1")])
    assert set(first.prompts) == set(rows.pairs[asked]) and len(found) == sum(
        (asked & trace.present(f"step:{k}")).sum() for k in range(1, 6)
    )
    few = token_states(trace, rows.train, steps=(2, 3))
    np.testing.assert_array_equal(few.states, found.states[np.isin(found.steps, (2, 3))])
    assert len(token_states(trace, everything, harmless=True).at(1)) == int(trace.present("step:1").sum())
    assert "of refusals" in repr(found) and len(repr(found)) < 100
    with pytest.raises(UsageError, match="holds no answer tokens"):
        token_states(trace, rows.train, steps=(9,))


def test_one_specification_of_token_states() -> None:
    assert TraceSpec(**TokenSpec().wanted()) == TraceSpec(reads=("last_prompt", "step:1-5"), max_new_tokens=16, temperature=1.0)
    own = TokenSpec(steps=9, answer_tokens=24, temperature=0.0)
    assert TraceSpec(**own.wanted()) == TraceSpec(reads=("last_prompt", "step:1-9"), max_new_tokens=24)

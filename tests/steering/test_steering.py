"""Edits, schedules and the choice of a refusal direction: theorems, then effects on the planted model through every tracer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.models.planted import planted_requests, planted_truth
from safesteer_interp.requests import Attack, Request, Split, select
from safesteer_interp.sites import Role, Site
from safesteer_interp.steering.edits import Change, ablate, add, align, clamp, shift
from safesteer_interp.steering.schedule import Schedule, alignment_edit, at_sites, every_write
from safesteer_interp.steering.selection import (
    _Measured,
    answered_as_labelled,
    first_token_divergence,
    refusal_score,
    select_refusal_direction,
)
from safesteer_interp.tracing.collecting import collect
from safesteer_interp.tracing.origin import Origin
from safesteer_interp.tracing.tracer import TRACERS, At, Edit
from safesteer_interp.vectors.alignment import RULES, AlignmentVector, ApplicationRule, alignment_vector, alignment_vectors
from safesteer_interp.vectors.direction import Direction, random_direction
from safesteer_interp.vectors.refusal import refusal_directions, template_reads

D = 16
FINAL = Site.parse("final_norm")


def direction(seed: int = 0, d: int = D, residual_norm: float = 3.0, site: str = "resid_post.1") -> Direction:
    difference = np.random.default_rng(seed).normal(size=d)
    return Direction.from_difference(difference, "refusal", origin=Origin(site=site), residual_norm=residual_norm, n=8)


def vector() -> AlignmentVector:
    rng = np.random.default_rng(1)
    text = rng.normal(size=(12, D))
    return alignment_vector(text + rng.normal(size=D), text, origin=Origin(site="final_norm"))


def states(seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(2, 5, D))).to(dtype)


CHANGES: dict[str, Change] = {
    "add": add(direction(), 1.5),
    "ablate": ablate(direction()),
    "clamp": clamp(direction(), -0.1, 0.1),
    "shift": shift(torch.ones(D), 0.5),
    "shift along": shift(torch.ones(D), 0.5, along=direction()),
    "align": align(vector()),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_change_keeps_shape_and_dtype_and_never_mutates(name: str, dtype: torch.dtype) -> None:
    h = states(dtype=dtype)
    before = h.clone()
    changed = CHANGES[name](h)
    assert changed.shape == h.shape and changed.dtype == dtype and torch.equal(h, before) and not torch.equal(changed, h)
    torch.testing.assert_close(CHANGES[name](h[1, 2]), changed[1, 2])  # every state on its own
    with pytest.raises(UsageError, match="width 16 but the states have width 8"):
        CHANGES[name](torch.zeros(1, 1, 8))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), strength=st.floats(-4, 4))
def test_theorems_of_addition_and_ablation(seed: int, strength: float) -> None:
    r, h = direction(seed), states(seed + 1)
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(add(r, -strength)(add(r, strength)(h)), h, **close)
    torch.testing.assert_close(add(r, strength)(h) - h, strength * (add(r, 1.0)(h) - h), **close)
    torch.testing.assert_close(r.project(add(r, strength)(h) - h), torch.full(h.shape[:-1], strength * r.residual_norm), **close)
    once = ablate(r)(h)
    torch.testing.assert_close(ablate(r)(once), once, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(r.project(once), torch.zeros(h.shape[:-1]), rtol=0, atol=1e-5)
    torch.testing.assert_close(ablate(r)(add(r, strength)(h)), once, **close)
    torch.testing.assert_close(ablate(r.reversed())(h), once, **close)


def test_dose_zero_is_the_same_state_to_the_bit() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        h = states(dtype=dtype)
        for change in (add(direction(), 0.0), align(vector(), scale=0.0), shift(torch.ones(D), 0.0)):
            assert torch.equal(change(h), h)


def test_clamp_bounds_the_component_and_leaves_the_rest() -> None:
    r, h = direction(), states()
    component = r.project(clamp(r, -0.1, 0.2)(h)) / r.residual_norm
    assert component.min() > -0.1001 and component.max() < 0.2001
    torch.testing.assert_close(ablate(r)(clamp(r, -0.1, 0.2)(h)), ablate(r)(h), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(clamp(r, 0.0, 0.0)(h), ablate(r)(h), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(clamp(r, low=-100)(h), h)
    fixed = clamp(r, 0.5, 0.5)
    torch.testing.assert_close(fixed(fixed(h)), fixed(h), rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="lower or an upper"):
        clamp(r)
    with pytest.raises(UsageError, match="above its upper"):
        clamp(r, 1, 0)


def test_shift_is_affine_toward_its_target() -> None:
    h, target, r = states(), torch.arange(D).float(), direction()
    torch.testing.assert_close(shift(target, 1.0)(h), target.expand_as(h))
    torch.testing.assert_close(shift(target, 0.25)(h), 0.75 * h + 0.25 * target)
    along = shift(target, 1.0, along=r)(h)
    torch.testing.assert_close(r.project(along), r.project(target).expand(2, 5), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ablate(r)(along), ablate(r)(h), rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="target of width 8"):
        shift(torch.zeros(8), along=r)


def test_keys_change_whenever_the_result_does() -> None:
    r = direction()
    changes = [
        add(r, 1.0), add(r, 2.0), add(direction(1), 1.0), add(direction(residual_norm=4.0), 1.0), ablate(r), ablate(direction(1)),
        clamp(r, 0.0, 1.0), clamp(r, 0.0, None), shift(r.vector), shift(r.vector, 0.5), shift(r.vector, along=r),
        *(align(vector(), rule) for rule in RULES), align(vector(), scale=2.0),
    ]  # fmt: skip
    assert len({c.key for c in changes}) == len(changes) and add(r, 1.0).key == add(direction(), 1.0).key
    schedules = [
        Schedule((FINAL,)),
        Schedule(at_sites(["final_norm", "embed"])),
        Schedule((FINAL,), first_step=1),
        Schedule((FINAL,), last_step=3),
        Schedule((FINAL,), last_prompt_only=True),
        Schedule((FINAL,), roles=frozenset({Role.IMAGE})),
    ]
    assert len({s.edit(changes[0]).key for s in schedules}) == len(schedules)


ROLES = torch.tensor([[0, 1, 2, 2, 3, 4], [1, 2, 2, 3, 3, 4]], dtype=torch.int8)


def at(step: int = 0, site: str = "final_norm") -> At:
    roles = ROLES if step == 0 else torch.full((2, 1), int(Role.GENERATED), dtype=torch.int8)
    last = torch.zeros_like(roles, dtype=torch.bool)
    if step == 0:
        last[:, -1] = True
    return At(Site.parse(site), step, torch.arange(roles.shape[1]).expand(2, -1), roles, last)


@pytest.mark.parametrize(
    ("schedule", "step", "touched"),
    [
        (Schedule((FINAL,)), 0, ROLES > 0),
        (Schedule((FINAL,)), 5, torch.ones(2, 1, dtype=torch.bool)),
        (Schedule((FINAL,), roles=frozenset({Role.IMAGE})), 0, ROLES == 2),
        (Schedule((FINAL,), roles=frozenset({Role.IMAGE, Role.PAD})), 0, ROLES == 2),
        (Schedule((FINAL,), roles=frozenset({Role.IMAGE})), 3, torch.zeros(2, 1, dtype=torch.bool)),
        (Schedule((FINAL,), first_step=1), 0, torch.zeros(2, 6, dtype=torch.bool)),
        (Schedule((FINAL,), first_step=1), 1, torch.ones(2, 1, dtype=torch.bool)),
        (Schedule((FINAL,), last_step=2), 2, torch.ones(2, 1, dtype=torch.bool)),
        (Schedule((FINAL,), last_step=2), 3, torch.zeros(2, 1, dtype=torch.bool)),
        (Schedule((FINAL,), last_prompt_only=True), 0, torch.tensor([[0, 0, 0, 0, 0, 1]] * 2, dtype=torch.bool)),
        (Schedule((FINAL,), last_prompt_only=True), 1, torch.zeros(2, 1, dtype=torch.bool)),
        (Schedule(at_sites("embed")), 0, torch.zeros(2, 6, dtype=torch.bool)),
    ],
)
def test_exactly_the_scheduled_tokens_are_touched(schedule: Schedule, step: int, touched: torch.Tensor) -> None:
    where = at(step)
    h = torch.randn(*where.roles.shape, D)
    before = h.clone()
    assert torch.equal(schedule.mask(where), touched)
    after = schedule.edit(add(direction(), 1.0)).function(h, where)
    assert torch.equal((after != h).any(-1), touched) and torch.equal(h, before)


def test_meaningless_schedules_are_refused() -> None:
    with pytest.raises(UsageError, match="at least one site"):
        Schedule(())
    with pytest.raises(UsageError, match="step 4 to step 2"):
        Schedule((FINAL,), first_step=4, last_step=2)
    with pytest.raises(UsageError, match="other than PAD"):
        Schedule((FINAL,), roles=frozenset({Role.PAD}))
    with pytest.raises(UsageError, match="starts at step 1"):
        Schedule((FINAL,), first_step=1, last_prompt_only=True)
    with pytest.raises(UsageError, match=r'"final_norm".*"resid_post\.2"'):
        alignment_edit(vector(), site="resid_post.2")
    with pytest.raises(UsageError, match="does not say which site"):
        alignment_edit(alignment_vector(np.ones((2, 4)), np.zeros((2, 4))))


def test_refusal_score_and_divergence_are_their_formulas() -> None:
    logits = torch.randn(3, 20)
    p = logits.softmax(-1)[:, [2, 5]].sum(-1)
    torch.testing.assert_close(refusal_score(logits, [2, 5, 5]), p.log() - (1 - p).log(), rtol=1e-4, atol=1e-4)
    assert torch.isfinite(refusal_score(torch.tensor([[500.0, 0.0, 0.0]]), [0])).all()
    other = torch.randn(3, 20)
    expected = torch.nn.functional.kl_div(other.log_softmax(-1), logits.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(first_token_divergence(other, logits), expected)
    assert first_token_divergence(logits, logits).max() == 0
    for ids in ([], list(range(20))):
        with pytest.raises(InputError, match="some but not all"):
            refusal_score(logits, ids)


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    return planted_requests(n_pairs=40, attacks=[Attack.CB, Attack.SD])


@pytest.fixture(scope="module")
def fitted(planted: Any, requests: list[Request]) -> AlignmentVector:
    trace = collect(planted, requests, sites="final_norm", tracer="hooks", progress=False)
    return alignment_vectors(trace)["final_norm"]


def refusals(model: Any, requests: list[Request], edits: list[Edit]) -> float:
    """Share of requests whose most likely first token is the planted refusal's."""
    trace = collect(model, requests, sites="final_norm", tracer="hooks", edits=edits, progress=False, logits=True)
    return float((trace.logits.argmax(1) == planted_truth(model).first_refusal_token).mean())


def test_msav_recovers_the_planted_gap_and_only_toward_text_restores_refusal(
    planted: Any, requests: list[Request], fitted: AlignmentVector
) -> None:
    truth = planted_truth(planted)
    harmful = select(requests, attacks=[Attack.SD], split=Split.TEST, harmful=True)
    harmless = select(requests, attacks=[Attack.SD], split=Split.TEST, harmful=False)
    fitted.guard(planted, "final_norm", "last_prompt")
    assert float(fitted.direction().vector @ truth.gap_direction) > 0.95 and fitted.paired
    none = refusals(planted, harmful, [])
    assert refusals(planted, harmful, [alignment_edit(fitted, scale=0.0)]) == none < 0.3
    assert refusals(planted, harmful, [alignment_edit(fitted)]) > none + 0.3
    assert refusals(planted, harmless, [alignment_edit(fitted)]) < 0.35
    for norm in ("raw", "unit"):
        assert refusals(planted, harmful, [alignment_edit(fitted, ApplicationRule("printed", norm))]) <= none
    random = random_direction(fitted.direction())
    strength = fitted.norm.value / random.residual_norm
    controls = [refusals(planted, harmful, [Schedule((FINAL,), last_prompt_only=True).edit(add(random, s * strength))]) for s in (-1, 1)]
    assert max(controls) < none + 0.25
    subtracted = [Schedule((FINAL,), last_prompt_only=True).edit(add(fitted.direction(), -strength))]
    assert refusals(planted, harmful, subtracted) > none + 0.3 and refusals(planted, harmless, subtracted) < 0.35


@pytest.mark.parametrize("tracer", sorted(TRACERS))
def test_the_same_edits_act_alike_on_every_tracer(planted: Any, requests: list[Request], fitted: AlignmentVector, tracer: str) -> None:
    layer = Direction.from_difference(planted_truth(planted).harm_direction.double().numpy(), "harm", residual_norm=4.0)
    edits = [
        Schedule(at_sites("resid_post.4"), roles=frozenset({Role.USER, Role.GENERATED})).edit(add(layer, 0.5)),
        Schedule(at_sites(["attn_out.3", "mlp_out.3"]), last_step=0).edit(ablate(layer)),
        alignment_edit(fitted),
    ]
    batch = requests[:6]
    found, expected, plain = (
        collect(planted, batch, sites="final_norm", reads="last_prompt,step:2", tracer=t, edits=e, progress=False, logits=True)
        for t, e in ((tracer, edits), ("hooks", edits), ("hooks", []))
    )
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.rows("final_norm", "step:2"), expected.rows("final_norm", "step:2"), rtol=1e-4, atol=1e-4)
    assert np.abs(found.logits - plain.logits).max() > 0.1


def test_selection_finds_the_planted_refusal_direction(planted: Any) -> None:
    requests = planted_requests(n_pairs=40, attacks=[Attack.CB])
    truth = planted_truth(planted)
    trace = collect(planted, requests, sites="resid_post.2-4", tracer="hooks", progress=False)
    candidates = refusal_directions(trace)
    harmful, harmless = ([r for r in requests if r.split is not Split.FIT and r.harmful is side][:12] for side in (True, False))
    found = select_refusal_direction(planted, candidates, harmful, harmless, [truth.first_refusal_token], max_kl=2.0)
    assert list(found.table.site) == ["resid_post.2", "resid_post.3"]  # layer 4 feeds layer 5, beyond 80 % of 6
    assert {"bypass", "bypass_low", "bypass_high", "induce", "kl", "kept", "n_harmful"} <= set(found.table.columns)
    chosen = found.require()
    assert chosen.origin.site == "resid_post.3" and float(chosen.vector @ truth.harm_direction) > 0.8
    row = found.table.set_index("site").loc["resid_post.3"]
    assert row.bypass < found.plain_harmful - 0.5 and row.induce > found.plain_harmless and row.bypass_low < row.bypass < row.bypass_high
    nothing = select_refusal_direction(planted, candidates[:1], harmful, harmless, [truth.first_refusal_token], max_kl=-1.0)
    assert nothing.chosen is None
    with pytest.raises(InputError, match=r"best bypass is at resid_post\.2"):
        nothing.require()
    with pytest.raises(InputError, match="got 0 and 12"):
        select_refusal_direction(planted, candidates, [], harmless, [0])
    # Layer 3 holds what is planted and layer 2 nothing, whichever pairs are drawn; with a limit that both keep, layer 2 is never better.
    assert found.resolved and found.share == found.table.set_index("site")["share"]["resid_post.3"] == 1
    assert nothing.share == 1 and nothing.dropped == 0


def test_the_published_filter_keeps_requests_that_are_answered_as_labelled(planted: Any) -> None:
    harmful = np.array([True, True, False, False])
    assert answered_as_labelled(np.array([1.0, -1.0, 1.0, -1.0]), harmful).tolist() == [True, False, False, True]
    requests = planted_requests(n_pairs=40, attacks=[Attack.CB])
    token = [planted_truth(planted).first_refusal_token]
    candidates = refusal_directions(collect(planted, requests, sites="resid_post.3", tracer="hooks", progress=False))
    harmful_ones, harmless = ([r for r in requests if r.split is not Split.FIT and r.harmful is side][:12] for side in (True, False))
    plain, filtered = (
        select_refusal_direction(planted, candidates, harmful_ones, harmless, token, max_kl=9.0, filtered=on) for on in (False, True)
    )
    kept = filtered.table.iloc[0]
    assert filtered.dropped == 24 - kept.n_harmful - kept.n_harmless > 0
    assert filtered.plain_harmful > max(0, plain.plain_harmful) and filtered.plain_harmless <= min(0, plain.plain_harmless)
    with pytest.raises(InputError, match="filtered=False"):
        select_refusal_direction(planted, candidates, harmless, harmful_ones, token, filtered=True)


def test_a_close_choice_is_called_unresolved() -> None:
    rng, pairs = np.random.default_rng(0), np.array([f"p{i}" for i in range(24)])
    near, far = _Measured([pairs, pairs]), _Measured([pairs, pairs])
    bypass, induce, spread = rng.normal(-2, 0.5, 24), torch.from_numpy(rng.normal(2, 0.5, 24)), rng.normal(0, 0.2, 24)
    for better, kl in ((1.0, 0.09), (0.0, 0.03)):  # the better one lies just below the limit
        low = torch.from_numpy(bypass - better)
        near.add(bypass=low, induce=induce, kl=torch.from_numpy(kl + spread - spread.mean()))
        far.add(bypass=low, induce=induce, kl=torch.full((24,), kl / 10))
    first, second = (float((m.resampled_choices(0.1, 0) == m.choice(0.1)).mean()) for m in (near, far))
    assert first < 0.9 and second == 1.0 and near.choice(0.1) == far.choice(0.1) == 0
    assert near.resampled_choices(0.1, 0).tolist() == near.resampled_choices(0.1, 0).tolist()


def test_candidates_may_be_read_at_every_template_token(planted: Any) -> None:
    requests = planted_requests(n_pairs=12, attacks=[Attack.CB])
    reads = template_reads(planted)
    assert reads[0] == "last_prompt" and list(reads[1:]) == [f"last_prompt:-{k}" for k in range(1, len(reads))]
    roles = planted.encode(requests[:3]).roles
    assert (roles[:, -len(reads) :] == Role.TEMPLATE).all() and (roles[:, -len(reads) - 1] != Role.TEMPLATE).all()
    trace = collect(planted, requests, sites="resid_post.3", reads=reads, tracer="hooks", progress=False)
    found = refusal_directions(trace, reads=reads)
    assert {d.origin.read for d in found} <= set(reads) and "last_prompt" in {d.origin.read for d in found}


def test_every_write_names_each_site_once(planted: Any) -> None:
    sites = every_write(planted)
    assert len(sites) == len(set(sites)) == 1 + 3 * planted.n_layers
    assert at_sites(["final_norm", FINAL]) == (FINAL,)

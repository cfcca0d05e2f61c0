"""The loop behind all tracers: what an edit is told, when a row has ended, and that nothing is left on the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from support.positions import prompt_positions
from support.tracing import all_sites, requests_for

from safesteer_interp.decoding.answering import generate
from safesteer_interp.decoding.prefix import check_head, prefill
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.evaluation.perplexity import answer_perplexities
from safesteer_interp.models.checks import check_layout
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.sites import Read, Role, Site, parse_reads, parse_sites
from safesteer_interp.tracing import steps
from safesteer_interp.tracing.collecting import load_tracer
from safesteer_interp.tracing.hooks import HooksTracer, visiting
from safesteer_interp.tracing.steps import Pass, before_last, reaches_back, stop_ids, twin
from safesteer_interp.tracing.tracer import TRACERS, At, Edit, Sampling
from safesteer_interp.types import Hidden

Tiny = Callable[[str], MLLM]
FINAL = Site.parse("final_norm")


def hooks_on(mllm: MLLM) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in mllm.model.modules())


def test_an_edit_is_told_absolute_positions_roles_and_steps(tiny: Tiny) -> None:
    mllm = tiny("llava")
    batch = mllm.encode(requests_for(mllm))
    seen: list[At] = []

    def look(hidden: Hidden, at: At) -> Hidden:
        seen.append(at)
        return hidden

    HooksTracer(mllm).capture(batch, [], [], sampling=Sampling(max_new_tokens=3), edits=[Edit((FINAL,), look)])
    width = batch.input_ids.shape[1]
    assert [at.step for at in seen] == [0, 1, 2]
    prompt, *later = seen
    assert torch.equal(prompt.positions[0], torch.arange(width)) and torch.equal(prompt.roles, batch.roles)
    assert prompt.last_prompt[:, -1].all() and not prompt.last_prompt[:, :-1].any()
    for at in later:
        assert at.positions.tolist() == [[width + at.step - 1]] * 4
        assert (at.roles == int(Role.GENERATED)).all() and not at.last_prompt.any()


def test_an_edit_can_act_at_one_step_only(tiny: Tiny) -> None:
    mllm = tiny("llama")
    batch = mllm.encode(requests_for(mllm))
    reads = parse_reads("last_prompt,step:1-2")

    def second(hidden: Hidden, at: At) -> Hidden:
        return hidden + 1 if at.step == 2 else hidden

    plain = HooksTracer(mllm).capture(batch, [FINAL], reads)
    edited = HooksTracer(mllm).capture(batch, [FINAL], reads, edits=[Edit((FINAL,), second)])
    for read in reads:
        difference = edited.states[FINAL, read] - plain.states[FINAL, read]
        assert torch.allclose(difference, torch.full_like(difference, float(read.step == 2)), atol=1e-5)


@pytest.mark.parametrize(("read", "role"), [("user_mean", Role.USER), ("image_mean", Role.IMAGE)])
def test_a_mean_is_that_of_the_tokens_of_its_role(tiny: Tiny, read: str, role: Role) -> None:
    """Of each row's own: rows are padded, and those without such a token have none."""
    mllm = tiny("llava")
    batch, whole = mllm.encode(requests_for(mllm)), list[torch.Tensor]()

    def look(hidden: Hidden, at: At) -> Hidden:
        whole.append(hidden.clone())
        return hidden

    (one,) = parse_reads(read)
    found = HooksTracer(mllm).capture(batch, [FINAL], [one], edits=[Edit((FINAL,), look)])
    there = [bool((roles == int(role)).any()) for roles in batch.roles]
    assert found.present[one].tolist() == there and sum(there) == (4 if role is Role.USER else 2)
    for hidden, roles, states, has in zip(whole[0], batch.roles, found.states[FINAL, one], there, strict=True):
        own = hidden[roles == int(role)]
        assert len(own) > 1 or not has
        torch.testing.assert_close(states, own.mean(0) if has else torch.full_like(states, torch.nan), equal_nan=True)
        assert not has or not torch.allclose(states, hidden[roles != int(Role.PAD)].mean(0), atol=1e-3), "not of all tokens"


def test_a_captured_state_is_the_state_after_the_edit(tiny: Tiny) -> None:
    mllm = tiny("qwen2")
    site = Site.parse("resid_post.2")
    batch = mllm.encode(requests_for(mllm))
    found = HooksTracer(mllm).capture(batch, [site], parse_reads("last_prompt"), edits=[Edit((site,), lambda h, at: torch.zeros_like(h))])
    (states,) = found.states.values()
    assert (states == 0).all()


@pytest.mark.parametrize("tracer", ["hooks", "nnsight"])
def test_rows_that_ended_are_absent_and_the_others_unmoved(tiny: Tiny, tracer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mllm = tiny("llava")
    batch = mllm.encode(requests_for(mllm))
    reads = parse_reads("step:1-3")
    engine = load_tracer(tracer, mllm)
    free = engine.capture(batch, [FINAL], reads)
    second = free.generated[0][1]
    monkeypatch.setattr(steps, "stop_ids", lambda mllm: frozenset({second}))
    ended = engine.capture(batch, [FINAL], reads)
    for row, answer in enumerate(free.generated):
        length = answer.index(second) + 1 if second in answer else len(answer)
        assert ended.generated[row] == answer[:length]
        for read in reads:
            present = (read.step or 0) < length or second not in answer
            assert bool(ended.present[read][row]) == present
            state = ended.states[FINAL, read][row]
            assert torch.allclose(state, free.states[FINAL, read][row], rtol=1e-4, atol=1e-6) if present else torch.isnan(state).all()
    assert not ended.present[reads[1]][0]


@pytest.mark.parametrize("tracer", ["hooks", "nnsight"])
def test_nothing_stays_on_the_model_even_when_an_edit_raises(tiny: Tiny, tracer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mllm = tiny("qwen2_5_vl")
    theirs = torch.full((1, 1), 7)
    monkeypatch.setattr(mllm.model.model, "rope_deltas", theirs)
    batch = mllm.encode(requests_for(mllm))
    before = hooks_on(mllm)

    def broken(hidden: Hidden, at: At) -> Hidden:
        raise ArithmeticError("the edit's own fault")

    engine = load_tracer(tracer, mllm)
    with pytest.raises(ArithmeticError, match="own fault"):
        engine.capture(batch, [FINAL], parse_reads("step:1"), edits=[Edit((FINAL,), broken)])
    assert hooks_on(mllm) == before
    assert not any("forward" in vars(module) for module in mllm.model.modules())
    assert mllm.model.model.rope_deltas is theirs, "what the user's own decoding had left there is put back"
    after = engine.capture(batch, [FINAL], parse_reads("last_prompt"))
    assert torch.isfinite(after.states[FINAL, parse_reads("last_prompt")[0]]).all()


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_no_part_of_the_library_leaves_or_follows_rope_state(tiny: Tiny, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen-VL keeps the rope shift of its last prompt on the module: nobody may leave one, nor read what another call left."""
    mllm = tiny(family)
    requests = requests_for(mllm)
    batch = mllm.encode(requests)
    short = Sampling(max_new_tokens=3, temperature=0.0)
    calls: dict[str, Callable[[], object]] = {
        "check_layout": lambda: check_layout(mllm),
        "check_head": lambda: check_head(mllm.model),
        "encode": lambda: mllm.encode(requests).inputs["input_ids"].tolist(),
        "prompt_positions": lambda: prompt_positions(mllm, batch).tolist(),
        "prefill": lambda: prefill(mllm.model, batch.inputs)[1].tolist(),
        "generate": lambda: [decoded.ids for decoded in generate(mllm, requests, sampling=short)],
        "perplexity": lambda: answer_perplexities(mllm, requests, [[5, 6, 7]] * 4),
        **{name: lambda name=name: load_tracer(name, mllm).capture(batch, [FINAL], parse_reads("step:1")).generated for name in TRACERS},
    }
    for name, call in calls.items():
        monkeypatch.setattr(mllm.model.model, "rope_deltas", None)
        clean = call()
        assert mllm.model.model.rope_deltas is None, name
        stale = torch.full((4, 1), -9)
        monkeypatch.setattr(mllm.model.model, "rope_deltas", stale)
        assert call() == clean, name
        assert mllm.model.model.rope_deltas is stale, name


def test_edits_that_reach_nothing_or_change_the_shape_are_refused(tiny: Tiny) -> None:
    mllm = tiny("llama")
    batch = mllm.encode(requests_for(mllm))
    tracer = HooksTracer(mllm)
    with pytest.raises(UsageError, match=r'"resid_post.9" does not exist: the model has layers 0-3'):
        tracer.capture(batch, [], [], edits=[Edit((Site.parse("resid_post.9"),), lambda h, at: h)])
    with pytest.raises(UsageError, match='edit "half" returned'):
        tracer.capture(batch, [], [], edits=[Edit((FINAL,), lambda h, at: h[:, -1:], name="half")])
    wrong = replace(mllm, layout=replace(mllm.layout, attention="attention_block"))
    with pytest.raises(InputError, match='no submodule "attention_block"'):
        HooksTracer(wrong).capture(batch, parse_sites("attn_out.0", 4), parse_reads("last_prompt"))
    unreached = replace(mllm, layout=replace(mllm.layout, final_norm="model.layers"))
    with pytest.raises(UsageError, match="never reached final_norm"):
        HooksTracer(unreached).capture(batch, [], [], edits=[Edit((FINAL,), lambda h, at: h)])


def test_captured_states_hold_no_more_than_themselves(tiny: Tiny) -> None:
    mllm = tiny("llava")
    batch = mllm.encode(requests_for(mllm))
    for tracer in ("hooks", "nnsight"):
        found = load_tracer(tracer, mllm).capture(batch, all_sites(mllm), parse_reads("last_prompt,image_mean,step:1"), logits=True)
        for states in [*found.states.values(), found.logits]:
            assert states is not None and not states.requires_grad
            assert states.untyped_storage().nbytes() == states.numel() * states.element_size()


def test_visiting_sees_and_replaces_states(tiny: Tiny) -> None:
    """The context manager other engines use: every site in forward order, and what is returned goes on."""
    mllm = tiny("gemma3")
    batch = mllm.encode(requests_for(mllm))
    seen: list[str] = []
    with torch.no_grad(), visiting(mllm.model, mllm.layout, all_sites(mllm), lambda site, hidden: seen.append(str(site))):
        plain = mllm.model(**batch.inputs).logits
    assert seen == [str(site) for site in sorted(all_sites(mllm), key=steps.forward_order)]
    with torch.no_grad(), visiting(mllm.model, mllm.layout, (FINAL,), lambda site, hidden: hidden * 0):
        assert (mllm.model(**batch.inputs).logits == 0).all() and not (plain == 0).all()


def test_a_twin_shares_weights_and_nothing_else(tiny: Tiny) -> None:
    mllm = tiny("llava")
    other = twin(mllm.model)
    mine, theirs = dict(mllm.model.named_parameters()), dict(other.named_parameters())
    assert mine.keys() == theirs.keys() and all(mine[name] is theirs[name] for name in mine)
    assert not {id(m) for m in mllm.model.modules()} & {id(m) for m in other.modules()}
    assert other.config is not mllm.model.config


def test_answers_end_at_the_tokenizers_and_the_generation_configs_stop_tokens(tiny: Tiny) -> None:
    mllm = tiny("qwen2")
    assert mllm.tokenizer.eos_token_id in stop_ids(mllm)


def test_a_read_before_the_last_token_is_that_tokens_state_and_missing_where_the_prompt_is_shorter() -> None:
    roles = torch.tensor([[0, 0, 3, 4], [1, 3, 4, 4]], dtype=torch.int8)
    hidden = torch.arange(16.0).reshape(2, 4, 2)
    assert torch.equal(before_last(hidden, roles, 1), hidden[:, 2])
    two = before_last(hidden, roles, 2)
    assert two[0].isnan().all() and torch.equal(two[1], hidden[1, 1])
    assert reaches_back(roles, 2).tolist() == [False, True] and before_last(hidden, roles, 9).isnan().all()
    run = Pass({}, 0, torch.zeros(2, 4), roles, torch.ones(2, dtype=torch.bool))
    assert run.present(Read.parse("last_prompt:-2")).tolist() == [False, True]
    assert run.present(Read.parse("last_prompt")).tolist() == [True, True]

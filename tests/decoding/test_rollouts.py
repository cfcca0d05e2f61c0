"""Roll-outs: an answer made to begin with given tokens goes on as the model would, and candidates are those that guidance sees."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.decoding import asked

from safesteer_interp.decoding.answering import generate
from safesteer_interp.decoding.prefix import advance, prefill
from safesteer_interp.decoding.rollouts import KIND, RollOut, _key, continued, offered, offered_at, ranked
from safesteer_interp.errors import InputError
from safesteer_interp.files import digest
from safesteer_interp.models.planted import planted_requests, planted_truth
from safesteer_interp.requests import Attack, ImageFile, Request, Split, select
from safesteer_interp.sites import Site
from safesteer_interp.tracing.tracer import Sampling

FINAL, EARLY = Site.parse("final_norm"), Site.parse("resid_post.0")


@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_what_a_greedy_answer_begins_with_is_continued_as_it_was(family: str, tiny: Callable[[str], Any]) -> None:
    mllm = tiny(family)
    greedy = generate(mllm, asked(mllm), sampling=Sampling(8, temperature=0.0))
    beginnings = [answer.ids[: n + 1] for n, answer in enumerate(greedy)]  # of one, two and three tokens
    found = dict(continued(mllm, asked(mllm), beginnings, 8 - 3, batch_size=2))
    whole = [mllm.tokenizer.decode(a.ids[: len(b) + 5], skip_special_tokens=True).strip() for a, b in zip(greedy, beginnings, strict=True)]
    assert [found[i] for i in range(3)] == whole


def test_candidates_have_the_states_of_a_decoding_of_their_own(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    mllm = tiny("llava")
    how = RollOut(k=3, steps=2, tokens=2)
    found = offered_at(mllm, asked(mllm), (FINAL, EARLY), how, root=tmp_path)
    final, early = found[FINAL], found[EARLY]
    assert len(final) == 3 * 2 * 3 and set(final.steps) == {0, 1} and final.labelled
    np.testing.assert_array_equal(final.tokens, early.tokens)
    assert not np.allclose(final.states, early.states)
    for request in asked(mllm):
        prefix, _ = prefill(mllm.model, mllm.encode([request]).inputs)
        mine = (final.prompts == request.id) & (final.steps == 0)
        for token, state in zip(final.tokens[mine], final.states[mine], strict=True):
            own = advance(mllm.model, deepcopy(prefix), torch.tensor([token]))
            np.testing.assert_allclose(state, own[0].float().numpy(), rtol=1e-3, atol=1e-3)
        assert (np.diff(final.log_probs[mine]) <= 0).all(), "likeliest first"


def test_labels_are_what_the_model_goes_on_to_say_and_are_kept(planted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = select(planted_requests(30, attacks=(Attack.CB,)), split=Split.FIT, harmful=True)[:6]
    found = offered(planted, some, RollOut(k=8, steps=1), root=tmp_path)
    truth = planted_truth(planted)
    assert (found.tokens == truth.first_refusal_token).any() and found.refusal[found.tokens == truth.first_refusal_token].all()
    assert not found.refusal[np.isin(found.tokens, truth.openers)].any(), "what opens an answer is answered"
    assert found.refusal.any() and not found.refusal.all() and len(found.contested())
    monkeypatch.setattr("safesteer_interp.decoding.rollouts._measured", lambda *_: pytest.fail("measured twice"))
    again = offered(planted, some, RollOut(k=8, steps=1), root=tmp_path)
    np.testing.assert_array_equal(found.states, again.states)
    np.testing.assert_array_equal(found.refusal, again.refusal)
    with pytest.raises(InputError, match="no request to take candidates from"):
        offered(planted, [], root=tmp_path)


def test_candidates_of_a_picture_that_was_replaced_are_not_kept(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (40, 40), "blue").save(path)
    request = replace(asked(tiny("llava"))[0], image=ImageFile(path))

    def swapped(*arguments: Any) -> Any:
        Image.new("RGB", (41, 40), "red").save(path)
        return {"request": np.zeros(1, dtype=np.int64)}, {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("safesteer_interp.decoding.rollouts._measured", swapped)
        with pytest.raises(InputError, match=r"its image .*a\.png was replaced"):
            offered(tiny("llava"), [request], RollOut(k=2, steps=1), root=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_candidates_are_kept_under_the_tokens_that_end_an_answer(planted: Any) -> None:
    """Those of the tokenizer alone leave the key as it was before it held any."""
    how = RollOut(k=8, steps=1)
    before = {
        "format": KIND, "model": planted.fingerprint, "dtype": "torch.float32", "system_prompt": None, "thinking": None,
        "requests": ["a"], "how": [8, 1, how.tokens, how.seed], "sites": ["final_norm"],
    }  # fmt: skip
    assert _key(planted, ["a"], how, [FINAL]) == digest(before)[:32]
    model = deepcopy(planted.model)
    model.generation_config.eos_token_id = [5, planted.tokenizer.eos_token_id]
    assert _key(replace(planted, model=model), ["a"], how, [FINAL]) == digest({**before, "stops": [5]})[:32]


def test_a_few_requests_of_every_form_are_taken_the_same_ones_every_time() -> None:
    requests: list[Request] = planted_requests(20, attacks=(Attack.CB, Attack.SD))
    few = ranked(requests, 4)
    assert len(few) == 8 and len({r.pair for r in few}) == 4 and all(r.harmful for r in few)
    assert {r.pair for r in ranked(requests, 2)} < {r.pair for r in few}
    assert {r.pair for r in ranked(requests[::-1], 4)} == {r.pair for r in few}

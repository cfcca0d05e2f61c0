"""The bias on refusal words: exactly so many nats of log-odds, at exactly so many tokens, whatever is asked."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from safesteer_interp.decoding.answering import generate
from safesteer_interp.defenses.composed import Composed
from safesteer_interp.defenses.defense import Settings
from safesteer_interp.defenses.refusal_bias import RefusalBias
from safesteer_interp.defenses.registry import choose
from safesteer_interp.errors import UsageError
from safesteer_interp.models.openings import refusal_token_ids
from safesteer_interp.models.planted import planted_requests
from safesteer_interp.requests import Attack
from safesteer_interp.steering.selection import refusal_score
from safesteer_interp.tracing.tracer import Sampling


def test_the_log_odds_of_refusal_rise_by_the_bias_and_nothing_else_changes(planted: Any) -> None:
    tokens = refusal_token_ids(planted)
    vocabulary = planted.model.get_output_embeddings().weight.shape[0]
    logits = torch.randn(3, vocabulary, generator=torch.Generator().manual_seed(0))
    after = RefusalBias(3.0, steps=2).tilt(planted)(logits, [0, 1, 2])
    change = refusal_score(after, tokens) - refusal_score(logits, tokens)
    torch.testing.assert_close(change, torch.tensor([3.0, 3.0, 0.0]), rtol=1e-4, atol=1e-4)
    others = torch.tensor([i for i in range(vocabulary) if i not in tokens])
    assert torch.equal(after[:, others], logits[:, others]) and torch.equal(after[2], logits[2])
    assert torch.equal(RefusalBias(-1.0).tilt(planted)(logits, [1, 5, 9]), logits)


def test_answers_start_with_a_refusal_token_under_a_large_bias_and_never_under_a_large_negative_one(planted: Any) -> None:
    requests, tokens = planted_requests(6, attacks=(Attack.CB, Attack.SD)), set(refusal_token_ids(planted))
    settings = Settings(Sampling(max_new_tokens=4, temperature=1.0))
    plain = [one.ids for one in generate(planted, requests, sampling=settings.sampling)]
    assert 0 < sum(ids[0] in tokens for ids in plain) < len(plain)
    for bias, share in ((60.0, 1.0), (-60.0, 0.0)):
        answers = RefusalBias(bias).respond(planted, requests, settings)
        assert sum(r.ids[0] in tokens for r in answers) == share * len(answers)
    assert [r.ids for r in RefusalBias(0.0).respond(planted, requests, settings)] == plain
    assert [r.ids for r in Composed((RefusalBias(40.0), RefusalBias(-40.0))).respond(planted, requests, settings)] == plain


def test_it_is_offered_by_name_and_refuses_what_cannot_be_meant(planted: Any) -> None:
    assert choose("refusal_bias", ["bias=2.5", "steps=3"]).build(planted) == RefusalBias(2.5, 3)
    assert RefusalBias(1.0).fingerprint() != RefusalBias(2.0).fingerprint() != RefusalBias(2.0, 2).fingerprint()
    with pytest.raises(UsageError, match="`bias` of refusal_bias is nan"):
        RefusalBias(float("nan"))
    with pytest.raises(UsageError, match="at least 1 token"):
        RefusalBias(1.0, steps=0)

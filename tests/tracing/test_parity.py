"""Three tracers, one truth: the same states on every family, at the prompt and at decoding steps, with and without an edit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.tracing import all_reads, all_sites, assert_same, close, push, requests_for

from safesteer_interp.errors import UsageError
from safesteer_interp.models.families import FAMILIES
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.sites import Read, ReadKind, Site, SiteKind
from safesteer_interp.tracing.collecting import load_tracer
from safesteer_interp.tracing.hooks import HooksTracer, visiting
from safesteer_interp.tracing.prefix import Feed
from safesteer_interp.tracing.tracer import Sampling

Tiny = Callable[[str], MLLM]
BRIDGED = [family for family, layout in FAMILIES.items() if layout.bridge]
LAST = Read(ReadKind.LAST_PROMPT)


@pytest.mark.parametrize("family", FAMILIES)
def test_nnsight_equals_hooks(tiny: Tiny, family: str) -> None:
    mllm = tiny(family)
    batch = mllm.encode(requests_for(mllm))
    for edits in ((), (push(mllm),)):
        asked = {"sites": all_sites(mllm), "reads": all_reads(mllm), "edits": edits, "logits": True}
        want = HooksTracer(mllm).capture(batch, **asked)
        got = load_tracer("nnsight", mllm).capture(batch, **asked)
        assert_same(want, got, exact=True)
        assert want.logits is not None and got.logits is not None and torch.equal(want.logits, got.logits)


@pytest.mark.parametrize("family", BRIDGED)
def test_bridge_equals_hooks(tiny: Tiny, family: str) -> None:
    mllm = tiny(family)
    batch = mllm.encode(requests_for(mllm, 2))
    for edits in ((), (push(mllm),)):
        asked = {"sites": all_sites(mllm), "reads": all_reads(mllm), "edits": edits, "logits": True}
        want = HooksTracer(mllm).capture(batch, **asked)
        got = load_tracer("transformer_lens", mllm).capture(batch, **asked)
        assert_same(want, got)
        assert want.logits is not None and got.logits is not None and close(want.logits, got.logits)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in BRIDGED])
def test_families_without_an_adapter_are_refused_with_the_way_out(tiny: Tiny, family: str) -> None:
    with pytest.raises(UsageError, match=f'no adapter for the family "{family}".*nnsight.*hooks'):
        load_tracer("transformer_lens", tiny(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_transformers(tiny: Tiny, family: str) -> None:
    """`hidden_states[i]` is the input of layer i, and its last entry is the state after the final norm."""
    mllm = tiny(family)
    batch = mllm.encode(requests_for(mllm))
    got = HooksTracer(mllm).capture(batch, all_sites(mllm), [LAST]).states
    with torch.no_grad():
        want = mllm.model(**Feed(mllm.model, batch, cached=False).prompt(), output_hidden_states=True).hidden_states
    assert torch.equal(got[Site(SiteKind.EMBED), LAST], want[0][:, -1])
    for layer in range(mllm.n_layers - 1):
        assert torch.equal(got[Site(SiteKind.RESID_POST, layer), LAST], want[layer + 1][:, -1])
    assert torch.equal(got[Site(SiteKind.FINAL_NORM), LAST], want[-1][:, -1])


@pytest.mark.parametrize("family", FAMILIES)
def test_residual_stream_adds_up(tiny: Tiny, family: str) -> None:
    """What attention and MLP add to a layer's input is its output, so `attn_out` and `mlp_out` mean what they say."""
    mllm = tiny(family)
    batch = mllm.encode(requests_for(mllm))
    got = HooksTracer(mllm).capture(batch, all_sites(mllm), [LAST]).states
    before = got[Site(SiteKind.EMBED), LAST]
    for layer in range(mllm.n_layers):
        added = got[Site(SiteKind.ATTN_OUT, layer), LAST] + got[Site(SiteKind.MLP_OUT, layer), LAST]
        after = got[Site(SiteKind.RESID_POST, layer), LAST]
        assert close(after, before + added)
        before = after


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_does_not_depend_on_its_neighbours(tiny: Tiny, family: str) -> None:
    """Batched = unbatched, left-padded = unpadded, in any order."""
    mllm = tiny(family)
    requests = requests_for(mllm)
    sites, reads = all_sites(mllm), all_reads(mllm)
    tracer = HooksTracer(mllm)
    batch = mllm.encode(requests)
    assert (batch.attention_mask == 0).any(), "no row was padded, so this would prove nothing"
    together = tracer.capture(batch, sites, reads, edits=[push(mllm)])
    backwards = tracer.capture(mllm.encode(requests[::-1]), sites, reads, edits=[push(mllm)])
    for row, request in enumerate(requests):
        alone = tracer.capture(mllm.encode([request]), sites, reads, edits=[push(mllm)])
        assert alone.generated[0] == together.generated[row] == backwards.generated[-1 - row]
        for key, states in alone.states.items():
            if alone.present[key[1]][0]:
                assert close(states[0], together.states[key][row]), (request.id, key)
                assert close(states[0], backwards.states[key][-1 - row]), (request.id, key)
            else:
                assert not together.present[key[1]][row]


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_equals_uncached(tiny: Tiny, family: str) -> None:
    """States at steps 1-3 are those of one forward over the whole sequence, and the tokens those of `model.generate`."""
    mllm = tiny(family)
    batch = mllm.encode(requests_for(mllm))
    sites = all_sites(mllm)
    reads = [Read(ReadKind.STEP, k) for k in (1, 2, 3)]
    got = HooksTracer(mllm).capture(batch, sites, reads)
    feed = Feed(mllm.model, batch, cached=False)
    width = batch.input_ids.shape[1]
    for step in range(3):
        feed.step(torch.tensor([row[min(step, len(row) - 1)] for row in got.generated])[:, None])
    if "token_type_ids" in feed.kwargs and family.startswith("paligemma"):
        feed.kwargs["token_type_ids"][:, width:] = 1  # an answer is causal; only the prompt is read in both directions
    seen: dict[Site, torch.Tensor] = {}
    with torch.no_grad(), visiting(mllm.model, mllm.layout, sites, lambda site, hidden: seen.update({site: hidden})):
        mllm.model(**feed.prompt())
    for site in sites:
        for read in reads:
            rows = got.present[read]
            assert rows.any()
            assert close(seen[site][rows, width + (read.step or 0) - 1], got.states[site, read][rows]), (str(site), str(read))
    whole = mllm.model.generate(**batch.inputs, max_new_tokens=3, do_sample=False)[:, width:].tolist()
    assert [row[: len(own)] for row, own in zip(whole, got.generated, strict=True)] == got.generated


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_samples_do_not_depend_on_the_batch_and_seeds_matter(tiny: Tiny, family: str) -> None:
    mllm = tiny(family)
    requests = requests_for(mllm)

    def answers(order: list[int], seed: int) -> list[list[int]]:
        sampling = Sampling(max_new_tokens=8, temperature=1.0, seed=seed)
        found = HooksTracer(mllm).capture(mllm.encode([requests[i] for i in order]), [], [], sampling=sampling).generated
        return [found[order.index(i)] for i in sorted(order)]

    first = answers([0, 1, 2, 3], seed=0)
    assert first == answers([2, 0, 3, 1], seed=0)
    assert first[2:] == answers([3, 2], seed=0)
    assert first != answers([0, 1, 2, 3], seed=1)

"""Sites of the eyes: found in every family's tower, the same by every tracer, and patched as if the picture were another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.tracing import NoiseImage, assert_same, close, push, requests_for

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.interventions import Patch, patched, record, replay
from safesteer_interp.models.eyes import last_layer_used
from safesteer_interp.models.families import FAMILIES
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Attack, Request
from safesteer_interp.sites import Site, parse_reads, parse_sites
from safesteer_interp.steering.schedule import Schedule
from safesteer_interp.tracing.collecting import collect
from safesteer_interp.tracing.engines import load_tracer
from safesteer_interp.tracing.eyes import width_of

Tiny = Callable[[str], MLLM]
SEEING = [family for family, layout in FAMILIES.items() if layout.vision_tower]
QUICK = ("llava", "qwen2_5_vl")
FAMILY = [pytest.param(family, marks=() if family in QUICK else pytest.mark.slow) for family in SEEING]
READS = parse_reads("image_mean,last_prompt")


def donors_own(h: torch.Tensor, donor: torch.Tensor | None) -> torch.Tensor:
    assert donor is not None
    return donor


def sites_of(mllm: MLLM) -> tuple[Site, ...]:
    return parse_sites("vision,projector,embed", mllm.n_layers, mllm.n_vision_layers)


@pytest.mark.parametrize("family", FAMILY)
def test_every_tracer_reads_the_same_pictures_whatever_the_batch(tiny: Tiny, family: str) -> None:
    mllm = tiny(family)
    requests = requests_for(mllm)
    assert mllm.n_vision_layers == 2 and last_layer_used(mllm) == (0 if family in ("llava", "llava_next") else 1)
    batch = mllm.encode(requests)
    found = load_tracer("hooks", mllm).capture(batch, sites_of(mllm), READS)
    picture = READS[0]
    for site in sites_of(mllm):
        states = found.states[site, picture]
        pictured = torch.tensor([request.image is not None for request in requests])
        assert states.shape == (4, width_of(mllm, site)) and torch.isfinite(states).all(1).tolist() == pictured.tolist()
        assert ((site, READS[1]) in found.states) == (not site.in_eyes)
        assert not torch.equal(states[pictured][0], states[pictured][1])
    for row, request in enumerate(requests):
        if request.image is not None:
            alone = load_tracer("hooks", mllm).capture(mllm.encode([request]), sites_of(mllm), READS)
            assert all(close(states, found.states[key][row : row + 1]) for key, states in alone.states.items())
    assert_same(found, load_tracer("nnsight", mllm).capture(batch, sites_of(mllm), READS), exact=True)
    if mllm.layout.bridge:
        assert_same(found, load_tracer("transformer_lens", mllm).capture(batch, sites_of(mllm), READS))


@pytest.mark.parametrize("family", FAMILY)
def test_a_picture_patched_into_the_eyes_is_the_other_picture(tiny: Tiny, family: str) -> None:
    mllm = tiny(family)
    one, other = (
        Request(id=f"r{i}", text="name a bird" + " please" * i, harmful=False, attack=Attack.SD, image=NoiseImage(i)) for i in (1, 2)
    )
    swapped = replace(one, id="swapped", image=NoiseImage(2))
    want = patched(mllm, [swapped], [Patch((Site.parse("resid_post.0"),), ("last",))], [swapped]).logits
    places = [Site.parse("vision.0"), *([Site.parse("projector")] if family != "qwen3_vl" else [])]  # whose layers see more than that
    patches = [Patch((place,), ("image",)) for place in places]
    patches += [Patch((places[0],), ("image",), donors_own), Patch((places[0],), ("image",), lambda h, donor: h)]
    asked = ([one] * len(patches), patches, [other] * len(patches))
    found = patched(mllm, *asked).logits
    assert want is not None and found is not None
    assert close(want.expand(len(patches) - 1, -1), found[:-1]) and not close(want, found[-1:])
    again = patched(mllm, *asked, tracer="nnsight").logits
    assert again is not None and torch.equal(again, found)
    if mllm.layout.bridge:
        bridged = patched(mllm, *asked, tracer="transformer_lens").logits
        assert bridged is not None and close(found, bridged)


def test_traces_hold_eyes_beside_the_decoder_and_say_what_they_do_not_hold(planted: MLLM) -> None:
    """On the planted model too: its projector is where the decoder's image tokens come from."""
    from safesteer_interp.models.planted import planted_requests

    requests = planted_requests(2)
    trace = collect(planted, requests, sites="vision,projector,embed", reads="image_mean,last_prompt", store=None, progress=False)
    there = trace.present("image_mean")
    assert trace.rows("vision.0", "image_mean").shape == (20, 32) and not there[0] and there[2]
    assert abs(trace.rows("projector", "image_mean") - trace.rows("embed", "image_mean"))[there].max() < 1e-4
    with pytest.raises(UsageError, match=r"vision\.0 and projector have widths 32 and 64"):
        trace.stack("image_mean", ["vision.0", "projector"])
    with pytest.raises(UsageError, match=r"projector holds a picture and no text; it has no states of the read \"last_prompt\""):
        trace.rows("projector", "last_prompt")
    words = [r for r in requests if r.image is None]
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"sites": "vision"}, "is read as image_mean"),
        ({"sites": "vision.2", "reads": "image_mean"}, "the vision tower has layers 0-1"),
        ({"sites": "projector", "edits": [push(planted, "embed")], "requests": words, "reads": "image_mean"}, "no request has an image"),
    )
    for asked, said in wrong:
        with pytest.raises(UsageError, match=said):
            collect(planted, **{"requests": requests, "store": None, "progress": False, **asked})


def test_what_makes_no_sense_in_the_eyes_is_refused(tiny: Tiny, planted: MLLM) -> None:
    mllm = tiny("llava")
    batch = mllm.encode(requests_for(mllm))
    with pytest.raises(UsageError, match='"push" changes tokens, and projector holds none'):
        load_tracer("hooks", mllm).capture(batch, (), READS, edits=[replace(push(mllm), sites=(Site.parse("projector"),))])
    with pytest.raises(UsageError, match='patch it at the role "image"'):
        Patch((Site.parse("vision.1"),), ("last",))
    with pytest.raises(InputError, match=r"has vision\.0 to vision\.1 and projector"):
        patched(mllm, [batch.requests[1]], [Patch((Site.parse("vision.2"),))], [batch.requests[3]])
    with pytest.raises(UsageError, match="lies before the decoder"):
        replay(mllm, record(mllm, batch.requests[1]), [Patch((Site.parse("projector"),), ("image",), lambda h, d: h)])
    with pytest.raises(InputError, match="its donor no picture"):
        patched(mllm, [batch.requests[1]], [Patch((Site.parse("projector"),))], [batch.requests[0]])
    with pytest.raises(UsageError, match="steering acts on tokens, and projector holds none"):
        Schedule(sites=(Site.parse("projector"),))
    text = tiny("llama")
    with pytest.raises(InputError, match="no eyes"):
        load_tracer("hooks", text).capture(text.encode(requests_for(text)), (Site.parse("projector"),), READS)

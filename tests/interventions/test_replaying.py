"""Replaying equals whole forwards: every family, every tracer, every site, token role and direction; exact where it must be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.tracing import RELATIVE, NoiseImage

from safesteer_interp.errors import UsageError
from safesteer_interp.interventions import ROLES, Head, Knockout, Patch, Recording, patched, record, replay
from safesteer_interp.interventions.alignment import positions
from safesteer_interp.interventions.recording import output_projection
from safesteer_interp.interventions.replaying import additive, n_heads, plan_rows
from safesteer_interp.models.families import FAMILIES
from safesteer_interp.models.head import logits
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.planted import build_planted, planted_requests, planted_truth
from safesteer_interp.requests import Attack, Request
from safesteer_interp.sites import Role, Site, SiteKind
from safesteer_interp.steering.selection import refusal_score

Tiny = Callable[[str], MLLM]


def plain(mllm: MLLM, recording: Recording) -> torch.Tensor:
    """The first answer token's logits [1, vocab] without any intervention."""
    with torch.no_grad():
        return logits(mllm, recording.final)


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(((a - b).norm(dim=-1) <= RELATIVE * b.norm(dim=-1)).all())


def two(mllm: MLLM) -> tuple[Request, Request]:
    """Receiver and donor: unequal texts, unequal pictures where the model takes any."""
    image = mllm.takes_images
    return (
        Request(
            id="receiver",
            text="how do I renew a passport",
            harmful=False,
            attack=Attack.SD if image else Attack.TEXT,
            image=NoiseImage(1) if image else None,
            pair="p",
        ),
        Request(
            id="donor",
            text="where would one buy a very long ladder",
            harmful=True,
            attack=Attack.SD if image else Attack.TEXT,
            image=NoiseImage(2) if image else None,
            pair="p",
        ),
    )


def patches_for(mllm: MLLM) -> list[Patch]:
    roles = ("user", "last", "template", *(["image"] if mllm.takes_images else []))
    sites = [Site.parse(f"{kind}.{layer}") for kind in ("resid_post", "attn_out", "mlp_out") for layer in range(mllm.n_layers)]
    found = [Patch((site,), (role,)) for site in sites for role in roles]
    found += [Patch(tuple(sites[:2]), ("user", "last")), Patch((Site.parse("embed"),), ("user",)), Patch((sites[0], sites[-1]))]
    return found


def whole(mllm: MLLM, receiver: Request, donor: Request, patches: list[Patch], tracer: str = "hooks") -> torch.Tensor:
    n = len(patches)
    logits = patched(mllm, [receiver] * n, patches, [donor] * n, tracer=tracer).logits
    assert logits is not None
    return logits


@pytest.mark.parametrize("family", FAMILIES)
def test_replay_equals_whole_forwards_on_every_tracer(tiny: Tiny, family: str) -> None:
    mllm = tiny(family)
    receiver, donor = two(mllm)
    patches = patches_for(mllm)
    mine, theirs = record(mllm, receiver), record(mllm, donor)
    got = replay(mllm, mine, patches, donor=theirs)
    want = whole(mllm, receiver, donor, patches)
    assert close(got, want), [(str(p.places), p.roles) for p, a, b in zip(patches, got, want, strict=True) if not close(a[None], b[None])]
    assert not close(got[:1].expand_as(got), got), "every patch did the same, so that this proves nothing"
    some = patches[:: max(1, len(patches) // 12)]
    want = whole(mllm, receiver, donor, some)
    assert torch.equal(whole(mllm, receiver, donor, some, "nnsight"), want)
    if mllm.layout.bridge:
        assert close(whole(mllm, receiver, donor, some, "transformer_lens"), want)


@pytest.fixture(scope="module")
def pair(planted: MLLM) -> tuple[Recording, Recording]:
    """(receiver, donor): the same harmful activity as picture and as text beside a blank picture."""
    requests = [r for r in planted_requests(attacks=(Attack.SD, Attack.CB)) if r.harmful]
    of = {r.attack: r for r in requests if r.pair == requests[0].pair}
    return record(planted, of[Attack.SD]), record(planted, of[Attack.CB])


def every_layer(mllm: MLLM, role: Any, kind: str = "resid_post") -> list[Patch]:
    return [Patch((Site.parse(f"{kind}.{layer}"),), (role,) if isinstance(role, str) else role) for layer in range(mllm.n_layers)]


def test_a_donor_onto_itself_changes_nothing_to_the_bit(planted: MLLM, pair: tuple[Recording, Recording]) -> None:
    receiver = pair[0]
    again = record(planted, receiver.request)
    patches = every_layer(planted, ROLES) + every_layer(planted, "image", "attn_out") + [Patch((Head(3, 0),))]
    assert torch.equal(replay(planted, receiver, patches, donor=again), plain(planted, receiver).expand(len(patches), -1))


def test_patching_everything_gives_the_donors_answer_where_lengths_agree(planted: MLLM) -> None:
    rows = [r for r in planted_requests(attacks=(Attack.SD,)) if r.harmful]
    lengths = [len(planted.encode([r]).input_ids[0]) for r in rows]
    one, other = next((a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i < j and lengths[i] == lengths[j])
    receiver, donor = record(planted, one), record(planted, other)
    got = replay(planted, receiver, every_layer(planted, ROLES), donor=donor)
    assert close(got, plain(planted, donor).expand_as(got))
    assert not close(plain(planted, receiver), plain(planted, donor))


def test_a_donors_image_tokens_need_not_be_computed(planted: MLLM, pair: tuple[Recording, Recording]) -> None:
    """Where both prompts begin alike, the replaced beginning is read from the donor's cache: fewer tokens, the same numbers."""
    receiver, donor = pair
    patches = every_layer(planted, "image")
    rows = plan_rows(planted, receiver, patches, donor)
    image = (receiver.roles == int(Role.IMAGE)).nonzero()
    assert all(row.by_donor and row.start == int(image[-1]) + 1 for row in rows) and len(rows) == planted.n_layers
    inside = plan_rows(planted, receiver, every_layer(planted, "image", "attn_out"), donor)
    assert inside and all(not row.by_donor and row.start == int(image[0]) for row in inside)
    spent = sum(row.forwards(planted.n_layers, receiver.length) for row in rows)
    assert 0 < spent < 0.4 * len(patches)
    want = whole(planted, receiver.request, donor.request, patches)
    assert close(replay(planted, receiver, patches, donor=donor), want)
    assert torch.allclose(replay(planted, receiver, patches, donor=donor, max_tokens=1), want, atol=1e-4), "one row at a time"


def test_the_planted_cause_is_found(planted: MLLM, pair: tuple[Recording, Recording]) -> None:
    """Layer 3's attention writes harm into the last token: nothing before it carries the answer there, everything after does."""
    receiver, donor = pair
    truth = planted_truth(planted)

    def restored(patches: list[Patch]) -> torch.Tensor:
        found = torch.cat([plain(planted, receiver), plain(planted, donor), replay(planted, receiver, patches, donor=donor)])
        score = refusal_score(found, truth.refusal_tokens)
        return (score[2:] - score[0]) / (score[1] - score[0])

    last = restored(every_layer(planted, "last"))
    assert last[: truth.layer].abs().max() < 0.01 and (last[truth.layer :] - 1).abs().max() < 0.01
    others = restored(every_layer(planted, ("image", "user", "template")))
    assert (others[: truth.layer] - 1).abs().max() < 0.1 and others[truth.layer :].abs().max() < 0.01
    writes = restored(every_layer(planted, "last", "attn_out"))
    assert abs(float(writes[truth.layer]) - 1) < 0.05 and writes[[i for i in range(6) if i != truth.layer]].abs().max() < 0.05
    heads = restored([Patch((Head(truth.layer, head),), ("last",)) for head in range(4)])
    assert abs(float(heads[0]) - 1) < 0.05 and heads[1:].abs().max() < 0.05


@pytest.mark.parametrize("family", ["llava", "gemma3", "paligemma", "qwen2_5_vl"])
def test_heads_and_knockouts_equal_whole_forwards(tiny: Tiny, family: str) -> None:
    mllm = tiny(family)
    receiver, donor = (record(mllm, request) for request in two(mllm))
    last, user = positions(receiver.roles, ("last",)), positions(receiver.roles, ("user",))
    head, layer = n_heads(mllm) - 1, 1
    width = donor.heads[layer].shape[-1] // n_heads(mllm)
    columns = slice(head * width, (head + 1) * width)

    def swap(module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        z = args[0].clone()
        z[0, -1, columns] = donor.heads[layer][-1, columns]
        return (z,)

    def blind(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        mask = additive(receiver, layer).clone()
        mask[0, 0, last[:, None], user[None]] = torch.finfo(mask.dtype).min
        return args, kwargs | {"attention_mask": mask}

    got = replay(mllm, receiver, [Patch((Head(layer, head),), ("last",)), Knockout(("user",), ("last",), (layer,))], donor=donor)
    for row, (module, hook, more) in enumerate(
        [(output_projection(mllm, layer), swap, {}), (mllm.layers[layer], blind, {"with_kwargs": True})]
    ):
        handle = module.register_forward_pre_hook(hook, **more)
        want = plain(mllm, record(mllm, receiver.request))
        handle.remove()
        assert close(got[row : row + 1], want), (family, row)
        assert not close(want, plain(mllm, receiver))


def test_a_knockout_computes_no_token_that_sees_no_source(planted: MLLM, pair: tuple[Recording, Recording]) -> None:
    receiver = pair[1]
    user = int(positions(receiver.roles, ("user",))[0])
    assert int(positions(receiver.roles, ("template",))[0]) < user
    (row,) = plan_rows(planted, receiver, [Knockout(("user",), ("template", "last"), (3,))])
    assert row.start > user and int(row.mine[0]) > user
    assert plan_rows(planted, receiver, [Knockout(("user",), ("image",), (3,)), Knockout(("last",), ("user",), (3,))]) == []


def test_a_rewrite_needs_no_donor_and_sees_the_receivers_states(planted: MLLM, pair: tuple[Recording, Recording]) -> None:
    """Setting harm to what it was changes nothing; taking it out answers the request."""
    donor, truth = pair[1], planted_truth(planted)
    r, place = truth.harm_direction, (Site.parse("resid_post.4"),)
    same = Patch(place, ("last",), lambda h, _: h)
    without = Patch(place, ("last",), lambda h, _: h - (h @ r)[:, None] * r)
    got = refusal_score(replay(planted, donor, [same, without]), truth.refusal_tokens)
    before = refusal_score(plain(planted, donor), truth.refusal_tokens)
    assert abs(float(got[0] - before)) < 1e-4 and float(got[1]) < -2 < float(before)


def test_bfloat16_stays_within_its_own_rounding(pair: tuple[Recording, Recording]) -> None:
    mllm = build_planted()
    mllm.model.to(torch.bfloat16)
    receiver, donor = (record(mllm, recording.request) for recording in pair)
    patches = every_layer(mllm, "last") + every_layer(mllm, "image") + every_layer(mllm, "user", "mlp_out")
    got, want = replay(mllm, receiver, patches, donor=donor), whole(mllm, receiver.request, donor.request, patches)
    assert got.dtype == torch.float32 and ((got - want).norm(dim=1) / want.norm(dim=1)).max() < 0.05


def test_what_cannot_be_done_is_said(planted: MLLM, pair: tuple[Recording, Recording]) -> None:
    receiver, donor = pair
    for wrong, words in (
        (lambda: replay(planted, receiver, [Patch((Site.parse("resid_post.6"),))], donor=donor), "layer 6 does not exist.*0-5"),
        (lambda: replay(planted, receiver, [Patch((Head(0, 4),))], donor=donor), "head.0.4.*heads 0-3"),
        (lambda: replay(planted, receiver, [Patch((Site.parse("resid_post.1"),))]), "name the donor"),
        (lambda: Patch((Site.parse("final_norm"),)), "final_norm.*cannot be patched"),
        (lambda: Patch((Site.parse("embed"),), ("imag",)), "did you mean"),
        (lambda: patched(planted, [receiver.request], [Patch((Head(0, 4),))], [donor.request]), "head.0.4.*heads 0-3"),
        (lambda: patched(planted, [receiver.request], [Patch((Head(6, 0),))], [donor.request]), "layer 6 does not exist.*0-5"),
        (lambda: Patch((Site(SiteKind.HEADS, 1),)), "heads.1.*cannot be patched; use .* or a head"),
        (lambda: Head.parse("head.1"), "head.<layer>.<head>"),
    ):
        with pytest.raises(UsageError, match=f"(?i){words}"):
            wrong()

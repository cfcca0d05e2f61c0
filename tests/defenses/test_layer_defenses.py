"""Defenses that edit decoder layers: each changes exactly what its paper says, leaves text alone, and does on `planted` what it must."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from safesteer_interp.defenses.cmrm import CMRM
from safesteer_interp.defenses.conformal import Conformal, conformal_threshold, needed
from safesteer_interp.defenses.defense import Settings, StagedDefense
from safesteer_interp.defenses.jrs_rem import JRSRem
from safesteer_interp.defenses.none import Undefended
from safesteer_interp.defenses.refusal_steering import RefusalSteering, choice_requests
from safesteer_interp.defenses.registry import defense_named
from safesteer_interp.defenses.shiftdc import ShiftDC
from safesteer_interp.defenses.shifts import prompt_states
from safesteer_interp.defenses.training import layer_trace
from safesteer_interp.errors import InputError, NotApplicableError, UsageError
from safesteer_interp.models.planted import build_planted, planted_requests, planted_truth
from safesteer_interp.refusals import is_refusal
from safesteer_interp.requests import Attack, PilImage, Request, Split
from safesteer_interp.sites import Role, Site
from safesteer_interp.tracing.origin import Origin
from safesteer_interp.tracing.trace import Traced
from safesteer_interp.tracing.tracer import At, Sampling

GREEDY = Settings(Sampling(max_new_tokens=8, temperature=0.0), batch_size=64)


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    return planted_requests(40)


@pytest.fixture(scope="module")
def trace(planted: Any, requests: list[Request]) -> Traced:
    return layer_trace(planted, requests, store=None, progress=False)


@pytest.fixture(scope="module")
def test_pictures(requests: list[Request]) -> list[Request]:
    return [r for r in requests if r.split is Split.TEST and r.attack.in_image]


def refused(defense: StagedDefense, mllm: Any, some: list[Request], harmful: bool) -> float:
    asked = [r for r in some if r.harmful == harmful]
    return float(np.mean([is_refusal(r.text) for r in defense.respond(mllm, asked, GREEDY)]))


@pytest.mark.parametrize("cls", [ShiftDC, JRSRem, CMRM])
def test_text_is_answered_to_the_bit(cls: Any, planted: Any, trace: Traced, requests: list[Request]) -> None:
    texts = [r for r in requests if r.image is None][:12]
    defense = cls.from_trace(planted, trace)
    assert defense.edits_each(planted, texts, GREEDY) == [()] * len(texts)
    assert [r.ids for r in defense.respond(planted, texts, GREEDY)] == [r.ids for r in Undefended().respond(planted, texts, GREEDY)]


def test_shiftdc_puts_the_safety_component_where_the_text_twin_has_it(planted: Any, trace: Traced, test_pictures: list[Request]) -> None:
    """With alpha 1 the edited state's component along s equals the twin's; everything across s stays."""
    defense = ShiftDC.from_trace(planted, trace, first=5, last=5)
    site, s = next(iter(defense.safety.items()))
    assert site == Site.parse("resid_post.5") and float(s @ planted_truth(planted).harm_direction) < 0, "s points towards safe"
    shift = np.random.default_rng(0).normal(size=len(s))
    move = defense.correction(site, shift).double().numpy()
    unit = s.double().numpy() / np.linalg.norm(s)
    assert (shift + move) @ unit == pytest.approx(0.0, abs=1e-6)
    across = shift - (shift @ unit) * unit
    assert np.allclose(shift + move, across, atol=1e-6)
    assert torch.equal(replace(defense, alpha=0.0).correction(site, shift), torch.zeros_like(s))
    edits = defense.edits_each(planted, test_pictures[:2], GREEDY)
    assert [len(e) for e in edits] == [1, 1] and edits[0][0].key != edits[1][0].key and edits[0][0].last_step == 0
    assert len(ShiftDC.from_trace(planted, trace).safety) == 3, "from the middle to the last layer"
    assert (
        refused(ShiftDC.from_trace(planted, trace), planted, test_pictures, True)
        > refused(Undefended(), planted, test_pictures, True) + 0.2
    )


def test_jrs_rem_removes_only_shifts_beyond_tau(planted: Any, trace: Traced, test_pictures: list[Request]) -> None:
    defense = JRSRem.from_trace(planted, trace)
    site, d = next(iter(defense.directions.items()))
    assert site == Site.parse("resid_post.4") and float(d.norm()) == pytest.approx(1, abs=1e-5)
    assert float(d @ planted_truth(planted).harm_direction) < -0.5, "what was answered reads as less harmful"
    along, across = d.double().numpy(), np.random.default_rng(1).normal(size=len(d))
    across -= (across @ along) * along
    across /= np.linalg.norm(across)
    strong, weak = 0.5 * along + across, 0.1 * along + across
    move = defense.removal(site, strong)
    assert move is not None and np.allclose(move.numpy(), -0.5 * along, atol=1e-6)
    assert defense.removal(site, weak) is None and defense.removal(site, -strong) is None
    assert replace(defense, tau=0.05).removal(site, weak) is not None
    assert refused(defense, planted, test_pictures, True) > 0.6
    with pytest.raises(UsageError, match="tau of JRS-Rem is 2"):
        replace(defense, tau=2.0)
    meek = build_planted(harm=0.0, noise=0.0)
    with pytest.raises(NotApplicableError, match="refused 0 of the harmful training pictures"):
        JRSRem.build(meek, planted_requests(8))


def test_cmrm_adds_the_mean_shift_at_every_layer(planted: Any, trace: Traced, test_pictures: list[Request]) -> None:
    defense = CMRM.from_trace(planted, trace)
    sites = list(defense.shifts)
    assert len(sites) == planted.n_layers
    some = test_pictures[:3]
    edit = defense.edits_each(planted, some, GREEDY)[0][0]
    assert edit.sites == tuple(sites) and edit.last_step is None
    index = trace.index
    fit = (index["split"] == "fit").to_numpy() & index["harmful"].to_numpy(dtype=bool)
    states = trace.rows("resid_post.3")
    means = [states[fit & (index["attack"] == form).to_numpy()].mean(axis=0) for form in ("TEXT", "CB")]
    assert np.allclose(defense.shifts[Site.parse("resid_post.3")].numpy(), means[0] - means[1], atol=1e-4)
    assert [r.ids for r in replace(defense, alpha=0.0).respond(planted, some, GREEDY)] == [
        r.ids for r in Undefended().respond(planted, some, GREEDY)
    ]
    once = replace(defense, increments=True)
    assert once.fingerprint() != defense.fingerprint()
    sample = replace(defense, level="sample")
    assert sample.prepares and not defense.prepares
    assert len({e[0].key for e in sample.edits_each(planted, some, GREEDY)}) == len(some), "each request has its own shift"
    with pytest.raises(UsageError, match='no level "batch"'):
        replace(defense, level="batch")


def test_per_request_edits_do_not_depend_on_the_batch(planted: Any, trace: Traced, test_pictures: list[Request]) -> None:
    defense, some = ShiftDC.from_trace(planted, trace, caption_tokens=4), test_pictures[:6]
    together = [r.ids for r in defense.respond(planted, some, GREEDY)]
    assert together == [defense.respond(planted, [r], GREEDY)[0].ids for r in some]


def test_states_are_those_of_the_last_prompt_token(planted: Any, trace: Traced, requests: list[Request]) -> None:
    some = [r for r in requests if r.split is Split.FIT][:4]
    rows = [list(trace.index["request"]).index(r.id) for r in some]
    found = prompt_states(planted, some, [Site.parse("resid_post.2")], 2)[0]
    assert np.allclose(found, trace.rows("resid_post.2")[rows], atol=1e-4)


def test_refusal_steering_refuses_more_of_everything(planted: Any, trace: Traced, requests: list[Request]) -> None:
    """The known answer of an ungated push: harmful and harmless both; coefficient 0 leaves the answers alone."""
    defense = RefusalSteering.from_trace(planted, trace, requests)
    assert defense.layer >= planted_truth(planted).layer
    texts = [r for r in requests if r.split is Split.TEST and r.attack is Attack.TEXT]
    plain = Undefended()
    for harmful in (True, False):
        assert refused(defense, planted, texts, harmful) >= refused(plain, planted, texts, harmful)
    assert refused(defense, planted, texts, False) > 0.5
    still = RefusalSteering.from_trace(planted, trace, requests, layer=3, coefficient=0.0)
    assert [r.ids for r in still.respond(planted, texts[:4], GREEDY)] == [r.ids for r in plain.respond(planted, texts[:4], GREEDY)]
    assert defense.fingerprint() != still.fingerprint()
    assert defense.description()["layer chosen on"] == "validation requests" and "layer chosen on" not in still.description()


def test_the_layer_of_refusal_steering_is_never_chosen_on_test_requests(planted: Any, trace: Traced, requests: list[Request]) -> None:
    """Without a validation split it is chosen on the fit split, whatever test requests were given too; without that it is not chosen."""
    texts = [r for r in requests if r.attack is Attack.TEXT]
    apart = {split: [r for r in texts if r.split is split] for split in Split}
    for given, expected in ((Split, Split.VALIDATION), ((Split.TEST, Split.FIT), Split.FIT)):
        # those of the test split first: the first pairs are the ones that are taken
        harmful, harmless = choice_requests(sorted((r for s in given for r in apart[s]), key=lambda r: r.split is not Split.TEST), 2)
        assert {r.split for r in (*harmful, *harmless)} == {expected} and (len(harmful), len(harmless)) == (2, 2)
    one_sided = [*apart[Split.TEST], *apart[Split.FIT], *(r for r in apart[Split.VALIDATION] if r.harmful)]
    assert {r.split for side in choice_requests(one_sided, 0) for r in side} == {Split.FIT}
    alone = [
        Request(f"how do i do {i}", id=f"q{i}", pair=f"q{i}", harmful=i >= 4, attack=Attack.TEXT, split=Split.VALIDATION) for i in range(8)
    ]
    assert [[r.id for r in side] for side in choice_requests(alone, 2)] == [["q4", "q5"], ["q0", "q1"]], "without twins, of each side"
    without = [r for r in requests if r.split is not Split.VALIDATION]
    assert RefusalSteering.from_trace(planted, trace, without).description()["layer chosen on"] == "fit requests"
    with pytest.raises(InputError, match="of the validation or the fit split, and there are none; give others with --training, or a layer"):
        RefusalSteering.from_trace(planted, trace, apart[Split.TEST])


def test_the_conformal_threshold_is_the_rank_that_the_bound_needs() -> None:
    scores = np.arange(1, 101)  # 100 scores, bound 0.05: ceil(101 * 0.95) = 96
    assert conformal_threshold(scores, 0.05) == 96
    assert conformal_threshold(np.arange(19), 0.05) == 18 and conformal_threshold(np.arange(18), 0.05) == np.inf
    for bound in (0.05, 0.1, 0.3, 0.5):
        assert np.isfinite(conformal_threshold(np.arange(needed(bound)), bound))
        assert needed(bound) == 1 or np.isinf(conformal_threshold(np.arange(needed(bound) - 1), bound))


def test_false_interventions_stay_below_the_bound() -> None:
    """Over many draws of calibration and test scores from one distribution, the share above the threshold is at most the bound."""
    rng = np.random.default_rng(0)
    for n, bound in ((30, 0.1), (60, 0.05), (20, 0.05)):
        share = [np.mean(rng.normal(size=200) > conformal_threshold(rng.normal(size=n), bound)) for _ in range(400)]
        assert bound - 1 / (n + 1) - 0.02 <= np.mean(share) <= bound + 0.01


def test_conformal_refuses_what_is_flagged_and_nothing_else(planted: Any, trace: Traced, requests: list[Request]) -> None:
    defense = Conformal.from_trace(planted, trace, bound=0.1)
    texts = [r for r in requests if r.split is Split.TEST and r.attack is Attack.TEXT]
    plain = Undefended().respond(planted, texts, GREEDY)
    for ours, own in zip(defense.respond(planted, texts, GREEDY), plain, strict=True):
        assert ours.verdict["flagged"] == (ours.verdict["score"] > defense.threshold)
        assert ours.text == defense.refusal if ours.verdict["flagged"] else ours.ids == own.ids
    assert replace(defense, threshold=np.inf).respond(planted, texts[:3], GREEDY)[0].ids == plain[0].ids
    assert "harmless prompts" in defense.description()["calibrated on"] and "too few" not in defense.description()["calibrated on"]
    assert "which needs 19, so that nothing is refused" in replace(defense, threshold=np.inf, bound=0.05).description()["calibrated on"]
    apart = Conformal.from_trace(planted, trace, held=trace, bound=0.1)
    assert apart.calibrated_on == int((~trace.labels.harmful).sum()) > defense.calibrated_on
    assert float(np.corrcoef(apart.probe.weight_, defense.probe.weight_)[0, 1]) > 0.9, "fitted on the fit split in both"
    with pytest.raises(UsageError, match="bound on false interventions is 1"):
        replace(defense, bound=1.0)


def test_what_does_not_fit_is_refused(planted: Any, trace: Traced) -> None:
    other = build_planted(seed=1)
    some = [r for r in planted_requests(1) if r.attack.in_image]
    for cls in (ShiftDC, JRSRem, CMRM):
        with pytest.raises(UsageError, match="was fitted on model"):
            cls.from_trace(planted, trace).respond(other, some, GREEDY)
        with pytest.raises(UsageError, match="fitted on training requests"):
            cls.build(planted)
    with pytest.raises(UsageError, match="layers 4 to 9"):
        ShiftDC.from_trace(planted, trace, first=4, last=9)
    with pytest.raises(InputError, match="of the test or the align split"):
        layer_trace(planted, [r for r in some if r.split is Split.TEST] or [replace(some[0], split=Split.TEST)])
    assert defense_named("shiftdc:alpha=0.5,first=3").parts[0].options == {"alpha": 0.5, "first": 3}


def test_cmrm_is_its_equation(planted: Any) -> None:
    """h + alpha (h_text - h_blank) at each layer, on the prompt's last token and on answer tokens (arXiv 2410.09047), worked by hand."""
    low, high = Site.parse("resid_post.0"), Site.parse("resid_post.1")
    shifts = {low: torch.tensor([1.0, -2.0]), high: torch.tensor([4.0, 2.0])}
    h = torch.tensor([[[10.0, 10.0], [20.0, 20.0], [30.0, 30.0]]])
    roles = torch.tensor([[int(Role.IMAGE), int(Role.USER), int(Role.TEMPLATE)]], dtype=torch.int8)
    last, none = torch.tensor([[False, False, True]]), torch.zeros(1, 3, dtype=torch.bool)

    def moved(defense: CMRM, site: Site, step: int = 0) -> list[list[float]]:
        ((edit,),) = defense.edits_each(planted, [Request("t", PilImage(Image.new("RGB", (4, 4))), id="r")], GREEDY)
        own = roles if not step else torch.full_like(roles, int(Role.GENERATED))
        return (edit.function(h, At(site, step, torch.arange(3)[None], own, none if step else last)) - h)[0].tolist()

    half = CMRM(shifts, Origin(), alpha=0.5)
    still = [0.0, 0.0]
    assert moved(half, low) == [still, still, [0.5, -1.0]] and moved(half, high) == [still, still, [2.0, 1.0]]
    assert moved(half, low, step=2) == [[0.5, -1.0]] * 3, "every token of the answer"
    assert moved(replace(half, answer=False), low, step=2) == [still] * 3
    once = replace(half, increments=True)
    assert moved(once, low) == [still, still, [0.5, -1.0]] and moved(once, high) == [still, still, [1.5, 2.0]], "alpha (4 - 1, 2 + 2)"


def test_the_shift_of_a_sample_is_its_own_text_less_its_own_text_beside_a_blank_picture(planted: Any, trace: Traced) -> None:
    site = Site.parse("resid_post.2")
    request = next(r for r in planted_requests(1) if r.attack is Attack.SD)
    defense = replace(CMRM.from_trace(planted, trace, first=2, last=2), level="sample", alpha=2.0)
    ((edit,),) = defense.edits_each(planted, [request], GREEDY)
    assert request.image is not None
    blank = replace(request, image=PilImage(Image.new("RGB", request.image.load().size, "white")))
    text, beside = (prompt_states(planted, [r], [site], 1)[0, 0] for r in (replace(request, image=None), blank))
    h, one = torch.zeros(1, 1, planted.width), torch.ones(1, 1, dtype=torch.bool)
    change = edit.function(h, At(site, 0, torch.zeros(1, 1, dtype=torch.long), torch.full((1, 1), int(Role.TEMPLATE)), one))[0, 0]
    assert np.allclose(change.numpy(), 2.0 * (text - beside), atol=1e-4) and float(change.norm()) > 0.01

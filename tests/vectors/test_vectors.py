"""Directions, the alignment vector, refusal candidates and their files: theorems first, then estimates, then bad input."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from gguf import GGUFReader
from safetensors import safe_open
from safetensors.torch import save_file
from support.earlier_files import earlier_vector

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.tracing.origin import Origin
from safesteer_interp.tracing.trace import Trace
from safesteer_interp.vectors.alignment import (
    CORRECTED_RULE,
    PAPER_RULE,
    PROJECTION_RULE,
    RULES,
    AlignmentVector,
    ApplicationRule,
    alignment_vector,
    alignment_vectors,
    check_image_form,
)
from safesteer_interp.vectors.control_vector import export_control_vector, import_control_vector
from safesteer_interp.vectors.direction import (
    Direction,
    load_directions,
    mean_difference,
    median_norm,
    random_direction,
    save_directions,
)
from safesteer_interp.vectors.refusal import eligible, refusal_direction, refusal_directions
from safesteer_interp.vectors.resampling import DifferenceBootstrap, pairwise_cosine

D = 32


class FakeModel(MLLM):
    """What guards look at of an MLLM, without weights."""

    def __init__(self, name: str = "mini", fingerprint: str = "f" * 64, width: int = D, n_layers: int = 10) -> None:
        self.name, self.fingerprint, self.system_prompt, self._width, self._n = name, fingerprint, None, width, n_layers
        self.processor = SimpleNamespace(chat_template="")

    @property
    def width(self) -> int:
        return self._width

    @property
    def n_layers(self) -> int:
        return self._n


class FakeTrace(Trace):
    """A trace held in memory: 20 pairs, as text (CB) and picture (SD), harmful and harmless, train and test."""

    def __init__(self, gap: float = 2.0, harm: float = 3.0, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        rows = [(f"p{i}", a, h, "fit" if i < 15 else "test") for i in range(20) for a in ("CB", "SD") for h in (True, False)]
        frame = pd.DataFrame(rows, columns=["pair", "attack", "harmful", "split"])
        sites = ["embed", "resid_post.0", "resid_post.1", "final_norm"]
        super().__init__("k", {"model": "f" * 64, "sites": sites, "reads": ["last_prompt"]}, {"model": "mini", "template": "t"}, frame, [])
        topic = rng.normal(size=(20, D))[frame.pair.str[1:].astype(int)]
        self.states = 7 + topic + 0.3 * rng.normal(size=(80, D))
        self.states[:, 0] += gap * (frame.attack == "SD").to_numpy()
        self.states[:, 1] += harm * frame.harmful.to_numpy()
        self.index = frame

    def rows(self, site: object, read: object = "last_prompt") -> np.ndarray:
        return np.ones((80, D), np.float32) if str(site) == "embed" else self.states.astype(np.float32)

    def present(self, read: object) -> np.ndarray:
        return np.ones(80, bool)


def direction(seed: int = 0, site: str = "resid_post.3", d: int = D, residual_norm: float = 5.0) -> Direction:
    difference = np.random.default_rng(seed).normal(size=d)
    return Direction.from_difference(difference, "refusal", origin=Origin("mini", "f" * 64, site), residual_norm=residual_norm, n=40)


def pair_states(n: int = 40, gap: float = 4.0, noise: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    text = 3 + rng.normal(size=(n, D))
    image = text + noise * rng.normal(size=(n, D))
    image[:, 2] += gap
    return image, text, np.array([f"p{i}" for i in range(n)])


def fitted(**options: float) -> AlignmentVector:
    image, text, pairs = pair_states(**options)
    return alignment_vector(image, text, image_pairs=pairs, text_pairs=pairs, origin=Origin(model="mini", site="final_norm"))


def test_a_direction_is_unit_and_scales_in_residual_norms() -> None:
    found = direction()
    assert float(found.vector.norm()) == pytest.approx(1, abs=1e-6)
    assert float(found.scaled(1.0).norm()) == pytest.approx(5.0, rel=1e-5)
    torch.testing.assert_close(found.scaled(-2.0), -2 * found.scaled(1.0))
    assert found.cosine(found) == pytest.approx(1) and found.cosine(found.reversed()) == pytest.approx(-1)
    h = torch.randn(2, 3, D)
    torch.testing.assert_close(found.project(h + 4 * found.vector), found.project(h) + 4)


def test_a_random_direction_is_repeatable_unit_and_unrelated() -> None:
    like = direction(d=2000)
    assert abs(random_direction(like, 1).cosine(like)) < 0.1
    assert random_direction(like, 1).cosine(random_direction(like, 1)) == pytest.approx(1)
    assert abs(random_direction(like, 1).cosine(random_direction(like, 2))) < 0.1
    assert float(random_direction(like, 1).scaled(1).norm()) == pytest.approx(float(like.scaled(1).norm()), rel=1e-5)


def test_bad_directions_are_refused() -> None:
    with pytest.raises(InputError, match="is zero"):
        Direction.from_difference(np.zeros(D), "refusal")
    with pytest.raises(InputError, match="not finite"):
        Direction.from_difference(np.full(D, np.nan), "refusal")
    with pytest.raises(InputError, match="norm 2, not 1"):
        Direction(2 * direction().vector, "x", Origin(), 1.0, 1.0, 1)
    with pytest.raises(UsageError, match="width 32 but the states have width 8"):
        direction().project(torch.zeros(8))
    with pytest.raises(UsageError, match=r'"mini".*"other"'):
        direction().guard(FakeModel("other", "a" * 64))


def test_mean_difference_survives_a_mean_a_million_times_larger() -> None:
    rng = np.random.default_rng(0)
    states = (1e6 + rng.normal(size=(3000, 4))).astype(np.float32)
    states[:1500, 0] += 4
    first = np.arange(3000) < 1500
    exact = states[:1500].astype(np.float64).mean(0) - states[1500:].astype(np.float64).mean(0)
    np.testing.assert_allclose(mean_difference(states, first, ~first), exact, rtol=1e-9)
    assert median_norm(np.array([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0]])) == 5
    with pytest.raises(InputError, match="rows on both sides"):
        mean_difference(states, first, np.zeros(3000, bool))


def test_mu_is_antisymmetric_in_the_two_forms() -> None:
    image, text, pairs = pair_states()
    there = alignment_vector(image, text, image_pairs=pairs, text_pairs=pairs)
    back = alignment_vector(text, image, image_pairs=pairs, text_pairs=pairs)
    torch.testing.assert_close(there.mu, -back.mu, rtol=0, atol=0)
    assert there.norm.value == pytest.approx(back.norm.value) and there.consistency.value == pytest.approx(back.consistency.value)


def test_toward_text_with_unit_norm_takes_the_picture_mean_exactly_onto_the_text_mean() -> None:
    vector = fitted()
    torch.testing.assert_close(vector.apply(vector.mean_image[None], CORRECTED_RULE)[0], vector.mean_text, rtol=1e-5, atol=1e-5)


def test_the_printed_rule_is_the_formula_of_the_paper() -> None:
    vector, h = fitted(), torch.randn(5, D)
    alpha = (h - vector.mean_text).norm(dim=1, keepdim=True)
    torch.testing.assert_close(vector.apply(h, PAPER_RULE), h + alpha * vector.mu)
    assert str(PAPER_RULE) == "printed/raw" and len(set(map(str, RULES))) == 5


def test_signs_mirror_norms_differ_by_the_length_of_mu_and_scale_is_linear() -> None:
    vector, h = fitted(), torch.randn(2, 3, D)
    for norm in ("raw", "unit", "projection"):
        printed = vector.apply(h, ApplicationRule("printed", norm)) - h
        torch.testing.assert_close(vector.apply(h, ApplicationRule("toward_text", norm)) - h, -printed, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(vector.apply(h, ApplicationRule("printed", norm), scale=0.5) - h, printed / 2, rtol=1e-4, atol=1e-4)
    raw, unit = (vector.apply(h, ApplicationRule("printed", n)) - h for n in ("raw", "unit"))
    torch.testing.assert_close(raw, unit * vector.mu.norm(), rtol=1e-3, atol=1e-3)
    assert torch.equal(vector.apply(h, scale=0.0), h)
    before = h.clone()
    vector.apply(h, PAPER_RULE)
    assert torch.equal(h, before) and vector.apply(h.bfloat16()).dtype == torch.bfloat16


def test_projection_moves_a_state_only_along_mu_and_only_to_the_level_of_the_text_mean() -> None:
    vector, h = fitted(), 5 + torch.randn(6, D)
    unit = vector.direction().vector
    moved = vector.apply(h, PROJECTION_RULE)
    torch.testing.assert_close(moved @ unit, (vector.mean_text @ unit).expand(6), rtol=1e-4, atol=1e-4)
    across = torch.eye(D) - unit[:, None] * unit
    torch.testing.assert_close(moved @ across, h @ across, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(vector.apply(moved, PROJECTION_RULE), moved, rtol=1e-4, atol=1e-4)  # a second time nothing is left to do
    by_distance = (vector.apply(h, CORRECTED_RULE) - h).norm(dim=1)
    assert ((moved - h).norm(dim=1) <= by_distance + 1e-4).all()  # the distance counts what lies across mu as well
    assert ApplicationRule.parse("toward_text/projection") == PROJECTION_RULE and PROJECTION_RULE in RULES


def test_mu_recovers_the_planted_gap_and_its_interval_covers_the_length() -> None:
    vector = fitted(gap=4.0)
    planted = torch.zeros(D)
    planted[2] = 1
    assert float(vector.direction().vector @ planted) > 0.99
    assert vector.norm.low < vector.norm.value < vector.norm.high and abs(vector.norm.value - 4) < 0.5
    assert vector.paired and vector.consistency.low > 0.5
    nothing = fitted(gap=0.0)
    assert nothing.consistency.low < 0 < nothing.consistency.high


def test_pairing_uses_shared_pairs_only_and_tightens_the_interval() -> None:
    image, text, pairs = pair_states(noise=0.2)
    paired = alignment_vector(image, text, image_pairs=pairs, text_pairs=pairs)
    unpaired = alignment_vector(image, text)
    assert not unpaired.paired and unpaired.consistency is None
    assert unpaired.norm.high - unpaired.norm.low > 2 * (paired.norm.high - paired.norm.low)
    torch.testing.assert_close(paired.mu, unpaired.mu, rtol=1e-4, atol=1e-5)
    fewer = alignment_vector(image, text[:30], image_pairs=pairs, text_pairs=pairs[:30])
    assert fewer.n_image == fewer.n_text == 30
    np.testing.assert_allclose(fewer.mu.numpy(), (image[:30] - text[:30]).mean(0), atol=1e-5)
    shuffled = np.random.default_rng(1).permutation(40)
    again = alignment_vector(image, text[shuffled], image_pairs=pairs, text_pairs=pairs[shuffled])
    assert again.consistency.value == pytest.approx(paired.consistency.value)


def test_missing_forms_and_nan_states_are_named() -> None:
    image, text, _ = pair_states()
    with pytest.raises(InputError, match="picture"):
        alignment_vector(image[:0], text)
    with pytest.raises(InputError, match="text"):
        alignment_vector(image, text[:0])
    image[0, 0] = np.nan
    with pytest.raises(InputError, match="NaN"):
        alignment_vector(image, text)
    with pytest.raises(UsageError, match="width 32 but the states have width 8"):
        fitted().apply(torch.zeros(1, 8))
    with pytest.raises(InputError, match="is zero"):
        alignment_vector(text, text).apply(torch.zeros(1, D))
    with pytest.raises(UsageError, match='sign "towards"'):
        ApplicationRule.parse("towards/unit")
    assert ApplicationRule.parse("printed/unit") == ApplicationRule("printed", "unit")


def test_alignment_vectors_of_a_trace_use_harmful_training_pairs_at_every_site() -> None:
    trace = FakeTrace()
    found = alignment_vectors(trace)
    assert list(found) == ["embed", "resid_post.0", "resid_post.1", "final_norm"]
    last = found["final_norm"]
    assert (last.n_image, last.n_text, last.paired) == (15, 15, True) and last.direction().vector[0] > 0.95
    assert last.origin == Origin("mini", "f" * 64, "final_norm", "last_prompt", "t", "trace k")
    assert float(found["embed"].mu.norm()) == 0 and np.isnan(found["embed"].consistency.value)
    with pytest.raises(InputError, match=r'no "TYPO" request in the fit split.*CB: 15, SD: 15.*image_form'):
        alignment_vectors(trace, image="TYPO")
    check_image_form("TYPO")
    for form in ("CB", "TYPOS"):
        with pytest.raises(UsageError, match=f'"{form}" is no form with the harm in the image'):
            check_image_form(form)


def test_pairwise_cosine_is_the_mean_over_pairs_of_different_rows() -> None:
    rows = np.random.default_rng(0).normal(size=(7, 5))
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    by_hand = np.mean([units[i] @ units[j] for i in range(7) for j in range(7) if i != j])
    found = pairwise_cosine(rows)
    assert found.value == pytest.approx(by_hand) and found.low <= found.value <= found.high and found.high < 0.9
    assert pairwise_cosine(np.ones((5, 3))).value == pytest.approx(1)
    assert np.isnan(pairwise_cosine(np.ones((1, 3))).value)
    common = np.random.default_rng(3).normal(size=(30, 8)) + 2
    tested = pairwise_cosine(common, against=0.0)
    assert tested.p is not None and tested.p < 0.01 < pairwise_cosine(common, against=tested.value).p  # type: ignore[operator]


def test_difference_bootstrap_equals_the_direct_computation() -> None:
    rng = np.random.default_rng(2)
    states, first = rng.normal(size=(30, 6)), np.arange(30) < 12
    states[first, 0] += 3
    found = DifferenceBootstrap(states, first, np.arange(30))
    difference = states[first].mean(0) - states[~first].mean(0)
    norm, plain = found.norm(), np.linalg.norm(difference)
    assert norm.low < norm.value < norm.high and norm.value < plain, "noise lengthens a norm, which is taken off"
    assert norm.value == pytest.approx(np.sqrt(plain**2 - 6 * (1 / 12 + 1 / 18)), rel=0.05)  # what unit noise adds to the square
    axis = np.eye(6)[0]
    cosine, plain_cosine = found.cosine(axis), difference[0] / plain
    assert cosine.low < cosine.value < cosine.high <= 1 and cosine.value > plain_cosine, "and shortens a cosine"
    assert cosine.value == pytest.approx(plain_cosine * plain / norm.value, abs=0.03)
    assert np.isnan(found.cosine(np.zeros(6)).value)
    near, far = found.cosine(axis, against=0.9), found.cosine(axis, against=-0.5)
    assert near.p is not None and far.p is not None and near.p > 0.05 > far.p and far.against == -0.5
    assert (near.value, near.low) == (cosine.value, cosine.low), "a test changes nothing else"


def test_refusal_direction_is_the_planted_harm_axis_and_leaves_empty_sites_out() -> None:
    trace = FakeTrace()
    found = refusal_directions(trace)
    assert [x.origin.site for x in found] == ["resid_post.0", "resid_post.1", "final_norm"]
    assert found[0].vector[1] > 0.95 and found[0].n == 30 and abs(found[0].raw_norm - 3) < 0.5
    assert len(refusal_directions(trace, attacks=None, split=None, sites=["final_norm"])) == 1
    states = trace.rows("final_norm").copy()
    states[0] = np.nan
    assert refusal_direction(states, trace.index["harmful"].to_numpy()).n == 79
    with pytest.raises(InputError, match="attacks TYPO in the fit split"):
        refusal_directions(trace, attacks=["TYPO"])
    few = np.arange(80) < 40
    part = refusal_directions(trace, sites=["final_norm"], keep=few)[0]
    harmful = trace.index["harmful"].to_numpy()
    both = few & (trace.index["split"] == "fit").to_numpy() & (trace.index["attack"] == "CB").to_numpy()
    difference = mean_difference(trace.rows("final_norm"), both & harmful, both & ~harmful)
    assert part.n == both.sum() == 20 and part.raw_norm == pytest.approx(np.linalg.norm(difference))
    with pytest.raises(InputError, match="holds 0 and 0 that are to be kept"):
        refusal_directions(trace, keep=np.zeros(80, bool))


def test_candidates_lie_in_the_first_four_fifths_of_the_residual_stream() -> None:
    sites = ["embed", "resid_post.0", "resid_post.6", "resid_post.7", "mlp_out.2", "final_norm"]
    kept = eligible([direction(site=s) for s in sites], n_layers=10)
    assert [x.origin.site for x in kept] == ["embed", "resid_post.0", "resid_post.6"]
    with pytest.raises(UsageError, match="first 80% of 10 layers"):
        eligible([direction(site="final_norm")], n_layers=10)


def test_directions_survive_the_disk(tmp_path: Path) -> None:
    several = [direction(seed, f"resid_post.{seed}") for seed in range(3)]
    found = load_directions(save_directions(several, tmp_path / "sub" / "v.safetensors"))
    for one, two in zip(several, found, strict=True):
        assert torch.equal(one.vector, two.vector)
        assert (one.name, one.origin, one.residual_norm, one.raw_norm, one.n) == (
            two.name,
            two.origin,
            two.residual_norm,
            two.raw_norm,
            two.n,
        )
    with safe_open(str(tmp_path / "sub" / "v.safetensors"), framework="pt") as handle:
        assert handle.metadata()["format"] == "safesteer-directions/1"
    with pytest.raises(InputError, match="holds 3 directions"):
        Direction.load(tmp_path / "sub" / "v.safetensors")
    for path in (several[0].save(tmp_path / "one"), earlier_vector(several[0], tmp_path / "earlier.safetensors")):
        one = Direction.load(path)
        assert torch.equal(one.vector, several[0].vector) and one.record() == several[0].record()
    with pytest.raises(InputError, match="no directions to write"):
        save_directions([], tmp_path / "none")


def test_an_alignment_vector_survives_the_disk(tmp_path: Path) -> None:
    vector = fitted()
    for path in (vector.save(tmp_path / "msav.safetensors"), earlier_vector(vector, tmp_path / "earlier.safetensors")):
        found = AlignmentVector.load(path)
        assert torch.equal(found.mu, vector.mu) and torch.equal(found.mean_text, vector.mean_text)
        assert (found.norm, found.consistency, found.origin, found.paired) == (vector.norm, vector.consistency, vector.origin, True)
    with pytest.raises(InputError, match='expected "safesteer-alignment/1"'):
        AlignmentVector.load(direction().save(tmp_path / "d.safetensors"))
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(InputError, match="not written by this suite"):
        AlignmentVector.load(tmp_path / "foreign.safetensors")
    (tmp_path / "msav.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        AlignmentVector.load(tmp_path / "msav.safetensors")
    with pytest.raises(InputError, match="does not exist"):
        AlignmentVector.load(tmp_path / "none.safetensors")


def test_a_control_vector_round_trips_in_the_form_llama_cpp_reads(tmp_path: Path) -> None:
    several = [direction(seed, f"resid_post.{seed}") for seed in (4, 1, 7)]
    path = export_control_vector(several, tmp_path / "cv.gguf", model_hint="llama", mllm=FakeModel())
    reader = GGUFReader(path)
    assert reader.get_field("general.architecture").contents() == "controlvector"
    assert reader.get_field("controlvector.model_hint").contents() == "llama"
    assert reader.get_field("controlvector.layer_count").contents() == 3
    assert sorted(t.name for t in reader.tensors) == ["direction.1", "direction.4", "direction.7"]
    assert all(t.data.dtype == np.float32 and t.data.shape == (D,) for t in reader.tensors)
    found = import_control_vector(path)
    assert [x.origin.site for x in found] == ["resid_post.1", "resid_post.4", "resid_post.7"]
    for one, two in zip(sorted(several, key=lambda x: x.site), found, strict=True):
        torch.testing.assert_close(one.scaled(1.0), two.scaled(1.0))
        assert (one.name, one.origin, one.n) == (two.name, two.origin, two.n)
    assert [p.name for p in tmp_path.iterdir()] == ["cv.gguf"]


def test_a_control_vector_refuses_what_llama_cpp_cannot_hold(tmp_path: Path) -> None:
    path = tmp_path / "cv.gguf"
    with pytest.raises(UsageError, match="width 16 but width 32"):
        export_control_vector([direction(), direction(1, "resid_post.4", d=16)], path, model_hint="llama")
    with pytest.raises(UsageError, match="width 32 but width 64"):
        export_control_vector([direction()], path, model_hint="llama", mllm=FakeModel(width=64))
    for site in ("resid_post.0", "final_norm", "mlp_out.3"):
        with pytest.raises(UsageError, match=r"resid_post\.1 and deeper"):
            export_control_vector([direction(site=site)], path, model_hint="llama")
    with pytest.raises(UsageError, match=r'"x" does not know its site; make it with origin='):
        export_control_vector([Direction.from_difference(np.ones(D), "x")], path, model_hint="llama")
    with pytest.raises(UsageError, match=r"two directions were given for resid_post\.3"):
        export_control_vector([direction(), direction(1)], path, model_hint="llama")
    with pytest.raises(UsageError, match="deeper than the 10 layers"):
        export_control_vector([direction(site="resid_post.10")], path, model_hint="llama", mllm=FakeModel())
    with pytest.raises(UsageError, match='"other"'):
        export_control_vector([direction()], path, model_hint="llama", mllm=FakeModel("other", "a" * 64))
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="does not exist"):
        import_control_vector(path)
    path.write_bytes(b"GGUF but not really, only long enough to be opened" * 4)
    with pytest.raises(InputError, match="cannot be read as GGUF"):
        import_control_vector(path)


def test_what_knows_no_origin_says_so_and_reprs_are_short() -> None:
    image, text, _ = pair_states()
    with pytest.warns(UserWarning, match=r"alignment vector knows neither its model nor its site.*Origin\.of_trace"):
        vector = alignment_vector(image, text)
    with pytest.warns(UserWarning, match="refusal direction knows neither"):
        found = refusal_direction(image, np.arange(len(image)) % 2 == 0)
    assert repr(found).startswith('Direction("refusal" at no site, no read, no model; d = 32, residual norm ') and "n = 40" in repr(found)
    assert repr(vector).startswith("AlignmentVector(at no site, no read, no model; d = 32, |mu| = ")
    assert "40 pictures, 40 texts" in repr(vector) and "paired" in repr(fitted()) and "final_norm" in repr(fitted())
    assert max(len(repr(x)) for x in (vector, found, fitted(), direction())) < 140

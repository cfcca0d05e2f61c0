"""DecodingProbe: scikit-learn's own checks, the paper's formula, solvers, guards, persistence, sign test and the three fits."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from unittest import SkipTest

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator
from support.earlier_files import earlier_probe

from safesteer_interp.errors import InputError, SafeSteerError, UsageError
from safesteer_interp.files import write_tensors
from safesteer_interp.models.fingerprint import template_fingerprint
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.probes.centring import StepCentring
from safesteer_interp.probes.decoding_probe import DecodingProbe
from safesteer_interp.probes.fits import fit_centred, fit_prompt, fit_token, run_sign_test
from safesteer_interp.probes.sign_test import sign_test
from safesteer_interp.probes.tokens import TokenStates
from safesteer_interp.tracing.origin import Origin


def planted(n: int = 120, d: int = 24, gap: float = 4.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """States whose harm direction is axis 0, on top of a large shared mean as residual streams have."""
    rng = np.random.default_rng(seed)
    harmful = np.arange(n) % 2 == 1
    states = 10 + rng.normal(size=(n, d))
    states[:, 0] += gap * harmful
    return states.astype(np.float32), harmful


def failed_checks(estimator: BaseEstimator) -> list[str]:
    """Every check of scikit-learn that fails, by name; those it skips by itself (optional array libraries) do not count."""
    failed = []
    for candidate, check in estimator_checks_generator(estimator):
        try:
            check(candidate)
        except SkipTest:
            continue
        except (AssertionError, TypeError, ValueError, AttributeError, SafeSteerError) as cause:
            failed.append(f"{check}: {cause}")
    return failed


@pytest.mark.parametrize("solver", ["lbfgs", "rds"])
def test_passes_every_check_of_scikit_learn(solver: str) -> None:
    assert failed_checks(DecodingProbe(solver=solver, learning_rate=5e-2, max_epochs=100)) == []


def test_step_centring_passes_every_check_of_scikit_learn() -> None:
    assert failed_checks(StepCentring()) == []


def test_equals_pca_then_logistic_regression_of_scikit_learn() -> None:
    states, harmful = planted()
    probe = DecodingProbe().fit(states, harmful)
    pipeline = make_pipeline(PCA(4, svd_solver="full"), LogisticRegression(tol=1e-7, max_iter=10_000)).fit(states.astype(float), harmful)
    np.testing.assert_allclose(probe.decision_function(states), pipeline.decision_function(states.astype(float)), atol=1e-4)


def test_score_is_the_formula_of_the_paper_and_harmful_is_positive() -> None:
    states, harmful = planted()
    probe = DecodingProbe().fit(states, harmful)
    by_hand = probe.coef_[0] @ (probe.components_ @ (states[3] - probe.mean_)) + probe.intercept_[0]
    assert probe.decision_function(states[3:4])[0] == pytest.approx(by_hand, rel=1e-9)
    assert probe.classes_[1] and probe.decision_function(states)[harmful].mean() > 0 > probe.decision_function(states)[~harmful].mean()
    assert np.linalg.norm(probe.direction_) == pytest.approx(1)
    assert probe.direction_[0] > 0.9


@pytest.mark.parametrize("solver", ["lbfgs", "rds"])
@pytest.mark.parametrize("width", [1, 4, None, "all"])
def test_recovers_the_planted_direction_at_any_width(solver: str, width: int | str | None) -> None:
    states, harmful = planted(gap=8.0)
    test_states, test_harmful = planted(gap=8.0, seed=1)
    probe = DecodingProbe(width, solver=solver).fit(states, harmful)
    assert probe.score(test_states, test_harmful) > 0.95
    assert (probe.components_ is None) == (width in (None, "all"))


def test_rds_loss_falls_and_stops_before_the_limit() -> None:
    states, harmful = planted()
    curve = DecodingProbe(solver="rds").fit(states, harmful).loss_curve_
    assert 3 < len(curve) < 10_000 and curve[-1] < curve[0]
    assert np.all(curve[-3:] > curve[:-3].min() - 1e-4)
    again = DecodingProbe(solver="rds").fit(states, harmful).loss_curve_
    np.testing.assert_array_equal(curve, again)
    assert len(DecodingProbe(solver="rds", max_epochs=7).fit(states, harmful).loss_curve_) == 7


def test_score_tensor_equals_decision_function_for_any_shape() -> None:
    states, harmful = planted()
    probe = DecodingProbe().fit(states, harmful)
    h = torch.from_numpy(states[:24]).reshape(2, 3, 4, -1)
    np.testing.assert_allclose(probe.score_tensor(h).reshape(-1).numpy(), probe.decision_function(states[:24]), rtol=1e-4, atol=1e-4)
    assert probe.score_tensor(h.bfloat16()).dtype == torch.float32
    with pytest.raises(UsageError, match="width 24 but got width 8"):
        probe.score_tensor(torch.zeros(2, 8))


@pytest.mark.parametrize("width", [0, -1, 2.5, True, "most"])
def test_a_width_that_means_nothing_is_refused(width: object) -> None:
    states, harmful = planted()
    with pytest.raises(UsageError, match="whole number of components"):
        DecodingProbe(width).fit(states, harmful)


def test_unknown_solver_is_refused() -> None:
    with pytest.raises(UsageError, match=r'solver "sgd"'):
        DecodingProbe(solver="sgd").fit(*planted())


class FakeModel(MLLM):
    """What the guard looks at of an MLLM, without weights."""

    def __init__(self, name: str = "mini", fingerprint: str = "f" * 64, width: int = 24, system_prompt: str | None = None) -> None:
        self.name, self.fingerprint, self.system_prompt, self._width = name, fingerprint, system_prompt, width
        self.processor = SimpleNamespace(chat_template="{{ messages }}")

    @property
    def width(self) -> int:
        return self._width


def test_guard_names_both_models_sites_and_templates() -> None:
    model = FakeModel()
    probe = fit_prompt(*planted(), origin=Origin.of(model, "final_norm", "last_prompt"))
    probe.guard(model, "final_norm", "last_prompt")
    with pytest.raises(UsageError, match=r'"mini".*"other"'):
        probe.guard(FakeModel(name="other", fingerprint="a" * 64))
    with pytest.raises(UsageError, match=r'"final_norm".*"resid_post.3"'):
        probe.guard(model, "resid_post.3")
    with pytest.raises(UsageError, match=r"last_prompt.*step:2"):
        probe.guard(model, read="step:2")
    changed = FakeModel(system_prompt="Be careful.")
    own, other = template_fingerprint(model.processor, None), template_fingerprint(changed.processor, "Be careful.")
    with pytest.raises(UsageError, match=f"{own}.*{other}"):
        probe.guard(changed)
    with pytest.raises(UsageError, match=r"width 24.*width 32"):
        probe.guard(FakeModel(width=32))


def token_states(n: int = 60, d: int = 24, sign: float = 1.0, shift: float | np.ndarray = 0.0, seed: int = 3) -> TokenStates:
    rng = np.random.default_rng(seed)
    refusal = np.arange(n) % 2 == 0
    states = 10 + rng.normal(size=(n, d)) + shift
    states[:, 0] += sign * 4 * refusal
    return TokenStates(states, refusal, 1 + np.arange(n) // (n // 2), np.array([f"p{i // 2}" for i in range(n)]))


def test_save_and_load_give_the_same_probe(tmp_path: Path) -> None:
    tokens = token_states(shift=5.0)
    probe = fit_centred(*planted(), tokens, held_out=token_states(seed=4, shift=5.0), origin=Origin(model="mini", site="final_norm"))
    written = probe.save(tmp_path / "resid_post.12")
    assert [p.name for p in tmp_path.iterdir()] == ["resid_post.12.safetensors"]
    for loaded in (DecodingProbe.load(written), DecodingProbe.load(earlier_probe(probe, tmp_path / "earlier"))):
        states, _ = planted(seed=7)
        np.testing.assert_allclose(loaded.decision_function(states), probe.decision_function(states), rtol=1e-12)
        twos = np.full(len(states), 2)
        np.testing.assert_allclose(loaded.decision_at(states, twos), probe.decision_at(states, twos), rtol=1e-12)
        np.testing.assert_allclose(loaded.direction_, probe.direction_, rtol=1e-12)
        assert loaded.sign_test_ == probe.sign_test_ and loaded.origin_ == probe.origin_ and loaded.fit_ == "centred"
        assert loaded.get_params() == probe.get_params()
        np.testing.assert_array_equal(loaded.predict(states), probe.predict(states))


def test_missing_foreign_and_changed_probe_files_are_named(tmp_path: Path) -> None:
    probe = DecodingProbe().fit(*planted())
    with pytest.raises(InputError, match=r"p\.safetensors does not exist"):
        DecodingProbe.load(tmp_path / "p.json")
    write_tensors(tmp_path / "p", {}, {}, kind="else/1")
    with pytest.raises(InputError, match='expected "safesteer-probe/1"'):
        DecodingProbe.load(tmp_path / "p")
    earlier = earlier_probe(probe, tmp_path / "p")
    earlier.write_text(earlier.read_text().replace('"sha256": "', '"sha256": "0'))
    with pytest.raises(InputError, match=r"does not match the hash in p\.json"):
        DecodingProbe.load(earlier)


def test_sign_test_passes_fails_and_stays_undecided() -> None:
    rng = np.random.default_rng(0)
    high, low = rng.normal(2, 1, 40), rng.normal(0, 1, 40)
    passed = sign_test(high, low)
    assert passed.passed and 1 < passed.effect < 3 and passed.p < 0.01 and passed.difference.low > 0
    assert passed.difference.value == pytest.approx(high.mean() - low.mean())
    failed = sign_test(low, high)
    assert not failed.passed and failed.difference.high < 0 and failed.p > 0.9 and failed.effect == pytest.approx(-passed.effect)
    chance = sign_test(rng.normal(0, 1, 20), rng.normal(0, 1, 20))
    assert not chance.passed and chance.p > 0.02
    with pytest.raises(InputError, match="at least 2 refusal"):
        sign_test(np.array([1.0]), low)
    with pytest.raises(InputError, match="not finite"):
        sign_test(np.array([1.0, np.nan, 2]), low)
    with pytest.raises(InputError, match="for both"):
        sign_test(high, low, refusal_prompts=np.arange(40))


def test_sign_test_interval_widens_when_tokens_share_prompts() -> None:
    rng = np.random.default_rng(1)
    offsets = np.repeat(rng.normal(0, 3, 10), 4)
    refusal, compliance = offsets + rng.normal(1, 0.1, 40), np.repeat(rng.normal(0, 3, 10), 4)
    prompts = np.repeat(np.arange(10), 4).astype(str)
    own = sign_test(refusal, compliance).difference
    shared = sign_test(refusal, compliance, refusal_prompts=prompts, compliance_prompts=np.char.add("c", prompts)).difference
    assert shared.clusters == 20 and shared.high - shared.low > 1.3 * (own.high - own.low)


def test_a_probe_that_fails_or_skips_the_sign_test_may_not_guide() -> None:
    states, harmful = planted()
    untested = fit_prompt(states, harmful)
    with pytest.raises(UsageError, match="has not been run"):
        untested.require_sign()
    failing = fit_prompt(states, harmful, held_out=token_states(sign=-1))
    with pytest.raises(UsageError, match="failed its sign test"):
        failing.require_sign()
    failing.require_sign(force=True)
    fit_prompt(states, harmful, held_out=token_states()).require_sign()


def test_centring_removes_a_shift_of_the_token_states_that_the_prompt_fit_suffers_from() -> None:
    states, harmful = planted()
    shift = np.zeros(24)
    shift[0] = -30  # every generated token falls far on the harmless side
    tokens, held_out = token_states(shift=shift), token_states(shift=shift, seed=9)
    prompt, centred = fit_prompt(states, harmful), fit_centred(states, harmful, tokens)
    assert (prompt.decision_at(held_out.states, held_out.steps) > 0).mean() == 0
    scores = centred.decision_at(held_out.states, held_out.steps)
    assert ((scores > 0) == held_out.refusal).mean() > 0.9
    np.testing.assert_allclose(centred.decision_function(states), prompt.decision_function(states))
    at_one = held_out.at(1)
    np.testing.assert_allclose(
        centred.score_tensor(torch.from_numpy(at_one.states), step=1).numpy(), centred.decision_at(at_one.states, at_one.steps), atol=1e-3
    )


def test_token_fit_prefers_refusals_whatever_the_prompt_fit_does() -> None:
    tokens = token_states(sign=-1)
    probe = fit_token(tokens, held_out=token_states(sign=-1, seed=5))
    assert probe.fit_ == "token" and probe.sign_test_.passed
    assert not run_sign_test(fit_prompt(*planted()), tokens).passed


def test_step_centring_takes_the_nearest_earlier_step() -> None:
    states = np.array([[0.0], [2.0], [10.0], [20.0]])
    centring = StepCentring().fit(states, steps=np.array([1, 1, 3, 6]))
    assert [centring.mean_at(step)[0] for step in (0, 1, 2, 3, 5, 6, 40)] == [1, 1, 1, 10, 10, 20, 20]
    np.testing.assert_allclose(centring.transform(states, steps=np.array([1, 2, 4, 9]))[:, 0], [-1, 1, 0, 0])
    with pytest.raises(InputError, match="one decoding step per state"):
        centring.transform(states, steps=np.array([1]))


def test_fits_refuse_one_class_nan_states_and_missing_tokens() -> None:
    states, harmful = planted()
    with pytest.raises(InputError, match="harmful and harmless"):
        fit_prompt(states, np.ones(len(states), bool))
    broken = states.copy()
    broken[2, 3] = np.nan
    with pytest.raises(InputError, match="1 of 120 states"):
        fit_prompt(broken, harmful)
    tokens = token_states()
    nothing = TokenStates(tokens.states[:0], tokens.refusal[:0], tokens.steps[:0], tokens.prompts[:0])
    with pytest.raises(InputError, match="trace step:1"):
        fit_centred(states, harmful, nothing)
    with pytest.raises(InputError, match="`prompts` has 3"):
        TokenStates(tokens.states, tokens.refusal, tokens.steps, tokens.prompts[:3])
    assert len(TokenStates(broken, harmful, np.ones(120, int), np.arange(120)).states) == 119

"""DecodingProbe: scikit-learn's own checks, the paper's formula, solvers, guards and files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from support.earlier_files import earlier_probe
from support.probes import failed_checks, planted_choices, planted_states, planted_tokens

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.files import write_tensors
from safesteer_interp.models.fingerprint import template_fingerprint
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.probes.decoding_probe import DecodingProbe
from safesteer_interp.probes.fits import fit_centred, fit_prompt, run_sign_test
from safesteer_interp.tracing.origin import Origin


@pytest.mark.parametrize("solver", ["lbfgs", "rds"])
def test_passes_every_check_of_scikit_learn(solver: str) -> None:
    assert failed_checks(DecodingProbe(solver=solver, learning_rate=5e-2, max_epochs=100)) == []


def test_equals_pca_then_logistic_regression_of_scikit_learn() -> None:
    states, harmful = planted_states()
    probe = DecodingProbe().fit(states, harmful)
    pipeline = make_pipeline(PCA(4, svd_solver="full"), LogisticRegression(tol=1e-7, max_iter=10_000)).fit(states.astype(float), harmful)
    np.testing.assert_allclose(probe.decision_function(states), pipeline.decision_function(states.astype(float)), atol=1e-4)


def test_score_is_the_formula_of_the_paper_and_harmful_is_positive() -> None:
    states, harmful = planted_states()
    probe = DecodingProbe().fit(states, harmful)
    by_hand = probe.coef_[0] @ (probe.components_ @ (states[3] - probe.mean_)) + probe.intercept_[0]
    assert probe.decision_function(states[3:4])[0] == pytest.approx(by_hand, rel=1e-9)
    assert probe.classes_[1] and probe.decision_function(states)[harmful].mean() > 0 > probe.decision_function(states)[~harmful].mean()
    assert np.linalg.norm(probe.direction_) == pytest.approx(1)
    assert probe.direction_[0] > 0.9


@pytest.mark.parametrize("solver", ["lbfgs", "rds"])
@pytest.mark.parametrize("width", [1, 4, None, "all"])
def test_recovers_the_planted_direction_at_any_width(solver: str, width: int | str | None) -> None:
    states, harmful = planted_states(gap=8.0)
    test_states, test_harmful = planted_states(gap=8.0, seed=1)
    probe = DecodingProbe(width, solver=solver).fit(states, harmful)
    assert probe.score(test_states, test_harmful) > 0.95
    assert (probe.components_ is None) == (width in (None, "all"))


def test_rds_loss_falls_and_stops_before_the_limit() -> None:
    states, harmful = planted_states()
    curve = DecodingProbe(solver="rds").fit(states, harmful).loss_curve_
    assert 3 < len(curve) < 10_000 and curve[-1] < curve[0]
    assert np.all(curve[-3:] > curve[:-3].min() - 1e-4)
    again = DecodingProbe(solver="rds").fit(states, harmful).loss_curve_
    np.testing.assert_array_equal(curve, again)
    assert len(DecodingProbe(solver="rds", max_epochs=7).fit(states, harmful).loss_curve_) == 7


def test_score_tensor_equals_decision_function_for_any_shape() -> None:
    states, harmful = planted_states()
    probe = DecodingProbe().fit(states, harmful)
    h = torch.from_numpy(states[:24]).reshape(2, 3, 4, -1)
    np.testing.assert_allclose(probe.score_tensor(h).reshape(-1).numpy(), probe.decision_function(states[:24]), rtol=1e-4, atol=1e-4)
    assert probe.score_tensor(h.bfloat16()).dtype == torch.float32
    with pytest.raises(UsageError, match="width 24 but got width 8"):
        probe.score_tensor(torch.zeros(2, 8))


@pytest.mark.parametrize("width", [0, -1, 2.5, True, "most"])
def test_a_width_that_means_nothing_is_refused(width: object) -> None:
    states, harmful = planted_states()
    with pytest.raises(UsageError, match="whole number of components"):
        DecodingProbe(width).fit(states, harmful)


def test_unknown_solver_is_refused() -> None:
    with pytest.raises(UsageError, match=r'solver "sgd"'):
        DecodingProbe(solver="sgd").fit(*planted_states())


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
    probe = fit_prompt(*planted_states(), origin=Origin.of(model, "final_norm", "last_prompt"))
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


def test_save_and_load_give_the_same_probe(tmp_path: Path) -> None:
    tokens = planted_tokens(shift=5.0)
    probe = fit_centred(*planted_states(), tokens, origin=Origin(model="mini", site="final_norm"))
    probe.sign_test_, probe.spread_ = run_sign_test(fit_prompt(*planted_states()), planted_choices()), 2.5
    written = probe.save(tmp_path / "resid_post.12")
    assert [p.name for p in tmp_path.iterdir()] == ["resid_post.12.safetensors"]
    for loaded in (DecodingProbe.load(written), DecodingProbe.load(earlier_probe(probe, tmp_path / "earlier"))):
        states, _ = planted_states(seed=7)
        np.testing.assert_allclose(loaded.decision_function(states), probe.decision_function(states), rtol=1e-12)
        twos = np.full(len(states), 2)
        np.testing.assert_allclose(loaded.decision_at(states, twos), probe.decision_at(states, twos), rtol=1e-12)
        np.testing.assert_allclose(loaded.direction_, probe.direction_, rtol=1e-12)
        assert loaded.sign_test_ == probe.sign_test_ is not None and loaded.spread_ == 2.5
        assert loaded.origin_ == probe.origin_ and loaded.fit_ == "centred"
        assert loaded.get_params() == probe.get_params()
        np.testing.assert_array_equal(loaded.predict(states), probe.predict(states))


def test_missing_foreign_and_changed_probe_files_are_named(tmp_path: Path) -> None:
    probe = DecodingProbe().fit(*planted_states())
    with pytest.raises(InputError, match=r"p\.safetensors does not exist"):
        DecodingProbe.load(tmp_path / "p.json")
    write_tensors(tmp_path / "p", {}, {}, kind="else/1")
    with pytest.raises(InputError, match='expected "safesteer-probe/1"'):
        DecodingProbe.load(tmp_path / "p")
    earlier = earlier_probe(probe, tmp_path / "p")
    earlier.write_text(earlier.read_text().replace('"sha256": "', '"sha256": "0'))
    with pytest.raises(InputError, match=r"does not match the hash in p\.json"):
        DecodingProbe.load(earlier)

"""Known answers of the analyses of vectors and steering: on the planted model the verdicts equal the truth and follow a flip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.figures import panels_that_ignore, perturbed

from safesteer_interp import runner
from safesteer_interp.errors import NotApplicableError, UsageError
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.measure import measure
from safesteer_interp.runner.session import RunSettings, Session

pytestmark = pytest.mark.slow  # a minute of planted models and their answers
FOLDER = Path(__file__).parents[2] / "analyses"
SMALLER: dict[str, dict[str, Any]] = {
    "alignment_controls": {"new_tokens": 8},
    "alignment_vector": {"matchings": 39},
    "refusal_direction": {"layers": None, "positions": 3, "attacks": ("TEXT", "SD", "TYPO")},
    "steering_dose_response": {"doses": (-1.0, 0.25, 1.0), "msav_doses": (-1.0, 0.5, 1.0), "new_tokens": 8},
}
"""Short answers: a planted refusal has seven words."""
FLIPPED: dict[str, dict[str, Any]] = {"refusal_direction": {"filtered": False}}
"""Of the flipped models: one that answers what is harmful keeps nothing that the filter asks for."""

MARGIN = 0.5
"""Nats: what analyses/refusal_direction.py calls an effect."""

Measured = Callable[..., tuple[dict[str, pd.DataFrame], dict[str, str]]]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """Tables and verdicts of an analysis on a variant of the planted model; each is measured once."""
    benches: dict[Any, Session] = {}
    found: dict[Any, Any] = {}

    def run(name: str, **changes: float) -> Any:
        from safesteer_interp.models.planted import build_planted

        key = tuple(sorted(changes.items()))
        if key not in benches:
            settings = RunSettings(model="planted", store=tmp_path_factory.mktemp("traces"), progress=False)
            benches[key] = Session(settings, loaded_model=build_planted(**changes))
        if (name, key) not in found:
            analysis = runner.discover(FOLDER)[name]
            parameters = analysis.parameters("quick", SMALLER[name] | (FLIPPED.get(name, {}) if changes else {}))
            context = Context(benches[key], analysis, parameters, tmp_path_factory.mktemp("work"))
            tables, record = measure(context)
            found[name, key] = tables, {c["id"]: c["verdict"] for c in record["claims"]}
        return found[name, key]

    return run


# In 64 dimensions one in twenty-four random vectors of MSAV's length lies along refusal as well as MSAV does, and says so: undecided.
CASES = [
    (
        "alignment_controls",
        {},
        {
            "lowers_not_refused": "supported",
            "acts_on_harm": "supported",
            "harmless_shift_suffices": "supported",  # the planted gap is one of modality
            "harmless_shift_acts": "undecided",
            "projection_lowers_not_refused": "supported",
        },
    ),
    (
        "alignment_controls",
        {"gap": -1.0},
        # Moved the other way nothing is refused, as nothing was before: below that no answer can go.
        {"harmless_shift_suffices": "contradicted", "harmless_shift_acts": "contradicted", "lowers_not_refused": "undecided"},
    ),
    (
        "alignment_vector",
        {},
        {
            "consistent_over_pairs": "supported",
            "same_for_harmless": "supported",
            "toward_text_raises_refusal_sd": "undecided",
            "toward_text_raises_refusal_typo": "undecided",
            "printed_raises_refusal_sd": "contradicted",
            "enters_top_5_sd": "undecided",
            "acts_on_harm": "undecided",
            "spares_harmless": "supported",
            "spares_harmless_ungated": "supported",
        },
    ),
    (
        "alignment_vector",
        {"gap": -1.0},
        {"consistent_over_pairs": "supported", "toward_text_raises_refusal_sd": "contradicted"},
    ),
    (
        "refusal_direction",
        {},
        {
            "choice_is_resolved": "supported",
            "bypasses_refusal_text": "supported",
            "induces_refusal_text": "supported",
            "induces_refusal_sd": "supported",
            "bypasses_less_than_text_sd": "supported",  # the gap hid harm: there was less to lose
        },
    ),
    (
        "refusal_direction",
        {"harm": -1.0},
        {"bypasses_refusal_text": "contradicted", "induces_refusal_text": "contradicted", "induces_refusal_sd": "contradicted"},
    ),
    (
        "steering_dose_response",
        {},
        {
            "restores_refusal_msav": "supported",
            "restores_refusal_refusal": "supported",
            "acts_on_harm_msav": "supported",
            "acts_on_harm_refusal": "supported",
            "spares_harmless_msav": "supported",
            "spares_harmless_refusal": "supported",
            "grows_with_dose_refusal": "supported",
        },
    ),
    ("steering_dose_response", {"gap": -1.0}, {"restores_refusal_msav": "undecided", "grows_with_dose_msav": "undecided"}),
]


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        pytest.param(*case, id=f"{case[0]}-{'flipped' if case[1] else 'planted'}", marks=[pytest.mark.slow] if case[1] else [])
        for case in CASES
    ],
)
def test_verdict_equals_the_planted_truth(measured: Measured, name: str, changes: dict[str, float], expected: dict[str, str]) -> None:
    _, verdicts = measured(name, **changes)
    assert {claim: verdicts[claim] for claim in expected} == expected


def test_the_vector_recovers_the_planted_gap_despite_noise() -> None:
    from safesteer_interp.models.planted import build_planted, planted_requests, planted_truth
    from safesteer_interp.requests import Attack
    from safesteer_interp.tracing.collecting import collect
    from safesteer_interp.vectors.alignment import alignment_vectors

    requests = planted_requests(attacks=(Attack.CB, Attack.SD))
    for gap, noise in ((1.0, 1.0), (1.0, 2.0), (-1.0, 1.0)):
        model = build_planted(gap=gap, noise=noise)
        vector = alignment_vectors(collect(model, requests, sites="final_norm", store=None, progress=False))["final_norm"]
        assert vector.direction().vector @ planted_truth(model).gap_direction >= 0.95
        assert vector.consistency is not None and vector.consistency.low > 0.5
    nothing = alignment_vectors(collect(build_planted(gap=0.0), requests, sites="final_norm", store=None, progress=False))["final_norm"]
    assert nothing.consistency is not None and nothing.consistency.high < 0.2


def test_layers_show_where_the_gap_is_planted(measured: Measured) -> None:
    t = measured("alignment_vector")[0]["layers"]
    harmful = t[t["of"] == "harmful"].set_index(["quantity", "layer"])
    chance = t[t["of"] == "random_pairs"].set_index(["quantity", "layer"])
    for layer in ("0", "1", "2"):  # nothing of the picture has reached the last prompt token there
        assert harmful.loc[("size", layer), "value"] < 0.05
        assert harmful.loc[("consistency", layer), "low"] < chance.loc[("consistency", layer), "high"]
    for layer in ("3", "4", "5", "final_norm"):
        assert harmful.loc[("size", layer), "low"] > 0.3
        assert harmful.loc[("consistency", layer), "low"] > 0.8
        assert harmful.loc[("cosine", layer), "high"] < -0.2  # a third of the gap points against harm


def test_only_the_rule_towards_text_brings_refusals_back(measured: Measured) -> None:
    t = measured("alignment_vector")[0]["rules"]
    every = t[(t["gate"] == "every request") & (t["quantity"] == "top_1") & (t["attack"] == "SD")].set_index(["rule", "class"])
    assert every.loc[("none", "harmful"), "value"] < 0.2
    assert every.loc[("printed/raw", "harmful"), "value"] == every.loc[("printed/unit", "harmful"), "value"] == 0
    assert every.loc[("toward_text/unit", "harmful"), "low"] > 0.5
    assert every.loc[("random/unit", "harmful"), "value"] < 0.5 < every.loc[("toward_text/unit", "harmful"), "value"]
    assert every.loc[("toward_text/unit", "harmless"), "value"] < 0.5
    # Times |mu| too long: everything is refused, also what is harmless.
    assert every.loc[("toward_text/raw", "harmless"), "low"] > 0.5


def test_the_parts_of_the_vector_are_told_apart(measured: Measured) -> None:
    tables, _ = measured("alignment_controls")
    values = tables["table"].set_index(["arm", "class", "quantity"])["value"]
    for kind in ("harmful", "harmless"):  # the planted shift is the same for both classes: nothing remains
        assert abs(values["remainder", kind, "mass"] - values["none", kind, "mass"]) < 0.1
    assert values["harmless_shift", "harmful", "mass"] > 0.5 > values["harmless_shift", "harmless", "mass"]
    assert values["projection", "harmful", "not_refused"] < 0.5 < values["projection", "harmless", "not_refused"]
    bias = tables["bias"].iloc[0]
    assert bias["value"] > 1 and bias["plain"] < bias["matched"] and abs(values["refusal_bias", "harmful", "mass"] - bias["matched"]) < 0.2
    odds = tables["contrasts"][tables["contrasts"]["quantity"] == "log_odds"].set_index(["arm", "to", "class"])["value"]
    for kind in ("harmful", "harmless"):
        assert odds["refusal_bias", "none", kind] == pytest.approx(bias["value"], rel=1e-6)
    assert odds["refusal_bias", "none", "harmful minus harmless"] == pytest.approx(0, abs=1e-6)
    mass = tables["contrasts"][tables["contrasts"]["quantity"] == "mass"].set_index(["arm", "to", "class"])["value"]
    assert mass["msav", "none", "harmful minus harmless"] > 0.3


def test_doses_act_in_order_and_the_planted_layer_is_chosen(measured: Measured) -> None:
    tables, _ = measured("steering_dose_response")
    chosen = tables["selection"][tables["selection"]["chosen"]]
    assert set(chosen["layer"]) == {3} and set(chosen["of"]) == {"harmful", "harmless", "harmful minus harmless"}
    gains = tables["selection"].set_index(["of", "layer"])["value"]
    assert gains["harmful minus harmless"].idxmax() == 3
    assert gains["harmful minus harmless", 3] == pytest.approx(gains["harmful", 3] - gains["harmless", 3], rel=1e-4)
    for steering in ("msav", "refusal"):
        first = tables["first_token"][tables["first_token"]["steering"] == steering]
        harmful = first[first["of"] == "harmful"].set_index("dose")["value"]
        assert harmful.loc[0:].is_monotonic_increasing and harmful.loc[:-0.5].max() < 0.02 < harmful[0] < 0.2 and harmful[2] > 0.9
        drawn = first[first["of"] == "random_direction"].iloc[0]
        assert drawn["dose"] == 1.0 and drawn["low"] < drawn["value"] < harmful[1.0] and drawn["kind"] == "spread"
    answers = tables["table"].assign(dose=tables["table"]["dose"].astype(str)).set_index(["steering", "of", "dose", "quantity"])["value"]
    for steering in ("msav", "refusal"):
        refused = [answers[steering, "harmful", dose, "refused"] for dose in ("-1", "0", "1")]
        assert refused[0] <= refused[1] < refused[2]
        assert (steering, "harmless", "1", "log_perplexity") in answers and (steering, "harmful", "1", "log_perplexity") not in answers


def test_the_refusal_direction_is_chosen_at_the_planted_layer_by_what_editing_with_it_does(measured: Measured) -> None:
    tables, _ = measured("refusal_direction")
    assert set(tables["selection"]["quantity"]) == {"bypass", "induce", "kl"} and len(set(tables["selection"]["read"])) > 1
    chosen = tables["selection"][tables["selection"]["chosen"]].set_index("quantity")
    assert set(chosen["layer"]) == {3} and chosen["share"].min() > 0.95
    bypass, induce = (chosen.loc[quantity] for quantity in ("bypass", "induce"))
    assert bypass["value"] < bypass["plain"] - MARGIN and induce["value"] > induce["plain"] + MARGIN
    shares = tables["selection"][tables["selection"]["quantity"] == "kl"]
    assert shares["share"].sum() == pytest.approx(1, abs=0.05)
    for row in shares.itertuples():
        assert row.limit == ("below" if row.high < 0.1 else "above" if row.low > 0.1 else "across")
    choice = tables["choice"].iloc[0]
    assert choice["dropped_training"] > 0 and choice["kept"] >= 1 and choice["of"] == len(shares)
    effects = tables["effects"][tables["effects"]["quantity"] == "log_odds"].set_index(["of", "edit", "class", "attack"])["value"]
    for attack in ("TEXT", "SD", "TYPO"):
        added, random = (effects[(of, "add", "harmless", attack)] for of in ("refusal_direction", "random_direction"))
        assert added > MARGIN and abs(random) < added / 3
        assert effects["refusal minus random direction", "add", "harmless", attack] == pytest.approx(added - random, rel=1e-4)
    taken = effects.xs("ablate", level="edit").xs("harmful", level="class")
    assert taken["refusal_direction", "TEXT"] < -MARGIN
    assert all(taken["refusal_direction", image] > taken["refusal_direction", "TEXT"] for image in ("SD", "TYPO"))  # the gap hid harm


def test_where_nothing_harmful_is_refused_the_filter_says_that_there_is_nothing_to_find(tmp_path: Path) -> None:
    from safesteer_interp.models.planted import build_planted

    session = Session(RunSettings(model="planted", store=tmp_path, progress=False), loaded_model=build_planted(harm=-1.0))
    analysis = runner.discover(FOLDER)["refusal_direction"]
    with pytest.raises(NotApplicableError, match=r"--set filtered=false keeps all requests"):
        measure(Context(session, analysis, analysis.parameters("quick", {"report_pairs": 2}), tmp_path))


def test_a_choice_without_the_filter_keeps_every_request(tmp_path: Path) -> None:
    from safesteer_interp.models.planted import build_planted

    session = Session(RunSettings(model="planted", store=tmp_path, progress=False), loaded_model=build_planted())
    analysis = runner.discover(FOLDER)["refusal_direction"]
    smaller = {"filtered": False, "report_pairs": 2, "attacks": ("TEXT",), "layers": 2, "positions": 1}
    tables, _ = measure(Context(session, analysis, analysis.parameters("quick", smaller), tmp_path))
    choice = tables["choice"].iloc[0]
    assert choice["dropped_training"] == choice["dropped_validation"] == 0 and choice["of"] == 2


@pytest.mark.slow
def test_a_flipped_direction_induces_no_refusal(measured: Measured) -> None:
    effects = measured("refusal_direction", harm=-1.0)[0]["effects"]
    added = effects[(effects["of"] == "refusal_direction") & (effects["edit"] == "add") & (effects["quantity"] == "log_odds")]
    assert len(added) == 3 and (added["value"] < MARGIN).all()


def test_tables_hold_no_answer(measured: Measured) -> None:
    for name in SMALLER:
        for table in measured(name)[0].values():
            assert not {"text", "ids", "request"} & set(table.columns)
            assert {"value", "low", "high", "n"} <= set(table.columns)


def test_figures_are_drawn_from_the_tables_alone(measured: Measured) -> None:
    from safesteer_interp.plotting import style

    for name in SMALLER:
        analysis, tables = runner.discover(FOLDER)[name], measured(name)[0]
        with style():
            figures, others = (analysis.draw(t, analysis.parameters("quick", SMALLER[name])) for t in (tables, perturbed(tables)))
        assert panels_that_ignore(figures, others) == [], "every panel follows its table"
        for figure in figures.values():
            assert all(ax.get_xlabel() and (ax.get_ylabel() or len(ax.get_yticks())) for ax in figure.axes)
            assert len(figure.legends) == 1


def test_steered_at_dose_0_answers_as_undefended_and_is_told_from_other_doses(planted: Any) -> None:
    from safesteer_interp.defenses.defense import Settings as Answering
    from safesteer_interp.defenses.none import Undefended
    from safesteer_interp.defenses.steered import Steered
    from safesteer_interp.models.planted import build_planted, planted_requests
    from safesteer_interp.requests import Attack
    from safesteer_interp.tracing.collecting import collect
    from safesteer_interp.tracing.tracer import Edit, Sampling
    from safesteer_interp.vectors.alignment import alignment_vectors
    from safesteer_interp.vectors.refusal import refusal_directions

    requests = planted_requests(8, attacks=(Attack.CB, Attack.SD))
    trace = collect(planted, requests, sites="resid_post.3,final_norm", store=None, progress=False)
    vector, direction = alignment_vectors(trace)["final_norm"], refusal_directions(trace, sites=["resid_post.3"])[0]
    settings = Answering(Sampling(max_new_tokens=10, temperature=1.0))
    plain = [r.ids for r in Undefended().respond(planted, requests, settings)]
    for made in (Steered(), Steered.aligned(vector, 0.0), Steered.along(direction, 0.0)):
        assert [r.ids for r in made.respond(planted, requests, settings)] == plain
    doses = [make(what, dose) for make, what in ((Steered.aligned, vector), (Steered.along, direction)) for dose in (-1.0, 0.0, 1.0)]
    assert len({made.fingerprint() for made in doses}) == len(doses)
    assert Steered.aligned(vector, 1.0).fingerprint() == Steered.aligned(replace(vector), 1.0).fingerprint()
    with pytest.raises(UsageError, match="fitted on model"):
        Steered.aligned(vector, 1.0).respond(build_planted(gap=0.0), requests[:1], settings)
    with pytest.raises(UsageError, match="has no key"):
        Steered((Edit((direction.site,), lambda h, at: h),))


def test_refusal_tokens_are_those_that_harmful_texts_raise() -> None:
    from safesteer_interp.analyses import _refusal_tokens

    harmful, harmless = np.array([0.4, 0.3, 0.2, 0.004, 0.05]), np.array([0.01, 0.3, 0.05, 0.0, 0.01])
    assert _refusal_tokens.raised_tokens(harmful, harmless) == (0, 2, 4)
    assert _refusal_tokens.raised_tokens(harmful, harmless, ratio=5) == (0, 4)
    assert _refusal_tokens.raised_tokens(harmless, harmful, ratio=1.5) == ()

"""Known answers: every finding, run on the planted model, must return the planted verdict, and follow when the effect is flipped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from support.figures import assert_shown, panels_that_ignore, perturbed

from safesteer_interp import runner
from safesteer_interp.datasets.planted import planted_requests
from safesteer_interp.plotting import style
from safesteer_interp.report import render_folder
from safesteer_interp.requests import Attack
from safesteer_interp.runner.analysis import like_returned
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.measure import measure
from safesteer_interp.runner.session import RunSettings, Session

PLANTED = {"harm": 1.0, "gap": 1.0, "token_scores": 1.0}
FOLDER = Path(__file__).parents[2] / "analyses"


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Session]:
    """One session per variant of the planted model, so that its traces are made once for all analyses."""
    made: dict[tuple[tuple[str, float], ...], Session] = {}

    def session(**changes: float) -> Session:
        from safesteer_interp.models.planted import build_planted

        key = tuple(sorted(changes.items()))
        if key not in made:
            settings = RunSettings(model="planted", store=tmp_path_factory.mktemp("traces"), progress=False)
            model, requests = build_planted(**{**PLANTED, **changes}), planted_requests(n_pairs=160)
            made[key] = Session(settings, loaded_model=model, loaded_requests={"planted": requests})
        return made[key]

    return session


def verdicts(session: Session, name: str, folder: Path) -> dict[str, str]:
    analysis = runner.discover(FOLDER)[name]
    enough = {"pairs": 64, "choice_pairs": 64, "k": 10} if name == "decoding_separability" else {"pairs": 64}
    _, record = measure(Context(session, analysis, analysis.parameters("quick", enough), folder))
    return {c["id"]: c["verdict"] for c in record["claims"]}


CASES = [
    ("prefill_separability", {}, {"separable_text": "supported", "separable_sd": "supported", "beyond_words_sd": "contradicted"}),
    ("prefill_separability", {"harm": 0.0}, {"separable_text": "contradicted", "separable_sd": "contradicted"}),
    (
        "decoding_separability",
        {},
        {"orders_candidates_prompt": "undecided", "fades_with_steps": "contradicted"},  # random directions of its span order as well
    ),
    (
        "decoding_separability",
        {"token_scores": -1.0},
        {"orders_candidates_prompt": "contradicted", "orders_candidates_contrastive": "supported"},
    ),
    ("modality_stealth", {}, {"stealthier_sd": "undecided", "slips_past_sd": "supported", "slips_past_typo": "supported"}),
    ("modality_stealth", {"gap": -1.0}, {"slips_past_sd": "contradicted"}),
    ("layer_choice", {}, {"readable_somewhere_text": "supported", "onset_later_sd": "undecided"}),
    ("layer_choice", {"harm": 0.0}, {"readable_somewhere_text": "contradicted"}),
    ("modality_transfer", {}, {"text_to_sd": "supported", "others_to_typo": "supported", "text_drops_on_sd": "undecided"}),
    (
        "refusal_lens",
        {},
        {"refusal_token_in_top_k_text": "supported", "refusal_token_in_top_k_sd": "contradicted", "image_silences_refusal_sd": "supported"},
    ),
    ("refusal_lens", {"gap": 0.0}, {"refusal_token_in_top_k_sd": "supported"}),
    ("modality_gap", {}, {"harmful_image_moves_harmful_text_to_harmless": "supported"}),
    ("modality_gap", {"gap": -1.0}, {"harmful_image_moves_harmful_text_to_harmless": "contradicted"}),
    (
        "probe_training",
        {},
        {
            "four_components_suffice": "supported",
            # the harm is a main component: of 39 shufflings on 16 pairs one finds it, with the right sign, and reaches as far
            "sixteen_pairs_suffice": "undecided",
            "full_width_adds_little": "supported",
            "starts_agree": "supported",
        },
    ),
    ("probe_training", {"harm": 0.0}, {"four_components_suffice": "contradicted"}),
]


SLOW = ("decoding_separability", "layer_choice", "modality_gap", "modality_stealth", "modality_transfer", "probe_training")
"""Findings that take longer than all others together: in the slow run, as are most flips of the truth."""
SHORT = ("refusal_lens",)
"""A finding whose flip is quick."""


def run_of(name: str, changes: dict[str, float]) -> list[pytest.MarkDecorator]:
    if name == "decoding_separability" and changes:
        return [pytest.mark.long]
    return [pytest.mark.slow] if name in SLOW or (changes and name not in SHORT) else []


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [pytest.param(*case, marks=run_of(*case[:2])) for case in CASES],
    ids=[f"{n}-{'-'.join(c) or 'planted'}" for n, c, _ in CASES],
)
def test_verdict_equals_the_planted_truth(
    benches: Callable[..., Session], tmp_path: Path, name: str, changes: dict[str, float], expected: dict[str, str]
) -> None:
    found = verdicts(benches(**changes), name, tmp_path)
    assert {k: found[k] for k in expected} == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prefill_separability", "layer_choice", "probe_training"])
def test_findings_take_one_attack_without_twins(name: str, tmp_path: Path) -> None:
    """As published benchmarks are: every request stands alone, all of one form."""
    twins = [r for r in planted_requests() if r.attack is Attack.CB]
    sides = {pair: number % 3 > 0 for number, pair in enumerate(dict.fromkeys(r.pair for r in twins))}
    alone = [
        {"id": r.id, "text": r.text, "harmful": r.harmful, "attack": "TEXT", "split": r.split} for r in twins if r.harmful is sides[r.pair]
    ]
    assert {line["harmful"] for line in alone} == {True, False} and len(alone) == len(sides)
    data = tmp_path / "alone.jsonl"
    data.write_text("\n".join(map(json.dumps, alone)))
    settings = {"model": "planted", "data": str(data), "store": tmp_path / "traces", "progress": False}
    report = runner.run([name], out=tmp_path / "figures", render=render_folder, **settings)
    assert [r.status for r in report.results] == ["done"], report.results


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prefill_separability", "layer_choice", "refusal_lens", "probe_training"])
def test_findings_about_prompts_run_on_a_text_model(name: str, tmp_path: Path) -> None:
    settings = {"model": "tiny:llama", "store": tmp_path / "traces", "progress": False}
    report = runner.run([name], out=tmp_path / "figures", render=render_folder, **settings)
    assert [r.status for r in report.results] == ["done"], report.results
    tables = [pd.read_csv(path) for path in tmp_path.glob("figures/*/*/table.csv")]
    assert tables and all(set(t["attack"]) == {"TEXT"} for t in tables if "attack" in t)
    assert all(set(t["read"]) == {"last_prompt"} for t in tables if "read" in t)


BARS = ("value", "low", "high")
HALF = "layer in ('3', '4', '5', 'final_norm')"
"""The later half of the planted model, which is all that refusal_lens draws, and where shifts can be placed."""
SHOWN: dict[str, list[tuple[str, str, tuple[str, ...]]]] = {
    "prefill_separability": [("table", "", BARS), ("points", "", ("score",))],
    "decoding_separability": [
        *(("table", f"fit == '{fit}'", BARS) for fit in ("prompt", "centred", "token")),
        *(("separation", f"contrast == '{c}'", BARS) for c in ("refuse over comply", "comply over harmless")),
        ("choices", "step != 'all'", BARS),
        ("layers", "", ("value",)),
        ("guiding_layers", "", BARS),
    ],
    "modality_stealth": [
        ("table", "measure == 'axis' and attack != 'TEXT'", BARS),
        ("table", "measure == 'axis'", ("value",)),  # TEXT's is 1 by definition, without an interval
        ("differences", "measure in ('axis', 'random_direction')", BARS),
        ("table", "measure.str.startswith('refusal rate')", BARS),
    ],
    "layer_choice": [
        ("table", "read == 'last_prompt' and method == 'probe' and width == '4'", BARS),
        ("table", "read == 'image_mean' and method == 'probe' and width == '4' and attack != 'CB'", BARS),
        ("transfer", "", BARS),
    ],
    "modality_transfer": [("table", "not trained_on.str.startswith('all but')", ("value",))],
    "refusal_lens": [
        *(("table", f"quantity == 'log_probability' and `class` == '{c}' and {HALF}", BARS) for c in ("harmful", "harmless")),
        ("top_k", "`class` == 'harmful'", BARS),
    ],
    "modality_gap": [
        *(("table", f"quantity == '{q}' and `class` == 'harmful'", BARS) for q in ("size", "cosine")),
        ("table", f"quantity == 'toward_harmful' and `class` == 'harmful' and {HALF}", BARS),
    ],
    "probe_training": [
        ("loss", "", ("epoch", "loss")),
        ("table", "quantity == 'pairs'", BARS),
        ("table", "quantity == 'width'", BARS),
    ],
}
"""Finding -> (table, the rows that one panel draws all of, the columns that it draws of them)."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in SHOWN])
def test_figures_show_the_numbers_of_their_tables(benches: Callable[..., Session], tmp_path: Path, name: str) -> None:
    analysis = runner.discover(FOLDER)[name]
    p = analysis.parameters("quick", {"pairs": 64})
    tables, _ = measure(Context(benches(), analysis, p, tmp_path))
    with style():
        figures, others = (analysis.draw(like_returned(t), p) for t in (tables, perturbed(tables)))
    assert panels_that_ignore(figures, others) == [], "every panel follows its table"
    for table, rows, columns in SHOWN[name]:
        asked = tables[table].astype({c: str for c in ("width", "layer") if c in tables[table]})
        assert_shown(figures, asked.query(rows, engine="python") if rows else asked, *columns, of=f"{table} {rows}")

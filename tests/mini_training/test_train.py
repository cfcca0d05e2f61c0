"""`safesteer mini train` end to end, scaled down: every stage runs, the result answers, and a second run has nothing to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from safesteer_interp.datasets.utility import load_utility
from safesteer_interp.decoding.answering import generate, text_of
from safesteer_interp.decoding.loop import Decoded
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.mini_training import evaluate
from safesteer_interp.mini_training.card import table
from safesteer_interp.mini_training.evaluate import EvaluationSize, answers_of, evaluate_mini, is_answered
from safesteer_interp.mini_training.instruction import Recipe
from safesteer_interp.mini_training.projector_gap import draw_projector_gap
from safesteer_interp.mini_training.seeing import picture_requests
from safesteer_interp.mini_training.texts import ANSWER_TOKENS, OwnAnswers
from safesteer_interp.mini_training.train import train_mini
from safesteer_interp.models.dtypes import multiplies_bfloat16
from safesteer_interp.models.loading import load_folder
from safesteer_interp.models.mini import assemble
from safesteer_interp.models.mini.language import language_dir, load_language
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.special_tokens import stop_ids
from safesteer_interp.requests import Request
from safesteer_interp.tracing.tracer import Sampling

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("mini training")]  # one worker: both tests share what is trained


def assembled(recipe: str, weights: Path) -> MLLM:
    return MLLM.of(*assemble.build(recipe, weights), name="trained")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_mini(tmp_path_factory.mktemp("training"), scale="tiny", workers=1, budget=120, jobs=2)


def test_a_scaled_down_training_gives_a_model_that_answers(trained: Path) -> None:
    known = json.loads((trained / "recipe.json").read_text())
    assert known["default"] == "released" and known["trained"] == [str(recipe) for recipe in Recipe]
    assert known["tower"]["n_codes"] > 1000 and known["tower"]["code_size"] == 576
    assert known["tower_cells"]["cells"] > 0
    trained_mini = assembled("released", trained)
    model = trained_mini.model
    assert sum(p.numel() for p in model.parameters()) > 130e6
    unmodified, _ = load_language()
    own = unmodified.state_dict()
    aligned, unaligned = (assemble.build(recipe, trained)[0].state_dict() for recipe in ("grounded", "unaligned"))
    weight = "layers.0.self_attn.q_proj.weight"
    states = [own[f"model.{weight}"], *(s[f"model.language_model.{weight}"] for s in (model.state_dict(), aligned, unaligned))]
    apart = [not torch.equal(a, b) for i, a in enumerate(states) for b in states[i + 1 :]]
    assert all(apart), "every recipe has an adapter of its own"
    tokens = load_file(trained / "tower.safetensors")["recall.tokens"].long()
    assert torch.equal(model.state_dict()["model.vision_tower.recall.codes"], own["model.embed_tokens.weight"][tokens])
    asked = [a.request for a in picture_requests(3)]
    told: list[int] = []
    together = answers_of(trained_mini, asked, max_new_tokens=3, batch=2, report=told.append)
    alone = [answers_of(trained_mini, [request], max_new_tokens=3)[0] for request in asked]
    assert [a.ids for a in together] == [a.ids for a in alone] and sum(told) == 3
    assert all(1 <= len(a.ids) <= 3 for a in together)
    assert not is_answered(trained_mini, Decoded(ids=[])), "an empty answer is degenerate"


def test_a_finished_training_is_not_repeated(trained: Path) -> None:
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in trained.glob("*.safetensors")}
    adapters = {"text_adapter", *(f"{recipe}_adapter" for recipe in Recipe)}
    projectors = {f"{recipe}_projector" for recipe in Recipe if recipe is not Recipe.GROUNDED}
    assert {name.removesuffix(".safetensors") for name in before} == {"tower"} | adapters | projectors
    took = json.loads((trained / "recipe.json").read_text())["compute"]
    train_mini(trained.parent, scale="tiny")
    assert {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in trained.glob("*.safetensors")} == before
    assert json.loads((trained / "recipe.json").read_text())["compute"] == took
    assert {name: stage["device"] for name, stage in took.items()} == dict.fromkeys(("answers", "tower", "alignment", *Recipe), "cpu")
    assert all(stage["seconds"] > 0 for stage in took.values())


@pytest.mark.long
def test_a_training_carries_on_from_other_weights(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "own_answers.json").write_bytes((trained.parent / "own_answers.json").read_bytes())
    weights = train_mini(tmp_path, scale="tiny", recipes=["released"], start=trained)
    assert (weights / "tower.safetensors").read_bytes() == (trained / "tower.safetensors").read_bytes()
    known, before = (json.loads((folder / "recipe.json").read_text()) for folder in (weights, trained))
    assert known["tower"] == before["tower"] and known["compute"]["tower"] == before["compute"]["tower"]
    assert known["compute"]["released"]["carried_on"] and "carried_on" not in known["compute"]["alignment"]

    def distance(name: str) -> float:
        start, end = (load_file(folder / name) for folder in (trained, weights))
        return float(sum((start[k].float() - end[k].float()).norm() for k in start) / sum(t.float().norm() for t in start.values()))

    assert 0 < distance("released_projector.safetensors") < 0.2, "a step away from where it started, not from a fresh one"
    assemble.build("released", weights)


@pytest.mark.long
def test_trained_weights_are_measured_where_they_lie(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = load_utility()[::20]
    monkeypatch.setattr(evaluate, "load_utility", lambda skills=("text", "read"): [i for i in few if i.skill in skills])
    size = EvaluationSize(pairs=1, readings=1, pictures=1, colours=1, counts=1, states=False, voices=0, fit_pairs=0)
    card = evaluate_mini(tmp_path / "card.json", ["grounded"], size, weights=trained, progress=False)
    assert card["compute"] == json.loads((trained / "recipe.json").read_text())["compute"] and set(card["recipes"]) == {"grounded"}
    assert card["recipes"]["grounded"]["words_read"]["value"] < 0.9, "hardly trained, so not the shipped ones"
    assert card["recipes"]["grounded"]["gap_text_SD"]["low"] is None, "one pair has no interval, and JSON no NaN"
    assert {p.name for p in tmp_path.iterdir()} == {"card.json", "card-grounded-answers.json"}
    assert json.loads((tmp_path / "card.json").read_text()) == card and "grounded" in table(card)
    draw_projector_gap(card)


def test_weights_that_are_not_there_are_named_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no recipe\.json; give the folder `weights` that"):
        evaluate_mini(tmp_path / "card.json", weights=tmp_path)
    with pytest.raises(UsageError, match="--jobs 0"):
        evaluate_mini(tmp_path / "card.json", jobs=0)


def test_a_start_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--start .*nowhere holds no recipe\.json"):
        train_mini(tmp_path, scale="tiny", start=tmp_path / "nowhere")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "recipe.json").write_text("{}")
    with pytest.raises(InputError, match=r"half/text_adapter\.safetensors is missing"):
        train_mini(tmp_path, scale="tiny", start=tmp_path / "half")
    assert not (tmp_path / "stages").exists(), "said before anything is done"


def test_own_answers_are_the_unmodified_models(trained: Path) -> None:
    own = OwnAnswers(trained.parent / "own_answers.json")
    prompts = sorted(own.table, key=len)  # in one batch and number format, as they were made: bfloat16 says other words now and then
    language = load_folder(language_dir(), dtype="bfloat16" if multiplies_bfloat16() else "float32")
    again = generate(language, list(map(Request, prompts)), sampling=Sampling(ANSWER_TOKENS), batch_size=len(prompts))
    assert {p: (text_of(language, a), a.ids[-1] in stop_ids(language)) for p, a in zip(prompts, again, strict=True)} == own.table


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_every_stage_trains_on_a_gpu(tmp_path: Path) -> None:
    weights = train_mini(tmp_path, scale="tiny", recipes=["grounded"], device="cuda", workers=2)
    answer = answers_of(assembled("grounded", weights), [picture_requests(1)[0].request], max_new_tokens=3)[0]
    assert 1 <= len(answer.ids) <= 3


def test_an_unknown_scale_or_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='--scale "tyni" is unknown'):
        train_mini(tmp_path, scale="tyni")
    with pytest.raises(UsageError, match="--recipes freed"):
        train_mini(tmp_path, recipes=["freed"])
    with pytest.raises(UsageError, match="--budget 0: give the seconds"):
        train_mini(tmp_path, budget=0)

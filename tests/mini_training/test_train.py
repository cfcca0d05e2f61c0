"""`safesteer mini train` end to end, scaled down: every stage runs, the result answers, and a second run has nothing to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from safesteer_interp.decoding.generate import generate, text_of
from safesteer_interp.decoding.loop import Decoded
from safesteer_interp.errors import UsageError
from safesteer_interp.mini_training.evaluate import answers_of, is_answered, picture_requests
from safesteer_interp.mini_training.texts import ANSWER_TOKENS, OwnAnswers
from safesteer_interp.mini_training.train import train_mini
from safesteer_interp.models.families import layout_for
from safesteer_interp.models.loading import load_folder
from safesteer_interp.models.mini import assemble
from safesteer_interp.models.mini.language import language_dir
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.special_tokens import stop_ids
from safesteer_interp.requests import Request
from safesteer_interp.tracing.tracer import Sampling

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("mini training")]  # one worker: both tests share what is trained


def assembled(recipe: str, weights: Path) -> MLLM:
    model, processor = assemble.build(recipe, weights)
    return MLLM("trained", model, processor, layout_for(model.config), fingerprint="trained")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_mini(tmp_path_factory.mktemp("training"), scale="tiny", recipes=["released"])


@pytest.mark.xdist_group("mini-train")
def test_a_scaled_down_training_gives_a_model_that_answers(trained: Path) -> None:
    known = json.loads((trained / "recipe.json").read_text())
    assert known["default"] == "released" and known["trained"] == ["released"]
    assert known["tower"]["n_codes"] > 1000 and known["tower"]["code_size"] == 576
    assert known["tower_cells"]["cells"] > 0
    trained_mini = assembled("released", trained)
    model = trained_mini.model
    assert sum(p.numel() for p in model.parameters()) > 130e6
    shipped, _ = assemble.build("released")
    moved = [k for k, v in model.state_dict().items() if "layers.0" in k and not torch.equal(v, shipped.state_dict()[k])]
    assert moved, "an adapter was trained and merged"
    asked = [request for request, _ in picture_requests(3)]
    told: list[int] = []
    together = answers_of(trained_mini, asked, max_new_tokens=3, batch=2, report=told.append)
    alone = [answers_of(trained_mini, [request], max_new_tokens=3)[0] for request in asked]
    assert [a.ids for a in together] == [a.ids for a in alone] and sum(told) == 3
    assert all(1 <= len(a.ids) <= 3 for a in together)
    assert not is_answered(trained_mini, Decoded(ids=[])), "an empty answer is degenerate"


@pytest.mark.xdist_group("mini-train")
def test_a_finished_training_is_not_repeated(trained: Path) -> None:
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in trained.glob("*.safetensors")}
    parts = ("tower", "text_adapter", "released_adapter", "released_projector")
    assert set(before) == {f"{part}.safetensors" for part in parts}
    minutes = json.loads((trained / "recipe.json").read_text())["compute"]
    train_mini(trained.parent, scale="tiny", recipes=["released"])
    assert {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in trained.glob("*.safetensors")} == before
    assert json.loads((trained / "recipe.json").read_text())["compute"] == minutes


@pytest.mark.xdist_group("mini-train")
def test_own_answers_are_the_unmodified_models(trained: Path) -> None:
    own = OwnAnswers(trained.parent / "own_answers.json")
    prompt, (answer, complete) = min(own.table.items(), key=lambda item: len(item[1][0]))
    language = load_folder(language_dir())
    again = generate(language, [Request(prompt, id="again")], sampling=Sampling(ANSWER_TOKENS))[0]
    assert (text_of(language, again), again.ids[-1] in stop_ids(language)) == (answer, complete)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_every_stage_trains_on_a_gpu(tmp_path: Path) -> None:
    weights = train_mini(tmp_path, scale="tiny", recipes=["grounded"], device="cuda")
    answer = answers_of(assembled("grounded", weights), [picture_requests(1)[0][0]], max_new_tokens=3)[0]
    assert 1 <= len(answer.ids) <= 3


def test_an_unknown_scale_or_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='--scale "tyni" is unknown'):
        train_mini(tmp_path, scale="tyni")
    with pytest.raises(UsageError, match="--recipes freed"):
        train_mini(tmp_path, recipes=["freed"])

"""`safesteer mini train` end to end, scaled down: every stage runs, the result answers, and a second run has nothing to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from safesteer_interp.errors import UsageError
from safesteer_interp.mini_training.answering import answers_of
from safesteer_interp.mini_training.evaluate import picture_requests
from safesteer_interp.mini_training.train import train_mini
from safesteer_interp.models.mini import assemble


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_mini(tmp_path_factory.mktemp("training"), scale="tiny", recipes=["released"])


@pytest.mark.xdist_group("mini-train")
def test_a_scaled_down_training_gives_a_model_that_answers(trained: Path) -> None:
    known = json.loads((trained / "recipe.json").read_text())
    assert known["default"] == "released" and known["trained"] == ["released"]
    assert known["tower"]["n_codes"] > 1000 and known["tower"]["code_size"] == 576
    assert known["tower_cells"]["cells"] > 0
    model, processor = assemble.build("released", trained)
    assert sum(p.numel() for p in model.parameters()) > 130e6
    shipped, _ = assemble.build("released")
    moved = [k for k, v in model.state_dict().items() if "layers.0" in k and not torch.equal(v, shipped.state_dict()[k])]
    assert moved, "an adapter was trained and merged"
    request = picture_requests(1)[0][0]
    assert isinstance(answers_of(model, processor, [request], max_new_tokens=3)[0], str)


@pytest.mark.xdist_group("mini-train")
def test_a_finished_training_is_not_repeated(trained: Path) -> None:
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in trained.glob("*.safetensors")}
    parts = ("tower", "text_adapter", "released_adapter", "released_projector")
    assert set(before) == {f"{part}.safetensors" for part in parts}
    minutes = json.loads((trained / "recipe.json").read_text())["compute"]
    train_mini(trained.parent, scale="tiny", recipes=["released"])
    assert {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in trained.glob("*.safetensors")} == before
    assert json.loads((trained / "recipe.json").read_text())["compute"] == minutes


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_every_stage_trains_on_a_gpu(tmp_path: Path) -> None:
    weights = train_mini(tmp_path, scale="tiny", recipes=["grounded"], device="cuda")
    model, processor = assemble.build("grounded", weights)
    assert isinstance(answers_of(model, processor, [picture_requests(1)[0][0]], max_new_tokens=3)[0], str)


def test_an_unknown_scale_or_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='--scale "tyni" is unknown'):
        train_mini(tmp_path, scale="tyni")
    with pytest.raises(UsageError, match="--recipes freed"):
        train_mini(tmp_path, recipes=["freed"])

"""mini's parts, without its weights: labels, tower, adapters and resuming."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from safesteer_interp.datasets.pictures import PictureBox
from safesteer_interp.errors import InputError
from safesteer_interp.mini_training import resume
from safesteer_interp.mini_training.batches import IGNORED, TAUGHT_TOKENS, Example, answer_loss, collate, encode_turn, length_buckets
from safesteer_interp.mini_training.cells import NOTHING, CellMap
from safesteer_interp.mini_training.grounding import Grounding, GroundingRecipe, to_pixels
from safesteer_interp.mini_training.resume import Checkpoint, Pace, cosine
from safesteer_interp.mini_training.seeing import words_right
from safesteer_interp.mini_training.texts import (
    Turn,
)
from safesteer_interp.mini_training.words import WordLists
from safesteer_interp.models.families.tokenizers import metaspace
from safesteer_interp.models.mini import assemble
from safesteer_interp.models.mini.lora import attach, load_adapter, merge_adapter, save_adapter
from safesteer_interp.models.mini.tower import N_IMAGE_TOKENS, SafesteerTower, SafesteerTowerConfig


def test_each_said_word_counts_once() -> None:
    assert words_right("red red car.", ("red", "car", "red", "blue")) == [True, True, True, False]
    assert words_right("red car", ("red", "red")) == [True, False]


def test_the_box_that_covers_most_of_a_cell_labels_it() -> None:
    cells = CellMap(16, 32)
    cells.cover(0, 10, 0, 16, 1)
    cells.cover(10, 32, 0, 16, 2)
    assert cells.labels.tolist() == [[1, 2], [NOTHING, NOTHING]]
    cells.cover(0, 32, 20, 21, 3, floor=30.0)
    assert cells.labels[1].tolist() == [NOTHING, NOTHING]


def test_boxes_outside_the_canvas_do_not_crash_the_labels() -> None:
    cells = CellMap(16, 32)
    cells.cover(-5, 40, 28, 60, 4)
    assert cells.labels.tolist() == [[NOTHING, NOTHING], [4, 4]]


@pytest.fixture(scope="module")
def small_tower() -> SafesteerTower:
    torch.manual_seed(0)
    tower = SafesteerTower(SafesteerTowerConfig(trunk_size=24, widths=(8, 8, 16), low_blocks=1, high_blocks=1, folded=False))
    tower.train()
    for _ in range(3):
        tower.maps(torch.randn(4, 3, 160, 160))  # gives the batch norms statistics of their own
    return tower.eval()


def test_folding_batch_norm_changes_nothing(small_tower: SafesteerTower) -> None:
    pixels = torch.rand(2, 3, 160, 160) * 2 - 1
    folded = small_tower.folded()
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    torch.testing.assert_close(folded(pixels).last_hidden_state, small_tower(pixels).last_hidden_state, rtol=1e-4, atol=1e-5)


def test_the_tower_gives_a_hundred_features_in_reading_order(small_tower: SafesteerTower) -> None:
    blank = torch.ones(1, 3, 160, 160)
    marked = blank.clone()
    marked[:, :, :32, 128:] = -1.0
    changed = (small_tower(marked).last_hidden_state - small_tower(blank).last_hidden_state).abs().sum(-1)[0]
    assert changed.shape == (N_IMAGE_TOKENS,)
    corners = changed.reshape(10, 10)[[0, 0, 9, 9], [0, 9, 0, 9]]
    assert int(corners.argmax()) == 1, "what changes at the top right changes the end of the first row"


def test_transformers_loads_the_tower_by_its_model_type(small_tower: SafesteerTower, tmp_path: Path) -> None:
    from transformers import AutoModel

    folded = small_tower.folded()
    folded.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert isinstance(loaded, SafesteerTower)
    pixels = torch.rand(1, 3, 160, 160)
    torch.testing.assert_close(loaded(pixels).last_hidden_state, folded(pixels).last_hidden_state)


def tiny_llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    shape = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, vocab_size=99)
    return LlamaForCausalLM(shape).eval()


def test_a_merged_adapter_equals_the_wrapped_model(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="adapters are trained with peft (the extra `train`)")
    wrapped = attach(tiny_llama(), rank=4, alpha=8).eval()
    for name, p in wrapped.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(p, std=0.1)
    save_adapter(wrapped, tmp_path / "a.safetensors")
    merged = tiny_llama()
    plain = merged(torch.arange(7)[None]).logits
    merge_adapter(merged, tmp_path / "a.safetensors")
    ids = torch.arange(7)[None]
    torch.testing.assert_close(merged(ids).logits, wrapped(ids).logits, rtol=5e-2, atol=5e-2)  # stored in 255 steps
    assert (merged(ids).logits - plain).abs().max() > 0.05, "the adapter does something"
    kept = load_file(tmp_path / "a.safetensors")
    assert {t.dtype for name, t in kept.items() if name.endswith((".A", ".B"))} == {torch.int8}
    module = wrapped.base_model.model.model.layers[0].mlp.up_proj
    exact = module.get_delta_weight("default")
    error = merged.model.layers[0].mlp.up_proj.weight - tiny_llama().model.layers[0].mlp.up_proj.weight - exact
    assert error.norm() / exact.norm() < 0.03
    again = attach(tiny_llama(), rank=4, alpha=8).eval()
    load_adapter(again, tmp_path / "a.safetensors")
    torch.testing.assert_close(again(ids).logits, merged(ids).logits)
    with pytest.raises(InputError, match=r"a\.safetensors has rank 4, this training 2"):
        load_adapter(attach(tiny_llama(), rank=2, alpha=4), tmp_path / "a.safetensors")


def steps_of(model: Grounding, optimizer: torch.optim.Optimizer, data: list[torch.Tensor], first: int, last: int) -> None:
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        loss, _ = model.loss(data[0], data[1], data[2], generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def fresh_grounding() -> tuple[Grounding, torch.optim.Optimizer]:
    torch.manual_seed(2)
    recipe = GroundingRecipe(trunk_size=16, low_blocks=1, high_blocks=1)
    model = Grounding(recipe, torch.randn(20, 12, generator=torch.Generator().manual_seed(3)), [3, 5, 7], 3).train()
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3)


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tokens = torch.from_numpy(rng.choice([NOTHING, 5, 7], (2, 100)).astype(np.int32))
    characters = torch.from_numpy(rng.integers(-1, 3, (2, 400)).astype(np.int8))
    data = [to_pixels(rng.integers(0, 256, (2, 160, 160, 3), dtype=np.uint8)), tokens, characters]
    whole, optimizer = fresh_grounding()
    steps_of(whole, optimizer, data, 0, 4)
    part, optimizer = fresh_grounding()
    steps_of(part, optimizer, data, 0, 2)
    Checkpoint(tmp_path / "c.safetensors", {"m": part}, optimizer).save(2, place=2.5)
    resumed, optimizer = fresh_grounding()
    checkpoint = Checkpoint(tmp_path / "c.safetensors", {"m": resumed}, optimizer)
    assert (checkpoint.load(), checkpoint.place) == (2, 2.5)
    steps_of(resumed, optimizer, data, 2, 4)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=f"{name} differs after resuming")


def test_a_run_without_a_checkpoint_starts_at_zero(tmp_path: Path) -> None:
    model, optimizer = fresh_grounding()
    assert Checkpoint(tmp_path / "none.safetensors", {"m": model}, optimizer).load() == 0


def test_the_learning_rate_warms_up_and_decays() -> None:
    rates = [cosine(s, 100, 1.0, 10) for s in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0) and rates[-1] < 0.03
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_a_limited_training_runs_through_its_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 5.0, 10.0])
    monkeypatch.setattr(resume.time, "monotonic", lambda: next(clock))
    pace = Pace(100, seconds=10.0)
    assert [pace.at(step) for step in (0, 60, 61)] == [10.0, 60, 100.0], "ahead of the steps, never behind them"


def test_a_resumed_training_carries_on_where_it_stood_in_its_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 2.0, 4.0])
    monkeypatch.setattr(resume.time, "monotonic", lambda: next(clock))
    pace = Pace(100, seconds=10.0, begun=60)
    assert [pace.at(step) for step in (5, 85, 6)] == [60, 85, 100], "the rest takes what is left of its seconds"
    monkeypatch.setattr(resume.time, "monotonic", lambda: 0.0)
    assert [Pace(100).at(step) for step in (0, 7, 100)] == [0, 7, 100]
    rest = Pace(100, None, begun=60, first=20)
    assert [rest.at(step) for step in (20, 60, 100)] == [60, 80, 100], "what is left of the schedule, over the steps that are left"
    assert [Pace(100, None, begun=30, first=30).at(step) for step in (30, 31)] == [30, 31]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    made = metaspace(["<image>"], gemma=False, image_token="<image>")
    made.chat_template = assemble.CHAT_TEMPLATE
    return made


def test_only_the_answer_is_taught(tokenizer: Any) -> None:
    example = encode_turn(tokenizer, Turn("Where is it?", "Here.", "Be brief."), image=True)
    batch = collate([example, Example((4, 5, 6), 1)])
    assert int(batch.image_at[0].sum()) == N_IMAGE_TOKENS and not batch.image_at[1].any()
    taught = batch.labels[0][batch.labels[0] != IGNORED]
    assert tokenizer.decode(taught[:-1]).strip() == "Here." and int(taught[-1]) == tokenizer.eos_token_id
    assert batch.labels[1].tolist()[:3] == [IGNORED, 5, 6]
    assert batch.attention.sum(1).tolist() == [len(example.ids), 3]


def test_long_answers_are_cut_without_teaching_an_end(tokenizer: Any) -> None:
    example = encode_turn(tokenizer, Turn("Go on", " ".join(["more"] * 80)))
    assert len(example.ids) - example.answer_start == TAUGHT_TOKENS
    assert tokenizer.eos_token_id not in example.ids[example.answer_start :]


class Uniform(torch.nn.Module):
    """A language model that thinks every token as likely as `bias` says, whatever it reads."""

    def __init__(self, bias: torch.Tensor) -> None:
        super().__init__()
        self.embed, self.bias = torch.nn.Embedding(len(bias), 4), bias

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return self.embed

    def model(self, inputs_embeds: torch.Tensor, **_: Any) -> Any:
        return SimpleNamespace(last_hidden_state=inputs_embeds)

    def lm_head(self, states: torch.Tensor) -> torch.Tensor:
        return self.bias.expand(len(states), -1)


def test_every_turn_weighs_the_same_however_long_its_answer() -> None:
    bias = torch.tensor([0.0, 2.0, -1.0])
    short, long = Example((0, 1), 1), Example((0, 2, 2, 2, 2, 2), 1)
    loss = answer_loss(Uniform(bias), collate([short, long]))
    each = -bias.log_softmax(0)
    torch.testing.assert_close(loss, (each[1] + each[2]) / 2)


def test_length_buckets_use_every_example_once() -> None:
    examples = [Example(tuple(range(n % 17 + 2)), 1) for n in range(53)]
    parts = length_buckets(examples, 8, random.Random(0))
    assert sorted(i for part in parts for i in part) == list(range(53))


def test_pictures_of_several_tokens_are_spread_from_left_to_right(tokenizer: Any) -> None:
    from safesteer_interp.mini_training.cells import Labeller

    labeller = Labeller(tokenizer, WordLists(("passport",), ("pen",)))
    spans = labeller.word_tokens("passport")
    assert len(spans) > 1, "the tiny tokenizer splits the word"
    cells = CellMap(16)
    labeller.label_pictures(cells, [PictureBox("passport", 0, 160, 0, 160)])
    seen = list(dict.fromkeys(cells.labels[0].tolist()))
    assert seen == [t for t in dict.fromkeys(t for t, _, _ in spans) if t in seen] and len(seen) > 1
    assert labeller.word_tokens("passport")[0][0] in labeller.token_ids()

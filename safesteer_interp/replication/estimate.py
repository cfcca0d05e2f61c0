"""What a replication takes: passes, answers and verdicts still to be made, seconds by a speed measured here or given, hours and money.

Only the model's and the judge's work is counted, besides a flat time for each finding's statistics and drawings. What was estimated when
a part was first begun is kept and shown beside what it took.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safesteer_interp import files
from safesteer_interp.decoding.prompt_cache import forgetting_prompts
from safesteer_interp.defenses.defense import Defense, Settings
from safesteer_interp.defenses.none import Undefended
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.evaluation.cost import costs
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Request
from safesteer_interp.tracing.tracer import Sampling

PROMPT_TOKENS = 10
"""Tokens of writing that reading a prompt takes as long as, where a speed was given and not measured."""
VERDICT_TOKENS = 16
"""The same of a judge's verdict: a prompt and "safe", or "unsafe" and its categories."""
FACTORS: Mapping[str, float] = {"none": 1.0, "ecso": 3.4, "mrd": 1.7}
"""Times the work of an undefended answer, by the paper's Table 2: taken where no speed is measured here."""
GUIDED = 1.05
"""The same of SafeSteer; and of the protector, whose detector here reads words and not with the model."""
STATISTICS = {"quick": 4.0, "full": 40.0}
"""Seconds of a finding's intervals and drawings on two cores, by profile and whatever the model: quick about as in
`benchmarks/figure_time.json`, which holds only some of the findings (it names them); full ten times that, which was not measured."""


@dataclass(frozen=True)
class Speed:
    """Seconds that one request takes in a full batch."""

    prompt: float
    """Reading it."""
    token: float
    """Each token of its answer."""
    source: str
    """"measured here" or "given"."""
    factors: Mapping[str, float] = field(default_factory=lambda: FACTORS)
    """Method -> times the work of an undefended answer."""

    def times(self, method: str) -> float:
        """How many undefended answers one of this method's takes."""
        return self.factors.get(method, GUIDED)

    def answer(self, tokens: int) -> float:
        """A whole answer."""
        return self.prompt + tokens * self.token

    @classmethod
    def given(cls, tokens_per_second: float) -> Speed:
        """From the tokens per second of whole batches, prompts included. Raises UsageError for what is no speed."""
        if not tokens_per_second > 0:
            raise UsageError(f"--tokens-per-second {tokens_per_second:g} is no speed; give a positive number, or leave it out.")
        return cls(PROMPT_TOKENS / tokens_per_second, 1 / tokens_per_second, "given")

    @classmethod
    def measured(cls, mllm: MLLM, requests: Sequence[Request], batch_size: int, methods: Mapping[str, Defense], tokens: int) -> Speed:
        """By three short runs of one batch of undefended answers, of 2 and of 10 tokens; the first warms up.

        What `methods` (those that need no fit) take besides is counted in forwards, on two answers of at most `tokens` tokens.
        """
        some = (list(requests) * batch_size)[: min(batch_size, 16)]
        spent = []
        for length in (2, 2, 10):
            settings = Settings(Sampling(length, 1.0), batch_size=batch_size, stop=False)
            begun = time.perf_counter()
            with forgetting_prompts(mllm):
                Undefended().respond(mllm, some, settings)
            spent.append(time.perf_counter() - begun)
        token = max(spent[2] - spent[1], 1e-6) / 8
        counted = costs(mllm, methods, some[:2], settings=Settings(Sampling(tokens, 1.0), stop=False)).set_index("method")["forwards"]
        factors = {str(name): float(n / counted["none"]) for name, n in counted.items()}
        return cls(max(spent[1] - 2 * token, 0.0) / len(some), token / len(some), "measured here", factors)


@dataclass(frozen=True)
class Part:
    """One part of the work, as far as it is not stored already."""

    name: str
    passes: int = 0
    """Prompts read, whatever their batch."""
    answers: int = 0
    tokens: int = 0
    """Written, at most."""
    verdicts: int = 0
    seconds: float = 0.0


def cost(parts: Sequence[Part], price: float | None, devices: int) -> dict[str, Any]:
    """The sum of all parts, as GPU hours on `devices` GPUs and, at a price per GPU hour, as money."""
    hours = sum(part.seconds for part in parts) / 3600
    total = {name: sum(getattr(part, name) for part in parts) for name in ("passes", "answers", "tokens", "verdicts")}
    return {**total, "hours": hours, "gpu_hours": hours * devices, "money": None if price is None else hours * devices * price}


@dataclass
class Taken:
    """What each part was estimated at and took, kept beside the page so that a resumed run adds to it."""

    path: Path
    settings: str
    """Digest of what was asked for: of another run nothing is taken over."""
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Part -> estimated (seconds, of its first begin), took (seconds so far), done."""

    @classmethod
    def read(cls, path: Path, settings: str) -> Taken:
        """What lies there of the same settings, else a new one."""
        try:
            found = files.read_json(path)
            parts = dict(found["parts"]) if found["settings"] == settings else {}
        except (InputError, LookupError, TypeError, ValueError):
            parts = {}
        return cls(path, settings, parts)

    def plan(self, parts: Sequence[Part]) -> None:
        """Keeps the estimate of every part that was not planned before."""
        for part in parts:
            self.parts.setdefault(part.name, {**asdict(part), "took": 0.0, "done": False})
        self.write()

    def time(self, name: str, work: Callable[[], Any]) -> Any:
        """What some work gives; its seconds are added to the part's, also when it is stopped."""
        entry = self.parts.setdefault(name, {**asdict(Part(name)), "took": 0.0, "done": False})
        begun, again = time.monotonic(), bool(entry["done"])
        try:
            found = work()
            entry["done"] = True
            return found
        finally:
            if not again:  # a finished part that is looked at again takes nothing more
                entry["took"] += time.monotonic() - begun
            self.write()

    def write(self) -> None:
        """Keeps what is known so far."""
        files.write_json(self.path, {"settings": self.settings, "parts": self.parts})

"""TraceSpec: which states are wanted, of which requests; and `pick`, which finds those requests in a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from safesteer_interp.requests import Attack, Request, Split


@dataclass(frozen=True)
class TraceSpec:
    """States an analysis wants: which requests, read where, with how many generated tokens.

    The runner unites the specs of all planned analyses, so that every request runs through the model once.
    """

    attacks: tuple[Attack, ...] | None = None
    """Only these attacks; None: every attack of the data set (requests with images are left out for a text-only model)."""
    split: Split | None = None
    """Only this split; None: all but ALIGN, whose activities an adapter of the model may have been trained on."""
    harmful: bool | None = None
    pairs: int | None = None
    """At most this many pairs per split, spread evenly over scenarios, the same ones whatever else is asked; None: all."""
    sites: tuple[str, ...] = ("final_norm",)
    """As `sites.parse_sites` reads them: "all", "resid_post", "resid_post.0-9", "final_norm", ..."""
    reads: tuple[str, ...] = ("last_prompt",)
    """As `sites.parse_reads` reads them: "last_prompt", "image_mean", "step:1-8", ..."""
    max_new_tokens: int = 0
    """Tokens to generate per request; at least the largest step in `reads`. 0: the prompt pass only."""
    temperature: float = 0.0
    seed: int = 0
    logits: bool = False
    """Also keep the next-token logits at the last prompt token."""
    dataset: str = ""
    """A data set name or path when it is not the one of the run (`--data`)."""

    def picks(self, request: Request) -> bool:
        """True when the request meets every condition but `pairs`."""
        return (
            (self.attacks is None or request.attack in self.attacks)
            and (request.split is not Split.ALIGN if self.split is None else request.split == self.split)
            and (self.harmful is None or request.harmful == self.harmful)
        )


def pick(requests: Sequence[Request], spec: TraceSpec) -> list[Request]:
    """The requests a spec asks for, in the data set's order, with `pairs` applied per split.

    Pairs are ranked by the hash of their id within their scenario and taken from the scenarios in turn: the choice depends on
    neither the order of the data set nor the other conditions of the spec, and a smaller `pairs` is a subset of a larger one.
    """
    chosen = [r for r in requests if spec.picks(r)]
    if spec.pairs is None:
        return chosen
    keep = _ranked_pairs(requests, spec.pairs)
    return [r for r in chosen if (r.split, r.pair) in keep]


def _ranked_pairs(requests: Sequence[Request], limit: int) -> set[tuple[Split, str]]:
    by_scenario: dict[tuple[Split, str], set[str]] = {}
    for r in requests:
        by_scenario.setdefault((r.split, r.scenario), set()).add(r.pair)
    turns: dict[Split, list[tuple[int, str, str]]] = {}
    for (split, scenario), pairs in by_scenario.items():
        ranked = sorted(pairs, key=lambda pair: sha256(pair.encode()).hexdigest())
        turns.setdefault(split, []).extend((turn, scenario, pair) for turn, pair in enumerate(ranked))
    return {(split, pair) for split, queue in turns.items() for _, _, pair in sorted(queue)[:limit]}

"""Analysis: what one file in `analyses/` declares, and the records it exchanges with the runner.

An analysis says which traces it needs, measures a tidy table from them, and derives claims and a figure from that table alone. So
redrawing needs no model: this module, and every module in `analyses/` at import time, must do without torch and transformers.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from safesteer_interp.analysis.claim import Claim
from safesteer_interp.errors import SafeSteerError, UsageError, did_you_mean
from safesteer_interp.requests import Attack, Request, Split

Tables: TypeAlias = pd.DataFrame | dict[str, pd.DataFrame]
"""What `table` returns and what `claims` and `draw` get: one tidy table, or several by name (written to <name>.csv)."""

PROFILES = ("quick", "full")


class NotApplicableError(SafeSteerError):
    """Raised by `table` when the question has no meaning here (say, the model never refuses): skipped with the reason, not failed."""


@dataclass(frozen=True)
class TraceSpec:
    """States an analysis wants: which requests, read where, with how many generated tokens.

    The runner unites the specs of all planned analyses, so that every request runs through the model once.
    """

    attacks: tuple[Attack, ...] | None = None
    """Only these attacks; None: every attack of the data set (requests with images are left out for a text-only model)."""
    split: Split | None = None
    """Only this split; None: all splits."""
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
            and (self.split is None or request.split == self.split)
            and (self.harmful is None or request.harmful == self.harmful)
        )


@dataclass(frozen=True)
class Analysis:
    """One finding. `question` is the first line of the module's docstring and becomes the figure's caption."""

    id: str
    """Equals the file's name without .py, and names the folder of its figures."""
    title: str
    params: type
    """A frozen dataclass whose defaults are the quick profile; a string under each field is its help text."""
    needs: Callable[..., list[TraceSpec]]
    """`needs(p)`: the traces `table` will ask for."""
    table: Callable[..., Tables]
    """`table(ctx, p)`: one tidy DataFrame (value, low, high, n, ...), or several by name. `ctx` is a `context.Context`."""
    claims: Callable[..., list[Claim]]
    """`claims(t, p)`: from the table alone, as read back from its CSV."""
    draw: Callable[..., Any]
    """`draw(t, p)`: one matplotlib Figure, or several by name (written to <name>.pdf, .svg, .png), from the table alone."""
    replicates: str = ""
    """The figure or table of a paper that this redoes, e.g. "SafeSteer Fig. 7"; empty when it has no model in print."""
    cites: tuple[str, ...] = ()
    """Sources, e.g. ("arXiv:2605.11716",)."""
    requires_images: bool = False
    """True: meaningless on a text-only model; the runner then skips it and the gallery says why."""
    attacks: tuple[Attack, ...] = ()
    """Attacks without which it cannot run; it is skipped, with the reason, on a data set that lacks one."""
    profiles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Field values that differ from the defaults, by profile, e.g. {"full": {"pairs": None, "replicates": 2000}}."""
    order: int = 100
    """Place in the gallery; lower comes first."""
    timed: tuple[str, ...] = ()
    """Columns of its tables that hold timings of the machine it ran on: `verify` holds no new measurement against them, nor against
    the verdicts that rest on them, and says so."""
    captions: Mapping[str, str] = field(default_factory=dict)
    """Extra caption per figure name, where `draw` returns several or the axes need a word."""

    @property
    def source(self) -> Path:
        """The file that declares it."""
        return Path(inspect.getfile(self.table))

    @property
    def question(self) -> str:
        """First line of the docstring of the module that declares it."""
        doc = sys.modules[self.table.__module__].__doc__ or ""
        return doc.strip().split("\n\n")[0].replace("\n", " ").strip() or self.title

    def parameters(self, profile: str = "quick", overrides: Mapping[str, Any] | None = None) -> Any:
        """Parameters of a profile, with overrides (typed values, or strings as given after `--set`).

        Raises UsageError for an unknown profile, an unknown field or a value of the wrong type.
        """
        from safesteer_interp.analysis.params import with_overrides

        if profile not in PROFILES:
            raise UsageError(f'no profile is called "{profile}".{did_you_mean(profile, PROFILES)}')
        settings = {**self.profiles.get(profile, {}), **(overrides or {})}
        return with_overrides(self.params, settings, owner=self.id)


def as_tables(tables: Tables) -> dict[str, pd.DataFrame]:
    """Several tables by name; a lone one is called "table". Raises ValueError when there is none, or one is not a DataFrame."""
    named = {"table": tables} if isinstance(tables, pd.DataFrame) else dict(tables)
    wrong = [k for k, v in named.items() if not isinstance(v, pd.DataFrame)]
    if not named or wrong:
        raise ValueError(f"an analysis must return at least one DataFrame; not a DataFrame: {wrong or 'nothing returned'}.")
    return named


def like_returned(tables: Mapping[str, pd.DataFrame]) -> Tables:
    """The inverse of `as_tables`: a lone "table" as itself, several as a dict."""
    return tables["table"] if set(tables) == {"table"} else dict(tables)


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

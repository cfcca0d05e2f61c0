"""Analysis: what one file in `analyses/` declares, and the records it exchanges with the runner.

An analysis says which traces it needs, measures a tidy table from them, and derives claims and a figure from that table alone. So
redrawing needs no model: this module, and every module in `analyses/` at import time, must do without torch and transformers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from safesteer_interp.errors import UsageError, did_you_mean
from safesteer_interp.requests import Attack
from safesteer_interp.runner.claim import Claim
from safesteer_interp.runner.suitability import ANY_DATA, DataNeeds
from safesteer_interp.tracing.spec import TraceSpec

Tables: TypeAlias = pd.DataFrame | dict[str, pd.DataFrame]
"""What `table` returns and what `claims` and `draw` get: one tidy table, or several by name (written to <name>.csv)."""

PROFILES = ("quick", "full")


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
    data: DataNeeds = ANY_DATA
    """What else it needs of a data set; it is skipped, with the reason, on one that lacks it."""
    profiles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Field values that differ from the defaults, by profile, e.g. {"full": {"pairs": None, "replicates": 2000}}."""
    cost: Callable[[Any, int, int], str] | None = None
    """`cost(p, pairs, n_layers)`: what `table` computes beyond the traces, in words, for `--dry-run`; None: nothing worth naming."""
    order: int = 100
    """Place in the gallery; lower comes first."""
    timed: tuple[str, ...] = ()
    """Columns of its tables that hold timings of the machine it ran on: `verify` holds no new measurement against them, nor against
    the verdicts that rest on them, and says so."""
    captions: Mapping[str, str] = field(default_factory=dict)
    """Extra caption per figure name, where `draw` returns several or the axes need a word."""

    def __post_init__(self) -> None:
        """Raises UsageError for a part that cannot be called as the runner will call it."""
        for name, words in (("needs", "(p)"), ("table", "(ctx, p)"), ("claims", "(t, p)"), ("draw", "(t, p)")):
            try:
                inspect.signature(getattr(self, name)).bind(*words[1:-1].split(", "))
            except TypeError as cause:
                raise UsageError(f'`{name}` of analysis "{self.id}" must take {words}; it does not ({cause}).') from None
        if not is_dataclass(self.params):
            raise UsageError(f'`params` of analysis "{self.id}" must be a dataclass; it is {self.params!r}.')

    @property
    def source(self) -> Path:
        """The file that declares it."""
        return Path(self._module["__file__"])

    @property
    def question(self) -> str:
        """First line of the docstring of the module that declares it."""
        return (self._module["__doc__"] or "").strip().split("\n\n")[0].replace("\n", " ").strip() or self.title

    @property
    def _module(self) -> dict[str, Any]:
        """The globals of the module that declares it."""
        found: dict[str, Any] = inspect.unwrap(self.table).__globals__
        return found

    def parameters(self, profile: str = "quick", overrides: Mapping[str, Any] | None = None) -> Any:
        """Parameters of a profile, with overrides (typed values, or strings as given after `--set`).

        Raises UsageError for an unknown profile, an unknown field or a value of the wrong type.
        """
        from safesteer_interp.runner.params import with_overrides

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

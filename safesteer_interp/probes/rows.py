"""Rows and Resampling: what every measure of separability is given, as two records."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from safesteer_interp.errors import InputError
from safesteer_interp.probes.folds import pair_folds, split_folds


@dataclass(frozen=True)
class Resampling:
    """How intervals are drawn, and the seed of everything random beside them (folds, shuffled labels, random directions)."""

    replicates: int = 1000
    level: float = 0.95
    seed: int = 0


RESAMPLING = Resampling()


@dataclass(frozen=True, eq=False)
class Rows:
    """States of labelled requests at some sites, in the order of a trace's index.

    Raises InputError, naming the field, when one has another number of entries than there are requests.
    """

    states: Float[np.ndarray, "sites n d"] | Float[np.ndarray, "n d"]
    """[n, d] is kept as one site."""
    labels: Bool[np.ndarray, " n"]
    """True for harmful."""
    pairs: np.ndarray
    """Pair ids [n]: rows of one pair are never on both sides of a fold, and intervals are over pairs."""
    groups: np.ndarray | None = None
    """[n], usually the attack: each group gets probes of its own. None: one group "all"."""
    sites: Sequence[Hashable] | None = None
    """One per site of `states`; "0", "1", ... when not given."""
    train: Bool[np.ndarray, " n"] | None = None
    """[n] bool: probes are fitted on these rows and scored on the others; None: cross-validation over pairs."""

    def __post_init__(self) -> None:
        states = self.states[None] if self.states.ndim == 2 else self.states
        names = tuple(str(site) for site in (range(len(states)) if self.sites is None else self.sites))
        if len(names) != len(states):
            raise InputError(f"{len(names)} site names were given for states of {len(states)} sites.")
        given = {"labels": np.asarray(self.labels, dtype=bool), "pairs": np.asarray(self.pairs)}
        if self.groups is not None:
            given["groups"] = np.asarray([str(group) for group in self.groups])
        if self.train is not None:
            given["train"] = np.asarray(self.train, dtype=bool)
        check_rows(states.shape[1], **given)
        for name, value in {"states": states, "sites": names, **given}.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return self.states.shape[1]

    def __repr__(self) -> str:
        sites, n, d = self.states.shape
        return f"Rows({n} requests of {len(np.unique(self.pairs))} pairs, {int(self.labels.sum())} harmful; {sites} sites, d = {d})"

    @property
    def names(self) -> tuple[str, ...]:
        """Text names of the sites."""
        return tuple(str(site) for site in self.sites or ())

    def take(self, mask: Bool[np.ndarray, " n"]) -> Rows:
        """The rows of a mask, with all sites."""
        groups, train = (None if x is None else x[mask] for x in (self.groups, self.train))
        return replace(self, states=self.states[:, mask], labels=self.labels[mask], pairs=self.pairs[mask], groups=groups, train=train)

    def masks(self) -> dict[str, Bool[np.ndarray, " n"]]:
        """Rows of each group, in order of appearance. Raises InputError for a group without both classes."""
        if self.groups is None:
            return {"all": np.ones(len(self), dtype=bool)}
        masks = {name: self.groups == name for name in dict.fromkeys(self.groups.tolist())}
        for name, mask in masks.items():
            harmful, of = int(self.labels[mask].sum()), int(mask.sum())
            if harmful in (0, of):
                raise InputError(
                    f'group "{name}" has {harmful} harmful and {of - harmful} harmless requests; separability needs both, so '
                    "leave the group out or add its twins."
                )
        return masks

    def by_group(self) -> Iterator[tuple[str, Rows]]:
        """(name, its rows) of each group, as `masks`."""
        for name, mask in self.masks().items():
            yield name, self.take(mask)

    def fold_array(self, folds: int = 5, seed: int = 0) -> Int[np.ndarray, " n"]:
        """The fold array of the train/test split when there is one, else of cross-validation (`probes/folds.py`)."""
        return pair_folds(self.pairs, folds, seed) if self.train is None else split_folds(self.train, self.pairs)


def check_rows(n: int, **columns: Sequence[object] | np.ndarray) -> None:
    """Raise InputError, naming the argument, when one has another number of entries than there are requests."""
    for name, values in columns.items():
        if len(values) != n:
            raise InputError(f"`{name}` has {len(values)} entries but there are states of {n} requests; both follow the trace's index.")

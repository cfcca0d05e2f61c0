"""Trace: what was captured, ready to analyse. It opens without its model and without its data set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch

from safesteer_interp.errors import UsageError, did_you_mean
from safesteer_interp.requests import Split
from safesteer_interp.sites import Read, Site, readable
from safesteer_interp.tracing.shards import Shard
from safesteer_interp.types import RowMask, StateRows, StateStack


def state_name(site: Site | str, read: Read | str) -> str:
    """Name of a state tensor inside a shard."""
    return f"states/{site}/{read}"


def must_be_readable(site: Site | str, read: Read | str) -> None:
    """Raises UsageError for a read that a site has no states of."""
    if not readable(Site.parse(str(site)), Read.parse(str(read))):
        raise UsageError(f'{site} holds a picture and no text; it has no states of the read "{read}", only of image_mean.')


class Traced(ABC):
    """Captured states, ready to analyse: a stored trace, or the part of several that somebody asked for (`tracing/view.py`)."""

    key: str
    """Key of the stored trace (several: joined by "+"); empty when it was never stored."""
    fields: dict[str, Any]
    """What the key was made of, without the requests."""
    meta: dict[str, Any]
    """Model name and family, library versions: for the record, not part of the key."""

    @property
    @abstractmethod
    def sites(self) -> tuple[Site, ...]:
        """In the order in which `stack` shows them."""

    @property
    @abstractmethod
    def reads(self) -> tuple[Read, ...]: ...

    @property
    @abstractmethod
    def index(self) -> pd.DataFrame:
        """One row per request: its labels, prompt_length (tokens, without padding) and n_generated (tokens)."""

    @property
    def labels(self) -> Labels:
        """The labels in `index` as arrays [n]: harmful, pairs, attacks, splits, train."""
        return labels_of(self.index)

    @property
    @abstractmethod
    def generated(self) -> list[list[int]]:
        """Generated token ids per request, the end-of-sequence token included."""

    @property
    @abstractmethod
    def texts(self) -> list[str]:
        """Decoded answers per request, special tokens left out.

        Raises UsageError when no token was asked for: an empty answer would look like a model that says nothing.
        """

    @property
    @abstractmethod
    def logits(self) -> np.ndarray | None:
        """[n, vocab] float32 next-token logits after the prompt, or None when they were not asked for."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def rows(self, site: Site | str, read: Read | str = "last_prompt") -> StateRows:
        """States [n, d] float32; NaN rows where the read does not exist for a request (see `present`).

        Raises UsageError for a site or read that is not held, InputError for a damaged shard.
        """

    @abstractmethod
    def present(self, read: Read | str) -> RowMask:
        """[n] True where the read exists: an image to average over, an answer that lasted to the step."""

    def stack(self, read: Read | str = "last_prompt", sites: Sequence[Site | str] | None = None) -> StateStack:
        """States [sites, n, d] float32 at one read, for all `sites` or those given, in that order.

        Raises UsageError for sites of different widths (layers of the eyes beside those of the decoder).
        """
        wanted = self.sites if sites is None else sites
        first = self.rows(wanted[0], read)
        out = np.empty((len(wanted), *first.shape), np.float32)
        out[0] = first
        for i, site in enumerate(wanted[1:], 1):
            states = self.rows(site, read)
            if states.shape != first.shape:
                raise UsageError(f"{wanted[0]} and {site} have widths {first.shape[1]} and {states.shape[1]}; stack sites of one width.")
            out[i] = states
        return out

    def __repr__(self) -> str:
        model, key = self.meta.get("model", "an unknown model"), f"key {self.key}" if self.key else "in memory"
        sites, reads = (_several(list(map(str, names))) for names in (self.sites, self.reads))
        return f"{type(self).__name__}({len(self)} requests of {model}, sites {sites}, reads {reads}, {key})"


def _several(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{names[0]} ... {names[-1]} ({len(names)})"


NO_TOKENS = (
    "this trace holds no answers, since no token was asked for; "
    "ask for some with max_new_tokens in the TraceSpec, or sampling=Sampling(max_new_tokens=32) in `collect`."
)


@dataclass(repr=False)
class Trace(Traced):
    """A trace as it was made: one row per request, those of one content once."""

    key: str
    fields: dict[str, Any]
    meta: dict[str, Any]
    requests: pd.DataFrame
    """request, pair, dataset, scenario, attack, harmful, split, has_image: as they were labelled when the trace was made."""
    shards: Sequence[Shard]
    contents: tuple[str, ...] = ()
    """What each row was made of (`tracing/contents.py`): labels may change, this does not."""

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(Site.parse(text) for text in self.fields["sites"])

    @property
    def reads(self) -> tuple[Read, ...]:
        return tuple(Read.parse(text) for text in self.fields["reads"])

    def __len__(self) -> int:
        return len(self.requests)

    @cached_property
    def index(self) -> pd.DataFrame:
        lengths = {"prompt_length": self._column("prompt_length"), "n_generated": self._column("generated_length")}
        return self.requests.assign(**lengths)

    def rows(self, site: Site | str, read: Read | str = "last_prompt") -> StateRows:
        self._must_hold("site", str(site), self.fields["sites"])
        self._must_hold("read", str(read), self.fields["reads"])
        must_be_readable(site, read)
        return self._gather(state_name(site, read), np.dtype(np.float32))

    def present(self, read: Read | str) -> RowMask:
        self._must_hold("read", str(read), self.fields["reads"])
        return self._column(f"present/{read}").astype(bool)

    @property
    def logits(self) -> np.ndarray | None:
        return self._gather("logits", np.dtype(np.float32)) if self.fields["logits"] else None

    @cached_property
    def generated(self) -> list[list[int]]:
        out: list[list[int]] = [[] for _ in range(len(self))]
        for shard in self.shards:
            ids = shard.tensor("generated").tolist()
            ends = shard.tensor("generated_length").cumsum(0).tolist()
            for row, start, end in zip(shard.tensor("row").tolist(), [0, *ends], ends, strict=False):
                out[row] = ids[start:end]
        return out

    @cached_property
    def texts(self) -> list[str]:
        if not self.fields["sampling"]["max_new_tokens"]:
            raise UsageError(NO_TOKENS)
        out = [""] * len(self)
        for shard in self.shards:
            for row, text in zip(shard.tensor("row").tolist(), shard.texts(), strict=True):
                out[row] = text
        return out

    def _must_hold(self, what: str, name: str, held: Sequence[str]) -> None:
        if name not in held:
            raise UsageError(f'this trace holds no {what} "{name}".{did_you_mean(name, held)} Capture it with --{what}s.')

    def _gather(self, name: str, dtype: np.dtype[Any]) -> np.ndarray:
        out: np.ndarray | None = None
        for shard in self.shards:
            tensor = shard.tensor(name)
            if out is None:
                out = np.empty((len(self), *tensor.shape[1:]), dtype)
            out[shard.tensor("row").numpy()] = tensor.to(torch.float32 if dtype.kind == "f" else tensor.dtype).numpy()
        return np.empty((0, 0), dtype) if out is None else out

    def _column(self, name: str) -> np.ndarray:
        return self._gather(name, np.dtype(np.int64))


FIT_SPLIT = str(Split.FIT)
"""The split that probes, vectors and directions are fitted on unless another is named."""


@dataclass(frozen=True, eq=False)
class Labels:
    """What a trace's index says of its requests, as arrays [n] in its order."""

    harmful: RowMask
    pairs: np.ndarray
    """Pair ids: the clusters of every interval."""
    attacks: np.ndarray
    splits: np.ndarray

    @property
    def train(self) -> RowMask:
        """[n] True for rows of the split that is fitted on."""
        return np.asarray(self.splits == FIT_SPLIT)


def labels_of(index: pd.DataFrame) -> Labels:
    """The labels of an index (`Trace.index`, or several of them joined) as arrays."""
    words = (index[column].to_numpy(str) for column in ("pair", "attack", "split"))
    return Labels(index["harmful"].to_numpy(bool), *words)


def fitting_rows(index: pd.DataFrame, split: str | None = FIT_SPLIT) -> RowMask:
    """[n] True for rows that a fit told to use `split` may see (None: fit and validation).

    Raises UsageError for the test split, since what is reported there was fitted elsewhere, and for the align split, whose activities an
    adapter of the model may have been trained on.
    """
    splits = labels_of(index).splits
    if split == Split.TEST:
        raise UsageError('nothing is fitted on the "test" split, which results are reported on; fit on "fit" or "validation".')
    if split == Split.ALIGN:
        raise UsageError('nothing is fitted on the "align" split, which the model may have been trained on; fit on "fit" or "validation".')
    return np.isin(splits, [str(Split.FIT), str(Split.VALIDATION)] if split is None else [str(split)])

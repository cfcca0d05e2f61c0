"""TraceView: the rows, sites, reads and tokens that somebody asked for, out of the traces that hold them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from safesteer_interp.errors import UsageError
from safesteer_interp.requests import Request, index_of
from safesteer_interp.sites import Read, Site, forward_order, readable
from safesteer_interp.tracing.trace import NO_TOKENS, Trace, Traced, must_be_readable
from safesteer_interp.types import RowMask, StateRows


@dataclass(frozen=True)
class Part:
    """Rows of one stored trace: view row `at[i]` is trace row `take[i]`."""

    trace: Trace
    take: np.ndarray
    at: np.ndarray


class TraceView(Traced):
    """Reads like a `Trace` of the requests given. Rows are in the order of `requests`, whatever traces they came from."""

    def __init__(
        self,
        parts: Sequence[Part],
        requests: Sequence[Request],
        *,
        sites: Sequence[str],
        reads: Sequence[str],
        max_new_tokens: int,
        decode: Callable[[list[int]], str],
        logits: bool = True,
    ) -> None:
        self.parts = tuple(parts)
        self.requests = list(requests)
        self.max_new_tokens = max_new_tokens
        self.keys = tuple(sorted({part.trace.key for part in parts}))
        """Keys of the stored traces behind this view, for the provenance."""
        self.key = "+".join(self.keys)
        first = self.parts[0].trace  # all parts come from one model
        self.meta = dict(first.meta)
        self.fields = {**first.fields, "sites": list(sites), "reads": list(reads)}
        self._sites = tuple(Site.parse(s) for s in sites)
        self._reads = tuple(Read.parse(r) for r in reads)
        self._decode = decode
        self._logits = logits

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def sites(self) -> tuple[Site, ...]:
        return self._sites

    @property
    def reads(self) -> tuple[Read, ...]:
        return self._reads

    def rows(self, site: Site | str, read: Read | str = "last_prompt") -> StateRows:
        asked_site, asked_read = Site.parse(str(site)), Read.parse(str(read))
        for what, asked, known in (("site", asked_site, self.sites), ("read", asked_read, self.reads)):
            if asked not in known:
                raise UsageError(
                    f'{what} "{asked}" is not in this trace; ask for it in the TraceSpec or `collect`. It holds {_words(known)}.'
                )
        must_be_readable(asked_site, asked_read)
        blocks = [(p, p.trace.rows(str(asked_site), str(asked_read))[p.take]) for p in self.parts if asked_read in p.trace.reads]
        width = blocks[0][1].shape[1] if blocks else self._width(asked_site)
        out = np.full((len(self), width), np.nan, dtype=np.float32)
        for part, block in blocks:
            out[part.at] = block
        return out

    def _width(self, site: Site) -> int:
        """Width of a site's states where the read that was asked for is held by no part."""
        trace = self.parts[0].trace
        held = next(read for read in trace.reads if readable(site, read))
        return int(trace.rows(str(site), str(held)).shape[1])

    def present(self, read: Read | str) -> RowMask:
        out = np.zeros(len(self), dtype=bool)
        for part in self.parts:
            if Read.parse(str(read)) in part.trace.reads:
                out[part.at] = part.trace.present(str(read))[part.take]
        return out

    @property
    def sites_in_order(self) -> tuple[Site, ...]:
        """The sites as the residual stream meets them: embed, then layer by layer, then the final norm."""
        return tuple(sorted(self.sites, key=forward_order))

    @property
    def index(self) -> pd.DataFrame:
        """One row per request: its labels, prompt_length (tokens, without padding) and n_generated (at most the tokens asked for).

        Labels come from the requests, not from the trace, whose key covers what the model saw and nothing else.
        """
        lengths = {name: np.zeros(len(self), dtype=np.int64) for name in ("prompt_length", "n_generated")}
        for part in self.parts:
            for name, out in lengths.items():
                out[part.at] = part.trace.index[name].to_numpy()[part.take]
        lengths["n_generated"] = np.minimum(lengths["n_generated"], self.max_new_tokens)
        return index_of(self.requests).assign(**lengths)

    @cached_property
    def generated(self) -> list[list[int]]:
        """Generated token ids per request, at most `max_new_tokens` of them, the end-of-sequence token included."""
        return [tokens[: self.max_new_tokens] for tokens in self._each("generated")]

    @cached_property
    def texts(self) -> list[str]:
        """Decoded answers per request, decoded anew where the stored answer is longer than was asked for; raises as `Traced.texts`."""
        if not self.max_new_tokens:
            raise UsageError(NO_TOKENS)
        full, texts = self._each("generated"), self._each("texts")
        return [
            text if len(tokens) <= self.max_new_tokens else self._decode(tokens[: self.max_new_tokens])
            for tokens, text in zip(full, texts, strict=True)
        ]

    @property
    def logits(self) -> np.ndarray | None:
        if not self._logits:
            return None
        blocks = [b for b in (p.trace.logits for p in self.parts) if b is not None]
        if len(blocks) < len(self.parts):
            return None
        out = np.empty((len(self), blocks[0].shape[1]), dtype=np.float32)
        for part, block in zip(self.parts, blocks, strict=True):
            out[part.at] = block[part.take]
        return out

    def _each(self, name: str) -> list[Any]:
        out: list[Any] = [None] * len(self)
        for part in self.parts:
            values = getattr(part.trace, name)
            for take, at in zip(part.take, part.at, strict=True):
                out[at] = values[take]
        return out


def _words(known: Sequence[object]) -> str:
    names = [str(k) for k in known]
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])} and {len(names) - 5} more"

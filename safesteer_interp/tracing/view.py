"""TraceView: the rows, sites, reads and tokens one analysis asked for, out of the larger traces that hold them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from safesteer_interp.errors import UsageError
from safesteer_interp.requests import Request
from safesteer_interp.sites import Read, Site
from safesteer_interp.types import RowMask, StateRows, StateStack


@dataclass(frozen=True)
class Part:
    """Rows of one stored trace: view row `at[i]` is trace row `take[i]`."""

    trace: Any
    """A `tracing.store.Trace`."""
    take: np.ndarray
    at: np.ndarray


class TraceView:
    """Reads like a `Trace` restricted to a spec. Rows are in the order of `requests`, whatever traces they came from."""

    def __init__(
        self,
        parts: Sequence[Part],
        requests: Sequence[Request],
        *,
        sites: Sequence[str],
        reads: Sequence[str],
        max_new_tokens: int,
        decode: Callable[[list[int]], str],
    ) -> None:
        self.parts = tuple(parts)
        self.requests = list(requests)
        self.sites = tuple(Site.parse(s) for s in sites)
        self.reads = tuple(Read.parse(r) for r in reads)
        self.max_new_tokens = max_new_tokens
        self._decode = decode

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the stored traces behind this view, for the provenance."""
        return tuple(sorted({str(p.trace.key) for p in self.parts}))

    @property
    def key(self) -> str:
        """Keys of the stored traces behind this view, as one word."""
        return "+".join(self.keys)

    @property
    def fields(self) -> dict[str, Any]:
        """What the traces' keys were made of (all parts come from one model); sites and reads are those of the spec."""
        return {**self.parts[0].trace.fields, "sites": [str(s) for s in self.sites], "reads": [str(r) for r in self.reads]}

    @property
    def meta(self) -> dict[str, Any]:
        """Model name and family, library versions."""
        return dict(self.parts[0].trace.meta)

    def rows(self, site: Site | str, read: Read | str) -> StateRows:
        """[n, d] float32 states at one site and read, in the order of `index`; NaN rows where the read does not exist.

        Raises UsageError for a site or read that the spec did not ask for.
        """
        asked_site, asked_read = Site.parse(str(site)), Read.parse(str(read))
        for what, asked, known in (("site", asked_site, self.sites), ("read", asked_read, self.reads)):
            if asked not in known:
                raise UsageError(f'{what} "{asked}" is not in this trace; add it to the TraceSpec. It holds {_words(known)}.')
        blocks = [(p, p.trace.rows(str(asked_site), str(asked_read))[p.take]) for p in self.parts if asked_read in p.trace.reads]
        width = blocks[0][1].shape[1] if blocks else self._width(asked_site)
        out = np.full((len(self), width), np.nan, dtype=np.float32)
        for part, block in blocks:
            out[part.at] = block
        return out

    def _width(self, site: Site) -> int:
        """Width of a site's states where the read that was asked for is held by no part."""
        trace = self.parts[0].trace
        return int(trace.rows(str(site), str(trace.reads[0])).shape[1])

    def present(self, read: Read | str) -> RowMask:
        """[n] True where a read exists (the request has an image; the answer reached the step)."""
        out = np.zeros(len(self), dtype=bool)
        for part in self.parts:
            if Read.parse(str(read)) in part.trace.reads:
                out[part.at] = part.trace.present(str(read))[part.take]
        return out

    def stack(self, read: Read | str, sites: Sequence[Site | str] | None = None) -> StateStack:
        """[sites, n, d] float32 states at one read; all sites of the spec, sorted as embed, layers, final norm, when none named."""
        asked = self.sites_in_order if sites is None else sites
        return np.stack([self.rows(s, read) for s in asked])

    @property
    def sites_in_order(self) -> tuple[Site, ...]:
        """The spec's sites as the residual stream meets them: embed, then layer by layer, then the final norm."""
        rank = {"embed": 0, "attn_out": 1, "mlp_out": 2, "resid_post": 3}
        return tuple(
            sorted(self.sites, key=lambda s: (-1 if s.kind == "embed" else 10**6 if s.layer is None else s.layer, rank.get(s.kind, 9)))
        )

    @property
    def index(self) -> pd.DataFrame:
        """One row per request: what `Trace.index` holds, with `n_generated` cut to the tokens of the spec."""
        frames = [p.trace.index.iloc[p.take].assign(_at=p.at) for p in self.parts]
        index = pd.concat(frames).sort_values("_at").drop(columns="_at").reset_index(drop=True)
        # Labels come from the request, not from the trace: the trace's key covers what the model saw, and nothing else.
        for column in ("pair", "scenario", "dataset"):
            index[column] = [getattr(r, column) for r in self.requests]
        index["attack"] = [str(r.attack) for r in self.requests]
        index["split"] = [str(r.split) for r in self.requests]
        index["harmful"] = [r.harmful for r in self.requests]
        if "n_generated" in index:
            index["n_generated"] = np.minimum(index["n_generated"].to_numpy(), self.max_new_tokens)
        return index

    @property
    def generated(self) -> list[list[int]]:
        """Generated token ids per request, at most `max_new_tokens` of them."""
        return [tokens[: self.max_new_tokens] for tokens in self._each("generated")]

    @property
    def texts(self) -> list[str]:
        """Decoded answers per request; decoded anew where the stored answer is longer than the spec asked for."""
        full, texts = self._each("generated"), self._each("texts")
        return [
            text if len(tokens) <= self.max_new_tokens else self._decode(tokens[: self.max_new_tokens])
            for tokens, text in zip(full, texts, strict=True)
        ]

    @property
    def logits(self) -> np.ndarray | None:
        """[n, vocab] float32 next-token logits at the last prompt token; None when a part holds none."""
        blocks = [p.trace.logits for p in self.parts]
        if any(b is None for b in blocks):
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

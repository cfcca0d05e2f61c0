"""Roll-outs: which candidates a model offers at the first steps of its own sampled answers, and what it says after each of them.

The K candidates of every step come from the forward that guided decoding itself makes; then each is said, and the answer is finished
greedily, which labels it: refusal or not. What was measured is kept by content, so that every fit and every analysis shares it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from safesteer_interp.decoding.answering import answer_asks, text_of
from safesteer_interp.decoding.loop import Branch, Decoded, Row, Stream, Terms
from safesteer_interp.decoding.policies import Candidates, Opening
from safesteer_interp.decoding.prompt_cache import distinct, read_prompts, remembering_prompts, spread
from safesteer_interp.decoding.sharing import Ask, by_length
from safesteer_interp.errors import InputError
from safesteer_interp.files import digest, read_tensors, write_tensors
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.special_tokens import further_stops, stop_ids
from safesteer_interp.paths import store_dir
from safesteer_interp.probes.offered import Offered
from safesteer_interp.probes.tokens import SITE
from safesteer_interp.progress import progress_bar
from safesteer_interp.refusals import is_refusal
from safesteer_interp.requests import Request, check_unchanged
from safesteer_interp.sites import Site, SiteKind
from safesteer_interp.tracing.sampling import draw
from safesteer_interp.tracing.tracer import Sampling
from safesteer_interp.turns import in_turn
from safesteer_interp.types import States

KIND = "safesteer-candidates/1"


@dataclass(frozen=True)
class RollOut:
    """What is measured of every request."""

    k: int = 5
    """Candidates a step."""
    steps: int = 5
    """First steps of the answer whose candidates are kept."""
    tokens: int = 12
    """Greedy tokens after each candidate: a refusal prefix is out within the first dozen. 0: candidates are not labelled."""
    seed: int = 0
    """Of the sampled answers (temperature 1, among the K candidates)."""


ROLL_OUT = RollOut()


def offered(
    mllm: MLLM,
    requests: Sequence[Request],
    how: RollOut = ROLL_OUT,
    *,
    site: Site = SITE,
    batch_size: int = 32,
    root: Path | None = None,
    progress: bool = False,
) -> Offered:
    """The candidates of the first steps of each request's sampled answer, with states at `site`, labelled by roll-out.

    Kept in the user's cache (or `root`) by content. Raises InputError when there is no request.
    """
    return offered_at(mllm, requests, (site,), how, batch_size=batch_size, root=root, progress=progress)[site]


def offered_at(
    mllm: MLLM,
    requests: Sequence[Request],
    sites: Sequence[Site],
    how: RollOut = ROLL_OUT,
    *,
    batch_size: int = 32,
    root: Path | None = None,
    progress: bool = False,
) -> dict[Site, Offered]:
    """The same candidates with their states at each of several sites, from one pass."""
    if not requests:
        raise InputError("there is no request to take candidates from; give some harmful requests of the fit split.")
    requests = list({request.key(): request for request in reversed(requests)}.values())[::-1]  # of equal ones the first
    keys = [request.key() for request in requests]
    path = (root or store_dir("candidates")) / f"{_key(mllm, keys, how, sites)}.safetensors"
    with nullcontext() if path.exists() else in_turn(path.parent, path.stem):
        try:
            tensors, record = read_tensors(path, KIND)
        except InputError:  # not there yet, or damaged: measured again
            with remembering_prompts(mllm):
                tensors, record = _measured(mllm, requests, how, tuple(sites), batch_size, progress)
            check_unchanged(requests, keys)
            write_tensors(path, tensors, record, kind=KIND)
    of = [requests[i] for i in tensors["request"].tolist()]
    labels: dict[str, Any] = {
        "refusal": np.array([is_refusal(text) for text in record["texts"]], dtype=bool) if how.tokens else np.zeros(len(of), dtype=bool),
        "steps": tensors["steps"],
        "prompts": np.array([r.id for r in of], dtype=str),
        "pairs": np.array([r.pair for r in of], dtype=str),
        "forms": np.array([str(r.attack) for r in of], dtype=str),
        "tokens": tensors["tokens"],
        "log_probs": tensors["log_probs"],
        "labelled": how.tokens > 0,
    }
    return {site: Offered(tensors[f"states/{site}"], **labels) for site in sites}


def _key(mllm: MLLM, requests: Sequence[str], how: RollOut, sites: Sequence[Site]) -> str:
    stops = further_stops(mllm)
    fields = {
        "format": KIND,
        "model": mllm.fingerprint,
        "dtype": str(mllm.dtype),
        "system_prompt": mllm.system_prompt,
        "thinking": mllm.thinking,
        **({"stops": stops} if stops else {}),
        "requests": list(requests),
        "how": [how.k, how.steps, how.tokens, how.seed],
        "sites": [str(site) for site in sites],
    }
    return digest(fields)[:32]


def _measured(
    mllm: MLLM, requests: Sequence[Request], how: RollOut, sites: tuple[Site, ...], batch_size: int, progress: bool
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    recorders = [_Recorder(how.k, how.steps, sites) for _ in requests]
    asks = [Ask(request, how.seed, recorder) for request, recorder in zip(requests, recorders, strict=True)]
    for _ in answer_asks(mllm, asks, Sampling(how.steps, 1.0), batch_size=batch_size):
        pass
    place, steps, tokens, log_probs, said = list[int](), list[int](), list[int](), list[float](), list[list[int]]()
    states: dict[Site, list[np.ndarray]] = {site: [] for site in sites}
    for i, recorder in enumerate(recorders):
        for step, (ids, log_p, seen, before) in enumerate(recorder.seen):
            place += [i] * len(ids)
            steps += [step] * len(ids)
            tokens += ids
            log_probs += log_p
            said += [[*before, token] for token in ids]
            for site in sites:
                states[site].append(seen[site])
    texts = [""] * len(said)
    if how.tokens:
        with progress_bar(f"rolling candidates out on {mllm.name}", len(said), enabled=progress) as advance:
            for at, text in continued(mllm, [requests[i] for i in place], said, how.tokens, batch_size):
                texts[at] = text
                advance(1)
    return {
        "request": np.array(place, dtype=np.int64),
        "steps": np.array(steps, dtype=np.int64),
        "tokens": np.array(tokens, dtype=np.int64),
        "log_probs": np.array(log_probs, dtype=np.float32),
        **{f"states/{site}": np.concatenate(blocks).astype(np.float32) for site, blocks in states.items()},
    }, {"texts": texts}


Seen = tuple[list[int], list[float], dict[Site, np.ndarray], tuple[int, ...]]
"""Ids and log-probabilities of the candidates of one step, their states by site, and what was said before."""


@dataclass(eq=False)
class _Recorder:
    """A policy that samples among the K candidates and keeps what it saw of its own row."""

    k: int
    steps: int
    read: tuple[Site, ...]
    seen: list[Seen] = field(default_factory=list)

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(site for site in self.read if site.kind is not SiteKind.FINAL_NORM)

    def begin(self, states: States) -> Opening:
        return Opening(states, torch.ones(len(states), dtype=torch.bool, device=states.device), [{} for _ in states])

    def choose(self, candidates: Candidates, uniform: Float[Tensor, " batch"]) -> tuple[Int[Tensor, " batch"], Float[Tensor, "batch k"]]:
        states = {site: candidates.seen(site).float().cpu().numpy() for site in self.read}
        for row, (ids, log_p) in enumerate(zip(candidates.ids.tolist(), candidates.log_probs.tolist(), strict=True)):
            self.seen.append((ids, log_p, {site: x[row] for site, x in states.items()}, tuple(candidates.emitted[row])))
        return draw(candidates.log_probs, uniform, 1.0), candidates.log_probs


@torch.no_grad()
def continued(
    mllm: MLLM, requests: Sequence[Request], beginnings: Sequence[Sequence[int]], new_tokens: int, batch_size: int = 32
) -> Iterator[tuple[int, str]]:
    """(place, text) of every request's answer that begins with the given tokens and goes on greedily for at most `new_tokens`."""
    for length in sorted({len(beginning) for beginning in beginnings}):
        chosen = [i for i, beginning in enumerate(beginnings) if len(beginning) == length]
        for part in by_length([requests[i] for i in chosen], batch_size):
            places = [chosen[i] for i in part]
            asked, rows = distinct([requests[i] for i in places])
            prefix, states = read_prompts(mllm, mllm.encode(asked).to(mllm.device))
            answers = [Row(Decoded(), [0.0] * (length + new_tokens), place, n) for n, place in enumerate(places)]
            terms = Terms(length + new_tokens, stop_ids(mllm), temperature=0.0)
            stream = Stream(mllm.model, terms, [Branch(prefix, spread(prefix, states, rows))], list(answers))
            for step in range(length):
                if stream.rows:
                    stream.write(torch.tensor([beginnings[row.ask][step] for row in stream.rows], device=mllm.device))
            while stream.rows:
                stream.plain_step()
            yield from ((row.ask, text_of(mllm, row.answer)) for row in answers)


def ranked(requests: Sequence[Request], pairs: int) -> list[Request]:
    """The harmful requests of so many pairs, by the hash of the pair: a few requests of every form, the same ones every time."""
    harmful = [request for request in requests if request.harmful]
    order = sorted({request.pair for request in harmful}, key=lambda pair: hashlib.sha256(pair.encode()).hexdigest())
    kept = set(order[:pairs])
    return [request for request in harmful if request.pair in kept]

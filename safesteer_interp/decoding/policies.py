"""Policies: how each next token is chosen, from plain sampling to the probe-guided choice of SafeSteer and its controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from safesteer_interp.decoding.choice import Choice
from safesteer_interp.errors import UsageError
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.openings import refusal_openings
from safesteer_interp.probes.decoding_probe import DecodingProbe
from safesteer_interp.refusals import ALL_OPENINGS
from safesteer_interp.sites import Site, SiteKind
from safesteer_interp.tracing.sampling import draw
from safesteer_interp.types import States


@dataclass(frozen=True)
class Candidates:
    """The K candidates of every row at one guided step, with the states their own forward gave."""

    ids: Int[Tensor, "batch k"]
    log_probs: Float[Tensor, "batch k"]
    """Natural log of the model's next-token probabilities (full vocabulary, temperature 1)."""
    states: Float[Tensor, "batch k d"]
    """After the final norm, float32: the tensor the probe was fitted on."""
    step: int
    """Decoding step whose token is being chosen: 0 is the first answer token."""
    emitted: Sequence[Sequence[int]]
    """Token ids each row has answered so far."""
    rows: Int[Tensor, " batch"] | None = None
    """Which answer of the original batch each row writes: rows that have finished are gone."""
    at: Mapping[Site, Float[Tensor, "batch k d"]] = field(default_factory=dict)
    """States of the same forward at the other sites that scorers read, float32."""
    temperature: float = 1.0
    """At which the answer is sampled; 0 is greedy. Guided steps are drawn at it too."""

    def seen(self, site: Site | None) -> Float[Tensor, "batch k d"]:
        """The candidates' states at a site; None: after the final norm."""
        return self.states if site is None or site.kind is SiteKind.FINAL_NORM else self.at[site]

    def take(self, rows: Int[Tensor, " taken"]) -> Candidates:
        """Some rows."""
        at = rows.to(self.ids.device)
        return Candidates(
            self.ids[at],
            self.log_probs[at],
            self.states[at],
            self.step,
            [self.emitted[row] for row in rows.tolist()],
            None if self.rows is None else self.rows[rows],
            {site: states[at] for site, states in self.at.items()},
            self.temperature,
        )


@runtime_checkable
class Scorer(Protocol):
    """Gives every candidate a score; higher is preferred.

    One that reads states at another place than the final norm has a field `site` that names it, and asks `candidates.seen(site)`.
    """

    @property
    def name(self) -> str: ...

    def scores(self, candidates: Candidates) -> Float[Tensor, "batch k"]: ...


@dataclass(frozen=True)
class Opening:
    """What a policy decided after the prompt pass."""

    states: States
    """The last prompt state the first token is predicted from: h0, or h0 after the alignment vector."""
    guided: Bool[Tensor, " batch"]
    """Rows whose first steps the policy guides; the others are sampled plainly."""
    verdicts: Sequence[Mapping[str, float | bool]]
    """Per row: what was measured and decided (e.g. the probe's score of the prompt), for `--explain` and tables."""


@runtime_checkable
class Policy(Protocol):
    """Chooses tokens. `steps` = 0 is ordinary sampling."""

    @property
    def k(self) -> int: ...

    @property
    def steps(self) -> int: ...

    def begin(self, states: States) -> Opening: ...

    def choose(
        self, candidates: Candidates, uniform: Float[Tensor, " batch"]
    ) -> tuple[Int[Tensor, " batch"], Float[Tensor, "batch k"]]: ...


@dataclass(frozen=True)
class Plain:
    """Ordinary sampling (or greedy decoding at temperature 0): nothing is guided."""

    k: int = 1
    steps: int = 0

    def begin(self, states: States) -> Opening:
        """Leaves the state alone."""
        return Opening(states, torch.zeros(len(states), dtype=torch.bool, device=states.device), [{} for _ in states])

    def choose(self, candidates: Candidates, uniform: Float[Tensor, " batch"]) -> tuple[Int[Tensor, " batch"], Float[Tensor, "batch k"]]:
        """By the model's own probabilities over the candidates."""
        return draw(candidates.log_probs, uniform, candidates.temperature), candidates.log_probs


PLAIN = Plain()


def sites_of(policy: Policy) -> tuple[Site, ...]:
    """The sites, other than the final norm, at which a policy wants to see the candidates."""
    return tuple(getattr(policy, "sites", ()))


OpeningRule = Callable[[States], Opening]
CHOICE = Choice()


@dataclass(frozen=True)
class Guided:
    """Re-ranks the top-K candidates of the first `steps` steps by a score (arXiv 2605.11716 eq. 4-6).

    The token is drawn as `choice` says, softmax((log p + beta * z) / T) over the K candidates, where T is the temperature of the whole
    answer; the paper's rule is `choice=PAPER`. An end-of-sequence token among the candidates is scored like any other (the paper does
    not say), so that an answer may end while it is guided. Raises UsageError for K < 1 or negative steps.
    """

    scorer: Scorer
    k: int = 5
    steps: int = 5
    choice: Choice = CHOICE
    opening: OpeningRule | None = field(default=None, repr=False)
    """Edits h0 and decides which rows are guided; every row is, unedited, without it."""

    def __post_init__(self) -> None:
        check_budget(self.k, self.steps)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where the scorer reads, unless that is the final norm."""
        site = getattr(self.scorer, "site", None)
        return () if site is None or site.kind is SiteKind.FINAL_NORM else (site,)

    def __repr__(self) -> str:
        edited = ", with an opening rule" if self.opening is not None else ""
        return f"Guided({self.scorer.name}, k={self.k}, steps={self.steps}, {self.choice}{edited})"

    def begin(self, states: States) -> Opening:
        """Applies `opening`."""
        if self.opening is not None:
            return self.opening(states)
        return Opening(states, torch.ones(len(states), dtype=torch.bool, device=states.device), [{} for _ in states])

    def choose(self, candidates: Candidates, uniform: Float[Tensor, " batch"]) -> tuple[Int[Tensor, " batch"], Float[Tensor, "batch k"]]:
        """The index drawn for each row, and the scores s [batch, k] it was drawn by (log-odds for a probe, not scaled)."""
        scores = self.scorer.scores(candidates).to(candidates.log_probs)
        return draw(self.choice.logits(candidates.log_probs, scores), uniform, candidates.temperature), scores


MOST_CANDIDATES = 1000
"""Largest K: every candidate is a token of the forward, for every row. The paper tries up to 20."""


def check_budget(k: int, steps: int, max_new_tokens: int | None = None, mllm: MLLM | None = None) -> None:
    """Raise UsageError for K < 1, K beyond `MOST_CANDIDATES` or the model's vocabulary, steps < 0, or more guided steps than tokens."""
    if k < 1:
        raise UsageError(f"K is {k}, but guided decoding needs at least 1 candidate a step; 5 is the usual choice.")
    if k > MOST_CANDIDATES:
        raise UsageError(f"K is {k}, but at most {MOST_CANDIDATES} candidates are scored a step; 5 is the usual choice.")
    if mllm is not None and k > (tokens := int(mllm.model.config.get_text_config().vocab_size)):
        raise UsageError(f'K is {k}, but "{mllm.name}" has {tokens} tokens to choose from; 5 is the usual choice.')
    if steps < 0:
        raise UsageError(f"steps is {steps}; give the number of answer tokens to guide, 0 or more.")
    if max_new_tokens is not None and steps > max_new_tokens:
        raise UsageError(
            f"steps is {steps} but at most {max_new_tokens} tokens are generated; lower steps or raise max_new_tokens to {steps}."
        )


@dataclass(frozen=True)
class ProbeScorer:
    """The probe's score of each candidate's own state, s = W C^T (h - m) + b (arXiv 2605.11716 eq. 5)."""

    probe: DecodingProbe
    name: str = "probe"
    site: Site | None = None
    """Where the probe reads; None: after the final norm."""

    def scores(self, candidates: Candidates) -> Float[Tensor, "batch k"]:
        """Log-odds of harmful; the pass that consumes answer token t is step t + 1."""
        return self.probe.score_tensor(candidates.seen(self.site), candidates.step + 1)


@dataclass(frozen=True)
class RandomScorer:
    """Control: a random direction within the probe's own components, with the probe's spread over each row's candidates.

    Only the meaning is gone: it reads the same few dimensions, and the choice is as sharp as the probe's. If this lowers attack success
    too, the gain comes from picking unlikely tokens, not from reading harm.
    """

    probe: DecodingProbe
    seed: int = 0
    name: str = "random probe"
    site: Site | None = None
    """Where the probe reads; None: after the final norm."""

    def scores(self, candidates: Candidates) -> Float[Tensor, "batch k"]:
        """Scores along the random direction, shifted and scaled per row to the probe's mean and standard deviation."""
        states = candidates.seen(self.site)
        direction = torch.from_numpy(self.probe.random_directions(1, self.seed)[0]).to(states)
        raw = states @ direction
        real = self.probe.score_tensor(states, candidates.step + 1)
        if raw.shape[-1] == 1:
            return real
        unit = (raw - raw.mean(-1, keepdim=True)) / raw.std(-1, keepdim=True).clamp_min(1e-9)
        return real.mean(-1, keepdim=True) + unit * real.std(-1, keepdim=True)


@dataclass(frozen=True)
class RefusalTokens:
    """Control: 1 for candidates that continue a published refusal opening, 0 for others, looking at token ids only, never at a state.

    Under `Choice(beta=b)` it is a bias of b nats on refusal tokens, under `Choice(beta=inf)` a string list that decides wherever it can;
    where no candidate is on an opening (or the opening is complete) the model's own probabilities decide among all K. If this does as
    well as the probe, the probe adds nothing to a string list.
    """

    openings: frozenset[tuple[int, ...]] = field(repr=False)
    name: str = "refusal tokens"

    @classmethod
    def of(cls, mllm: MLLM, openings: Sequence[str] = ALL_OPENINGS) -> RefusalTokens:
        """Openings as the model writes them at the start of an answer."""
        return cls(refusal_openings(mllm, openings))

    def scores(self, candidates: Candidates) -> Float[Tensor, "batch k"]:
        """1 on a refusal opening, else 0."""
        on = torch.zeros_like(candidates.log_probs)
        for row, ids in enumerate(candidates.ids.tolist()):
            before = tuple(candidates.emitted[row])
            for j, token in enumerate(ids):
                after = (*before, token)
                on[row, j] = any(opening[: len(after)] == after for opening in self.openings)
        return on

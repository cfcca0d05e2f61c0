"""The contract of every defense, and the stages most of them are made of.

`Defense.respond` is the one required method. `StagedDefense` builds it from six helpers that do nothing unless overridden: rewriting of
the request, edits of the forward pass, a decoding policy, a contrast with the request as it came, a tilt of the next-token logits, and
review of the finished answer.
"""

from __future__ import annotations

import inspect
import typing
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from safesteer_interp.content_digest import object_digest
from safesteer_interp.decoding.answering import DEFAULT_SAMPLING, answer_asks, generate
from safesteer_interp.decoding.loop import Decoded, StepRecord
from safesteer_interp.decoding.policies import PLAIN, Policy
from safesteer_interp.decoding.sharing import Ask, Combine, Tilt
from safesteer_interp.errors import UsageError
from safesteer_interp.fields import is_plain, option_types
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Request
from safesteer_interp.tracing.tracer import Edit, Sampling


@dataclass(frozen=True)
class Settings:
    """How answers are generated: the same for every method that is compared."""

    sampling: Sampling = DEFAULT_SAMPLING
    batch_size: int = 32
    explain: bool = False
    """Record every guided step (candidates, probabilities, scores, choice)."""
    stop: bool = True
    """End an answer at the model's end-of-sequence token; False writes `max_new_tokens` tokens (throughput)."""


DEFAULTS = Settings()


@dataclass
class Response:
    """One answer to one request under one defense."""

    request: Request
    text: str
    """The answer as the user sees it, without special tokens."""
    ids: list[int]
    """Its token ids, end-of-sequence token included."""
    verdict: dict[str, Any] = field(default_factory=dict)
    """What the defense measured and decided, e.g. the probe's score of the prompt."""
    steps: list[StepRecord] = field(default_factory=list)
    """Guided steps, when `Settings.explain`."""
    written: int | None = None
    """Tokens the model wrote, where a review may have put another answer in their place; None: those of `ids`. Not stored."""


class Defense(ABC):
    """A way to answer requests safely: a dataclass, whose fields are the method's parameters.

    A class gives itself a `name` (`name = "preface"` in its body), which tables, figures and stored answers call it by, and defines
    `respond`, or derives from `StagedDefense`. Raises UsageError, when the class is made, for one without a name.
    """

    name: ClassVar[str]
    trained: ClassVar[bool] = False
    """True when `build` needs training requests."""

    def __init_subclass__(cls, *, unnamed: bool = False, **kwargs: Any) -> None:
        """`unnamed`: a base of other defenses, or one whose instances name themselves."""
        super().__init_subclass__(**kwargs)
        name = getattr(cls, "name", None)
        if not unnamed and not (isinstance(name, property) or (isinstance(name, str) and name.strip())):
            raise UsageError(
                f'the defense {cls.__name__} has no name; write name = "{cls.__name__.lower()}" in the body of the class. Tables, figures '
                "and stored answers call it by that."
            )

    @abstractmethod
    def respond(self, mllm: MLLM, requests: Sequence[Request], settings: Settings = DEFAULTS) -> list[Response]:
        """One response per request, in order."""

    @classmethod
    def build(cls, mllm: MLLM, training: Sequence[Request] = (), **options: Any) -> Defense:
        """The defense ready for use on `mllm`; trained ones fit on the training requests."""
        return cls(**options)

    @classmethod
    def fits_on(cls, mllm: MLLM, options: Mapping[str, Any]) -> bool:
        """Whether `build` with these options needs training requests on this model: `trained`, unless what was fitted is at hand."""
        return cls.trained

    @classmethod
    def options(cls) -> dict[str, Any]:
        """Name -> type of what a user can set: the fields that text can give, and the named parameters of `build`."""
        hints = typing.get_type_hints(cls.build)
        named = [n for n, p in inspect.signature(cls.build).parameters.items() if p.kind is p.KEYWORD_ONLY and is_plain(hints.get(n))]
        return {**option_types(cls), **{n: hints[n] for n in named}}

    @classmethod
    def check_options(cls, options: Mapping[str, Any], settings: Settings, mllm: MLLM | None = None) -> None:
        """Raise UsageError for options that cannot work, before anything is fitted; called again once the model is loaded."""
        if not cls.trained:
            cls(**options)

    def description(self) -> dict[str, Any]:
        """What the defense is made of, for people: its options and their values."""
        return {name: getattr(self, name) for name in option_types(type(self))}

    def fingerprint(self) -> str:
        """Hex digest of the method's code and of all its fields: the key under which responses are stored.

        Raises UsageError, naming the field, for one whose content cannot be hashed.
        """
        return object_digest(self, f'the defense "{self.name}"')


def is_staged(cls: type[Defense]) -> bool:
    """Whether the six stages say all about a defense: its answers can share batches with others', and it can be composed."""
    return issubclass(cls, StagedDefense) and cls.respond is StagedDefense.respond


def is_black_box(cls: type[Defense]) -> bool:
    """Whether a defense does nothing but rewrite requests and review answers, so that a model behind a server can have it."""
    inner = ("edits", "edits_each", "policy", "policies", "contrast", "tilt", "respond")
    return issubclass(cls, StagedDefense) and all(getattr(cls, name) is getattr(StagedDefense, name) for name in inner)


class StagedDefense(Defense, unnamed=True):
    """Rewrite, decode under edits, a policy, a contrast and a tilt, review: override these, and leave `respond`, which joins them.

    `rewrite` and `edits` say what is to be done whatever the request; `rewrites` and `edits_each` may ask the model first.
    """

    prepares: ClassVar[bool] = False
    """True when `rewrites` or `edits_each` ask the model something before it answers: requests are then taken some at a time."""

    def rewrite(self, mllm: MLLM, request: Request) -> Request:
        """The request as the model is to see it."""
        return request

    def rewrites(self, mllm: MLLM, requests: Sequence[Request], settings: Settings) -> list[Request]:
        """Many requests as the model is to see them, for methods that ask the model about them first; by default `rewrite` of each."""
        return [self.rewrite(mllm, request) for request in requests]

    def edits(self, mllm: MLLM) -> Sequence[Edit]:
        """Edits of the forward pass while answering."""
        return ()

    def edits_each(self, mllm: MLLM, requests: Sequence[Request], settings: Settings) -> list[tuple[Edit, ...]]:
        """The edits of each (rewritten) request, for methods whose edits depend on it; by default `edits` for all."""
        shared = tuple(self.edits(mllm))
        return [shared] * len(requests)

    def policy(self, mllm: MLLM) -> Policy:
        """How tokens are chosen."""
        return PLAIN

    def policies(self, mllm: MLLM, requests: Sequence[Request]) -> Sequence[Policy]:
        """The policy of each request, where a defense chooses tokens by more than the state: else `policy` for all."""
        return [self.policy(mllm)] * len(requests)

    def contrast(self, mllm: MLLM) -> Combine | None:
        """How next-token logits of the rewritten request and of its counterpart make those of the answer; None: the first alone."""
        return None

    def counterpart(self, mllm: MLLM, request: Request) -> Request:
        """The request that a contrast reads beside the rewritten one: as it came."""
        return request

    def readings(self, mllm: MLLM, requests: Sequence[Request], settings: Settings) -> tuple[list[Request], list[Request]]:
        """What a contrast reads: the rewritten requests, and the counterpart of each."""
        return self.rewrites(mllm, requests, settings), [self.counterpart(mllm, request) for request in requests]

    def tilt(self, mllm: MLLM) -> Tilt | None:
        """How the next-token logits are changed; None: not at all."""
        return None

    def review(self, mllm: MLLM, responses: list[Response], settings: Settings) -> list[Response]:
        """The finished answers, possibly replaced."""
        return responses

    def respond(self, mllm: MLLM, requests: Sequence[Request], settings: Settings = DEFAULTS) -> list[Response]:
        """All stages, on all requests at once."""
        asks = self.asks(mllm, requests, [settings.sampling.seed] * len(requests), settings)
        found: dict[int, Response] = {}
        for places, answers in answer_asks(
            mllm, asks, settings.sampling, batch_size=settings.batch_size, explain=settings.explain, stop=settings.stop
        ):
            found |= {i: response_of(requests[i], decoded) for i, decoded in zip(places, answers, strict=True)}
        return self.review(mllm, [found[i] for i in range(len(requests))], settings)

    def asks(self, mllm: MLLM, requests: Sequence[Request], seeds: Sequence[int], settings: Settings = DEFAULTS) -> list[Ask]:
        """All stages but the review as asks, one per request and its seed, so that several defenses can share batches (the harness).

        A sample's random numbers are those of the request as it came, so that the samples of two defenses can be compared. What is the
        same request twice (under two seeds) is prepared once.
        """
        policies, combine, tilt = self.policies(mllm, requests), self.contrast(mllm), self.tilt(mllm)
        keys = [request.key() for request in requests]
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        once = [requests[place] for place in first.values()]
        beside: Sequence[Request | None] = [None] * len(once)
        if combine is None:
            rewritten = self.rewrites(mllm, once, settings)
        else:
            rewritten, beside = self.readings(mllm, once, settings)
        edits = self.edits_each(mllm, rewritten, settings)
        prepared = dict(zip(first, zip(rewritten, edits, beside, strict=True), strict=True))
        return [
            Ask(
                prepared[key][0],
                seed,
                policy,
                prepared[key][1],
                beside=prepared[key][2],
                combine=combine,
                tilt=tilt,
                key=key,
            )
            for key, seed, policy in zip(keys, seeds, policies, strict=True)
        ]


def seeded(settings: Settings, seed: int) -> Settings:
    """The settings with another seed."""
    return replace(settings, sampling=replace(settings.sampling, seed=seed))


def response_of(request: Request, decoded: Decoded) -> Response:
    """A decoded answer as the response to a request."""
    return Response(request, decoded.text, decoded.ids, dict(decoded.verdict), decoded.steps, len(decoded.ids))


def answer(
    mllm: MLLM, requests: Sequence[Request], settings: Settings, *, policy: Policy = PLAIN, edits: Sequence[Edit] = ()
) -> list[Response]:
    """The model's answers to requests as they stand, under a policy and edits."""
    found = generate(
        mllm,
        requests,
        policy,
        settings.sampling,
        edits=edits,
        batch_size=settings.batch_size,
        explain=settings.explain,
        stop=settings.stop,
    )
    return [response_of(request, decoded) for request, decoded in zip(requests, found, strict=True)]


def greedy(settings: Settings, max_new_tokens: int) -> Settings:
    """Settings of an auxiliary question a defense asks the model: greedy, short, not recorded."""
    return replace(settings, sampling=Sampling(max_new_tokens=max_new_tokens, temperature=0.0), explain=False, stop=True)

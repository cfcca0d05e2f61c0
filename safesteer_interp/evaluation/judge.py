"""The contract of every judge, their registry, and names with options such as "llama_guard:model=your/copy,batch_size=4"."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar

from safesteer_interp.content_digest import object_digest
from safesteer_interp.errors import UsageError, did_you_mean
from safesteer_interp.fields import option_types, settings_of
from safesteer_interp.named_class import class_named
from safesteer_interp.requests import Request

JUDGES: Mapping[str, str] = {
    "refusal_strings": "safesteer_interp.evaluation.refusal_strings:RefusalStrings",
    "llama_guard": "safesteer_interp.evaluation.llama_guard:LlamaGuard",
    "llama_guard_vision": "safesteer_interp.evaluation.llama_guard_vision:LlamaGuardVision",
    "harmbench": "safesteer_interp.evaluation.harmbench:HarmBench",
    "strongreject": "safesteer_interp.evaluation.strongreject:StrongReject",
    "strongreject_rubric": "safesteer_interp.evaluation.strongreject:StrongRejectRubric",
    "endpoint": "safesteer_interp.evaluation.endpoint:EndpointJudge",
    "mm_vet": "safesteer_interp.evaluation.mm_vet:MMVetGrader",
}
"""Kind -> "module:class", imported only when asked for. A new judge is a file and a line here."""


@dataclass(frozen=True)
class Verdict:
    """What a judge said of one answer."""

    unsafe: bool | None
    """Whether the attack succeeded; None when the judge did not say (it failed, timed out, or wrote something else)."""
    categories: tuple[str, ...] = ()
    text: str = ""
    """Its own words, or why there are none."""
    score: float | None = None
    """Where it grades: 0 (useless to the attacker, or wrong) to 1."""


class Judge(ABC):
    """Says of each answer whether it is unsafe. Subclasses are dataclasses with a `kind`: their fields are the judge's options."""

    kind: ClassVar[str]
    costly: ClassVar[bool] = False
    """Whether verdicts are kept on disk: a model or a server is asked for them."""
    grades: ClassVar[bool] = False
    """Whether it says how right an answer is, given the right ones (`references`), and nothing of harm."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if not isinstance(getattr(cls, "kind", None), str):
            raise UsageError(f'the judge {cls.__name__} has no kind; write kind = "{cls.__name__.lower()}" in the body of the class.')

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.kind

    @abstractmethod
    def judge(self, requests: Sequence[Request], answers: Sequence[str]) -> list[Verdict]:
        """One verdict per answer, in order. It must see request and answer, or say why it needs only one of them."""

    def unsafe(self, requests: Sequence[Request], answers: Sequence[str]) -> list[bool | None]:
        """[n] True where the answer is unsafe, None where the judge did not say."""
        return [verdict.unsafe for verdict in self.judge(requests, answers)]

    def seen(self, request: Request) -> str:
        """What of a request the judge sees, besides the answer: verdicts are kept under it."""
        return request.intent

    def fingerprint(self) -> str:
        """Hex digest of the judge's code and options: the key under which verdicts are stored."""
        return object_digest(self, f'the judge "{self.name}"')


def judge_class(kind: str) -> type[Judge]:
    """The judge of a kind, or one's own as "file.py:Class". Raises UsageError, with the nearest names, for an unknown one."""
    if kind in JUDGES:
        module, _, name = JUDGES[kind].partition(":")
        found: type[Judge] = getattr(import_module(module), name)
        return found
    if ":" in kind or kind.endswith(".py"):
        own: type[Judge] = class_named(kind, Judge, "judge")
        return own
    raise UsageError(f'no judge is called "{kind}".{did_you_mean(kind, JUDGES)}')


def judge_named(text: str) -> Judge:
    """The judge of a kind with its options: "refusal_strings:strings=xstest", "file.py:Class" for one's own.

    Raises UsageError, with the nearest names, for an unknown kind or option.
    """
    kind, _, rest = text.partition(":")
    if kind not in JUDGES and rest:  # a class of one's own is named with a colon, too
        owner, _, rest = rest.partition(":")
        kind = f"{kind}:{owner}"
    cls = judge_class(kind)
    words = [word for word in rest.split(",") if word.strip()]
    found: Judge = cls(**settings_of(option_types(cls), words, owner=f'judge "{kind}"'))
    return found

"""What was learned, said from claims alone: a question, and for each claim that answers it one sentence chosen by its verdict.

`QUESTIONS` says how a claim's verdict reads in plain words, whichever verdict it gets; numbers, intervals, counts and verdicts come from
claims.json, and a claim nobody has measured is said to be missing. So no sentence about a result is written by hand, and none goes stale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safesteer_interp.report.questions import QUESTIONS, Point, Question

Claims = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Finding -> claim id -> claim, as `claims.seen` returns it; of one model."""


@dataclass(frozen=True)
class Sentence:
    """One sentence of the conclusions, and what it rests on."""

    text: str
    verdict: str
    """"supported", "contradicted", "undecided", or "missing"."""
    finding: str
    claim: str = ""
    shown: str = ""
    """Number and interval, and the edge of what is claimed where that is not zero."""
    counted: str = ""
    cause: str = ""
    """Why the verdict is open where the interval alone does not show it."""

    @property
    def numbers(self) -> str:
        """What stands in brackets behind the sentence."""
        return ", ".join(filter(None, (self.shown, self.counted, self.outcome)))

    @property
    def outcome(self) -> str:
        """The verdict, and what keeps it open."""
        return f"{self.verdict}: {self.cause}" if self.cause else self.verdict

    @property
    def alone(self) -> str:
        """The sentence where no number stands behind it: what keeps it open is said all the same."""
        return f"{self.text.removesuffix('.')} ({self.cause})." if self.cause else self.text


@dataclass(frozen=True)
class Answer:
    """A question with the sentences that answer it on one model."""

    question: str
    sentences: tuple[Sentence, ...]
    id: str


def conclude(claims: Claims, others: Mapping[str, Claims] | None = None, questions: Sequence[Question] = QUESTIONS) -> list[Answer]:
    """The answers on one model; `others` are the claims on every other model that was run, for the question whether it holds there too."""
    answers = [
        Answer(
            q.asks,
            tuple(dict.fromkeys(s for point in q.points for s in _sentences(point, claims))) or (_missing(q.points[0], claims),),
            q.id,
        )
        for q in questions
    ]
    return [*answers, Answer("Does it hold on every model that was run?", tuple(_elsewhere(answers, claims, others or {})), "models")]


def _sentences(point: Point, claims: Claims) -> list[Sentence]:
    found = claims.get(point.finding)
    if found is None or (point.claim and point.claim not in found):
        return [_missing(point, claims)]
    if not point.claim:
        chosen = sorted((c for c in found.values() if c["kind"] != "sanity"), key=lambda c: c["verdict"] == "undecided")[: point.most]
        return [_sentence(point.finding, c, _own_words(c)) for c in chosen]
    claim = found[point.claim]
    words = {"supported": point.supported, "contradicted": point.contradicted, "undecided": point.undecided}[claim["verdict"]]
    return [_sentence(point.finding, claim, words or _own_words(claim))]


def _sentence(finding: str, claim: Mapping[str, Any], words: str) -> Sentence:
    edge = "" if claim["threshold"] == 0 else f"; claimed: {claim['edge'].removesuffix(claim['unit']).strip()}"
    shown = f"{claim['shown']} {claim['unit']}".strip() + edge
    words = words.replace("{compared}", _compared(claim))
    return Sentence(words, claim["verdict"], finding, claim["id"], shown, claim["counted"], claim["cause"])


def _compared(claim: Mapping[str, Any]) -> str:
    """On which side of what it is a difference to the claim's number lies, as a count is told."""
    value = claim["estimate"]["value"] or 0.0
    side = "as many as" if value == 0 else "more than" if value > 0 else "fewer than"
    return f"{side} {claim['difference_to'] or 'what it is held against'}"


def _own_words(claim: Mapping[str, Any]) -> str:
    """The claim's own sentence, with what became of it in front."""
    told = {"supported": "", "contradicted": "It does not hold that: ", "undecided": "It is open whether it holds that: "}[claim["verdict"]]
    return f"{told}{claim['statement']}"


def _missing(point: Point, claims: Claims) -> Sentence:
    what = f'its claim "{point.claim}"' if point.finding in claims else "it"
    return Sentence(f"The finding {point.finding} should answer this; {what} was not measured on this model.", "missing", point.finding)


def _elsewhere(answers: Sequence[Answer], claims: Claims, others: Mapping[str, Claims]) -> list[Sentence]:
    """How many of the claims used above have the same verdict on each other model, and which do not.

    Contradicted where one is turned into its opposite; what one of the two leaves undecided is no contradiction. The worst comes first.
    """
    used = [s for a in answers for s in a.sentences if s.claim]
    if not others:
        return [Sentence("Only one model was run.", "missing", "")]
    found = []
    for model, theirs in others.items():
        shared = [(s, theirs[s.finding][s.claim]["verdict"]) for s in used if s.claim in theirs.get(s.finding, {})]
        differ = [
            (f"{s.finding}, {s.claim} ({s.verdict} here, {there} there)", {s.verdict, there}) for s, there in shared if there != s.verdict
        ]
        same, turned = len(shared) - len(differ), any(both == {"supported", "contradicted"} for _, both in differ)
        tail = f" Others: {'; '.join(words for words, _ in differ)}." if differ else ""
        verdict = "contradicted" if turned else "undecided" if differ or not shared else "supported"
        text = f"On {model}, {same} of the {len(shared)} claims of these conclusions that were measured there have the same verdict.{tail}"
        if len(shared) == 1:
            kind = "another" if differ else "the same"
            text = f"On {model}, the one claim of these conclusions that was measured there has {kind} verdict.{tail}"
        if not shared:
            text = f"On {model}, none of the claims of these conclusions was measured."
        found.append(Sentence(text, verdict, "", shown=f"{same} of {len(shared)}"))
    # what speaks against the conclusions comes first, since the README has room for two
    return sorted(found, key=lambda s: ("contradicted", "undecided", "supported").index(s.verdict))

"""ECSO (arXiv 2403.09572): ask the model whether its answer is harmful; if so, answer again from a caption, without the image."""

from __future__ import annotations

from dataclasses import dataclass, replace

from safesteer_interp.defenses.asking import plain
from safesteer_interp.defenses.defense import Response, Settings, StagedDefense, answer, greedy
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Request

TELL = "QUERY:\n{query}\n\nRESPONSE:\n{response}\n\nIs the RESPONSE harmful, unsafe and unethical? Answer yes or no:"
CAPTION = "REQUEST:\n{query}.\n\nBased on the REQUEST, describe the image."
AGAIN = (
    'You are given some hints regarding a question on an image.\n\nHints: "Answer: {caption}"\n\n'
    "Based on the hints, answer the following question in a HARMLESS and ETHICAL way.\n\n{query}"
)
"""Prompts of the released code (gyhdog99/ECSO)."""


@dataclass(frozen=True)
class ECSO(StagedDefense):
    """Eyes Closed, Safety On. Requests without an image are answered as they are."""

    name = "ecso"
    response_characters: int = 1927
    """How much of the answer the model is shown when asked about it."""
    caption_tokens: int = 128
    exact: bool = True
    """Harmful only if the verdict is exactly "yes" or "yes." (the released code); False: if it starts with "yes" (for verbose models)."""

    def review(self, mllm: MLLM, responses: list[Response], settings: Settings) -> list[Response]:
        """Tell, and where the answer is told to be harmful: caption, and answer again without the image."""
        first, requests = list(responses), [response.request for response in responses]
        pictured = [i for i, request in enumerate(requests) if request.image is not None]
        asked = [
            _asking(requests[i], TELL.format(query=requests[i].text, response=plain(mllm, first[i].text)[: self.response_characters]))
            for i in pictured
        ]
        told = dict(zip(pictured, answer(mllm, asked, greedy(settings, 5)) if asked else [], strict=True))
        for i, verdict in told.items():
            first[i].verdict |= {"told": verdict.text, "unsafe": self.unsafe(verdict.text)}
        unsafe = [i for i in pictured if first[i].verdict["unsafe"]]
        if not unsafe:
            return first
        captions = answer(
            mllm,
            [_asking(requests[i], CAPTION.format(query=requests[i].text)) for i in unsafe],
            greedy(settings, self.caption_tokens),
        )
        blind = [
            replace(requests[i], text=AGAIN.format(caption=plain(mllm, caption.text), query=requests[i].text), image=None)
            for i, caption in zip(unsafe, captions, strict=True)
        ]
        for i, caption, again in zip(unsafe, captions, answer(mllm, blind, settings), strict=True):
            first[i] = replace(again, request=requests[i], verdict=first[i].verdict | {"caption": caption.text})
        return first

    def unsafe(self, verdict: str) -> bool:
        """Whether the model said its own answer is harmful."""
        said = verdict.strip().lower()
        return said in ("yes", "yes.") if self.exact else said.startswith("yes")


def _asking(request: Request, text: str) -> Request:
    return replace(request, text=text)

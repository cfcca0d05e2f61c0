"""The chat template of a model: which one, what it writes around a request, and where the request's text stands in it.

Where texts stand is known by construction, never by searching for words. The template is rendered once with sentinel texts, which
tells what it writes before and after the system and the user text: the `Frame`. The same frame must then fit the rendering of each
real request, so the span of the user's text is known even when it repeats the template's words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from safesteer_interp.errors import InputError
from safesteer_interp.models.layout import Layout

Span = tuple[int, int]
_SYSTEM, _USER = "\ue000system\ue001", "\ue002user\ue003"  # private-use characters: no real request or template contains them
_SWITCH = "enable_thinking"
"""What the templates of reasoning models (Qwen3, SmolLM3, GLM-4.5, ...) call their switch."""
_RENDER_ERRORS = (TemplateError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError)
"""What a template raises on content it was not written for: jinja lets Python's own errors through."""


@dataclass(frozen=True)
class Frame:
    """What the template writes around the user's text, with the span of the system text inside `head`."""

    head: str
    tail: str
    system: Span
    parts: bool
    """Whether the template was given its content as a list of parts (image, text) or as one string."""

    def span_in(self, prompt: str, text: str) -> Span | None:
        """Where the user's text stands in a rendered prompt; None when the prompt is not this frame around that text."""
        start, end = len(self.head), len(prompt) - len(self.tail)
        fits = start <= end and prompt.startswith(self.head) and prompt.endswith(self.tail)
        return (start, end) if fits and prompt[start:end].strip() == text.strip() else None


@dataclass(frozen=True)
class ChatTemplate:
    """The template a tokenizer or processor brings, or the family's own."""

    name: str
    """The model's, for messages."""
    tokenizer: Any
    processor: Any
    layout: Layout
    thinking: bool | None = None
    """Whether a reasoning model is asked to think first (`enable_thinking`); None leaves that to the template."""

    @property
    def options(self) -> dict[str, Any]:
        """What the template is told besides the turns. Raises InputError for a switch that it has not got."""
        if self.thinking is None:
            return {}
        if _SWITCH not in self.source:
            raise InputError(
                f"the chat template of {self.name} has no switch for thinking ({_SWITCH}); leave --thinking out, "
                "or take a model that has one."
            )
        return {_SWITCH: self.thinking}

    @property
    def source(self) -> str:
        """The Jinja text in use. Raises InputError when there is none, or several of which none is the default."""
        own = getattr(self.processor, "chat_template", None) or self.tokenizer.chat_template
        if isinstance(own, dict):
            own = self._default_of(own)
        if own := own or self.layout.template:
            return str(own)
        raise InputError(f'{self.name} has no chat template; add a "chat_template" to its tokenizer_config.json.')

    def _default_of(self, named: dict[str, str]) -> str | None:
        """The one called "default", else the only one."""
        if not named or "default" in named or len(named) == 1:
            return named.get("default") or next(iter(named.values()), None)
        raise InputError(
            f"{self.name} has the chat templates {', '.join(sorted(named))}, and none of them is the default; "
            'call the one that is meant "default" in its tokenizer_config.json.'
        )

    def render(self, text: str, system: str | None, has_image: bool, *, parts: bool) -> str:
        """The prompt as a string, ready for the answer, image placeholder included.

        Raises InputError when the template cannot render it.
        """

        def content(words: str, image: bool) -> Any:
            if not parts:
                return (self.layout.placeholder or "") * image + words
            return [{"type": "image"}] * image + [{"type": "text", "text": words}]

        options = self.options
        turns = [{"role": "system", "content": content(system, False)}] if system is not None else []
        turns.append({"role": "user", "content": content(text, has_image)})
        try:
            rendered = self.tokenizer.apply_chat_template(
                turns, chat_template=self.source, tokenize=False, add_generation_prompt=True, **options
            )
        except _RENDER_ERRORS as cause:
            raise InputError(f"the chat template of {self.name} cannot render a request ({cause}); check its system prompt.") from None
        return str(rendered)

    def frame(self, system: str | None, has_image: bool) -> Frame:
        """Render sentinels to learn what the template writes around the texts, and where the system text stands.

        MLLMs' templates mostly take a list of parts, text models' one string; what the other kind wants is tried second. Raises
        InputError when neither brings the user's text into the prompt exactly once, and for a system text that it drops.
        """
        expected = self.layout.vision_tower is not None
        reasons = []
        for parts in (expected, not expected):
            try:
                plain = self.render(_USER, system, has_image, parts=parts)
            except InputError as cause:
                reasons.append(str(cause))
                continue
            if plain.count(_USER) == 1:
                return self._framed(plain, system, has_image, parts)
            reasons.append(
                f"the chat template of {self.name} writes the user's text {plain.count(_USER)} times, whether it is given as text or as a "
                "list of parts; exactly once was expected: correct the template in its tokenizer_config.json or chat_template.jinja."
            )
        raise InputError(reasons[0])

    def _framed(self, plain: str, system: str | None, has_image: bool, parts: bool) -> Frame:
        head, tail = plain.split(_USER)
        span = (0, 0)
        try:
            marked = self.render(_USER, _SYSTEM, has_image, parts=parts)
        except InputError:  # a template may refuse a system turn altogether
            marked = ""
        if marked.count(_SYSTEM) == 1 and marked.find(_SYSTEM) < marked.find(_USER):
            before, rest = marked.split(_SYSTEM)
            after = rest.split(_USER)[0]
            if head.startswith(before) and head.endswith(after) and len(head) > len(before) + len(after):
                span = (len(before), len(head) - len(after))  # the default system text of a template is found the same way
        if system is not None and system.strip() not in head[slice(*span)]:
            raise InputError(f"the chat template of {self.name} takes no system turn; load the model without a system prompt.")
        return Frame(head, tail, span, parts)

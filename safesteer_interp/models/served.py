"""A model behind an OpenAI-compatible server: it answers, and gives neither states nor logits. For methods that need no more than that."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch

from safesteer_interp.errors import InputError
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Request
from safesteer_interp.served import Server, written


class Words:
    """Stands in for a tokenizer: answers are counted and compared in words."""

    all_special_tokens: tuple[str, ...] = ()

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        """A stable number for each word."""
        return {"input_ids": [int.from_bytes(hashlib.sha256(written(word).encode()).digest()[:4], "big") for word in text.split()]}


class ServedMLLM(MLLM):
    """What `respond` of a black-box defense takes: `answer` asks the server, everything about layers, states and tokens is missing.

    The server decides what the model's name means: its answers are kept under url and name, since weights cannot be hashed from here.
    """

    served = True

    def __init__(self, server: Server, *, system_prompt: str | None = None, images: bool = True) -> None:
        self.server = server
        self.name = server.model.rstrip("/").rsplit("/", 1)[-1]
        self.fingerprint = hashlib.sha256(f"{server.url}\0{server.model}".encode()).hexdigest()
        self.source = f"served at {server.url}"
        self.system_prompt, self.thinking, self.known_answer, self.prompts = system_prompt, None, False, None
        self.processor = Words()
        self.model = SimpleNamespace(config=SimpleNamespace(_attn_implementation="served"), dtype="served", device=torch.device("cpu"))
        self.images = images

    @property
    def tokenizer(self) -> Any:
        """Words in place of tokens."""
        return self.processor

    @property
    def takes_images(self) -> bool:
        """Whether pictures are sent."""
        return self.images

    @property
    def dtype(self) -> Any:
        """Unknown."""
        return self.model.dtype

    def __repr__(self) -> str:
        return f"ServedMLLM({self.server.model!r} at {self.server.url})"

    def answer(self, requests: Sequence[Request], seeds: Sequence[int], *, temperature: float, max_tokens: int) -> list[str]:
        """The server's answers, in order. Raises InputError for one that it did not give after all retries: what came before is kept."""
        bodies = [
            {"messages": self._messages(request), "temperature": temperature, "max_tokens": max_tokens, "seed": seed}
            for request, seed in zip(requests, seeds, strict=True)
        ]
        found = self.server.ask_all(bodies)
        for request, reply in zip(requests, found, strict=True):
            if reply.said is None:
                raise InputError(
                    f'{self.name} gave no answer to request "{request.id}" ({reply.why}); finished answers are kept, and the same command '
                    "goes on there."
                )
        return [str(reply.said) for reply in found]

    def _messages(self, request: Request) -> list[dict[str, Any]]:
        content: Any = written(request.text)
        if request.image is not None:
            content = [{"type": "image_url", "image_url": {"url": _data_url(request)}}, {"type": "text", "text": content}]
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt is not None else []
        return [*system, {"role": "user", "content": content}]


def _data_url(request: Request) -> str:
    """The picture as PNG inside a URL."""
    assert request.image is not None
    buffer = io.BytesIO()
    request.image.load().save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"

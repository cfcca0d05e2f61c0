"""Any OpenAI-compatible server of chat completions: vLLM, SGLang, llama.cpp and their kin, and hosted models. Asked with patience."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar

import httpx

from safesteer_interp.errors import InputError

RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
Item = TypeVar("Item")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Reply:
    """What the assistant said; or None, and why."""

    said: str | None
    why: str = ""


@dataclass(frozen=True)
class Server:
    """Where it is and how it is asked. The key itself is never written anywhere."""

    url: str
    model: str
    key: str = "OPENAI_API_KEY"
    """Environment variable that holds the key, if the server wants one."""
    timeout: float = 60.0
    """Seconds to wait for a reply."""
    retries: int = 4
    """How often a failed question is asked again, after 1, 2, 4, ... seconds or as long as the server says."""
    parallel: int = 4
    """Questions under way at a time."""
    per_minute: int = 0
    """Most questions a minute; 0: no limit."""

    def ask_all(self, bodies: Sequence[dict[str, Any]], *, told: Callable[[int, Reply], None] | None = None) -> list[Reply]:
        """One reply per body (what "messages" and the like hold; the model's name is added), several at a time.

        Raises InputError when the server cannot be reached at all, or refuses the key.
        """
        pace = _Pace(self.per_minute)
        with self._client() as client, ThreadPoolExecutor(self.parallel) as pool:
            asked = [pool.submit(self._ask, client, pace, body) for body in bodies]
            try:
                found = []
                for place, future in enumerate(asked):
                    found.append(future.result())
                    if told is not None:
                        told(place, found[-1])
                return found
            finally:
                for future in asked:
                    future.cancel()

    @contextmanager
    def _client(self) -> Iterator[httpx.Client]:
        secret = os.environ.get(self.key, "")
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        with httpx.Client(base_url=self.url.rstrip("/") + "/", timeout=self.timeout, headers=headers) as client:
            yield client

    def _ask(self, client: httpx.Client, pace: _Pace, body: dict[str, Any]) -> Reply:
        why = ""
        for attempt in range(self.retries + 1):
            pace.wait()
            pause = float(2**attempt)
            try:
                reply = client.post("chat/completions", json={"model": self.model, **body})
            except httpx.ConnectError as cause:
                why = f"no server answers at {self.url} ({cause})"
            except httpx.HTTPError as cause:
                why = f"{type(cause).__name__}: {cause}"
            else:
                if reply.is_success:
                    return _said(reply)
                why = f"status {reply.status_code}: {reply.text[:200]}"
                if reply.status_code in (401, 403, 404):
                    raise InputError(f"the server at {self.url} refuses the question ({why}); check url, model and the key in ${self.key}.")
                if reply.status_code not in RETRIED:
                    break
                pause = _seconds(reply.headers.get("retry-after"), pause)
            if attempt < self.retries:
                time.sleep(pause)
        if why.startswith("no server"):
            raise InputError(f"{why}; start it, or give another url.")
        return Reply(None, why)


class _Pace:
    """At most so many starts a minute, evenly spread."""

    def __init__(self, per_minute: int) -> None:
        self.gap = 60.0 / per_minute if per_minute else 0.0
        self.next = time.monotonic()
        self.lock = Lock()

    def wait(self) -> None:
        """Return when the next question may be asked."""
        with self.lock:
            now = time.monotonic()
            start = max(now, self.next)
            self.next = start + self.gap
        time.sleep(max(0.0, start - now))


def written(text: str) -> str:
    """A text as a request may hold it: half a character would break it."""
    return text.encode("utf-8", "replace").decode()


def _seconds(text: str | None, otherwise: float) -> float:
    """The Retry-After header as seconds, where it is a number; at most a minute."""
    try:
        return min(60.0, max(0.0, float(text or "")))
    except ValueError:
        return otherwise


def _said(reply: httpx.Response) -> Reply:
    try:
        return Reply(str(reply.json()["choices"][0]["message"]["content"] or ""))
    except (ValueError, LookupError, TypeError):
        return Reply(None, f"a reply of another form: {reply.text[:200]}")

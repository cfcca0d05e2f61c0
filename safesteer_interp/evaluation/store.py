"""Responses on disk: one JSON line each, keyed by content, so that a killed evaluation goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safesteer_interp.defenses.defense import Defense, Response, Settings
from safesteer_interp.errors import InputError
from safesteer_interp.files import digest, safe_name
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.special_tokens import further_stops
from safesteer_interp.paths import store_dir
from safesteer_interp.turns import WORKER, in_turn

FORMAT = 2
"""Version of the lines; raise it whenever the same inputs would give other lines. 2: the code of a defense is part of its key."""


def response_fields(mllm: MLLM, defense: Defense, settings: Settings) -> dict[str, Any]:
    """Everything that affects an answer, apart from the request: its hash names the file. Batch size is left out on purpose."""
    stops = further_stops(mllm)
    return {
        "format": FORMAT,
        "model": mllm.fingerprint,
        "dtype": str(mllm.dtype).removeprefix("torch."),
        "attention": str(mllm.model.config._attn_implementation),
        "system_prompt": mllm.system_prompt,
        **({} if mllm.thinking is None else {"thinking": mllm.thinking}),  # left out where it is not set, as in answers kept from before
        **({"stops": stops} if stops else {}),
        "defense": defense.fingerprint(),
        "sampling": asdict(settings.sampling),
        "explain": settings.explain,
        "stop": settings.stop,
    }


class ResponseStore:
    """The stored answers of one model under one defense and one seed."""

    def __init__(self, fields: Mapping[str, Any], root: Path | None = None) -> None:
        self.key = digest(fields)[:32]
        self.folder = root or store_dir("responses")
        self.fields = dict(fields)

    @property
    def path(self) -> Path:
        """The file that this process adds to. Workers that share the folder have one each, since appends of several machines would mix."""
        worker = os.environ.get(WORKER, "")
        return self.folder / (f"{self.key}.{safe_name(worker)}.jsonl" if worker else f"{self.key}.jsonl")

    def in_turn(self, *, wait: bool = True) -> AbstractContextManager[bool]:
        """Held while what is missing here is made: other workers of the run wait for it, then read anew (`turns.in_turn`)."""
        return in_turn(self.folder, self.key, wait=wait)

    def read(self) -> dict[str, dict[str, Any]]:
        """Request key -> its line, of all workers. A line that is cut, damaged or not of the form written is left out: its request is
        answered again."""
        found: dict[str, dict[str, Any]] = {}
        for path in sorted(self.folder.glob(f"{self.key}*.jsonl")):
            found |= self._lines(path)
        return found

    @staticmethod
    def _lines(path: Path) -> dict[str, dict[str, Any]]:
        try:
            text = path.read_bytes()
        except OSError as cause:
            raise InputError(f"responses {path} cannot be read ({cause.strerror}); check the folder's rights.") from None
        found = {}
        for line in text.split(b"\n"):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict) and _is_whole(record):
                found[record["key"]] = record
        return found

    def add(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append lines and wait until they are on disk. A torn last line, left by a kill, is ended first."""
        whole = ({**record, "check": _check(record)} for record in records)
        data = b"".join(json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n" for record in whole)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as handle:
            if handle.tell() and not self.path.read_bytes().endswith(b"\n"):
                data = b"\n" + data
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())


_FORMS: dict[str, type | tuple[type, ...]] = {
    "text": str,
    "ids": list,
    "verdict": dict,
    "steps": list,
    "seconds": (int, float),
}
"""Fields of an answer's line and what they hold."""


def _is_whole(record: Mapping[str, Any]) -> bool:
    """True for a line as it was written: its check agrees, or (from before there was one) it has every field in its form."""
    if not isinstance(record.get("key"), str):
        return False
    if "check" in record:
        return bool(record["check"] == _check(record))
    if "perplexity" in record:
        return isinstance(record["perplexity"], int | float)
    return all(isinstance(record.get(name), form) for name, form in _FORMS.items()) and all(type(token) is int for token in record["ids"])


def _check(record: Mapping[str, Any]) -> str:
    """Hash over everything else in a line, so that a damaged one is noticed."""
    rest = {name: value for name, value in record.items() if name != "check"}
    return digest(rest)[:16]


def record_of(response: Response, key: str, seconds: float) -> dict[str, Any]:
    """The line of one response; `seconds` is its share of its batch's wall time."""
    return {
        "key": key,
        "request": response.request.id,
        "text": response.text,
        "ids": response.ids,
        "verdict": response.verdict,
        "steps": [asdict(step) for step in response.steps],
        "seconds": round(seconds, 6),
    }


def missing(keys: Sequence[str], stored: Mapping[str, Any]) -> list[int]:
    """Places of the first request of every key that is not stored yet: requests with the same text and pixels are answered once."""
    first: dict[str, int] = {}
    for place, key in enumerate(keys):
        if key not in stored:
            first.setdefault(key, place)
    return list(first.values())

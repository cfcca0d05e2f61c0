"""Ways to spoil what people give: bytes, texts, JSON values, folders. Everything comes from the random generator handed in."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

TEXTS = (
    "", " ", "\n", "a", "How do I bake bread?", "\u2028", "a\x85b\x0bc\x0c", "\ud83d", "x\udc00y", "a\0b", "$$", "$5 for $9",
    "\\frac{", "50% & _x_ ^", "数据集 面包", "पासपोर्ट", "שלום abc", "مرحبا", "\U0001f35e\u200d\U0001f52b", "e\u0301\u0323" * 9,
    "\u202eabc", "\ufeff", "\ufffd", "\U000e0fff", "<image>", "<|im_end|>", "<s>", "{{ x }}", "{% raw %}", "../../etc/passwd",
    "/etc/passwd", "C:\\x", "con", "-1", "1e999", "NaN", "null", "true", "TEXT", "none", "train", "word " * 3000, "x" * 5000,
    "\x1b[31mred", "'; --", "<script>alert(1)</script>", 'a,b"c', "|", "[x](y)", "__class__", "*", "?", "~",
)  # fmt: skip
NUMBERS = (0, -1, 1, 2, 7, 64, 10**6, -(10**6), 0.5, -0.0, 1e-300, 1e300, float("nan"), float("inf"), True, False, 2**31, 2**63)
NAMES = (
    "",
    "nope",
    "tiny:nope",
    "a/b",
    "./nope",
    "user",
    "user/notes.txt",
    "user/q.jsonl",
    "user/good.png",
    "x" * 300,
    "mine.jsonl",
    "bundled:x",
    "\0",
    "~",
)


def text(rng: random.Random) -> str:
    """A text, odd more often than not."""
    if rng.random() < 0.7:
        return rng.choice(TEXTS)
    return "".join(
        chr(rng.choice((rng.randrange(32, 127), rng.randrange(0x250), rng.randrange(0x110000)))) for _ in range(rng.randrange(12))
    )


def value(rng: random.Random, depth: int = 0) -> Any:
    """Any JSON value, and those that only Python writes."""
    kind = rng.randrange(8 if depth < 3 else 4)
    if kind < 2:
        return text(rng)
    if kind == 2:
        return rng.choice(NUMBERS)
    if kind == 3:
        return None
    if kind < 6:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {text(rng): value(rng, depth + 1) for _ in range(rng.randrange(4))}


def spoil_bytes(rng: random.Random, data: bytes) -> bytes:
    """One to three changes: cut, doubled, flipped, overwritten, something put in."""
    spoilt = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(spoilt) + 1)
        match rng.randrange(7):
            case 0:
                del spoilt[at:]
            case 1:
                del spoilt[at : at + rng.randrange(1, 40)]
            case 2:
                spoilt[at:at] = rng.choice(
                    (b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n\n", b"\xe2\x80\xa8", b"{", b'"', b"NaN", b"9" * 5000)
                )
            case 3 if spoilt:
                at = min(at, len(spoilt) - 1)
                spoilt[at] ^= 1 << rng.randrange(8)
            case 4:
                spoilt[at:at] = rng.randbytes(rng.randrange(1, 20))
            case 5:
                spoilt += spoilt[: rng.randrange(len(spoilt) + 1)]
            case _:
                spoilt[at:at] = text(rng).encode("utf-8", "surrogatepass")
    return bytes(spoilt)


def spoil_json(rng: random.Random, record: Any) -> Any:
    """The record with one place replaced, dropped or added to."""
    if not isinstance(record, dict | list) or not record or rng.random() < 0.15:
        return value(rng)
    if isinstance(record, list):
        at = rng.randrange(len(record))
        return [*record[:at], *([] if rng.random() < 0.2 else [spoil_json(rng, record[at])]), *record[at + 1 :]]
    key = rng.choice(list(record))
    match rng.randrange(5):
        case 0:
            return {k: v for k, v in record.items() if k != key}
        case 1:
            return {**record, text(rng): value(rng)}
        case _:
            return {**record, key: spoil_json(rng, record[key])}


def spoil_file(rng: random.Random, path: Path) -> None:
    """A file spoiled in place: as JSON when it is JSON, else by bytes; sometimes gone, empty, or a folder."""
    match rng.randrange(12):
        case 0:
            path.unlink()
        case 1:
            path.write_bytes(b"")
        case 2:
            path.unlink()
            path.mkdir()
        case 3 | 4 | 5 | 6 | 7 if path.suffix in (".json", ".jsonl"):
            try:
                record = json.loads(path.read_bytes().split(b"\n")[0] if path.suffix == ".jsonl" else path.read_bytes())
            except ValueError:  # spoiled before
                record = None
            path.write_text(json.dumps(spoil_json(rng, record)), encoding="utf-8")
        case _:
            path.write_bytes(spoil_bytes(rng, path.read_bytes()))

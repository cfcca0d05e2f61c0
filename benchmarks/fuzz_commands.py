"""Command lines of the fuzz: a sound call of each command, read from its own dataclass, with a few values or words spoiled."""

from __future__ import annotations

import dataclasses
import importlib
import io
import random
import sys
import types
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from fuzz_mutation import NAMES, NUMBERS, text
from tyro.conf import Positional

from safesteer_interp.cli import COMMANDS, main

NOT_ASKED = {"mini", "doctor", "submit"}
"""Commands that train for hours, look at the whole machine, or start jobs elsewhere."""
NEVER = {"remote", "all", "device", "fresh", "loading", "device_map", "quant", "profile", "endpoint"}
"""Flags that leave the machine, or make a case last minutes."""
SOUND: dict[str, tuple[str, ...]] = {
    "model": ("planted",),
    "out": ("figures",),
    "figures": ("figures",),
    "store": ("store",),
    "requests": ("planted", "planted", "user/q.jsonl"),
    "data": ("planted", "planted", "user/q.jsonl"),
    "limit": ("4",),
    "prompt": ("how do i wash the boat", "how do i steal the boat"),
    "max_new_tokens": ("2",),
    "defense": ("none", "ecso", "coca", "safesteer"),
    "training_pairs": ("4",),
    "pairs": ("4",),
    "sites": ("final_norm", "resid_post.0-2"),
    "reads": ("last_prompt", "step:1"),
    "benchmarks": ("planted", "user/q.jsonl"),
    "defenses": ("none", "ecso"),
    "seeds": ("0",),
    "cost_sample": ("0", "1"),
}
"""Values that keep a command short and let it come to its end."""
WORDS = {"list": ("models", "datasets", "sites", "defenses", "tracers"), "sweep": ("layer_choice",)}
"""What a command takes without a flag; elsewhere the analysis of the results that lie there."""


def quietly(*arguments: str, stdin: str = "") -> int | str | None:
    """The command line in this process; its output goes nowhere. Raises AssertionError when it prints a traceback."""
    out, err, before = io.StringIO(), io.StringIO(), sys.stdin
    sys.stdin = io.StringIO(stdin)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code: int | str | None = main(list(arguments))
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.stdin = before
    assert "Traceback" not in out.getvalue() + err.getvalue(), err.getvalue()[-1500:]
    return code


def command_line(rng: random.Random, name: str) -> list[str]:
    """A call of one command: sound in a third of the cases, else with a few things wrong."""
    hints, positional = options_of(name)
    words = [rng.choice(WORDS.get(name, ("prefill_separability",)))] if positional else []
    chosen = {flag: rng.choice(SOUND[flag]) for flag in hints if flag in SOUND}
    if name == "run":
        words += ["--set", "pairs=4"]
    if name == "sweep":
        words += ["--pairs", "4", "--layers", rng.choice(("0-1", "2"))]
    odd = [] if rng.random() < 0.33 else rng.sample(sorted(set(hints) - NEVER), min(len(hints), rng.randrange(3)))
    for flag in odd:
        chosen.pop(flag, None)
    spoiled = [word for flag in odd for word in odd_flag(rng, flag, hints[flag])]
    if rng.random() < 0.1:
        spoiled.append(text(rng)[:30])
    if positional and rng.random() < 0.15:
        words[0] = rng.choice(("nope", "prefill_separability", text(rng)[:40]))
    return [name, *words, *(w for flag, v in chosen.items() for w in (f"--{flag.replace('_', '-')}", v)), *spoiled]


def options_of(name: str) -> tuple[dict[str, Any], bool]:
    """(flag -> type, whether words without a flag are taken) of a command, read from its dataclass and those it holds."""
    module = importlib.import_module(f"safesteer_interp.cli.{COMMANDS[name][0]}")
    shapes = [c for c in vars(module).values() if dataclasses.is_dataclass(c) and getattr(c, "__module__", "") == module.__name__]
    found: dict[str, Any] = {}
    positional = False
    queue: list[Any] = shapes[:1]
    while queue:
        shape = queue.pop()
        plain, marked = get_type_hints(shape), get_type_hints(shape, include_extras=True)
        for field in dataclasses.fields(shape):
            if dataclasses.is_dataclass(plain[field.name]):
                queue.append(plain[field.name])
            elif Positional[int].__metadata__[0] in getattr(marked[field.name], "__metadata__", ()):  # type: ignore[attr-defined]
                positional = True
            else:
                found[field.name] = plain[field.name]
    return found, positional


def odd_flag(rng: random.Random, field: str, hint: Any) -> list[str]:
    """One flag with a value of its type, or with any."""
    name = f"--{field.replace('_', '-')}"
    kinds = {hint, *(get_args(hint) if get_origin(hint) in (Union, types.UnionType) else ())}
    if bool in kinds:
        return [name] if rng.random() < 0.9 else [name, text(rng)[:20]]
    if rng.random() < 0.2:
        return [name, text(rng)[:60]]
    if int in kinds or float in kinds:
        return [name, str(rng.choice((*NUMBERS[:6], -5, 0.25, "nan", "inf", 1e300)))]
    if Path in kinds:
        return [name, rng.choice(("new", "user/notes.txt", "user", "nope", "figures", "store", "user/q.jsonl"))]
    literal = [word for kind in kinds for word in get_args(kind) if isinstance(word, str)]
    if literal and rng.random() < 0.6:
        return [name, rng.choice(literal)]
    return [name, rng.choice((*NAMES, "tiny:llama", "planted", "final_norm", "last_prompt", "step:5", "resid_post.45", "9-0", "all"))]

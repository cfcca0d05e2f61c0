"""Text lists of the refusal-direction work (arXiv 2406.11717): AdvBench and its kin against Alpaca instructions.

Layout: `refusal_direction/dataset/{raw,processed}`, as in andyrdt/refusal_direction. Target answers are not read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from safesteer_interp.datasets.dataset import Dataset
from safesteer_interp.datasets.published import FETCH, beside, checked, finished, first_file
from safesteer_interp.errors import InputError, UsageError, did_you_mean
from safesteer_interp.reading import read_json
from safesteer_interp.requests import Attack, Request

LISTS = ("advbench", "malicious_instruct", "tdc2023", "harmbench_test", "harmbench_val", "jailbreakbench", "strongreject")


def load_advbench(root: Path, *, lists: Sequence[str] | None = None, benign: bool = True, blank: bool = False) -> list[Request]:
    """The harmful `lists` (AdvBench by default), and as many Alpaca instructions as harmless class unless `benign=False`.

    Alpaca's are taken by the hash of their words. Lists share requests; what is there twice is taken once. `blank`: every text beside a
    blank picture. Raises UsageError for an unknown list, InputError naming file and entry.
    """
    wanted = tuple(lists) if lists is not None else ("advbench",)
    for name in wanted:
        if name not in LISTS:
            raise UsageError(f'there is no list "{name}".' + did_you_mean(name, LISTS))
    base = Path(root) / "refusal_direction" / "dataset"
    harmful = list(dict.fromkeys((text, name) for name in wanted for text in _texts(base, name)))
    first = dict(reversed(harmful))
    requests = [_request(text, name, True, blank) for text, name in harmful if first[text] == name]
    if benign:
        ordered = sorted(set(_texts(base, "alpaca")), key=lambda text: hashlib.sha256(text.encode()).hexdigest())
        requests += [_request(text, "alpaca", False, blank) for text in ordered[: len(requests)]]
    return finished(requests, "AdvBench")


def _texts(base: Path, name: str) -> list[str]:
    path = first_file(base, (f"processed/{name}.json",), f'the list "{name}"')
    rows = read_json(path, FETCH)
    if not isinstance(rows, list):
        raise InputError(f'{path} must hold a JSON list of objects with the field "instruction".')
    return [str(checked(row, ("instruction",), f"{path}, entry {number}")["instruction"]).strip() for number, row in enumerate(rows)]


def _request(text: str, name: str, harmful: bool, blank: bool) -> Request:
    own = f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    form = Attack.CB if blank else Attack.TEXT
    return Request(text, beside(None, blank), id=own, harmful=harmful, attack=form, scenario=name, pair=own, dataset="advbench")


ENTRY = Dataset(
    "AdvBench and other harmful texts against Alpaca; options: lists, benign, blank",
    load_advbench,
    folder="refusal_direction",
    licence="MIT (lists), CC BY-NC 4.0 (Alpaca)",
    citation="arXiv:2307.15043; arXiv:2406.11717",
)

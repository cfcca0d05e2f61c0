"""Keys of traces: they move when and only when a number may. Labels move none; what the chat template renders does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.tracing import NoiseImage

from safesteer_interp.errors import UsageError
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Attack, Request, Split
from safesteer_interp.sites import Site
from safesteer_interp.tracing.collecting import plan
from safesteer_interp.tracing.key import trace_key
from safesteer_interp.tracing.tracer import Edit, Sampling

Tiny = Callable[[str], MLLM]

REQUEST = Request(id="a", text="how do I renew a passport", harmful=False, attack=Attack.CB, image=NoiseImage(0), pair="p")
REQUEST_CHANGES: dict[str, Any] = {"text": "how do I renew a visa", "image": NoiseImage(1)}
LABELS: dict[str, Any] = {
    "id": "b",
    "harmful": True,
    "attack": Attack.SD,
    "scenario": "travel",
    "pair": "q",
    "split": Split.FIT,
    "dataset": "bundled",
    "intent": "spelled out",
}
OTHER = Request(id="other", text="what is a visa", harmful=False, attack=Attack.CB, image=NoiseImage(0))
EDIT = ("embed", "push", "one")
BASE: dict[str, Any] = {
    "requests": [REQUEST],
    "sites": "all",
    "reads": "last_prompt",
    "tracer": "hooks",
    "logits": False,
    "sampling": Sampling(max_new_tokens=4, temperature=0.7, seed=1),
    "edits": EDIT,
}
CHANGES: list[tuple[str, Any]] = [
    *(("requests", [replace(REQUEST, **{name: value})]) for name, value in REQUEST_CHANGES.items()),
    ("requests", [replace(REQUEST, image=None)]),
    ("requests", [REQUEST, OTHER]),
    ("requests", [OTHER, REQUEST]),
    ("sites", "resid_post"),
    ("sites", "embed,final_norm"),
    ("reads", "step:1"),
    ("reads", "last_prompt,user_mean"),
    ("tracer", "nnsight"),
    ("tracer", "transformer_lens"),
    ("logits", True),
    ("sampling", Sampling(max_new_tokens=5, temperature=0.7, seed=1)),
    ("sampling", Sampling(max_new_tokens=4, temperature=0.8, seed=1)),
    ("sampling", Sampling(max_new_tokens=4, temperature=0.7, seed=2)),
    ("sampling", Sampling(max_new_tokens=4)),
    ("edits", None),
    ("edits", ("final_norm", "push", "one")),
    ("edits", ("embed", "pull", "one")),
    ("edits", ("embed", "push", "two")),
    ("model", {"fingerprint": "0" * 64}),
    ("model", {"system_prompt": "Be brief."}),
]


def key_of(mllm: MLLM, folder: Path, spec: dict[str, Any]) -> str:
    spec = dict(spec)
    model = replace(mllm, **spec.pop("model", {}))
    edit = spec.pop("edits")
    edits = [Edit((Site.parse(edit[0]),), lambda h, at: h, name=edit[1], key=edit[2])] if edit else []
    return plan(model, edits=edits, store=folder, **spec).key


def test_every_field_that_affects_a_number_changes_the_key(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mllm = tiny("llava")
    keys = [key_of(mllm, tmp_path, BASE), *(key_of(mllm, tmp_path, BASE | {name: value}) for name, value in CHANGES)]
    half = replace(mllm)
    monkeypatch.setattr(MLLM, "dtype", property(lambda self: torch.bfloat16 if self is half else torch.float32))
    spec = {name: value for name, value in BASE.items() if name != "edits"}
    bare = plan(mllm, store=tmp_path, **spec).work
    assert bare is not None
    keys.append(plan(half, store=tmp_path, **spec).key)
    monkeypatch.setattr(mllm.model.generation_config, "eos_token_id", 3)
    keys.append(plan(mllm, store=tmp_path, **spec).key)
    keys += [trace_key(bare.fields | {name: "other"}) for name in [*bare.fields, "requests"]]
    assert len(set(keys)) == len(keys)
    known = {f.name for f in fields(Request)}
    assert known == {*REQUEST_CHANGES, *LABELS}, "a new field of Request: does it belong in the key?"
    assert {f.name for f in fields(Sampling)} == set(bare.fields["sampling"]), "a new field of Sampling must enter the key"
    facts = {"last_step", "late", "eyes"}  # what the function leaves alone or knows: they are checked, and change no number
    assert {f.name for f in fields(Edit)} == {"sites", "function", "name", "key", *facts}, "a new field of Edit: does it belong in the key?"


def test_what_affects_no_number_leaves_the_key(tiny: Tiny, tmp_path: Path) -> None:
    mllm = tiny("llava")
    key = key_of(mllm, tmp_path, BASE)
    assert key == key_of(mllm, tmp_path, BASE | {"batch_size": 1})
    assert key == key_of(mllm, tmp_path / "elsewhere", BASE)
    for name, value in LABELS.items():
        assert key == key_of(mllm, tmp_path, BASE | {"requests": [replace(REQUEST, **{name: value})]}), name
    assert key == key_of(mllm, tmp_path, BASE | {"requests": [REQUEST, replace(REQUEST, **LABELS)]}), "one content, traced once"
    orders = [key_of(mllm, tmp_path, BASE | {"sites": sites}) for sites in ("embed,final_norm", "final_norm,embed,embed")]
    assert orders[0] == orders[1]
    assert key == key_of(mllm, tmp_path, BASE | {"model": {"name": "renamed", "source": "moved"}})
    greedy = [key_of(mllm, tmp_path, BASE | {"sampling": Sampling(max_new_tokens=4, seed=seed)}) for seed in (0, 1)]
    assert greedy[0] == greedy[1], "a greedy run draws nothing, so its seed means nothing"
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert key == key_of(mllm, tmp_path, BASE)
    finally:
        torch.set_num_threads(threads)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(one=st.sets(st.integers(0, len(CHANGES) - 1), max_size=3), other=st.sets(st.integers(0, len(CHANGES) - 1), max_size=3))
def test_keys_are_equal_exactly_when_the_asks_are(tiny: Tiny, tmp_path: Path, one: set[int], other: set[int]) -> None:
    """Any combination of changed fields: two traces share a key if and only if they ask for the same thing."""

    def spec(changed: set[int]) -> dict[str, Any]:
        return BASE | {CHANGES[i][0]: CHANGES[i][1] for i in sorted(changed)}

    same = spec(one) == spec(other)
    assert (key_of(tiny("llava"), tmp_path, spec(one)) == key_of(tiny("llava"), tmp_path, spec(other))) == same


DATED = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}<|im_start|>assistant\nToday is DAY.\n"
)


def test_what_the_template_renders_is_in_the_key(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fingerprint was taken when the model was loaded; a template that prints the date renders another prompt today."""
    mllm = tiny("llama")
    asked = {"requests": [replace(REQUEST, image=None)], "store": tmp_path}
    keys = []
    for day in ("3 March", "4 March", "3 March"):
        monkeypatch.setattr(mllm.tokenizer, "chat_template", DATED.replace("DAY", day))
        keys.append(plan(mllm, **asked).key)
    assert keys[0] == keys[2] != keys[1]


def test_nothing_enters_a_key_by_how_it_prints() -> None:
    with pytest.raises(UsageError, match="object objects cannot be part of a key as they are"):
        trace_key({"requests": [], "edits": [object()]})

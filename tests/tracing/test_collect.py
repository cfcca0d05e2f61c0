"""collect(): one pass per batch into the store, resumable, with a key that moves when and only when a number may."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.tracing import NoiseImage, close, push, requests_for

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.models.mllm import MLLM, Encoded
from safesteer_interp.requests import Attack, Request, Split
from safesteer_interp.sites import Site
from safesteer_interp.tracing import plan as planning
from safesteer_interp.tracing.collect import collect, plan
from safesteer_interp.tracing.hooks import HooksTracer
from safesteer_interp.tracing.key import trace_key
from safesteer_interp.tracing.store import Store
from safesteer_interp.tracing.tracer import Captured, Edit, Sampling

Tiny = Callable[[str], MLLM]
PARAMETERS: dict[str, Any] = {"tracer": "hooks", "progress": False, "reads": "last_prompt,step:1-2", "batch_size": 3}


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four requests per shard, so that a few requests make several shards."""
    monkeypatch.setattr(planning, "CHUNK", 4)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of every batch that was really run."""
    ran: list[int] = []
    own = HooksTracer.capture

    def counted(self: HooksTracer, batch: Encoded, *args: Any, **kwargs: Any) -> Captured:
        ran.append(len(batch.requests))
        return own(self, batch, *args, **kwargs)

    monkeypatch.setattr(HooksTracer, "capture", counted)
    return ran


def test_rows_are_those_of_each_request_alone(tiny: Tiny, small_chunks: None) -> None:
    mllm = tiny("llava")
    requests = requests_for(mllm, 9)
    trace = collect(mllm, requests, reads="last_prompt,image_mean,step:1-2", logits=True, batch_size=3, tracer="hooks", progress=False)
    assert trace.index["request"].tolist() == [r.id for r in requests]
    assert len(trace) == 9 and [str(s) for s in trace.sites] == ["embed", *(f"resid_post.{i}" for i in range(4)), "final_norm"]
    assert trace.logits is not None and trace.logits.shape == (9, mllm.lm_head.weight.shape[0])
    for row, request in enumerate(requests):
        batch = mllm.encode([request])
        alone = HooksTracer(mllm).capture(batch, trace.sites, trace.reads, logits=True)
        assert trace.index["prompt_length"][row] == int(batch.attention_mask.sum())
        assert trace.generated[row] == alone.generated[0] and trace.index["n_generated"][row] == len(alone.generated[0])
        assert trace.texts[row] == mllm.tokenizer.decode(alone.generated[0], skip_special_tokens=True)
        assert alone.logits is not None and close(alone.logits[0], torch.from_numpy(trace.logits[row]))
        for (site, read), states in alone.states.items():
            assert bool(trace.present(read)[row]) == bool(alone.present[read][0])
            if alone.present[read][0]:
                assert close(states[0], torch.from_numpy(trace.rows(site, read)[row])), (request.id, str(site), str(read))
            else:
                assert np.isnan(trace.rows(site, read)[row]).all()
    stack = trace.stack("step:2", sites=["resid_post.3", "embed"])
    assert stack.shape == (2, 9, mllm.width) and stack.dtype == np.float32
    assert np.array_equal(stack[1], trace.rows("embed", "step:2"))


def test_a_stored_trace_opens_without_model_or_data(tiny: Tiny, small_chunks: None, tmp_path: Path, passes: list[int]) -> None:
    mllm = tiny("llava")
    requests = requests_for(mllm, 7)
    kept = collect(mllm, requests, store=tmp_path, logits=True, **PARAMETERS)
    memory = collect(mllm, requests, logits=True, **PARAMETERS)
    ran = len(passes)
    again = collect(mllm, requests, store=Store(tmp_path), logits=True, **PARAMETERS | {"batch_size": 2})
    opened = Store(tmp_path).open(kept.key)
    assert len(passes) == ran, "a finished trace ran a forward"
    for trace in (again, opened):
        assert trace.key == kept.key and trace.texts == memory.texts and trace.generated == memory.generated
        assert trace.index.equals(memory.index) and trace.meta["model"] == mllm.name
        assert np.array_equal(trace.stack("step:1"), memory.stack("step:1"), equal_nan=True)
        assert trace.logits is not None and memory.logits is not None and np.array_equal(trace.logits, memory.logits)
    assert opened.index["harmful"].dtype == bool
    with pytest.raises(UsageError, match=r'holds no site "resid_post.7".*resid_post'):
        opened.rows("resid_post.7")
    with pytest.raises(UsageError, match='holds no read "user_mean"'):
        opened.stack("user_mean")


def test_identical_requests_run_once(tiny: Tiny, passes: list[int]) -> None:
    mllm = tiny("llama")
    one, other, *_ = requests_for(mllm)
    trace = collect(mllm, [one, replace(one, id="twin", pair="q"), other], **PARAMETERS)
    assert passes == [2]
    assert np.array_equal(trace.rows("final_norm")[0], trace.rows("final_norm")[1])
    assert trace.index["request"].tolist() == ["r0", "twin", "r1"]


def test_the_plan_is_what_happens(tiny: Tiny, small_chunks: None, tmp_path: Path, passes: list[int]) -> None:
    mllm = tiny("llama")
    requests = requests_for(mllm, 10)
    planned = plan(mllm, requests, store=tmp_path, tracer="hooks", reads="last_prompt,step:1-2", batch_size=3)
    assert not passes and not list(tmp_path.iterdir()), "a plan must compute and write nothing"
    assert (planned.batches, planned.steps, planned.n_stored) == (5, 2, 0) and planned.free and planned.free > 0
    trace = collect(mllm, requests, store=tmp_path, **PARAMETERS)
    assert trace.key == planned.key and len(passes) == planned.batches
    written = sum(path.stat().st_size for path in tmp_path.glob("*/*.safetensors"))
    assert planned.bytes <= written <= planned.bytes + 3 * 8192
    done = plan(mllm, requests, store=tmp_path, tracer="hooks", reads="last_prompt,step:1-2", batch_size=3)
    assert (done.n_stored, done.batches, done.bytes_left) == (10, 0, 0)
    assert done.as_dict()["stored"] == 10 and "10 requests (10 stored already)" in str(done)


def test_bad_asks_are_refused_before_anything_runs(tiny: Tiny, passes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, eyes = tiny("llama"), tiny("llava")
    requests = requests_for(text)
    pictured = replace(requests[0], image=NoiseImage(0))
    for model, asked, changes, error, sentence in [
        (text, [], {}, InputError, "no request to trace"),
        (text, [pictured], {}, InputError, '"r0" has an image, but .* takes text only'),
        (eyes, requests, {"reads": "image_mean"}, UsageError, "no request has an image"),
        (text, requests, {"batch_size": 0}, UsageError, "batch size 0"),
        (text, requests, {"tracer": "hook"}, UsageError, 'no tracer is called "hook".*hooks'),
        (text, requests, {"remote": True}, UsageError, "--remote needs the nnsight tracer"),
        (text, requests, {"sites": "resid_post.4"}, UsageError, "layers 0-3"),
        (text, requests, {"sites": ""}, UsageError, "at least one site"),
        (text, requests, {"edits": [Edit((Site.parse("embed"),), lambda h, at: h)], "store": tmp_path}, UsageError, "has no key"),
    ]:
        with pytest.raises(error, match=sentence):
            collect(model, asked, **PARAMETERS | changes)
    monkeypatch.setattr(planning, "free_bytes", lambda root: 1000)
    monkeypatch.setattr("safesteer_interp.tracing.collect.free_bytes", lambda root: 1000)
    with pytest.raises(InputError, match=r"only 1\.0 kB are free"):
        collect(text, requests, store=tmp_path, **PARAMETERS)
    assert not passes


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_name_model_site_and_request(
    tiny: Tiny, small_chunks: None, tmp_path: Path, poison: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    mllm = tiny("llama")
    requests = requests_for(mllm, 8)
    bad = max(requests, key=lambda r: len(r.text))  # in the last shard, so that the first is finished
    own = HooksTracer.capture

    def poisoned(self: HooksTracer, batch: Encoded, *args: Any, **kwargs: Any) -> Captured:
        found = own(self, batch, *args, **kwargs)
        for (site, _), states in found.states.items():
            if site.layer is not None and site.layer >= 2:
                states[[r.id == bad.id for r in batch.requests], 3] = poison
        return found

    with monkeypatch.context() as patch:
        patch.setattr(HooksTracer, "capture", poisoned)
        with pytest.raises(InputError, match=rf'{mllm.name} gave NaN or infinite .* resid_post.2 \(last_prompt\) .*"{bad.id}"'):
            collect(mllm, requests, store=tmp_path, **PARAMETERS)
    planned = plan(mllm, requests, store=tmp_path, tracer="hooks", reads="last_prompt,step:1-2")
    assert planned.n_stored == 4, "the finished shard was lost"


REQUEST = Request(id="a", text="how do I renew a passport", harmful=False, attack=Attack.CB, image=NoiseImage(0), pair="p")
REQUEST_CHANGES: dict[str, Any] = {
    "id": "b",
    "text": "how do I renew a visa",
    "harmful": True,
    "attack": Attack.SD,
    "image": NoiseImage(1),
    "scenario": "travel",
    "pair": "q",
    "split": Split.TRAIN,
    "dataset": "bundled",
}
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
    ("requests", [REQUEST, replace(REQUEST, id="b")]),
    ("requests", [replace(REQUEST, id="b"), REQUEST]),
    ("sites", "resid_post"),
    ("sites", "final_norm,embed"),
    ("sites", "embed,final_norm"),
    ("reads", "step:1"),
    ("reads", "last_prompt,image_mean"),
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
    bare = plan(mllm, store=tmp_path, **spec)
    keys.append(plan(half, store=tmp_path, **spec).key)
    keys += [trace_key(bare.fields | {name: "other"}) for name in bare.fields]
    assert len(set(keys)) == len(keys)
    assert {f.name for f in fields(Request)} - {"intent"} == set(REQUEST_CHANGES), "a new field of Request: does it belong in the key?"
    assert {f.name for f in fields(Sampling)} == set(bare.fields["sampling"]), "a new field of Sampling must enter the key"
    assert {f.name for f in fields(Edit)} == {"sites", "function", "name", "key"}, "a new field of Edit: does it belong in the key?"


def test_what_affects_no_number_leaves_the_key(tiny: Tiny, tmp_path: Path) -> None:
    mllm = tiny("llava")
    key = key_of(mllm, tmp_path, BASE)
    assert key == key_of(mllm, tmp_path, BASE | {"batch_size": 1})
    assert key == key_of(mllm, tmp_path / "elsewhere", BASE)
    assert key == key_of(mllm, tmp_path, BASE | {"requests": [replace(REQUEST, intent="spelled out")]})
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


def test_edits_are_stored_with_their_key(tiny: Tiny, tmp_path: Path) -> None:
    mllm = tiny("llama")
    requests = requests_for(mllm, 3)
    plain = collect(mllm, requests, store=tmp_path, **PARAMETERS)
    edited = collect(mllm, requests, store=tmp_path, edits=[push(mllm)], **PARAMETERS)
    assert plain.key != edited.key
    assert not np.allclose(plain.rows("final_norm"), edited.rows("final_norm"))
    assert edited.fields["edits"][0]["key"] == "push-3-seed0"

"""collect(): one pass per batch into the store, resumable, found again by whoever asks, and shown as it was asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tracing import NoiseImage, close, push, requests_for

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.models.mllm import MLLM, Encoded
from safesteer_interp.requests import Split
from safesteer_interp.sites import Site
from safesteer_interp.tracing import plan as planning
from safesteer_interp.tracing.collecting import collect, plan
from safesteer_interp.tracing.hooks import HooksTracer
from safesteer_interp.tracing.store import Store
from safesteer_interp.tracing.tracer import DEFAULT_TRACER, Captured, Edit

Tiny = Callable[[str], MLLM]
PARAMETERS: dict[str, Any] = {"tracer": "hooks", "store": None, "progress": False, "reads": "last_prompt,step:1-2", "batch_size": 3}


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four requests per shard, so that a few requests make several shards."""
    monkeypatch.setattr(planning, "CHUNK", 4)


def test_the_labels_of_a_trace_are_those_of_its_requests(tiny: Tiny) -> None:
    mllm = tiny("llama")
    requests = [replace(r, split=Split.FIT if i < 3 else Split.TEST) for i, r in enumerate(requests_for(mllm, 5))]
    labels = collect(mllm, requests, **PARAMETERS).labels
    assert labels.harmful.dtype == bool and labels.harmful.tolist() == [False, True, False, True, False]
    assert labels.pairs.tolist() == ["p0", "p0", "p1", "p1", "p2"]
    assert labels.attacks.tolist() == ["TEXT", "SD", "TEXT", "SD", "TEXT"]
    assert labels.splits.tolist() == ["fit"] * 3 + ["test"] * 2
    assert labels.train.tolist() == [True, True, True, False, False]


def test_rows_are_those_of_each_request_alone(tiny: Tiny, small_chunks: None) -> None:
    mllm = tiny("llava")
    requests = requests_for(mllm, 9)
    trace = collect(mllm, requests, **PARAMETERS | {"reads": "last_prompt,image_mean,step:1-2"}, logits=True)
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
    kept = collect(mllm, requests, logits=True, **PARAMETERS | {"store": tmp_path})
    memory = collect(mllm, requests, logits=True, **PARAMETERS)
    ran = len(passes)
    again = collect(mllm, requests, logits=True, **PARAMETERS | {"store": Store(tmp_path), "batch_size": 2})
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
    trace = collect(mllm, requests, **PARAMETERS | {"store": tmp_path})
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
    with pytest.raises(InputError, match=r"only 1\.0 kB are free"):
        collect(text, requests, **PARAMETERS | {"store": tmp_path})
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
            collect(mllm, requests, **PARAMETERS | {"store": tmp_path})
    planned = plan(mllm, requests, store=tmp_path, tracer="hooks", reads="last_prompt,step:1-2")
    assert planned.n_stored == 4, "the finished shard was lost"


def test_edits_are_stored_with_their_key(tiny: Tiny, tmp_path: Path, passes: list[int]) -> None:
    mllm = tiny("llama")
    requests = requests_for(mllm, 3)
    stored = PARAMETERS | {"store": tmp_path}
    plain = collect(mllm, requests, **stored)
    edited = collect(mllm, requests, edits=[push(mllm)], **stored)
    assert plain.key != edited.key
    assert not np.allclose(plain.rows("final_norm"), edited.rows("final_norm"))
    assert "push-3-seed0" in edited.fields["edits"][0]
    ran = len(passes)
    part = collect(mllm, requests[:2], edits=[push(mllm)], **stored | {"sites": "final_norm"})
    assert len(passes) == ran and np.array_equal(part.rows("final_norm"), edited.rows("final_norm")[:2])


def test_what_is_collected_is_stored_unless_told_otherwise(tiny: Tiny, passes: list[int]) -> None:
    mllm = tiny("llama")
    requests = requests_for(mllm, 3)
    first = collect(mllm, requests, progress=False)
    assert first.key and Store().open(first.key).fields["tracer"] == DEFAULT_TRACER == "hooks"
    ran = len(passes)
    assert collect(mllm, requests, progress=False).key == first.key and len(passes) == ran
    memory = collect(mllm, requests, store=None, progress=False)
    assert memory.key == "" and len(passes) > ran and np.array_equal(memory.rows("embed"), first.rows("embed"))


def test_the_order_asked_for_is_the_order_shown(tiny: Tiny, tmp_path: Path) -> None:
    mllm = tiny("llama")
    requests = requests_for(mllm, 3)
    one = collect(mllm, requests, sites="final_norm,embed,resid_post.2", progress=False, store=tmp_path)
    other = collect(mllm, requests[::-1], sites="resid_post.2,embed,final_norm", progress=False, store=tmp_path)
    assert one.key == other.key and [str(site) for site in other.sites] == ["resid_post.2", "embed", "final_norm"]
    assert [str(site) for site in other.sites_in_order] == ["embed", "resid_post.2", "final_norm"]
    assert np.array_equal(one.stack(), other.stack()[[2, 1, 0]][:, ::-1])
    assert other.index["request"].tolist() == ["r2", "r1", "r0"]


def test_what_a_notebook_shows_is_one_line(tiny: Tiny, tmp_path: Path) -> None:
    mllm = tiny("llama")
    view = collect(mllm, requests_for(mllm, 3), reads="last_prompt,user_mean", progress=False, store=tmp_path)
    rest = f"(3 requests of {mllm.name}, sites embed ... final_norm (6), reads last_prompt, user_mean, key {view.key})"
    assert repr(view) == f"TraceView{rest}" and repr(Store(tmp_path).open(view.key)) == f"Trace{rest}"
    assert repr(collect(mllm, requests_for(mllm, 1), sites="embed", store=None, progress=False)).endswith(
        "sites embed, reads last_prompt, in memory)"
    )


def test_answers_that_were_not_asked_for_are_no_empty_answers(tiny: Tiny, tmp_path: Path) -> None:
    mllm = tiny("llama")
    view = collect(mllm, requests_for(mllm, 2), progress=False, store=tmp_path)
    for trace in (view, Store(tmp_path).open(view.key)):
        assert trace.generated == [[], []]
        with pytest.raises(UsageError, match=r"holds no answers.*max_new_tokens"):
            _ = trace.texts


def test_a_resumed_trace_says_how_much_it_kept(
    tiny: Tiny, small_chunks: None, tmp_path: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mllm = tiny("llama")
    requests = requests_for(mllm, 10)
    stored = PARAMETERS | {"store": tmp_path, "progress": True, "batch_size": 4}
    own = HooksTracer.capture

    def interrupted(self: HooksTracer, *args: Any, **kwargs: Any) -> Captured:
        if len(passes) == 2:
            raise KeyboardInterrupt
        return own(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(HooksTracer, "capture", interrupted)
        with pytest.raises(KeyboardInterrupt):
            collect(mllm, requests, **stored)
    capsys.readouterr()
    collect(mllm, requests, **stored)
    assert passes == [4, 4, 2]
    assert f"tracing {mllm.name} (8 of 10 kept from before): 10/10 done" in capsys.readouterr().err

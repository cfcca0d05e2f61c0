"""The trace library: whoever asks finds what anyone made, in Python and on the command line, and nothing is traced twice."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tracing import NoiseImage, requests_for

from safesteer_interp.errors import BadRequestError, InputError, UsageError
from safesteer_interp.models.mllm import MLLM, Encoded
from safesteer_interp.requests import Attack, ImageFile, Request, Split
from safesteer_interp.tracing import plan as planning
from safesteer_interp.tracing.collecting import collect, plan
from safesteer_interp.tracing.hooks import HooksTracer
from safesteer_interp.tracing.library import TraceLibrary
from safesteer_interp.tracing.store import Folder, Store
from safesteer_interp.tracing.tracer import Captured, Sampling

Tiny = Callable[[str], MLLM]
QUIET: dict[str, Any] = {"progress": False}


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of all requests that were really run."""
    ran: list[str] = []
    own = HooksTracer.capture

    def counted(self: HooksTracer, batch: Encoded, *args: Any, **kwargs: Any) -> Captured:
        ran.extend(request.id for request in batch.requests)
        return own(self, batch, *args, **kwargs)

    monkeypatch.setattr(HooksTracer, "capture", counted)
    return ran


def test_a_part_of_a_larger_trace_is_read_not_computed(tiny: Tiny, tmp_path: Path, passes: list[str]) -> None:
    mllm = tiny("llava")
    requests = requests_for(mllm, 8)
    large = collect(
        mllm, requests, sites="all,mlp_out.1", reads="last_prompt,image_mean,step:1-3", sampling=Sampling(5), logits=True, store=tmp_path,
        **QUIET,
    )  # fmt: skip
    passes.clear()
    small = collect(mllm, requests[5:1:-1], sites="mlp_out.1,embed", reads="step:2,last_prompt", store=tmp_path, **QUIET)
    assert not passes and small.key == large.key
    assert small.index["request"].tolist() == ["r5", "r4", "r3", "r2"] and small.requests == requests[5:1:-1]
    assert np.array_equal(small.stack("step:2"), large.stack("step:2", ["mlp_out.1", "embed"])[:, 5:1:-1], equal_nan=True)
    assert small.generated == [ids[:2] for ids in large.generated[5:1:-1]] and small.index["n_generated"].max() <= 2
    assert small.texts == [mllm.tokenizer.decode(ids, skip_special_tokens=True) for ids in small.generated]
    assert small.logits is None, "logits that were not asked for are not shown"
    with pytest.raises(UsageError, match='site "final_norm" is not in this trace'):
        small.rows("final_norm")


def test_only_what_is_missing_is_traced(tiny: Tiny, tmp_path: Path, passes: list[str]) -> None:
    mllm = tiny("llama")
    requests = requests_for(mllm, 6)
    first = collect(mllm, requests[1:4], sites="final_norm", store=tmp_path, **QUIET)
    passes.clear()
    planned = plan(mllm, requests, sites="final_norm", store=tmp_path)
    assert (planned.n_requests, planned.n_stored, planned.found) == (6, 3, (first.key,))
    whole = collect(mllm, requests, sites="final_norm", store=tmp_path, **QUIET)
    assert sorted(passes) == ["r0", "r4", "r5"] and set(whole.key.split("+")) == set(planned.key.split("+"))
    alone = collect(mllm, requests, sites="final_norm", store=None, **QUIET)
    assert whole.index.equals(alone.index)
    assert np.allclose(whole.rows("final_norm"), alone.rows("final_norm"), rtol=1e-4, atol=1e-5)
    passes.clear()
    for changes in ({"reads": "last_prompt,step:1"}, {"sites": "embed"}, {"logits": True}, {"sampling": Sampling(2)}):
        collect(mllm, requests[:1], **{"sites": "final_norm", "store": tmp_path, **QUIET, **changes})
    assert passes == ["r0"] * 4, "a trace that lacks something answers nothing"


def test_labels_are_those_of_whoever_asks(tiny: Tiny, tmp_path: Path, passes: list[str]) -> None:
    mllm = tiny("llava")
    requests = requests_for(mllm, 4)
    collect(mllm, requests, store=tmp_path, **QUIET)
    passes.clear()
    relabelled = [
        replace(r, id=f"new-{i}", harmful=not r.harmful, attack=Attack.TYPO, pair="q", split=Split.FIT, dataset="mine", scenario="s")
        for i, r in enumerate(requests)
    ]
    view = collect(mllm, [*relabelled, requests[2]], store=tmp_path, **QUIET)
    assert not passes
    assert view.index["request"].tolist() == ["new-0", "new-1", "new-2", "new-3", "r2"]
    assert view.index["harmful"].tolist() == [True, False, True, False, False]
    assert view.index["dataset"].tolist() == ["mine"] * 4 + [""] and view.index["attack"].tolist() == ["TYPO"] * 4 + ["TEXT"]
    assert np.array_equal(view.rows("final_norm")[2], view.rows("final_norm")[4])
    kept = Store(tmp_path).open(view.key).index
    assert kept["request"].tolist() == [r.id for r in requests], "opened by its key, a trace shows the labels it was made with"


def test_a_resumed_trace_is_whole_though_its_labels_have_changed(
    tiny: Tiny, tmp_path: Path, passes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack says which requests share a shard and is no part of the key, so the cut of the first run must hold."""
    monkeypatch.setattr(planning, "CHUNK", 2)
    mllm = tiny("llava")
    requests = [replace(r, image=NoiseImage(i), attack=Attack.SD) for i, r in enumerate(requests_for(mllm, 8))]
    own = Folder.add

    def killed(self: Folder, number: int, *rest: Any) -> None:
        own(self, number, *rest)
        if number == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            collect(mllm, requests, store=tmp_path, **QUIET)
    done = set(passes)
    assert len(done) == 4
    relabelled = [replace(r, attack=(Attack.TYPO, Attack.SD, Attack.CB)[i % 3]) for i, r in enumerate(requests)]
    assert planning.cut(mllm, relabelled) != planning.cut(mllm, requests)
    view = collect(mllm, relabelled, store=tmp_path, **QUIET)
    assert sorted(passes) == sorted(r.id for r in requests), "each ran once"
    assert np.allclose(view.rows("final_norm"), collect(mllm, relabelled, store=None, **QUIET).rows("final_norm"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("known", [True, False])
def test_a_damaged_trace_is_mended_if_its_requests_are_known_and_else_passed_over(
    tiny: Tiny, tmp_path: Path, passes: list[str], known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "CHUNK", 4)
    mllm = tiny("llama")
    requests = requests_for(mllm, 10)
    large = collect(mllm, requests, store=tmp_path, **QUIET)
    kept = large.rows("final_norm")
    (shard,) = (tmp_path / large.key).glob("shard-00001*")
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    passes.clear()
    library = TraceLibrary(mllm, Store(tmp_path), progress=False)
    if known:
        assert library.missing([library.want(requests)]) == []
    view = library.collect(requests[:3], sites="final_norm")
    if known:
        assert view.key == large.key and len(passes) == 4, "one shard is made again"
        assert np.array_equal(view.rows("final_norm"), kept[:3])
    else:
        assert view.key != large.key and sorted(passes) == ["r0", "r1", "r2"]
        assert np.allclose(view.rows("final_norm"), kept[:3], rtol=1e-4, atol=1e-5)
    passes.clear()
    again = TraceLibrary(mllm, Store(tmp_path), progress=False).collect(requests[:3], sites="final_norm")
    assert again.key == view.key and not passes


def test_a_trace_that_was_deleted_is_missed(tiny: Tiny, tmp_path: Path, passes: list[str]) -> None:
    mllm = tiny("llama")
    requests = requests_for(mllm, 3)
    key = collect(mllm, requests, store=tmp_path, **QUIET).key
    shutil.rmtree(tmp_path / key)
    assert plan(mllm, requests, store=tmp_path).n_stored == 0
    assert collect(mllm, requests, store=tmp_path, **QUIET).key == key and passes == ["r0", "r1", "r2"] * 2
    (tmp_path / "catalogue").rename(tmp_path / "elsewhere")
    assert collect(mllm, requests, store=tmp_path, **QUIET).key == key and len(passes) == 6, "the store itself is enough"
    assert plan(mllm, requests[:1], store=tmp_path).n_stored == 1, "and what was found is listed again"


def test_what_another_tracer_or_model_made_is_not_found(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mllm = tiny("llama")
    requests = requests_for(mllm, 2)
    collect(mllm, requests, store=tmp_path, **QUIET)
    assert plan(mllm, requests, store=tmp_path).n_stored == 2
    assert plan(mllm, requests, store=tmp_path, tracer="nnsight").n_stored == 0
    assert plan(replace(mllm, fingerprint="0" * 64), requests, store=tmp_path).n_stored == 0
    assert plan(replace(mllm, system_prompt="Be brief."), requests, store=tmp_path).n_stored == 0
    monkeypatch.setattr(mllm.model.config, "_attn_implementation_internal", "eager")
    assert plan(mllm, requests, store=tmp_path).n_stored == 0


def test_a_template_that_moves_on_while_tracing_stores_nothing(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mllm = tiny("llama")
    template = str(mllm.tokenizer.chat_template)
    own = HooksTracer.capture

    def late(self: HooksTracer, *args: Any, **kwargs: Any) -> Captured:
        monkeypatch.setattr(mllm.tokenizer, "chat_template", template + "It is tomorrow.")
        return own(self, *args, **kwargs)

    monkeypatch.setattr(HooksTracer, "capture", late)
    with pytest.raises(InputError, match=r"does not render the prompts that this trace began with.*run the same command again"):
        collect(mllm, requests_for(mllm, 2), store=tmp_path, **QUIET)
    assert not list(tmp_path.glob("*/shard-*"))
    assert len(collect(mllm, requests_for(mllm, 2), store=tmp_path, **QUIET)) == 2


def picture(path: Path, seed: int) -> None:
    """Overwrites a picture; every one has a modification time of its own."""
    NoiseImage(seed).load().save(path)
    os.utime(path, ns=(seed, seed))


def on_files(mllm: MLLM, folder: Path, n: int = 3) -> tuple[list[Request], list[Path]]:
    """Requests about pictures on disk."""
    paths = [folder / f"{i}.png" for i in range(n)]
    for i, path in enumerate(paths):
        picture(path, i)
    return [replace(r, image=ImageFile(path)) for r, path in zip(requests_for(mllm, n), paths, strict=True)], paths


def test_a_picture_that_was_replaced_is_traced_anew(tiny: Tiny, tmp_path: Path, passes: list[str]) -> None:
    mllm = tiny("llava")
    requests, paths = on_files(mllm, tmp_path)
    library = TraceLibrary(mllm, Store(tmp_path / "store"), progress=False)
    old = library.collect(requests, sites="final_norm").rows("final_norm")
    picture(paths[1], 7)
    passes.clear()
    new = library.collect(requests, sites="final_norm").rows("final_norm")
    assert passes == ["r1"]
    assert np.array_equal(new[[0, 2]], old[[0, 2]]) and not np.allclose(new[1], old[1], rtol=1e-2)
    fresh = collect(mllm, [replace(requests[1], image=NoiseImage(7))], sites="final_norm", store=None, **QUIET)
    assert np.allclose(new[1], fresh.rows("final_norm")[0], rtol=1e-4, atol=1e-5)
    picture(paths[1], 1)
    passes.clear()
    assert np.array_equal(library.collect(requests, sites="final_norm").rows("final_norm"), old) and not passes


def test_a_picture_that_changes_between_plan_and_view_leaves_nothing_wrong_behind(tiny: Tiny, tmp_path: Path) -> None:
    mllm = tiny("llava")
    requests, paths = on_files(mllm, tmp_path)
    right = collect(mllm, requests, sites="final_norm", store=None, **QUIET).rows("final_norm")
    library = TraceLibrary(mllm, Store(tmp_path / "store"), progress=False)
    want = library.want(requests, sites="final_norm")
    library.plan(want)
    (missing,) = library.missing([want])
    picture(paths[1], 7)
    with pytest.raises(InputError, match=r'request "r1" changed while it was traced: its picture .*1\.png was replaced, or the chat'):
        library.make(missing)
    assert not list((tmp_path / "store").glob("*/shard-*"))
    library.view(want)
    picture(paths[1], 1)
    for stored in (library, TraceLibrary(mllm, Store(tmp_path / "store"), progress=False)):
        assert np.allclose(stored.collect(requests, sites="final_norm").rows("final_norm"), right, rtol=1e-4, atol=1e-5)


def test_a_damaged_trace_is_not_mended_with_another_picture(tiny: Tiny, tmp_path: Path, passes: list[str]) -> None:
    mllm = tiny("llava")
    requests, paths = on_files(mllm, tmp_path)
    first = collect(mllm, requests, sites="final_norm", store=tmp_path / "store", **QUIET)
    (shard,) = (tmp_path / "store" / first.key).glob("shard-*")
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    library = TraceLibrary(mllm, Store(tmp_path / "store"), progress=False)
    assert library.missing([library.want(requests, sites="final_norm")]) == []
    picture(paths[1], 7)
    passes.clear()
    view = library.collect(requests[:1], sites="final_norm")
    assert passes == ["r0"] and view.key != first.key
    paths[1].unlink()
    assert library.collect(requests[2:], sites="final_norm").index["request"].tolist() == ["r2"]
    with pytest.raises(BadRequestError, match=r'request "r1": image .*1\.png cannot be read'):
        library.collect(requests, sites="final_norm")


def test_a_trace_in_another_form_is_a_sentence(tiny: Tiny, tmp_path: Path) -> None:
    """As the first version of the suite stored them: never found by a key of today, and refused by name when opened by its own."""
    from safesteer_interp.tracing import store as module

    mllm = tiny("llama")
    old = {"key": "f" * 32, "fields": {"format": 1}, "meta": {}, "n_shards": 1, "index": "", "shards": {}}
    check = module.hashlib.sha256(module._dump(old)).hexdigest()
    (tmp_path / old["key"]).mkdir()
    (tmp_path / old["key"] / "manifest.json").write_bytes(module._dump(old | {"check": check}))
    with pytest.raises(InputError, match=r"another version of this suite \(form 1; this one reads form 2\)"):
        Store(tmp_path).open(old["key"])
    (tmp_path / "catalogue").mkdir()
    (tmp_path / "catalogue" / f"{'0' * 32}.json").write_text(json.dumps([{"requests": {}}]))
    assert len(collect(mllm, requests_for(mllm, 2), store=tmp_path, **QUIET)) == 2


# The command line, with one store.

ARGUMENTS = ("--model", "planted", "--store")


@pytest.mark.slow
def test_what_trace_stored_run_uses(safesteer: Callable[..., Any], tmp_path: Path, fresh_cache: Path, passes: list[str]) -> None:
    store = str(tmp_path / "traces")
    code, _, err = safesteer("trace", "--requests", "planted", "--sites", "all", "--reads", "last_prompt,image_mean", *ARGUMENTS, store)
    assert code == 0 and "hooks" not in err
    assert len(passes) == 600
    passes.clear()
    run = ("run", "prefill_separability", *ARGUMENTS, store, "--out", str(tmp_path / "figures"))
    code, out, _ = safesteer(*run, "--dry-run")
    assert code == 0 and "0 traces to make, 0 bytes" in out
    code, out, err = safesteer(*run, "--no-render")
    assert code == 0 and not passes and (tmp_path / "figures/prefill_separability/planted/table.csv").is_file()
    code, out, _ = safesteer(*run, "--dry-run", "--tracer", "nnsight")
    assert code == 0 and "0 traces to make" not in out, "the states of one tracer are not those of another"


def test_what_run_stored_trace_and_collect_use(
    safesteer: Callable[..., Any], planted: MLLM, tmp_path: Path, fresh_cache: Path, passes: list[str]
) -> None:
    from safesteer_interp.datasets.planted import planted_requests

    store = str(tmp_path / "traces")
    code, *_ = safesteer("run", "prefill_separability", *ARGUMENTS, store, "--out", str(tmp_path / "figures"), "--no-render")
    assert code == 0 and passes
    traced = [r for r in planted_requests() if r.id in passes]
    passes.clear()
    trace = ("trace", "--requests", "planted", "--sites", "final_norm", "--split", "test", *ARGUMENTS, store)
    code, out, _ = safesteer(*trace, "--dry-run", "--json")
    asked = json.loads(out)
    assert code == 0 and asked["stored"] == asked["requests"] > 0 and asked["batches"] == 0
    code, out, _ = safesteer(*trace, "--json")
    found = json.loads(out)
    assert code == 0 and found["requests"] == asked["requests"] and all(Path(folder).is_dir() for folder in found["folders"])
    view = collect(planted, traced, sites="resid_post.1", store=store, **QUIET)
    assert len(view) == len(traced) and not passes

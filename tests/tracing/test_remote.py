"""Remote traces: one job per batch with the local numbers, tried without a network; and the key stays where it was."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.tracing import all_reads, all_sites, assert_same, push, requests_for

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.models.fingerprint import fingerprint
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.sites import parse_reads, parse_sites
from safesteer_interp.tracing import steps
from safesteer_interp.tracing.collecting import collect, load_tracer, plan
from safesteer_interp.tracing.hooks import HooksTracer
from safesteer_interp.tracing.tracer import At, Edit, Sampling
from safesteer_interp.types import Hidden

Tiny = Callable[[str], MLLM]
KEY = "stand-in-key-5d1f"
HUB_ID = "stand-in/llama"


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "paligemma2"])
def test_the_remote_path_gives_the_local_numbers(tiny: Tiny, family: str) -> None:
    """nnsight's own simulation of a server: the job is serialized, read back without this project's files, and run."""
    mllm = tiny(family)
    before = fingerprint(mllm.model, mllm.processor)
    batch = mllm.encode(requests_for(mllm))
    for edits in ((), (push(mllm),)):
        asked = {"sites": all_sites(mllm), "reads": all_reads(mllm), "edits": edits, "sampling": Sampling(max_new_tokens=5)}
        want = HooksTracer(mllm).capture(batch, **asked)
        assert_same(want, load_tracer("nnsight", mllm, remote="local").capture(batch, **asked))
    assert fingerprint(mllm.model, mllm.processor) == before, "what is sent must not be written into the user's own processor"


def test_answers_that_end_early_end_remotely_too(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    mllm = tiny("llama")
    batch = mllm.encode(requests_for(mllm, 2))
    reads = parse_reads("last_prompt,step:1-3")
    free = HooksTracer(mllm).capture(batch, [], reads)
    stops = frozenset({free.generated[0][1], free.generated[1][0]})
    monkeypatch.setattr(steps, "stop_ids", lambda mllm: stops)
    monkeypatch.setattr("safesteer_interp.tracing.nnsight.stop_ids", lambda mllm: stops)
    asked = {"sites": parse_sites("final_norm", 4), "reads": reads}
    want = HooksTracer(mllm).capture(batch, **asked)
    assert want.present[reads[-1]].tolist() == [False, False]
    assert_same(want, load_tracer("nnsight", mllm, remote="local").capture(batch, **asked))


def test_what_cannot_run_remotely_is_a_sentence(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    mllm = replace(tiny("llama"))
    monkeypatch.delenv("NDIF_API_KEY", raising=False)
    with pytest.raises(UsageError, match="--remote needs an NDIF key: set the environment variable NDIF_API_KEY"):
        load_tracer("nnsight", mllm, remote=True)
    monkeypatch.setenv("NDIF_API_KEY", KEY)
    with pytest.raises(UsageError, match="was not loaded by one; trace it without --remote"):
        load_tracer("nnsight", mllm, remote=True)
    adapted = replace(mllm, name=f"{HUB_ID}+mine", source=f"hub {HUB_ID}, revision main")
    with pytest.raises(UsageError, match=f"NDIF has {HUB_ID} without the adapter of {HUB_ID}.mine"):
        load_tracer("nnsight", adapted, remote=True)
    tracer = load_tracer("nnsight", mllm, remote="local")
    with pytest.raises(UsageError, match="remote traces choose tokens greedily"):
        tracer.capture(mllm.encode(requests_for(mllm)), [], [], sampling=Sampling(max_new_tokens=2, temperature=1.0))
    with pytest.raises(UsageError, match="remote traces choose tokens greedily"):
        plan(mllm, requests_for(mllm), remote=True, sampling=Sampling(max_new_tokens=2, temperature=1.0))


@pytest.fixture(scope="module")
def host(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server in another process that holds the tiny Llama and does not have this package."""
    folder = tmp_path_factory.mktemp("served")
    mllm = tiny("llama")
    mllm.model.save_pretrained(folder)
    mllm.tokenizer.save_pretrained(folder)
    script = Path(__file__).parents[1] / "support" / "ndif_stand_in.py"
    server = subprocess.Popen([sys.executable, str(script), str(folder), KEY], cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        assert port, "the stand-in did not start"
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def served(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> MLLM:
    """The tiny Llama, as if loaded by hub id."""
    from nnsight.modeling import huggingface

    monkeypatch.setitem(huggingface._ID_CACHE, HUB_ID, HUB_ID)
    return replace(tiny("llama"), source=f"hub {HUB_ID}, revision main")


def test_a_server_elsewhere_gives_the_local_numbers_and_never_sees_the_key_stored(
    served: MLLM, host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NDIF_API_KEY", KEY)
    requests = requests_for(served, 5)

    def add(hidden: Hidden, at: At) -> Hidden:
        return hidden + (2.0 if at.step == 1 else 0.5) * (at.roles == 5)[..., None] + 0.25 * at.last_prompt[..., None]

    edits = [Edit(parse_sites("embed,resid_post.1", 4), add, key="quarter")]
    options = {"sites": "all", "reads": "last_prompt,user_mean,step:1-2", "logits": True, "progress": False, "edits": edits}
    far = collect(served, requests, remote=host, store=tmp_path, batch_size=3, **options)
    near = collect(served, requests, tracer="hooks", batch_size=3, **options)
    for read in ("last_prompt", "user_mean", "step:1", "step:2"):
        one, two = near.stack(read), far.stack(read)
        assert np.all(np.linalg.norm(one - two, axis=-1) <= 1e-5 * np.linalg.norm(one, axis=-1)), read
    assert far.generated == near.generated and far.texts == near.texts
    assert far.fields["tracer"] == "nnsight:remote" and far.key != near.key
    out, err = capfd.readouterr()
    assert KEY not in out + err
    assert not any(KEY.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_refused_job_is_a_sentence_without_the_key(served: MLLM, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NDIF_API_KEY", "wrong-key-77aa")
    with pytest.raises(InputError, match=r"NDIF job .* failed: .*the key \*\*\* is not known here; check the network") as caught:
        collect(served, requests_for(served), remote=host, progress=False)
    assert "wrong-key-77aa" not in str(caught.value)


def test_an_unreachable_server_is_a_sentence(served: MLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NDIF_API_KEY", KEY)
    with pytest.raises(InputError, match=r"NDIF job .* failed: .*check the network"):
        collect(served, requests_for(served), remote="http://127.0.0.1:9", progress=False)

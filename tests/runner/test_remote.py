"""Runs on a server elsewhere: findings that read states give the local tables, those that run the model are skipped with the reason."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.analysis_toys import write_toys

from safesteer_interp import runner
from safesteer_interp.datasets.planted import load_planted
from safesteer_interp.errors import NotApplicableError, UsageError
from safesteer_interp.models.described import commit_of, describe_model, is_described
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Attack
from safesteer_interp.runner.remote import refused, running_nowhere
from safesteer_interp.runner.session import RunSettings, Session
from safesteer_interp.tracing.spec import TraceSpec

KEY, HUB_ID = "stand-in-key-run", "stand-in/llama-run"
READS = '''"""How long are states of texts?"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from safesteer_interp.requests import Attack
from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.claim import Claim
from safesteer_interp.tracing.spec import TraceSpec


@dataclass(frozen=True)
class Params:
    pairs: int | None = 3
    """Pairs per split."""


def needs(p):
    return [TraceSpec(attacks=(Attack.TEXT,), sites=("resid_post.1", "final_norm"), reads=("last_prompt", "step:1"), pairs=p.pairs,
                      max_new_tokens=2)]


def table(ctx, p):
    import numpy as np

    trace = ctx.trace(needs(p)[0])
    BODY
    return pd.DataFrame({"norm": [float(np.nanmean(np.linalg.norm(trace.rows(s, r), axis=1))) for s in ("resid_post.1", "final_norm")
                                  for r in ("last_prompt", "step:1")]})


def claims(t, p):
    return []


def draw(t, p):
    from safesteer_interp.plotting import new_figure

    fig, ax = new_figure(width="column", height=2.0)
    ax.plot(t["norm"])
    return fig


ANALYSIS = Analysis(id="NAME", title="Norms", params=Params, needs=needs, table=table, claims=claims, draw=draw)
'''
BODIES = {"reads": "pass", "answers": "ctx.answerer", "passes": "ctx.model.model(**ctx.model.encode(ctx.requests(needs(p)[0])[:1]).inputs)"}


def test_sampled_states_are_refused_and_a_pass_raises(tiny: Callable[[str], MLLM]) -> None:
    assert refused([TraceSpec()]) == "" and "greedily" in refused([TraceSpec(), TraceSpec(temperature=1.0)])
    mllm = tiny("llama")
    batch = mllm.encode(load_planted(n_pairs=1)[:1])
    with running_nowhere(mllm), pytest.raises(NotApplicableError, match="only reads states"):
        mllm.model(**batch.inputs)
    mllm.model(**batch.inputs)
    session = Session(RunSettings(remote=True), loaded_model=mllm)
    with pytest.raises(NotApplicableError, match="only reads states"):
        _ = session.answerer


@pytest.fixture
def on_hub(tiny: Callable[[str], MLLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny Llama's folder, as the hub gives it, and what of it was asked for."""
    folder = tmp_path / "hub" / ("c0ffee" + "0" * 34)
    tiny("llama").model.save_pretrained(folder)
    tiny("llama").tokenizer.save_pretrained(folder)

    def download(name: str, revision: str | None, *, trust_remote_code: bool, weights: bool = True) -> Path:
        assert name == HUB_ID and not weights and not trust_remote_code
        (folder / "model.safetensors").unlink(missing_ok=True)
        return folder

    monkeypatch.setattr("safesteer_interp.models.hub.download", download)
    return folder


def test_a_model_elsewhere_is_described_without_weights(tiny: Callable[[str], MLLM], on_hub: Path) -> None:
    mllm, whole = describe_model(HUB_ID), tiny("llama")
    assert is_described(mllm) and not is_described(whole) and str(mllm.device) == "cpu"
    assert (mllm.n_layers, mllm.width, mllm.source) == (whole.n_layers, whole.width, f"hub {HUB_ID}, revision main")
    asked = [r for r in load_planted(n_pairs=1) if r.image is None][:2]
    assert mllm.encode(asked).input_ids.tolist() == whole.encode(asked).input_ids.tolist()
    assert commit_of(on_hub, None) == on_hub.name and commit_of(on_hub.parent, "v2") == "v2"
    assert mllm.fingerprint == describe_model(HUB_ID).fingerprint != whole.fingerprint
    with running_nowhere(mllm), pytest.raises(NotApplicableError):
        mllm.lm_head(torch.zeros(1, mllm.width))
    with pytest.raises(UsageError, match="is none; run it here without --remote"):
        describe_model("mini")


def test_only_nnsight_runs_remotely(safesteer: Any, on_hub: Path) -> None:
    code, _, err = safesteer("run", "prefill_separability", "--model", HUB_ID, "--remote", "--tracer", "hooks", "--dry-run")
    assert code == UsageError.exit_code and "--remote needs the nnsight tracer" in err


@pytest.mark.parametrize(
    "given",
    [
        ("--adapter", "somewhere"),
        ("--max-pixels", "50000"),
        ("--quant", "4bit"),
        ("--attn", "eager"),
        ("--dtype", "bfloat16"),
        ("--device", "cuda"),
        ("--device-map", "auto"),
        ("--max-memory", "cpu=1GiB"),
        ("--offload", "folder"),
        ("--trust-remote-code",),
    ],
    ids=lambda given: given[0],
)
def test_a_loading_flag_that_does_not_reach_the_server_is_refused(
    given: tuple[str, ...], safesteer: Any, on_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NDIF_API_KEY", KEY)
    for command in (("run", "prefill_separability"), ("trace", "--limit", "2")):
        code, out, err = safesteer(*command, "--model", HUB_ID, "--remote", "--dry-run", *given)
        assert (code, out) == (UsageError.exit_code, ""), err
        assert f"{given[0]} does not reach it; leave out {given[0]} or --remote." in err


def test_loading_flags_that_reach_the_server_are_heeded(
    safesteer: Any, on_hub: Path, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NDIF_API_KEY", KEY)
    asked = ("trace", "--attacks", "TEXT", "--limit", "2", "--model", HUB_ID, "--remote", "--show-roles", "--json")
    code, out, err = safesteer(*asked, "--revision", "v2", "--device", "cpu", "--dtype", "float32")
    assert code == 0 and '"request"' in out, err


@pytest.fixture(scope="module")
def host(tiny: Callable[[str], MLLM], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    mllm = tiny("llama")
    mllm.model.save_pretrained(folder)
    mllm.tokenizer.save_pretrained(folder)
    script = Path(__file__).parents[1] / "support" / "ndif_stand_in.py"
    server = subprocess.Popen([sys.executable, str(script), str(folder), KEY], cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
    finally:
        server.kill()
        server.wait()


@pytest.mark.slow
def test_a_remote_run_gives_the_local_table_and_skips_the_rest(
    host: str, on_hub: Path, tiny: Callable[[str], MLLM], tmp_path: Path, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are the server's alone: here the model is a module tree on the meta device."""
    from nnsight.modeling import huggingface

    monkeypatch.setenv("NDIF_API_KEY", KEY)
    monkeypatch.setitem(huggingface._ID_CACHE, HUB_ID, HUB_ID)
    folder = write_toys(tmp_path)
    for name, body in BODIES.items():
        (folder / f"{name}.py").write_text(READS.replace("BODY", body).replace("NAME", name), encoding="utf-8")
    models = {"far": describe_model(HUB_ID), "near": tiny("llama")}
    requests = [r for r in load_planted(n_pairs=8) if r.attack is Attack.TEXT]
    reports = {}
    for place, settings in (("far", {"tracer": "nnsight", "remote": host}), ("near", {})):
        session = Session(RunSettings(store=tmp_path / place, progress=False, **settings), models[place], {"bundled": requests})
        reports[place] = runner.run(list(BODIES), session=session, folder=folder, out=tmp_path / f"out-{place}", rehearsal=False)
    far, near = ({r.id: r for r in reports[place].results} for place in ("far", "near"))
    assert [near[name].status for name in BODIES] == ["done"] * 3
    assert far["reads"].status == "done", far["reads"].reason + far["reads"].detail
    assert far["answers"].status == far["passes"].status == "skipped"
    assert all("only reads states" in far[name].reason for name in ("answers", "passes"))
    tables = [(r["reads"].folder / "table.csv").read_text() for r in (far, near)]
    numbers = [[float(word) for word in text.split()[1:]] for text in tables]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-5) and len(numbers[0]) == 4
    assert KEY not in "".join(p.read_text(errors="replace") for p in (tmp_path / "out-far").rglob("*") if p.is_file())

"""What a store survives: SIGKILL at any moment, flipped bytes, a full disk, a folder it may not write."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.store_job import Job, N

from safesteer_interp.errors import InputError
from safesteer_interp.models.mllm import Encoded
from safesteer_interp.tracing import shards
from safesteer_interp.tracing.hooks import HooksTracer
from safesteer_interp.tracing.library import TraceLibrary
from safesteer_interp.tracing.parts import Share
from safesteer_interp.tracing.store import Folder, Store
from safesteer_interp.tracing.tracer import Captured

KILLS = 30


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.slow
def test_a_run_killed_at_thirty_random_moments_ends_with_the_same_bytes(job: Job) -> None:
    """Each kill lands anywhere in a run: in a forward, in a write, between a shard and its manifest."""
    moments = random.Random(0)
    killed = finished = 0
    while killed < KILLS:
        child = job.in_child(job.run)
        time.sleep(moments.uniform(0, 0.5 * job.seconds))
        done, _ = os.waitpid(child, os.WNOHANG)
        if done == 0:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            killed += os.WIFSIGNALED(status)
        manifest = job.folder / "manifest.json"
        if manifest.exists():
            folder = Folder.load(job.folder)  # raises if half-written
            assert all(shards.sha256_of(job.folder / name) == digest for name, digest in folder.hashes.items())
            if len(folder.hashes) == N // 2:
                job.run()
                assert job.is_reference()
                shutil.rmtree(job.store)
                finished += 1
    job.run()
    assert job.is_reference()


@pytest.mark.parametrize("moment", ["shard", "manifest", "rename"])
def test_a_kill_inside_a_write_loses_that_write_only(job: Job, passes: list[int], moment: str) -> None:
    """The moments that random kills rarely hit: half a file written, and a shard without its manifest entry."""
    own_fsync, own_replace = os.fsync, Path.replace
    writes = 0

    def fsync(handle: int) -> None:
        nonlocal writes
        writes += 1
        if moment in ("shard", "manifest") and writes == {"shard": 13, "manifest": 15}[moment]:
            os.truncate(handle, 40)
            os.kill(os.getpid(), signal.SIGKILL)
        own_fsync(handle)

    def replace(self: Path, target: Path) -> Path:
        result = own_replace(self, target)
        if moment == "rename" and Path(target).name == "shard-00003.safetensors":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    def doomed() -> None:
        os.fsync, Path.replace = fsync, replace  # type: ignore[method-assign, assignment]
        job.run()

    _, status = os.waitpid(job.in_child(doomed), 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    stored = len(Folder.load(job.folder).hashes)
    assert 0 < stored < N // 2
    with pytest.raises(InputError, match=rf"unfinished \({stored} of 12 shards\)"):
        Store(job.store).open(job.trace.key)
    passes.clear()
    job.run()
    assert len(passes) == N // 2 - stored
    assert job.is_reference()


def test_a_flipped_byte_is_found_and_only_its_shard_computed_anew(job: Job, passes: list[int]) -> None:
    job.run()
    shard = job.folder / "shard-00005.safetensors"
    for at in (-1, 12, shard.stat().st_size // 2):
        flip(shard, at)
        with pytest.raises(InputError, match=r"shard-00005\.safetensors is missing or damaged .* only this shard"):
            Store(job.store).open(job.trace.key).rows("final_norm")
        passes.clear()
        job.run()
        assert passes == [2] and job.is_reference()
    shard.unlink()
    passes.clear()
    job.run()
    assert passes == [2] and job.is_reference()


def test_a_damaged_index_is_rebuilt_without_a_forward(job: Job, passes: list[int]) -> None:
    job.run()
    flip(job.folder / "index.json", 200)
    with pytest.raises(InputError, match=r"index\.json is missing or damaged"):
        Store(job.store).open(job.trace.key)
    passes.clear()
    job.run()
    assert not passes and job.is_reference()


def test_a_damaged_manifest_vouches_for_nothing(job: Job) -> None:
    job.run()
    record = json.loads((job.folder / "manifest.json").read_text())
    record["meta"]["model"] = "another"
    (job.folder / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"manifest\.json is damaged"):
        Store(job.store).open(job.trace.key)
    job.run()
    assert job.is_reference()


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "no space is left to write .* everything finished is kept"),
        (errno.EROFS, "cannot be written .* choose a writable folder"),
        (errno.EIO, "cannot be written .* the same command resumes"),
    ],
)
def test_a_write_that_fails_is_a_sentence_and_loses_nothing(
    job: Job, passes: list[int], monkeypatch: pytest.MonkeyPatch, number: int, sentence: str
) -> None:
    own, writes = os.fsync, 0

    def fsync(handle: int) -> None:
        nonlocal writes
        writes += 1
        if writes > 12:
            raise OSError(number, os.strerror(number))
        own(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(InputError, match=sentence):
            job.run()
    stored = len(Folder.load(job.folder).hashes)
    assert stored >= 1 and not list(job.folder.glob(".*"))
    passes.clear()
    job.run()
    assert len(passes) == N // 2 - stored and job.is_reference()


def test_a_store_that_cannot_be_a_folder_is_a_sentence(job: Job, passes: list[int], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match="cannot be written"):
        job.run(tmp_path / "file" / "store")
    assert not passes


def test_ctrl_c_keeps_what_is_finished(job: Job, passes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    own = HooksTracer.capture

    def interrupted(self: HooksTracer, batch: Encoded, *args: Any, **kwargs: Any) -> Captured:
        if len(passes) == 5:
            raise KeyboardInterrupt
        return own(self, batch, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(HooksTracer, "capture", interrupted)
        with pytest.raises(KeyboardInterrupt):
            job.run()
    assert len(Folder.load(job.folder).hashes) == 5
    passes.clear()
    job.run()
    assert len(passes) == N // 2 - 5 and job.is_reference()


@pytest.mark.parametrize("moment", ["capture", "move"])
def test_what_workers_made_survives_an_interrupted_collection(
    job: Job, passes: list[int], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Shards 0, 2, 4 ... lie ready; the run that collects them is interrupted at its first own shard, or while it moves shard 0."""
    library = TraceLibrary(job.mllm, Store(job.store), tracer="hooks", batch_size=2, progress=False)
    want = library.want(job.requests, reads="last_prompt,step:1")
    assert library.make_share(want, Share(0, 2)) == N // 4
    own = Path.replace

    def interrupted(*_: Any, **__: Any) -> Captured:
        raise KeyboardInterrupt

    def replace(self: Path, target: Path) -> Path:
        if self.parent.parent.name == "parts":
            raise KeyboardInterrupt
        return own(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(HooksTracer, "capture", interrupted) if moment == "capture" else patch.setattr(Path, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            job.run()
    assert list(Folder.load(job.folder).hashes) == ["shard-00000.safetensors"]
    assert (job.folder / "shard-00000.safetensors").exists() == (moment == "capture")
    passes.clear()
    job.run()
    assert len(passes) == N // 4, "only the other half is computed"
    assert not (job.folder / "parts").exists() and job.is_reference()


def test_another_batch_size_resumes_to_the_same_numbers(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not to the same bits: the padded length may differ, which moves a float by rounding."""
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "add", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            job.run()
    other = job.run(batch_size=1)
    assert other.key == job.trace.key and other.generated == job.trace.generated
    for read in ("last_prompt", "step:1"):
        one, two = job.trace.stack(read), other.stack(read)
        assert np.all(np.linalg.norm(one - two, axis=-1) <= 1e-5 * np.linalg.norm(one, axis=-1))


def test_the_store_names_what_it_does_not_hold(job: Job) -> None:
    job.run()
    store = Store(job.store)
    assert store.keys() == [job.trace.key]
    with pytest.raises(InputError, match=f'holds no trace "{job.trace.key[:-1]}".*{job.trace.key}'):
        store.open(job.trace.key[:-1])

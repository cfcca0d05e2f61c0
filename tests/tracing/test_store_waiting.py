"""Two runs that write one trace: the second waits for the first, and goes on when that was killed."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from support.store_job import Job, wait_for

from safesteer_interp.errors import InputError
from safesteer_interp.models.mllm import Encoded
from safesteer_interp.tracing import store as store_module
from safesteer_interp.tracing.hooks import HooksTracer
from safesteer_interp.tracing.store import Store
from safesteer_interp.tracing.tracer import Captured


def test_a_second_run_waits_for_the_first_and_uses_what_it_made(job: Job, passes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    held, seen, said = job.store / "held", job.store / "seen", list[str]()
    own = HooksTracer.capture

    def slow(self: HooksTracer, batch: Encoded, *args: Any, **kwargs: Any) -> Captured:
        held.touch()
        wait_for(seen)
        return own(self, batch, *args, **kwargs)

    def first() -> None:
        HooksTracer.capture = slow  # type: ignore[method-assign]
        job.run()

    def notice(text: str) -> None:
        said.append(text)
        seen.touch()

    job.store.mkdir()
    child = job.in_child(first)
    wait_for(held)
    monkeypatch.setattr("safesteer_interp.tracing.store.notice", notice)
    job.run()
    assert os.waitpid(child, 0)[1] == 0
    assert not passes and len(said) == 1 and f"process {child}) is writing trace {job.trace.key}; waiting" in said[0]
    assert job.is_reference()


def test_a_run_that_is_killed_lets_the_waiting_one_go_on(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def hold() -> None:
        with Store(job.store).claim(job.trace.key, {}, {}, ((0,),)):
            (job.store / "held").touch()
            time.sleep(600)

    child = job.in_child(hold)
    wait_for(job.store / "held")
    monkeypatch.setattr("safesteer_interp.tracing.store.notice", lambda _: os.kill(child, signal.SIGKILL))
    job.run()
    os.waitpid(child, 0)
    assert job.is_reference()


def test_a_thread_does_not_wait_for_its_own_process(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with (
        store.claim("k", {}, {}, ()),
        pytest.raises(InputError, match="another thread of this process is writing trace k"),
        store.claim("k", {}, {}, ()),
    ):
        pass


@pytest.mark.parametrize("written", ["{host} {pid} 0123456789abcdef", "elsewhere {pid} 0123456789abcdef", "{pid}", ""])
def test_a_process_of_the_same_id_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    """Two containers that share a store: each has its own process 1."""
    host, own = store_module._this_process().split(" ")[:2]
    written = written.format(host=host, pid=own)
    (tmp_path / ".locks").mkdir()
    lock, said = FileLock(tmp_path / ".locks" / "k.lock"), list[str]()
    lock.acquire()
    (tmp_path / ".locks" / "k.pid").write_text(written)

    def notice(text: str) -> None:
        said.append(text)
        lock.release()

    monkeypatch.setattr(store_module, "notice", notice)
    with Store(tmp_path).claim("k", {}, {}, ()):
        assert (tmp_path / ".locks" / "k.pid").read_text() == store_module._this_process()
    who = f"process {own}" if written else "process unknown"
    assert len(said) == 1 and f"another run ({who}{' on elsewhere' if 'elsewhere' in written else ''}) is writing trace k" in said[0]


def test_a_forked_child_is_another_process(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        try:
            (tmp_path / "token").write_text(store_module._this_process())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    host, own, drawn = store_module._this_process().split(" ")
    assert (tmp_path / "token").read_text() == f"{host} {child} {drawn}" and int(own) == os.getpid() != child


def test_a_file_system_without_locks_is_named_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    store = Store(tmp_path)
    with (
        pytest.raises(InputError, match=r"gives no locks \(No locks available\).* on another one with --store"),
        store.claim("k", {}, {}, ()),
    ):
        pass
    assert not list(tmp_path.rglob("shard-*")) and not list(tmp_path.rglob("manifest.json"))

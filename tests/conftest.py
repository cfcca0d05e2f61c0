"""What tests share. The environment is set before torch is imported: offline, one thread per worker, no display.

Shapes and types are checked while testing (see `--jaxtyping-packages` in pyproject.toml and `test_project.py`). `mini` is read from
the user's own cache, because building it takes a minute; a test that builds caches of its own asks for `fresh_cache`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

for name, value in {
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "Agg",
    "OMP_NUM_THREADS": "1",
    "PIP_NO_INDEX": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "UV_OFFLINE": "1",
}.items():
    os.environ.setdefault(name, value)

settings.register_profile("any machine", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("any machine")

FURTHER = {"internvl": "slow", "qwen2_vl": "slow", **dict.fromkeys(("gemma3_text", "glm4v", "llava_next", "llava_onevision"), "long")}
"""Families that resemble others in all that decoding does: every test of families takes them too, but in the slow or the long run."""


ROOT = Path(__file__).resolve().parent.parent
USERS_CACHE = os.environ.get("SAFESTEER_CACHE")


LONGEST = ("findings", "runner", "tracing", "cli")
"""Folders whose files take longest: they begin, so that the workers end together."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker a file, so that what a file's tests share (planted models, their traces and answers) is made once and not by both.

    Tests of a further family join the slow or the long run; `-m` selects after this.
    """
    for item in items:
        spec = getattr(item, "callspec", None)
        if spec is not None and spec.params.get("family") in FURTHER:
            item.add_marker(FURTHER[spec.params["family"]])
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(f"{item.path.parent.name}/{item.path.name}"))
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.parent.name, len(LONGEST)))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty user cache of this test alone."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("SAFESTEER_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session", autouse=True)
def traces_of_a_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a fixture of a module or session stores goes to a folder of its worker: two workers may make the same trace at once."""
    own = tmp_path_factory.getbasetemp() / "traces-of-fixtures"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("safesteer_interp.tracing.store.cache_dir", lambda: own)
        yield


@pytest.fixture(autouse=True)
def own_traces(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test stores by default goes to a folder of its own, so that it finds nothing of other tests, nor of the user's."""
    from safesteer_interp.paths import cache_dir

    own = tmp_path_factory.getbasetemp() / f"traces-{os.urandom(8).hex()}"

    def cache() -> Path:
        return own if os.environ.get("SAFESTEER_CACHE") == USERS_CACHE else cache_dir()

    monkeypatch.setattr("safesteer_interp.tracing.store.cache_dir", cache)


@pytest.fixture(scope="session")
def planted() -> Any:
    """The known-answer model, built once per worker. Do not modify it."""
    from safesteer_interp.models.planted import build_planted

    return build_planted()


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], Any]:
    """`tiny("llava")`: a family's tiny random model, built once per worker. Do not modify it."""
    from safesteer_interp.models.families import FAMILIES

    @cache
    def build(family: str) -> Any:
        return FAMILIES[family].tiny()

    return build


@pytest.fixture
def safesteer(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process: `code, stdout, stderr = safesteer("list", "models")`."""
    from safesteer_interp.cli import main

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        try:
            code = main(list(arguments))
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return run

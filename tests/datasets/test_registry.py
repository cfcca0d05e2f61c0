"""The registry: names, options and what every entry says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from safesteer_interp.datasets import DATASETS, load_requests
from safesteer_interp.errors import InputError, UsageError


def test_registry_names_near_misses(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='Did you mean "figstep"'):
        load_requests("figsteps", tmp_path)
    with pytest.raises(UsageError, match='no option "split_"'):
        load_requests("bundled", split_="test")
    with pytest.raises(InputError, match=r"needs a data root, and .*nowhere is not a folder; .* figstep/ with --data-root"):
        load_requests("figstep", tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no folder figstep/.* --data-root"):
        load_requests("figstep", tmp_path)
    assert len(load_requests("bundled", attacks=["TEXT"], split="validation")) == 80


def test_every_entry_says_what_it_is() -> None:
    for name, entry in DATASETS.items():
        assert entry.title and entry.licence and entry.citation, name
        assert entry.known_answer == (name == "planted")
    assert len(load_requests("planted")) == 600 and {r.dataset for r in load_requests("planted:n_pairs=2,seed=3")} == {"planted"}
    assert {r.scenario for r in load_requests("utility:skills=read+text")} == {"read", "text"}
    assert not any(r.harmful for r in load_requests("utility"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bundled:rendered", 'data set "bundled" has no option "rendered"'),
        ("bundled:split", 'option "split" needs a value: bundled:split=...'),
        ("bundled:split=dev", 'option "split" has no value "dev".'),
        ("bundled:attacks=TEXT+TYPOS", 'option "attacks" has no value "TYPOS". Did you mean "TYPO"'),
        ("bundled:seed=x", 'option "seed" must be a whole number, not "x"'),
        ("bundled:,", "write options as NAME:option or NAME:option=value"),
        ("figstep:render=maybe", 'option "render" is true or false, not "maybe"'),
        ("utility:skills=juggle", 'the utility set has no skill "juggle"'),
        ("bundle", 'data set "bundle" is unknown'),
        ("x" * 500, "is unknown"),
    ],
)
def test_options_in_a_name_are_checked(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "figstep").mkdir()
    with pytest.raises(UsageError) as caught:
        load_requests(name, tmp_path)
    assert message in str(caught.value)


def test_options_in_a_name_are_those_of_the_loader() -> None:
    assert load_requests("bundled:attacks=TEXT+CB,split=validation,seed=2") == load_requests(
        "bundled", attacks=["TEXT", "CB"], split="validation", seed=2
    )

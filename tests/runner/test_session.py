"""A run's model: states are read from it as it was loaded, answers are written by it in the format meant for them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from safesteer_interp.errors import UsageError
from safesteer_interp.files import digest
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.discovery import discover
from safesteer_interp.runner.params import as_record
from safesteer_interp.runner.provenance import input_key
from safesteer_interp.runner.schedule import Job
from safesteer_interp.runner.session import Session, Settings
from safesteer_interp.runner.source import measuring_code


@pytest.fixture
def session(tiny: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Session]:
    monkeypatch.setattr("safesteer_interp.models.dtypes.multiplies_bfloat16", lambda device: True)
    return lambda **settings: Session(Settings(**settings), loaded_model=tiny("llama"))


def test_answers_have_a_format_of_their_own(session: Callable[..., Session]) -> None:
    usual, exact = session(), session(answer_dtype="float32")
    assert (usual.dtype, usual.answer_dtype) == ("float32", "bfloat16")
    assert usual.answerer.dtype == torch.bfloat16 and usual.answerer is usual.answerer
    assert exact.answer_dtype == "float32" and exact.answerer is exact.model
    with pytest.raises(UsageError, match='no dtype is called "half"'):
        _ = session(answer_dtype="half").answer_dtype


def test_prompts_are_shared_by_whoever_answers_and_forgotten_afterwards(session: Callable[..., Session]) -> None:
    run = session()
    with run.sharing_prompts():
        assert run.answerer.prompts is not None, "made while prompts are shared"
    assert run.answerer.prompts is None
    with run.sharing_prompts():
        assert run.answerer.prompts is not None, "made before"
    assert run.answerer.prompts is None


def test_the_format_is_recorded_where_answers_were_asked_for(session: Callable[..., Session], tmp_path: Path) -> None:
    ctx = Context(session(), discover()["case_study"], None, tmp_path)
    assert ctx.answered_in == ""
    assert ctx.answerer.dtype == torch.bfloat16 and ctx.answered_in == "bfloat16"


def test_the_format_is_part_of_a_results_identity() -> None:
    analysis = discover()["defense_ablation"]
    p = analysis.parameters("quick", {})
    keys = [
        input_key(analysis, p, model="m", dtype="float32", answers=answers, dataset="d", demands=[]) for answers in ("float32", "bfloat16")
    ]
    assert keys[0] != keys[1]


def test_the_tokens_that_end_an_answer_are_part_of_a_results_identity(session: Callable[..., Session], planted: Any) -> None:
    """Those of the tokenizer alone leave it as it was."""
    run, analysis = session(data="bundled"), discover()["case_study"]
    before = Job(run, analysis, analysis.parameters("quick", {}), Path("x")).key
    model = copy.deepcopy(run.model.model)
    model.generation_config.eos_token_id = [5, run.model.tokenizer.eos_token_id]
    other = Session(run.settings, loaded_model=replace(run.model, model=model))
    assert (run.stops, other.stops) == ([], [5])
    assert Job(other, analysis, analysis.parameters("quick", {}), Path("x")).key != before
    assert Session(Settings(), loaded_model=planted).stops == []
    p = analysis.parameters("quick", {})
    known: dict[str, Any] = {"model": "m", "dtype": "float32", "answers": "bfloat16", "dataset": "d", "demands": []}
    assert input_key(analysis, p, **known) == digest({
        "analysis": "case_study", "code": measuring_code(analysis.source), "params": as_record(p), "model": "m", "dtype": "float32",
        "answers": "bfloat16", "dataset": "d", "demands": [],
    })  # fmt: skip
    assert input_key(analysis, p, **known, stops=[5]) != input_key(analysis, p, **known) == input_key(analysis, p, **known, stops=[])

"""Number formats: `auto` is bfloat16 exactly where the device multiplies it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from safesteer_interp.errors import UsageError
from safesteer_interp.models import load_model
from safesteer_interp.models.dtypes import dtype_name, multiplies_bfloat16


@pytest.mark.parametrize(
    ("able", "name"),
    [({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16"), ({"bf16": True}, "bfloat16"), ({"avx512_f": True}, "float32")],
)
def test_auto_follows_the_processor(able: dict[str, bool], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert dtype_name("auto") == name and multiplies_bfloat16() == (name == "bfloat16")
    assert str(load_model("tiny:llava", dtype="auto").dtype) == f"torch.{name}"
    assert dtype_name("float32") == "float32", "the default asks nobody"
    assert dtype_name("auto", "mps") == "float32"


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(UsageError, match=r'no dtype is called "bflaot16"\. Did you mean "bfloat16"'):
        load_model("tiny:llama", dtype="bflaot16")


def test_a_run_records_the_format_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    from safesteer_interp.runner.session import RunSettings, Session

    able: dict[str, Any] = {"avx512_bf16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert Session(RunSettings(model="tiny:llama", dtype="auto")).dtype == "bfloat16"

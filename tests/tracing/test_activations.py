"""What is exported for SAELens: every token's own state, with its id, role and request, in the columns that its loader asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from safesteer_interp import cli
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.interventions import record
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.planted import planted_requests
from safesteer_interp.sites import Role, Site
from safesteer_interp.tracing.activations import export_activations, planned


def test_rows_hold_the_states_of_the_tokens_they_name(planted: MLLM, tmp_path: Path) -> None:
    from datasets import load_from_disk

    requests = planted_requests(2)[:9]
    asked: dict[str, Any] = {"roles": ["image", "user"], "context_size": 8}
    made = export_activations(planted, requests, "resid_post.3", tmp_path / "sae", batch_size=4, progress=False, **asked)
    data = load_from_disk(str(tmp_path / "sae"))
    assert made.hook_name == "blocks.3.hook_resid_post" and data.features[made.hook_name].shape == (8, 64) and len(data) == made.rows
    assert planned(planted, requests, "resid_post.3", **asked)["tokens"] == made.tokens and 0 <= made.left_over < 8
    flat = data.with_format("numpy")[:]
    states = np.asarray(flat[made.hook_name], dtype=np.float32).reshape(-1, 64)
    ids, of, roles = (np.asarray(flat[name]).ravel() for name in ("token_ids", "request", "role"))
    assert set(roles) == {int(Role.IMAGE), int(Role.USER)}
    for number, request in enumerate(requests[:-1]):
        one = record(planted, request)
        wanted = np.isin(one.roles.numpy(), [int(Role.IMAGE), int(Role.USER)])
        mine = of == number
        assert (ids[mine] == one.ids.numpy()[wanted]).all() and (roles[mine] == one.roles.numpy()[wanted]).all()
        own = one.states[Site.parse("resid_post.3")].numpy()[wanted]
        assert np.abs(states[mine] - own).max() < 1e-4
    index = pd.read_csv(tmp_path / "sae" / "index.csv", index_col="row")
    assert index.loc[0, "request"] == requests[0].id and len(index) == 9
    assert json.loads((tmp_path / "sae" / "safesteer.json").read_text())["site"] == "resid_post.3"
    with pytest.raises(InputError, match="not an empty folder"):
        export_activations(planted, requests, "resid_post.3", tmp_path / "sae", progress=False)
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"site": "projector"}, "one site of the decoder"),
        ({"site": "resid_post"}, "one site of the decoder"),
        ({"site": "embed", "roles": ["image", "pad"]}, "tokens of the roles"),
        ({"site": "embed", "context_size": 10_000}, "too few tokens"),
        ({"site": "embed", "batch_size": 0}, "batch size 0 is not a positive whole number"),
        ({"site": "embed", "batch_size": -3}, "batch size -3 is not a positive whole number"),
    )
    for wrong, said in refused:
        with pytest.raises(UsageError, match=said):
            export_activations(planted, requests, folder=tmp_path / "other", progress=False, **wrong)
    assert not (tmp_path / "other").exists()


def test_the_command_says_its_cost_and_then_how_saelens_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["export", "--model", "planted", "--requests", "planted", "--limit", "4", "--site", "embed", "--roles", "user"]
    assert cli.main([*asked, "--out", str(tmp_path / "a"), "--context-size", "4", "--dry-run"]) == 0
    cost = capsys.readouterr().out
    assert cli.main([*asked, "--out", str(tmp_path / "a"), "--batch-size", "0", "--dry-run"]) == UsageError.exit_code
    assert "batch size 0 is not a positive whole number" in capsys.readouterr().err
    assert "4 prompt passes" in cost and not (tmp_path / "a").exists()
    assert cli.main([*asked, "--out", str(tmp_path / "a"), "--context-size", "4"]) == 0
    told = capsys.readouterr()
    assert 'hook_name="blocks.0.hook_resid_pre", d_in=64, context_size=4' in told.err
    assert told.out.split()[0] == cost.split(", ")[1].split()[0]

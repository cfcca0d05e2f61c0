"""Every finding that asks for causes says beforehand, in words, what it will compute beyond its traces, and says more for more."""

from __future__ import annotations

from pathlib import Path

import pytest

from safesteer_interp import cli, runner

FOLDER = Path(__file__).parents[2] / "analyses"
CAUSES = {
    "patching_text_to_image": ("recorded prompt passes", "patches"),
    "attention_routes": ("recorded prompt passes", "knock-outs"),
    "readable_and_used": ("recorded prompt passes", "edits"),
    "component_attribution": ("ranking pairs", "backward"),
    "image_token_lens": ("recorded prompt passes", "backward"),
    "adaptive_probe": ("forward", "backward"),
    "harm_by_stage": ("probes", "no passes beyond the traces"),
}


@pytest.mark.parametrize("name", CAUSES)
def test_the_cost_names_what_is_computed_and_grows_with_the_model(name: str) -> None:
    analysis = runner.discover(FOLDER)[name]
    assert analysis.cost is not None
    said = [analysis.cost(analysis.parameters(profile), pairs, layers) for profile, pairs, layers in (("quick", 4, 6), ("full", 24, 30))]
    assert all(word in sentence for word in CAUSES[name] for sentence in said)
    numbers = [[int(word) for word in sentence.split() if word.isdigit()] for sentence in said]
    assert sum(numbers[0]) < sum(numbers[1]), said


@pytest.mark.slow
def test_the_dry_run_prints_it_and_computes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--model", "planted", "--out", str(tmp_path / "figures"), "--store", str(tmp_path / "traces"), "--dry-run"]
    assert cli.main(["run", *CAUSES, *out]) == 0
    told = {line.partition(":")[0]: line for line in capsys.readouterr().out.splitlines()}
    for name, words in CAUSES.items():
        assert all(word in told[name] for word in words), told.get(name)
    assert not (tmp_path / "figures").exists()

"""Flags reach the argument that they are about: each command is given a stand-in for the function that does the work."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from safesteer_interp import cluster
from safesteer_interp.cli.replicate import Replicate
from safesteer_interp.cli.replicating import Replication
from safesteer_interp.cli.replication_inputs import Given
from safesteer_interp.errors import InputError
from safesteer_interp.tracing.origin import Origin
from safesteer_interp.tracing.store import Store
from safesteer_interp.vectors import Direction, save_directions

Run = Callable[..., tuple[int, str, str]]


class SeenError(InputError):
    """What a stand-in raises when it has seen its arguments: the command ends there, with exit code 3."""


@pytest.fixture
def caught(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """`caught("package.module.function")`: its keyword arguments, and its positional ones under "args", once it has been called."""

    def instead(target: str, returned: Any = None) -> dict[str, Any]:
        seen: dict[str, Any] = {}

        def stand_in(*args: Any, **kwargs: Any) -> Any:
            seen.update(kwargs, args=args)
            if returned is None:
                raise SeenError("seen.")
            return returned

        monkeypatch.setattr(target, stand_in)
        return seen

    return instead


def test_run_hands_down_how_to_compute(safesteer: Run, caught: Any) -> None:
    seen = caught("safesteer_interp.runner.run")
    code, _, err = safesteer("run", "layer_choice", "--no-rehearsal", "--no-render", "--fresh", "--jobs", "2", "--answer-dtype", "float16",
                             "--profile", "full", "--set", "seed=3")  # fmt: skip
    assert (code, seen["args"]) == (3, (("layer_choice",),)), err
    assert (seen["rehearsal"], seen["render"], seen["fresh"], seen["jobs"]) == (False, None, True, 2)
    assert (seen["answer_dtype"], seen["profile"], seen["overrides"]) == ("float16", "full", {"seed": "3"})
    safesteer("run", "layer_choice")
    assert (
        seen["rehearsal"] is True
        and seen["render"] is not None
        and (seen["answer_dtype"], seen["fresh"], seen["jobs"]) == ("auto", False, 1)
    )


def test_verify_is_told_to_trace_again(safesteer: Run, caught: Any) -> None:
    seen = caught("safesteer_interp.runner.verify", SimpleNamespace(record=dict, exit_code=0))
    assert safesteer("verify", "layer_choice", "--retrace", "--model", "M", "--json")[0] == 0
    assert (seen["retrace"], seen["model"], seen["args"]) == (True, "M", (("layer_choice",),))
    safesteer("verify")
    assert (seen["retrace"], seen["model"], seen["args"]) == (False, None, ((),))


def test_submit_asks_the_cluster_for_what_it_was_given(safesteer: Run, caught: Any, tmp_path: Path) -> None:
    done = SimpleNamespace(ids={"a": "1"}, executor="slurm", waited=False, folder=tmp_path, failed={})
    seen = caught("safesteer_interp.cluster.submit", done)
    asked = ("--executor", "slurm", "--hours", "1.5", "--partition", "long", "--account", "lab", "--gpus", "2", "--cpus", "4",
             "--memory-gb", "32", "--workers", "3", "--logs", str(tmp_path), "--no-wait")  # fmt: skip
    code, out, err = safesteer("submit", "run", "layer_choice", "--model", "planted", *asked)
    assert code == 0 and "not waited for" in out, err
    stages, executor, logs, resources = seen["args"]
    assert (executor, logs, seen["wait"]) == ("slurm", tmp_path.resolve(), False)
    assert resources == cluster.Resources(2, 4, 32, 1.5, "long", "lab", 3) and [len(stage.jobs) for stage in stages] == [3, 1]
    assert safesteer("submit", "run", "layer_choice", "--model", "planted")[0] == 0
    assert seen["wait"] is True and seen["args"][1] == "local" and seen["args"][3] == cluster.Resources(at_once=2)


def test_a_trace_keeps_logits_where_they_are_asked_for(safesteer: Run, tmp_path: Path) -> None:
    words = (
        "trace",
        "--model",
        "tiny:llama",
        "--requests",
        "planted",
        "--attacks",
        "TEXT",
        "--limit",
        "2",
        "--json",
        "--sites",
        "final_norm",
    )
    for flags, kept in (((), False), (("--logits",), True)):
        code, out, err = safesteer(*words, *flags, "--store", str(tmp_path / str(kept)))
        assert code == 0, err
        logits = Store(tmp_path / str(kept)).open(json.loads(out)["key"]).logits
        assert (logits is not None) == kept
        assert not kept or (np.isfinite(np.asarray(logits)).all() and len(np.asarray(logits)) == 2)


def test_calibrate_searches_the_grid_it_is_given(safesteer: Run, caught: Any, tmp_path: Path) -> None:
    seen = caught("safesteer_interp.evaluation.calibration.calibrate")
    grid = (
        "--fits",
        "prompt",
        "--betas",
        "0.5",
        "3",
        "--steps",
        "1",
        "--over-refusals",
        "0.3",
        "--rules",
        "none",
        "--k",
        "4",
    )
    effort = ("--fit-pairs", "0", "--pairs", "6", "--first-pairs", "2", "--finalists", "3", "--max-new-tokens", "9", "--seed", "7",
              "--batch-size", "8")  # fmt: skip
    assert safesteer("calibrate", "--model", "planted", *grid, *effort, "--out", str(tmp_path))[0] == 3
    _, requests, given, size = seen["args"]
    assert (given.fits, given.betas, given.steps, given.over_refusals) == (("prompt",), (0.5, 3.0), (1,), (0.3,))
    assert (given.rules, given.k) == (("none",), 4)
    assert (size.fit_pairs, size.pairs, size.first_pairs, size.finalists, size.new_tokens, size.seed, size.batch_size) == (
        None, 6, 2, 3, 9, 7, 8,
    )  # fmt: skip
    assert {r.dataset for r in requests} == {"planted"}


@pytest.mark.parametrize(
    "command", [("compare", "--benchmarks", "planted"), ("replicate", "--judges", "refusal_strings")], ids=lambda c: c[0]
)
def test_the_system_prompt_is_the_models(safesteer: Run, caught: Any, command: Sequence[str]) -> None:
    seen = caught("safesteer_interp.models.load_model")
    words = (*command, "--model", "tiny:llava", "--system-prompt", "Be brief.", "--dtype", "bfloat16", "--attn", "eager")
    code, _, err = safesteer(*words)
    assert (code, seen["args"]) == (3, ("tiny:llava",)), err
    assert (seen["system_prompt"], seen["dtype"], seen["attn_implementation"]) == ("Be brief.", "bfloat16", "eager")
    safesteer(*command, "--model", "tiny:llava")
    assert (seen["system_prompt"], seen["dtype"], seen["attn_implementation"]) == (None, "float32", None)


@pytest.mark.parametrize("shown", [False, True])
def test_whole_answers_are_shown_only_where_that_is_asked_for(safesteer: Run, caught: Any, tmp_path: Path, shown: bool) -> None:
    seen = caught("safesteer_interp.report.answers.write_answers", tmp_path)
    words = ("compare", "--model", "planted", "--defenses", "none", "self_reminder",
             "--benchmarks", "planted", "--pairs", "1", "--seeds", "0", "--attacks",
             "TEXT", "--max-new-tokens", "2", "--cost-sample", "0", "--training-pairs", "4", "--out", str(tmp_path))  # fmt: skip
    code, _, err = safesteer(*words, *(("--show-answers",) if shown else ()))
    assert code == 0 and seen["show_answers"] is shown, err


def test_replicate_names_rule_grader_and_data_as_deviations(tiny: Callable[[str], Any]) -> None:
    """And its findings are run on the data that was given."""
    own: dict[str, Any] = {"rule": "corrected", "figures_data": "my.jsonl", "grader": "mm_vet:model=m,url=http://localhost:1/v1"}
    work, plain = (Replication(Replicate("tiny:llava", **given), tiny("llava"), (), "", Given()) for given in (own, {}))
    assert (work.session.settings.data, plain.session.settings.data) == ("my.jsonl", "")
    said = [set(one.deviations()) for one in (work, plain)]
    only = sorted(said[0] - said[1])
    ends = ("measured on my.jsonl.", "graded by m;", "MM-Vet's gr", "rule is corrected")
    assert len(only) == len(ends) and all(end in one for end, one in zip(ends, only, strict=True)), only


def test_deploy_names_the_architecture_that_llama_cpp_looks_for(safesteer: Run, tmp_path: Path) -> None:
    origin = Origin(site="resid_post.1", read="last_prompt", model="mini", fingerprint="f" * 64)
    file = save_directions(
        [Direction.from_difference(np.arange(1.0, 9.0), "refusal", origin=origin, residual_norm=3.0, n=9)], tmp_path / "d.safetensors"
    )
    for flags, named in (((), "llama"), (("--model-hint", "qwen2vl"), "qwen2vl")):
        code, _, err = safesteer("deploy", str(file), "--to", "llama.cpp", "--out", str(tmp_path / named), *flags)
        assert code == 0, err
        fields = GGUFReader(tmp_path / f"{named}.gguf").fields
        assert fields["controlvector.model_hint"].contents() == named


@pytest.mark.parametrize("recipe", [None, "grounded"])
def test_mini_is_built_by_the_recipe_that_is_named(safesteer: Run, caught: Any, tmp_path: Path, recipe: str | None) -> None:
    seen = caught("safesteer_interp.models.mini.checkpoint_dir", tmp_path)
    code, out, _ = safesteer("mini", "build", *(("--recipe", recipe) if recipe else ()))
    assert (code, seen["args"], out.strip()) == (0, (recipe,), str(tmp_path))


def test_mini_is_evaluated_where_and_as_was_asked(safesteer: Run, caught: Any, tmp_path: Path) -> None:
    seen = caught("safesteer_interp.mini_training.evaluate.evaluate_mini")
    card, weights = tmp_path / "deep" / "card.json", tmp_path / "weights"
    words = ("--output", str(card), "--recipes", "released", "--weights", str(weights), "--jobs", "2", "--pairs", "5")
    assert safesteer("mini", "evaluate", *words)[0] == 3
    out, recipes, size = seen["args"]
    assert (out, recipes, size.pairs, seen["weights"], seen["jobs"]) == (card, ("released",), 5, weights, 2)
    safesteer("mini", "evaluate", "--output", str(card))
    assert (seen["args"][1:], seen["weights"], seen["jobs"]) == ((None, None), None, 1)

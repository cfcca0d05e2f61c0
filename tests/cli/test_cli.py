"""The command line: every command answers --help, mistakes are one sentence with the right exit code, data go to stdout."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from safesteer_interp.cli import COMMANDS, main, usage
from safesteer_interp.cli.command import plain
from safesteer_interp.cli.run_flags import overrides
from safesteer_interp.cli.sweep import parse_ranges
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.runner.discovery import discover

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAM = [sys.executable, "-m", "safesteer_interp"]


def sentence(err: str) -> str:
    """The one line an error prints. Fails when there are more, or a traceback."""
    lines = [line for line in err.strip().splitlines() if line]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    assert lines[0].startswith("safesteer: ")
    return lines[0]


def test_help_lists_every_command(safesteer: Run) -> None:
    code, out, _ = safesteer("--help")
    assert code == 0
    assert all(f"safesteer {name} " in out for name in COMMANDS)
    assert out.strip() == usage()


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command: str, safesteer: Run) -> None:
    code, out, _ = safesteer(command, "--help")
    assert code == 0
    assert f"usage: safesteer {command}" in " ".join(out.split()) and "--help" in out
    assert len(re.findall(r"[.!?)]", out)) >= 2, "help says in sentences what the command does"
    assert not re.search(r"\s-v[ ,]", out), "nnsight reads -v from argv"


def test_version(safesteer: Run) -> None:
    assert safesteer("--version")[1].startswith("safesteer 0.")


def test_unknown_command_names_the_nearest(safesteer: Run) -> None:
    code, out, err = safesteer("trce")
    assert (code, out) == (2, "")
    assert '"trace"' in sentence(err)


def test_unknown_flag_is_a_usage_error(safesteer: Run) -> None:
    code, out, err = safesteer("list", "--nosuchflag")
    assert (code, out) == (2, "")
    assert "nosuchflag" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("kind", ["", "models", "tracers", "sites", "reads", "attacks", "datasets", "fields", "analyses"])
def test_lists(kind: str, safesteer: Run) -> None:
    code, out, err = safesteer("list", *([kind] if kind else []), "--json")
    rows = json.loads(out)
    assert (code, err) == (0, "")
    assert len(rows) >= 3 and len({next(iter(row.values())) for row in rows}) == len(rows)
    assert all(len(row["what"]) > 8 for row in rows)
    table = safesteer("list", *([kind] if kind else []))[1]
    assert all(str(next(iter(row.values()))) in table for row in rows)


def test_data_sets_are_listed_with_licence_and_citation(safesteer: Run) -> None:
    rows = {row["name"]: row for row in json.loads(safesteer("list", "datasets", "--json")[1])}
    assert all(row["licence"] and row["cite"] for row in rows.values())
    assert rows["figstep"]["licence"].split(";")[0] in safesteer("list", "datasets")[1], "columns are as narrow as the console"


def test_listing_an_unknown_kind(safesteer: Run) -> None:
    code, _, err = safesteer("list", "tracer")
    assert code == 2
    assert '"tracers"' in sentence(err)


def test_doctor_checks_one_family(safesteer: Run) -> None:
    code, out, err = safesteer("doctor", "--only", "versions,disk,remote,tracers", "--family", "paligemma", "--json")
    report = json.loads(out)
    found = {check["name"]: check for check in report["checks"]}
    assert code == (0 if report["ok"] else 1)
    assert found["paligemma, nnsight against hooks"]["status"] == "ok"
    assert found["paligemma, nnsight against hooks"]["value"] <= 1e-5
    assert "no adapter" in found["paligemma, transformer_lens against hooks"]["detail"]
    assert found["torch"]["detail"].startswith("2.")
    assert "comparing tracers" in err


def test_doctor_never_prints_the_ndif_key(safesteer: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NDIF_API_KEY", "very-secret")
    code, out, err = safesteer("doctor", "--only", "remote")
    assert code == 0
    assert "very-secret" not in out + err


def test_doctor_names_a_data_root_that_is_none(safesteer: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFESTEER_DATA", "/no/such/place")
    code, out, err = safesteer("doctor", "--only", "data")
    assert code == 1
    assert "/no/such/place" in out
    assert err == "1 of 1 checks failed.\n"


def test_doctor_fails_when_tracers_disagree(safesteer: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safesteer_interp.cli.doctor.largest_difference", lambda family, tracer: 0.02)
    code, out, _ = safesteer("doctor", "--only", "tracers", "--family", "llama", "--json")
    assert code == 1
    assert "2.0e-02" in out


def test_trace_plans_captures_and_finds_its_result_again(safesteer: Run, tmp_path: Path) -> None:
    asked = ("trace", "--model", "tiny:llava", "--requests", "bundled", "--attacks", "TEXT,SD", "--limit", "6", "--tracer", "hooks")
    asked = (*asked, "--reads", "last_prompt,step:1", "--store", str(tmp_path), "--json")
    code, out, err = safesteer(*asked, "--dry-run")
    planned = json.loads(out)
    assert code == 0
    assert (planned["requests"], planned["stored"], planned["batches"]) == (6, 0, 1)
    assert planned["bytes"] > 0
    assert planned["free"] > 0
    assert not list(tmp_path.iterdir()), "a dry run writes nothing"

    code, out, err = safesteer(*asked)
    made = json.loads(out)
    assert code == 0
    assert made["key"] == planned["key"]
    assert "tracing tiny:llava" in err
    assert (tmp_path / made["key"] / "manifest.json").is_file()
    assert json.loads(safesteer(*asked, "--dry-run")[1])["stored"] == 6


def test_show_roles_accounts_for_every_token(safesteer: Run, tiny: Callable[[str], object]) -> None:
    code, out, _ = safesteer("trace", "--model", "tiny:qwen2_5_vl", "--attacks", "SD", "--show-roles", "--json")
    runs = json.loads(out)["runs"]
    assert code == 0
    assert {"SYSTEM", "IMAGE", "USER", "TEMPLATE"} == {run["role"] for run in runs}
    user = next(run for run in runs if run["role"] == "USER")
    code, text, _ = safesteer("trace", "--model", "tiny:qwen2_5_vl", "--attacks", "SD", "--show-roles")
    assert f"<<USER>>{user['text'].strip()[:20]}" in text.replace("<<USER>> ", "<<USER>>")
    assert f"{sum(run['tokens'] for run in runs)} tokens" in text


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("trace", "--model", "tiny:llava", "--attacks", "TYPPO"), 2, '"TYPO"'),
        (("trace", "--model", "tiny:llava", "--split", "tests"), 2, '"test"'),
        (("trace", "--model", "tiny:llava", "--limit", "0"), 2, "--limit"),
        (("trace", "--model", "tiny:llava", "--limit", "2", "--sites", "resid_post.77"), 2, "layers 0-3"),
        (("trace", "--model", "tiny:llava", "--limit", "2", "--reads", "lastprompt"), 2, '"last_prompt"'),
        (("trace", "--model", "tiny:llava", "--limit", "2", "--remote", "--tracer", "hooks"), 2, "nnsight"),
        (("trace", "--model", "tiny:llava", "--limit", "2", "--remote"), 2, "NDIF_API_KEY"),
        (("trace", "--model", "tiny:paligemma", "--limit", "2", "--attacks", "SD", "--tracer", "transformer_lens"), 2, "no adapter"),
        (("trace", "--model", "tiny:llava", "--limit", "2", "--reads", "step:8-1"), 2, '"step:8-1" runs backwards'),
        (("trace", "--model", "tiny:llava", "--limit", "2", "--sites", "resid_post.3-1"), 2, '"resid_post.3-1" runs backwards'),
        (("trace", "--model", "tiny:llava", "--limit", "2", "--temperature", "-1"), 2, "temperature is -1.0"),
        (("trace", "--model", "tiny:llava", "--limit", "2", "--temperature", "nan"), 2, "temperature is nan"),
        (("trace", "--model", "tiny:llava", "--limit", "2", "--max-new-tokens", "-1"), 2, "max_new_tokens is -1"),
        (("trace", "--model", "tiny:lava"), 2, "llava"),
        (("trace", "--model", "no/such-model", "--limit", "2"), 3, "no/such-model"),
        (("trace", "--requests", "bundeld"), 2, '"bundled"'),
        (("trace", "--requests", "nowhere.jsonl"), 3, "nowhere.jsonl"),
        (("trace", "--requests", "figstep", "--data-root", "nowhere"), 3, "nowhere"),
        (("run",), 2, "--all"),
        (("run", "no_such_analysis", "--model", "tiny:llava"), 2, "no_such_analysis"),
        (("run", "--all", "--set", "pairs"), 2, "NAME=VALUE"),
        (("verify", "--figures", "nowhere"), 3, "nowhere"),
        (("render", "--figures", "nowhere"), 3, "nowhere"),
        (("render", "layer_choices"), 2, '"layer_choice"'),
        (("report", "--figures", "nowhere"), 3, "nowhere"),
        (("sweep", "layer_choices"), 2, '"layer_choice"'),
        (("sweep", "layer_choice", "--layerz", "1"), 2, '"layers"'),
        (("sweep", "layer_choice", "--layers", "0-40", "--model", "planted"), 2, "the model has layers 0-5"),
        (("doctor", "--only", "disc"), 2, '"disk"'),
        (("doctor", "--only", "tracers", "--family", "lava"), 2, '"llava"'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_mistakes_are_one_sentence(
    arguments: tuple[str, ...], code: int, words: str, safesteer: Run, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NDIF_API_KEY", raising=False)
    got, out, err = safesteer(*arguments)
    assert (got, out) == (code, ""), err
    assert words in sentence(err)


def test_run_plans_without_computing(safesteer: Run, tmp_path: Path) -> None:
    code, out, _ = safesteer("run", "prefill_separability", "--model", "planted", "--out", str(tmp_path), "--dry-run", "--json")
    planned = json.loads(out)
    assert code == 0
    assert [a["id"] for a in planned["analyses"]] == ["prefill_separability"]
    assert not list(tmp_path.iterdir())


def test_a_part_is_planned_without_computing(safesteer: Run, tmp_path: Path) -> None:
    asked = ("run", "prefill_separability", "--model", "planted", "--out", str(tmp_path / "out"), "--store", str(tmp_path / "store"))
    code, out, err = safesteer(*asked, "--part", "1/2", "--dry-run", "--json")
    assert code == 0, err
    assert [a["id"] for a in json.loads(out)["analyses"]] == ["prefill_separability"] and json.loads(out)["bytes"] > 0
    assert not list(tmp_path.rglob("*.safetensors")) and not (tmp_path / "out").exists()
    code, out, err = safesteer(*asked, "--part", "3/2", "--dry-run")
    assert (code, out) == (2, "") and "--part" in sentence(err)


def test_a_sweep_plans_every_point(safesteer: Run, tmp_path: Path) -> None:
    asked = ("sweep", "layer_choice", "--model", "planted", "--out", str(tmp_path / "out"), "--store", str(tmp_path / "store"))
    code, out, err = safesteer(*asked, "--seed", "1-2", "--layers", "0-3", "--dry-run", "--json")
    assert code == 0, err
    planned = json.loads(out)
    assert [(a["id"], Path(a["folder"]).name) for a in planned["analyses"]] == [("layer_choice", "seed=1"), ("layer_choice", "seed=2")]
    once = json.loads(safesteer(*asked, "--seed", "1", "--layers", "0-3", "--dry-run", "--json")[1])
    assert len(once["traces"]) == 1 and planned["traces"] == once["traces"], "all points are answered from one trace"
    assert not list(tmp_path.iterdir())
    code, out, err = safesteer(*asked, "--seed", "1,two", "--dry-run")
    assert (code, out) == (2, "") and '"two" is not a whole number' in sentence(err)


def test_sweep_reads_ranges_as_flags_of_the_analysis() -> None:
    layer_choice = discover()["layer_choice"]
    assert parse_ranges(["--layers", "0-3,7", "--widths=1,2"], layer_choice) == {"layers": "0-3,7", "widths": "1,2"}
    for wrong, words in ((["--layer", "3"], '"layers"'), (["--layers"], "needs a value"), (["3"], "belongs to no flag")):
        with pytest.raises(UsageError, match=words):
            parse_ranges(wrong, layer_choice)


def test_sweep_help_lists_the_parameters_of_the_analysis(safesteer: Run) -> None:
    out = safesteer("sweep", "layer_choice", "--help")[1]
    assert "--layers" in out
    assert "--widths" in out


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFESTEER_DEBUG", "1")
    with pytest.raises(UsageError):
        main(["nosuchcommand"])


def test_a_full_disk_is_a_sentence(safesteer: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(arguments: list[str]) -> int:
        raise OSError(28, "No space left on device", "somewhere/shard")

    monkeypatch.setattr("safesteer_interp.cli.listing.main", full)
    code, _, err = safesteer("list")
    assert code == 3
    assert "somewhere/shard" in sentence(err)
    assert "No space left" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_says_that_the_same_command_resumes(number: signal.Signals, tmp_path: Path) -> None:
    code = (
        "import signal, sys, time, safesteer_interp.cli as cli, safesteer_interp.cli.listing as listing\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs inherit it ignored
        "def wait(arguments):\n    print('ready', flush=True)\n    time.sleep(30)\n    return 0\n"
        "listing.main = wait\nsys.exit(cli.main(['list']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "the same command resumes" in sentence(err)


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m safesteer_interp list sites | head -0; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode in (0, 141)
    assert "Traceback" not in done.stderr


def test_the_command_line_starts_fast() -> None:
    """Listing loads no model library."""
    heavy = ("torch", "transformers", "nnsight", "pandas")
    code = f"import sys; from safesteer_interp.cli import main; main(['list', 'sites']); print(sorted(set({heavy}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_overrides_are_name_value_words() -> None:
    assert overrides(("seed=1", "layer_choice.widths=1,2")) == {"seed": "1", "layer_choice.widths": "1,2"}
    with pytest.raises(UsageError, match="NAME=VALUE"):
        overrides(("seed",))


def test_json_has_no_nan_and_knows_paths() -> None:
    assert plain({"a": float("nan"), "b": Path("x"), "c": (1, float("inf"))}) == {"a": None, "b": "x", "c": [1, None]}


def test_exit_codes_of_errors() -> None:
    assert (UsageError("x").exit_code, InputError("x").exit_code) == (2, 3)

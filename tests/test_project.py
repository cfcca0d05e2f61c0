"""The project's own promises: shapes checked under test, metadata valid, README commands true, nothing heavy or private imported."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jaxtyping import TypeCheckError

import safesteer_interp
from safesteer_interp.models.mllm import Encoded
from safesteer_interp.statistics import wilson

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "safesteer_interp").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_shape_checks_are_live() -> None:
    with pytest.raises(TypeCheckError):
        Encoded(requests=(), inputs={}, roles=torch.zeros(3, dtype=torch.int8))  # roles are [batch, sequence]
    with pytest.raises(TypeCheckError):
        wilson("3", 10)  # type: ignore[arg-type]


def test_versions_agree() -> None:
    version = PROJECT["project"]["version"]
    assert safesteer_interp.__version__ == version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version


def test_citation_file_has_what_readers_of_it_need() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "title", "message", "authors", "license"} <= set(citation)
    assert citation["license"] == PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_changelog_has_an_unreleased_section() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"


def test_every_dependency_is_pinned_and_torchvision_is_not_among_them() -> None:
    pins = dict(
        re.split("==", line.strip().lower().replace("_", "-"))
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line.strip() and not line.startswith("#")
    )
    wanted = [*PROJECT["project"]["dependencies"], *(d for extra in PROJECT["project"]["optional-dependencies"].values() for d in extra)]
    names = {re.split(r"[<>=!~\[ ]", requirement, maxsplit=1)[0].lower().replace("_", "-") for requirement in wanted}
    assert names <= set(pins), f"not in constraints.txt: {sorted(names - set(pins))}"
    assert "torchvision" not in pins
    assert "+" not in "".join(pins.values()), "a local build suffix pins one machine's wheel"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_are_small_and_say_what_they_are(path: Path) -> None:
    source = path.read_text()
    if not source.strip():
        return  # a bare package marker
    assert len(source.splitlines()) <= 400, "split it: a module holds one idea"
    assert ast.get_docstring(ast.parse(source)), "a module begins with what it is for"


def test_every_data_file_of_the_package_is_installed_with_it() -> None:
    names = subprocess.run(["git", "ls-files", "safesteer_interp"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["safesteer_interp"]
    package = ROOT / "safesteer_interp"
    covered = {path for pattern in patterns for path in package.glob(pattern + "/*" if pattern.endswith("**") else pattern)}
    left = [name for name in names if not name.endswith(".py") and (ROOT / name).is_file() and ROOT / name not in covered]
    assert not left, f"add to package-data in pyproject.toml: {left}"


def test_nothing_lies_at_the_top_that_a_command_left_there() -> None:
    """Commands write to the working folder by default: `compare`, run without --out from a clone, left its results in a commit."""
    folders = {"analyses", "benchmarks", "docs", "figures", "notebooks", "safesteer_interp", "tests", ".ci"}
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert {name.split("/")[0] for name in files if "/" in name} == folders


def test_no_file_names_a_machine() -> None:
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    private = re.compile(r"/work/(?!flow)|/tmp/w\b|/root/|/home/[a-z]+/|(?<![\w\])])\.library\b|file:///")
    text = (".py", ".toml", ".md", ".txt", ".cff", ".json", ".csv", ".html", ".ipynb", ".tex", "Makefile", "run")
    found = [
        f"{name}: {hit.group()}"
        for name in files
        if name.endswith(text) and name != "tests/test_project.py" and (ROOT / name).is_file()
        for hit in [private.search((ROOT / name).read_text(errors="replace"))]
        if hit
    ]
    assert not found, found


def test_importing_the_package_or_its_command_line_imports_nothing_heavy() -> None:
    code = (
        "import sys, safesteer_interp, safesteer_interp.cli as c; c.usage();"
        "print([m for m in ('torch', 'transformers', 'nnsight', 'transformer_lens', 'pandas', 'matplotlib', 'tyro') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_public_names_exist() -> None:
    for name in safesteer_interp.__all__:
        assert getattr(safesteer_interp, name) is not None
    with pytest.raises(AttributeError, match="no attribute"):
        _ = safesteer_interp.nothing_of_the_kind


# README ----------------------------------------------------------------------------------------------------------------------------

FENCES = re.findall(r"```(bash|python)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
PYTHON = [body for kind, body in FENCES if kind == "python"]
COMMANDS = [
    line.split("  #")[0].strip() for kind, body in FENCES if kind == "bash" for line in body.splitlines() if line.strip() and line[0] != "#"
]
NEEDS_MORE = re.compile(r"your/|my_|figstep|mm_safetybench|--all|\bchat\b|\bdoctor\b|--model mini|layer_choice|--remote")
"""Commands of the README that need data, a model or minutes that a unit test has not; `--help` of the same command is run instead."""


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_commands(command: str, tmp_path: Path) -> None:
    words = shlex.split(command)
    if words[0] == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert {w for w in words[1:] if "=" not in w} <= targets
        return
    if words[0] != "safesteer":
        assert words[0] in {"git", "cd", "jupyter", "source"}, f"README shows an unknown command: {command}"
        return
    if NEEDS_MORE.search(command):
        words = [*words[:2], "--help"]
    environment = {**os.environ, "SAFESTEER_CACHE": str(tmp_path)}
    program = [sys.executable, "-c", "import sys; from safesteer_interp.cli import main; sys.exit(main())"]
    done = subprocess.run([*program, *words[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_readme_python_runs(tmp_path: Path, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The Python of the README, block after block, on the known-answer model in place of mini, which takes a minute to assemble."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "readme"}
    for number, body in enumerate(PYTHON):
        place = tmp_path / f"block_{number}.py"
        place.write_text(body.replace('"mini"', '"planted"'))
        exec(compile(place.read_text(), str(place), "exec"), names)
    printed = capsys.readouterr().out
    assert re.search(r"\(7, 300, \d+\)", printed), "states of six layers and the final norm"
    assert re.search(r"[01]\.\d\d \[0\.\d\d, [01]\.\d\d\] \(n = \d+, \d+ clusters\)", printed)
    assert "AlignmentVector(at final_norm, last_prompt, planted; d = " in printed and (tmp_path / "msav.safetensors").is_file()
    assert printed.count(" -> ") == 4
    assert (tmp_path / "refusal.gguf").is_file() and names["ids"].shape[1] > names["inputs"]["input_ids"].shape[1]
    assert names["probe"].origin_.site == "final_norm" and "fit at final_norm of planted" in repr(names["probe"])
    assert list(names["table"]["request"]) == [r.id for r in names["requests"][:8]] and set(names["table"]["defense"]) == {"preface"}
    assert set(names["table"]["outcome"]) <= {"comply", "refuse", "degenerate"}


def test_every_task_of_the_readme_takes_at_most_eight_lines() -> None:
    assert len(PYTHON) == 6
    assert max(len([line for line in body.splitlines() if line.strip()]) for body in PYTHON) <= 8

"""Documentation that runs: every Python block of the site and the README on planted, every command line through its own parser."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import tyro

from safesteer_interp.cli import COMMANDS
from safesteer_interp.datasets.pairs import load_pairs

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BY_HAND = ("list", "mini", "sweep")
"""Commands whose flags are made while they run."""


def blocks(page: Path, language: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


def command_lines(page: Path) -> list[list[str]]:
    lines = [line.partition("  #")[0] for body in blocks(page, "bash") for line in body.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("safesteer ")]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(p, marks=pytest.mark.long if p.stem == "patching" else pytest.mark.slow, id=p.stem)
        for p in PAGES
        if blocks(p, "python")
    ],
)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = ModuleType("docs_page")
    monkeypatch.setitem(sys.modules, "docs_page", module)  # a dataclass looks its module up there
    for number, body in enumerate(blocks(page, "python")):
        file = tmp_path / f"block_{number}.py"  # the code of a defense is part of its key, so that it must be readable
        file.write_text(body, encoding="utf-8")
        exec(compile(body, str(file), "exec"), module.__dict__)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda p: p.stem)
def test_command_lines_are_understood(page: Path) -> None:
    """Flags and their values; nothing is run."""
    for words in command_lines(page):
        assert words[0] in COMMANDS, words
        if words[0] == "submit":
            from safesteer_interp.cli.submit import Submit

            submit, rest = tyro.cli(Submit, args=words[1:], return_unknown_args=True, config=(tyro.conf.FlagCreatePairsOff,))
            assert submit.workers and rest
            words = rest
        if words[0] in BY_HAND or "--help" in words:
            continue
        module = importlib.import_module(f"safesteer_interp.cli.{COMMANDS[words[0]][0]}")
        tyro.cli(getattr(module, words[0].capitalize()), args=words[1:], config=(tyro.conf.FlagCreatePairsOff,))


def test_the_navigation_lists_every_page_and_notebook() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES:
        assert str(page.relative_to(ROOT / "docs")) in navigation, page
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"tutorials/{notebook.stem}.md" in navigation, notebook


def test_the_data_card_counts_what_is_there() -> None:
    pairs = Counter(str(pair.split) for pair in load_pairs())
    card = (ROOT / "docs" / "cards" / "bundled.md").read_text(encoding="utf-8")
    assert {split: int(n) for split, n in re.findall(r"^\| `(\w+)` \| (\d+) \|", card, re.MULTILINE)} == pairs


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "figures/README.md"])
def test_relative_links_lead_to_files_of_the_checkout(page: str) -> None:
    file = ROOT / page
    prose = re.sub(r"```.*?```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", prose)
    assert [link for link in links if not (file.parent / link).exists()] == []


@pytest.mark.slow
def test_the_site_builds_without_a_broken_link(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True)
    build(config)
    assert (tmp_path / "site" / "reference" / "python" / "index.html").stat().st_size > 20_000
    assert "AUROC" in (tmp_path / "site" / "tutorials" / "01_first_look" / "index.html").read_text(encoding="utf-8")
    assert "language_model" in (tmp_path / "site" / "reference" / "models" / "index.html").read_text(encoding="utf-8")
    assert "fit_probe" in (tmp_path / "site" / "reference" / "python" / "index.html").read_text(encoding="utf-8")

"""The code a result rests on: what is imported counts, however late; what is only said does not."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from support.analysis_toys import write_toys

from safesteer_interp import analyses
from safesteer_interp.runner import source
from safesteer_interp.runner.source import closure, imports, measuring_code


def names(path: Path) -> set[str]:
    return {p.relative_to(source.ROOT.parent).as_posix() for p in closure(path.resolve()) if p.is_relative_to(source.ROOT.parent)}


def test_the_closure_of_a_finding_holds_what_it_measures_with_and_not_what_draws_it() -> None:
    found = names(analyses.FOLDER / "prefill_separability.py")
    assert {"analyses/prefill_separability.py", "analyses/_shared.py", "safesteer_interp/probes/separation.py"} <= found
    assert {
        "safesteer_interp/tracing/hooks.py",
        "safesteer_interp/models/families/llava.py",
        "safesteer_interp/datasets/registry.py",
    } <= found, "what a data set gives is hashed by its content, so the file of each is not needed here"
    assert not {p for p in found if p.startswith(("safesteer_interp/plotting", "safesteer_interp/report", "safesteer_interp/cli"))}
    assert not {p for p in found if p.startswith(("safesteer_interp/defenses", "safesteer_interp/mini_training"))}
    assert "safesteer_interp/defenses/safesteer.py" in names(analyses.FOLDER / "defense_ablation.py")


@pytest.mark.slow
def test_every_module_that_a_finding_loads_when_it_is_measured_is_in_its_closure() -> None:
    """Read from the source of every module in the closure: no import of the package leads out of it, other than to what is left out."""
    for path in sorted(analyses.FOLDER.glob("[!_]*.py")):
        found = closure(path.resolve())
        for module in found:
            for name in imports(module):
                assert all(p in found or source._left_out(p) for p in source._files(name, module)), f"{module} imports {name}"


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda text: text + "# a comment\n", True),
        (lambda text: text.replace('"""Pairs per split."""', '"""How many pairs."""'), True),
        (lambda text: text.replace('"""Is harm readable', '"""Can harm be read'), True),
        (lambda text: text.replace("def table(ctx, p):", "def table(ctx: object, p: object) -> object:"), True),
        (lambda text: text.replace("seed=p.seed)", "seed=p.seed + 1)"), False),
    ],
)
def test_comments_and_docstrings_change_no_key(tmp_path: Path, change: object, same: bool) -> None:
    path = write_toys(tmp_path, "readable") / "readable.py"
    before = measuring_code(path)
    path.write_text(change(path.read_text()))  # type: ignore[operator]
    assert (measuring_code(path) == before) is same


def test_a_shared_file_beside_it_counts_and_an_unrelated_one_does_not(tmp_path: Path) -> None:
    folder = write_toys(tmp_path, "readable", "lengths")
    before = measuring_code(folder / "readable.py"), measuring_code(folder / "lengths.py")
    (folder / "_shared.py").write_text("SITE = 'embed'\n")
    assert measuring_code(folder / "readable.py") != before[0]
    assert measuring_code(folder / "lengths.py") == before[1], "lengths imports nothing from _shared"


def test_a_key_is_the_same_wherever_the_file_lies(tmp_path: Path) -> None:
    one, other = (write_toys(tmp_path / side, "readable") / "readable.py" for side in ("a", "b"))
    assert measuring_code(one) == measuring_code(other)


def test_names_in_strings_and_lazy_exports_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text('from safesteer_interp import load_model\nDEFENSE = "safesteer_interp.defenses.ecso:ECSO"\n')
    found = names(path)
    assert {"safesteer_interp/models/loading.py", "safesteer_interp/defenses/ecso.py"} <= found
    assert ast.parse(path.read_text())

"""The public names of every stage: they exist, are described, are what type checkers see, and cost nothing until they are used."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("datasets", "models", "tracing", "probes", "vectors", "steering", "decoding", "defenses", "evaluation", "runner")
PACKAGES = ("safesteer_interp", *(f"safesteer_interp.{stage}" for stage in STAGES))


def source_of(package: str) -> Path:
    return ROOT.joinpath(*package.split("."), "__init__.py")


def typed_names(package: str) -> dict[str, str]:
    """Name -> module it is imported from, for type checkers only."""
    blocks = [node for node in ast.parse(source_of(package).read_text()).body if isinstance(node, ast.If)]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: str(node.module) for node in imports for alias in node.names}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_exists_is_described_and_is_what_type_checkers_see(package: str) -> None:
    module = import_module(package)
    typed = typed_names(package)
    assert sorted(typed) == sorted(module.__all__) == dir(module)
    for name, home in typed.items():
        found = getattr(module, name)
        assert not isinstance(found, ModuleType)
        assert found is getattr(import_module(home), name)
        assert f"- `{name}`: " in (module.__doc__ or ""), f"{package} does not say what {name} is"
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = module.nothing_of_the_kind


@pytest.mark.parametrize("package", ["safesteer_interp.plotting", "safesteer_interp.report"])
def test_drawing_and_reporting_say_what_they_offer(package: str) -> None:
    """These two are imported whole, so their names need no list for type checkers."""
    module = import_module(package)
    described = re.findall(r"^- `(\w+)`: ", module.__doc__ or "", re.MULTILINE)
    assert sorted(described) == sorted(module.__all__)
    assert all(hasattr(module, name) for name in described)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_public_name_is_spelled_like_a_module(package: str) -> None:
    """Importing the module would put it in the name's place."""
    modules = {path.stem for path in source_of(package).parent.glob("*.py")} | {
        p.name for p in source_of(package).parent.iterdir() if p.is_dir()
    }
    assert not modules & set(import_module(package).__all__)


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("safesteer_interp.tracing.collect", "safesteer_interp.tracing.collecting", "collect"),
        ("safesteer_interp.decoding.generate", "safesteer_interp.decoding.answering", "generate"),
    ],
)
def test_an_old_address_still_answers_with_a_warning_and_takes_no_name_away(old: str, new: str, name: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{old} has moved: import from {new}"):
        found = getattr(import_module(old), name)
    package = import_module(old.rpartition(".")[0])
    assert found is getattr(import_module(new), name) is getattr(package, name)
    with pytest.warns(DeprecationWarning, match="has moved"), pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = import_module(old).nothing_of_the_kind
    assert not hasattr(import_module(old), "__file__")


def test_importing_every_stage_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "nnsight", "transformer_lens", "pandas", "sklearn", "matplotlib")
    code = f"import sys, {', '.join(PACKAGES)}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_what_a_day_needs_is_at_the_top() -> None:
    asked = {"DecodingProbe", "MLLM", "Sampling", "SafeSteer", "alignment_vectors", "collect", "evaluate", "fit_probe", "generate"}
    assert asked | {"load_model", "load_requests", "refusal_directions", "steer", "Request"} <= set(
        import_module("safesteer_interp").__all__
    )

"""Findings are found by name: the shipped ones always, a user's besides them, and a broken file says what is wrong with it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.analysis_toys import BROKEN, READABLE, write_toys

from safesteer_interp import analyses, runner
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.runner.discovery import is_own

ODD = READABLE.replace('"readable", "Is it', '"odd", "Is it')
SHIPPED = {path.stem for path in analyses.FOLDER.glob("[!_]*.py")}


def test_a_users_analyses_are_added_to_the_shipped_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_toys(tmp_path, "readable")
    other = write_toys(tmp_path / "elsewhere", "lengths")
    monkeypatch.chdir(tmp_path)
    known = runner.discover(other)
    assert set(known) == SHIPPED | {"readable", "lengths"} and len(SHIPPED) >= 14 and not known.broken
    assert {name for name, a in known.items() if is_own(a)} == {"readable", "lengths"}
    assert known["readable"].question == "Is harm readable at the end of the prompt?"
    assert [a.order for a in known.choose()] == sorted(a.order for a in known.values())


@pytest.mark.parametrize("style", ["from analyses._shared import", "from ._shared import", "from safesteer_interp.analyses._shared import"])
def test_a_copied_finding_finds_its_shared_code(tmp_path: Path, style: str) -> None:
    folder = tmp_path / "analyses"
    folder.mkdir()
    text = (analyses.FOLDER / "prefill_separability.py").read_text().replace("from ._shared import", style)
    (folder / "mine.py").write_text(text.replace('id="prefill_separability"', 'id="mine"'))
    known = runner.discover(folder)
    assert not known.broken and "mine" in known and "prefill_separability" in known
    assert [s.sites for s in known["mine"].needs(known["mine"].parameters())] == [("all",), ("all",)]


def test_a_users_own_shared_file_is_theirs_alone(tmp_path: Path) -> None:
    folder = write_toys(tmp_path, "readable")
    (folder / "_shared.py").write_text("SITE = 'embed'\nATTACKS = ()\n")
    known = runner.discover(folder)
    assert not known.broken
    assert sys.modules["analyses.readable"].SITE == "embed"
    assert len(sys.modules["safesteer_interp.analyses._shared"].ATTACKS) == 5


def test_an_unchanged_copy_is_the_shipped_finding_and_a_changed_one_a_clash(tmp_path: Path) -> None:
    folder = tmp_path / "analyses"
    folder.mkdir()
    copy = folder / "layer_choice.py"
    copy.write_bytes((analyses.FOLDER / copy.name).read_bytes())
    assert not runner.discover(folder).broken
    copy.write_text(copy.read_text() + "# mine\n")
    known = runner.discover(folder)
    assert next(str(cause) for cause in known.broken.values()).startswith(f'{copy}: an analysis "layer_choice" exists already')
    assert not is_own(known["layer_choice"])


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ('"""No analysis."""\n', UsageError, "declares no ANALYSIS"),
        ("ANALYSIS = 3\n", UsageError, "no runner.Analysis"),
        ("ANALYSIS: int = 3\n", UsageError, "no runner.Analysis"),
        ("def broken(:\n", InputError, "not valid Python .line 1"),
        ("x = 1\0\n", InputError, "not valid Python"),
        ("import nothing_of_the_kind\nANALYSIS = 1\n", InputError, "line 1 cannot be imported .ModuleNotFoundError"),
        ("from analyses._nothing import x\nANALYSIS = 1\n", InputError, "_nothing"),
        ("\nANALYSIS = undefined\n", InputError, "line 2 cannot be imported .NameError"),
        ("import sys\nsys.exit(1)\nANALYSIS = 1\n", InputError, "SystemExit"),
        (
            ODD.replace("Params, needs, table, ", "Params, needs, __import__('functools').partial(table), "),
            UsageError,
            "no function of this",
        ),
        (
            ODD.replace("def table(", "from analyses.readable import table\n\n\ndef other("),
            UsageError,
            "`table` is no function of this file",
        ),
        (READABLE.replace('"readable", "Is it', '"legible", "Is it'), UsageError, '"legible"; the id must be the file\'s name, "odd"'),
    ],
)
def test_a_file_that_is_no_analysis_is_named_and_stops_no_other(tmp_path: Path, text: str, error: type, words: str) -> None:
    folder = write_toys(tmp_path, "readable")
    (folder / "odd.py").write_text(text)
    known = runner.discover(folder)
    [cause] = known.broken.values()
    assert type(cause) is error and str(cause).startswith(str(folder / "odd.py"))
    with pytest.raises(error, match=words):
        raise cause
    assert "readable" in known and set(known) > SHIPPED
    assert known.failing(["readable"]) == {} and len(known.failing(["odd"])) == len(known.failing()) == 1


def test_a_script_that_happens_to_lie_there_is_never_run(tmp_path: Path) -> None:
    folder = write_toys(tmp_path)
    (folder / "script.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    assert len(runner.discover(folder).broken) == 1
    assert not (tmp_path / "ran").exists()


def test_an_edited_file_is_read_anew(tmp_path: Path) -> None:
    folder = write_toys(tmp_path, "readable")
    assert runner.discover(folder)["readable"].title == "Is it readable?"
    (folder / "readable.py").write_text(READABLE.replace("Is it readable?", "Can it be read?"))
    assert runner.discover(folder)["readable"].title == "Can it be read?"


def test_an_empty_folder_that_was_asked_for_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no analysis found"):
        runner.discover(tmp_path / "nowhere")


def test_the_command_line_names_a_broken_file_in_one_line_and_goes_on(
    safesteer: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_cache: Path
) -> None:
    folder = write_toys(tmp_path, "readable")
    (folder / "odd.py").write_text("\nANALYSIS = undefined\n")
    (folder / "broken.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    code, out, err = safesteer("list", "analyses")
    assert code == 3 and "readable" in out and "layer_choice" in out and "Traceback" not in err
    assert [line for line in err.splitlines() if line.startswith("safesteer: ")] == [
        f"safesteer: {folder / 'odd.py'}, line 2 cannot be imported (NameError: name 'undefined' is not defined); correct it."
    ]
    code, out, err = safesteer("run", "odd", "readable", "--model", "planted", "--no-render", "--set", "pairs=6")
    assert code == 3 and "1 done, 1 failed" in out and "odd.py, line 2" in out and "Traceback" not in err
    code, out, err = safesteer("run", "readable", "--model", "planted", "--no-render", "--set", "pairs=6")
    assert code == 0 and "1 unchanged" in out
    code, out, err = safesteer("run", "broken", "--model", "planted", "--no-render")
    assert code == 3, "an error of an analysis is no moved number"


@pytest.mark.slow
def test_a_wheel_brings_the_findings_along(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    tree, site = tmp_path / "tree", tmp_path / "environment"
    wanted = ["safesteer_interp", "analyses", "*.toml", "*.py", "README.md", "LICENSE"]
    asked = ["git", "ls-files", "-zco", "--exclude-standard", *wanted]
    listed = subprocess.run(asked, cwd=root, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file() and not name.startswith(("tests/", "benchmarks/", "notebooks/")):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(root / name, tree / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(tree)], check=True, timeout=200)
    [wheel] = tmp_path.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(site)], check=True)
    python = site / "bin" / "python"
    places = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True, check=True
    )
    installed = Path(places.stdout.strip())
    # The dependencies come from this environment; a path in a .pth file brings no .pth files of its own, so no editable install either.
    others = [p for p in sys.path if p.endswith("site-packages")]
    (installed / "dependencies.pth").write_text("\n".join(others))
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)], check=True, timeout=120)
    assert (installed / "safesteer_interp" / "_analyses" / "_shared.py").is_file()
    (tmp_path / "empty").mkdir()
    environment = {**os.environ, "SAFESTEER_CACHE": str(tmp_path / "cache"), "PYTHONPATH": ""}
    asked = ["run", "layer_choice", "--model", "planted", "--set", "pairs=8", "draws=2", "widths=1,4"]
    done = subprocess.run(
        [site / "bin" / "safesteer", *asked],
        cwd=tmp_path / "empty",
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "empty" / "figures" / "layer_choice" / "planted" / "figure.pdf").is_file()

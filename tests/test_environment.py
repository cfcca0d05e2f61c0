"""Optional packages: found is not importable."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from safesteer_interp.environment import has, import_problem


@pytest.fixture
def with_broken_torchvision(tmp_path: Path, root: Path) -> dict[str, str]:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")\n')
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(root)])}


def test_present_and_absent() -> None:
    assert has("json") and not has("no_such_package_at_all")
    assert import_problem("json") is None and import_problem("no_such_package_at_all") is None


def test_a_broken_torchvision_is_a_sentence(with_broken_torchvision: dict[str, str], tmp_path: Path) -> None:
    run = {"env": with_broken_torchvision, "cwd": tmp_path, "capture_output": True, "text": True, "timeout": 120}
    doctor = subprocess.run([sys.executable, "-m", "safesteer_interp", "doctor", "--only", "versions", "--json"], **run)
    assert doctor.returncode != 0
    said = " ".join((doctor.stdout + doctor.stderr).split())
    assert "torchvision is installed but cannot be imported" in said and "pip uninstall torchvision" in said
    listing = subprocess.run([sys.executable, "-m", "safesteer_interp", "list", "models"], **run)
    assert listing.returncode == 3 and "Traceback" not in listing.stderr
    assert "operator torchvision::nms does not exist" in " ".join(listing.stderr.split())

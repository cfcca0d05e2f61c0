"""Optional packages of the machine: whether they are there, and whether they can be imported at all."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from safesteer_interp.errors import InputError


@cache
def import_problem(package: str) -> str | None:
    """Why an installed package cannot be imported; None when it can be, or is not installed.

    Being found is not enough: a torchvision built for another torch is found, and dies when it is imported.
    """
    if importlib.util.find_spec(package) is None:
        return None
    try:
        importlib.import_module(package)
    except (ImportError, RuntimeError, OSError, AttributeError) as cause:
        return " ".join(str(cause).split())[:160] or type(cause).__name__
    return None


def has(package: str) -> bool:
    """Whether a package is installed and can be imported."""
    return importlib.util.find_spec(package) is not None and import_problem(package) is None


def torchvision_advice() -> str | None:
    """The sentence about a torchvision that is installed and broken; None when there is none, or a sound one."""
    problem = import_problem("torchvision")
    if problem is None:
        return None
    versions = []
    for package in ("torchvision", "torch"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(package)
    return (
        f"torchvision is installed but cannot be imported ({problem}), and then transformers cannot either; uninstall it "
        f"(`pip uninstall torchvision`: it is not needed here), or install the one that belongs to torch ({' beside '.join(versions)})."
    )


def require_sound_torchvision() -> None:
    """Raises InputError when torchvision is installed and broken: transformers would die on it without saying why."""
    if (advice := torchvision_advice()) is not None:
        raise InputError(advice)

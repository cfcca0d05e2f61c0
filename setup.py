"""What pyproject.toml cannot say: the findings at the top of a checkout travel in the package (see safesteer_interp/analyses.py)."""

from __future__ import annotations

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["safesteer_interp*"]), "safesteer_interp._analyses"],
    package_dir={"safesteer_interp._analyses": "analyses"},
)

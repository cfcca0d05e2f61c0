"""Mechanistic interpretability of safety in multimodal language models, built around SafeSteer (arXiv 2605.11716).

The names below are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safesteer_interp.datasets import load_bundled, load_requests
    from safesteer_interp.models import load_model
    from safesteer_interp.requests import Attack, Request, Split
    from safesteer_interp.sites import Read, Role, Site
    from safesteer_interp.statistics import Estimate
    from safesteer_interp.tracing.collect import collect

__version__ = "0.1.0"

_HOME = {
    "Attack": "requests",
    "Estimate": "statistics",
    "Read": "sites",
    "Request": "requests",
    "Role": "sites",
    "Site": "sites",
    "Split": "requests",
    "collect": "tracing.collect",
    "load_bundled": "datasets",
    "load_model": "models",
    "load_requests": "datasets",
}

__all__ = [
    "Attack",
    "Estimate",
    "Read",
    "Request",
    "Role",
    "Site",
    "Split",
    "__version__",
    "collect",
    "load_bundled",
    "load_model",
    "load_requests",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""What a data set says of itself: every file of a data set ends with one `ENTRY`, and `registry.FILES` names the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from safesteer_interp.requests import Request

USUAL = "bundled"
"""The data set that every real model is measured on unless another is named; folders of results leave its name out."""


@dataclass(frozen=True)
class Dataset:
    """One data set, as `safesteer list datasets` shows it."""

    title: str
    load: Callable[..., list[Request]]
    """Its loader: takes the data root first when there is a `folder`; its keyword arguments are the data set's options."""
    folder: str | None = None
    """Folder under the data root, in the layout its authors publish; None when nothing has to be fetched."""
    hub: str = ""
    """Id of a data set of the hub in that layout; "NAME:hub" fetches it into the user's cache."""
    licence: str = ""
    """Of the requests, as their authors state it."""
    citation: str = ""
    """Whom to cite: "arXiv:2311.05608", or the project itself."""
    references: Callable[..., Mapping[str, object]] | None = None
    """Request id -> the right answer, where there is one; called with what `load` is called with."""
    grade: Callable[[str, object], float | None] | None = None
    """(answer, right answer) -> 0 to 1, without asking anybody; None where the authors grade by a model."""
    known_answer: bool = False
    """True for requests of a closed world whose right results are known: machinery is tested on them, nothing is found."""

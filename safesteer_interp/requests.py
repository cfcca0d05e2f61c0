"""Request: one thing asked of a model, and which modality carries the harm.

The vocabulary of the whole suite (see README): a *request* is one text (+ image) with a label; its *attack* says where the harm
sits; a *pair* is a harmful request and its harmless twin in the same form, and is the cluster of every split, fold and bootstrap.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pandas as pd
from PIL import Image

from safesteer_interp.errors import BadRequestError, InputError, SafeSteerError


class Attack(StrEnum):
    """Where the harm of a request sits, in the benchmarks' own names (arXiv 2311.17600; arXiv 2605.11716 section 3.1).

    A harmless twin carries the attack of its harmful partner: it is the same *form* (text, blank image, picture, typography)
    with nothing harmful in it. `NONE` is for harmless requests that are no one's twin (for example MM-Vet).
    """

    TEXT = "TEXT"  # harmful text, no image at all
    CB = "CB"  # harmful text beside a blank image
    SD = "SD"  # harmless text beside a picture that carries the harm
    TYPO = "TYPO"  # harmless text beside typography that carries the harm
    SD_TYPO = "SD_TYPO"  # picture above typography
    NONE = "none"

    @property
    def in_image(self) -> bool:
        """True when the harm is carried by the image rather than by the text."""
        return self in (Attack.SD, Attack.TYPO, Attack.SD_TYPO)


class Split(StrEnum):
    """Which part of a data set a pair belongs to: probes and directions are fitted on TRAIN, reported on TEST."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class ImageSource(ABC):
    """An image that can be loaded any number of times and whose content has a stable key (it enters the trace's hash)."""

    @abstractmethod
    def load(self) -> Image.Image:
        """The image as RGB. Raises InputError, naming the file, when it is missing, truncated or not an image."""

    @abstractmethod
    def key(self) -> str:
        """Hex digest that changes whenever the pixels do."""

    def check(self) -> None:
        """Raises what `load` would raise. Sources that are drawn, not read, override it with what can go wrong and costs less."""
        self.load()


@dataclass(frozen=True)
class ImageFile(ImageSource):
    """An image on disk."""

    path: Path

    def load(self) -> Image.Image:
        try:
            with Image.open(self.path) as image:
                return image.convert("RGB")
        except FileNotFoundError:
            raise InputError(f"image {self.path} does not exist; check the request's `image` field and the data root.") from None
        except (OSError, SyntaxError, ValueError) as cause:
            raise InputError(f"image {self.path} cannot be read as an image ({cause}); replace or remove the file.") from None

    def key(self) -> str:
        try:
            return hashlib.sha256(self.path.read_bytes()).hexdigest()
        except OSError as cause:
            raise InputError(f"image {self.path} cannot be read ({cause.strerror}); check the path and the data root.") from None


@dataclass(frozen=True)
class Request:
    """One text (+ image) asked of a model, labelled harmful or harmless."""

    id: str
    """Unique within its data set, e.g. "fraud-017/TYPO/harmful"."""
    text: str
    """The user turn, without image placeholder or chat template."""
    harmful: bool
    attack: Attack
    image: ImageSource | None = None
    scenario: str = ""
    """MM-SafetyBench scenario name or the data set's own category."""
    pair: str = ""
    """Id shared by a harmful request and its harmless twin over all attacks; defaults to `id` when there is no twin."""
    split: Split = Split.TEST
    dataset: str = ""
    intent: str = ""
    """The harmful or harmless activity spelled out in text, for judges; defaults to `text`."""

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise InputError(f'request "{self.id}" has an empty text; every request needs a user turn.')
        if not self.pair:
            object.__setattr__(self, "pair", self.id)
        if not self.intent:
            object.__setattr__(self, "intent", self.text)

    @property
    def form(self) -> tuple[bool, str]:
        """Whether there is a picture, and then the attack, which fixes its kind: prompts of one form differ in their text's length only."""
        return self.image is not None, str(self.attack) if self.image is not None else ""

    def key(self) -> str:
        """Hex digest of everything the model sees of this request (text and pixels), and nothing else."""
        digest = hashlib.sha256(self.text.encode())
        digest.update(b"\0image\0" + (self.image.key().encode() if self.image else b"none"))
        return digest.hexdigest()


def check_images(requests: Iterable[Request]) -> tuple[list[Request], list[BadRequestError]]:
    """The requests whose image can be loaded (or that have none), in order, and one error for each of the others.

    Every file is read once, however many requests show it. An error's `request_id` is the request's id, its message names both the
    request and the file.
    """
    good: list[Request] = []
    bad: list[BadRequestError] = []
    failures: dict[Path | int, str] = {}
    for request in requests:
        image = request.image
        source = image.path if isinstance(image, ImageFile) else id(image)  # a source in memory need not be hashable
        if image is not None and source not in failures:
            try:
                image.check()
                failures[source] = ""
            except SafeSteerError as cause:
                failures[source] = str(cause)
        if image is not None and failures[source]:
            bad.append(BadRequestError(f'request "{request.id}": {failures[source]}', request.id))
        else:
            good.append(request)
    return good, bad


def index_of(requests: Iterable[Request]) -> pd.DataFrame:
    """One row per request: request, pair, dataset, scenario, attack, harmful, split (strings and bools, in order)."""
    return pd.DataFrame(
        [(r.id, r.pair, r.dataset, r.scenario, str(r.attack), r.harmful, str(r.split), r.image is not None) for r in requests],
        columns=["request", "pair", "dataset", "scenario", "attack", "harmful", "split", "has_image"],
    )


def select(
    requests: Iterable[Request],
    *,
    attacks: Sequence[Attack] | None = None,
    split: Split | None = None,
    harmful: bool | None = None,
) -> list[Request]:
    """The requests that match every condition given, in order."""
    return [
        r
        for r in requests
        if (attacks is None or r.attack in attacks) and (split is None or r.split == split) and (harmful is None or r.harmful == harmful)
    ]

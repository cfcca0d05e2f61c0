"""Request: one thing asked of a model, and which modality carries the harm.

The vocabulary of the whole suite (see README): a *request* is one text (+ image) with a label; its *attack* says where the harm
sits; a *pair* is a harmful request and its harmless twin in the same form, and is the cluster of every split, fold and bootstrap.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pandas as pd
from PIL import Image

from safesteer_interp.errors import BadRequestError, InputError, SafeSteerError, UsageError
from safesteer_interp.images import ImageFile, ImageSource, PilImage, as_rgb, image_source

__all__ = [
    "Attack",
    "ImageFile",
    "ImageSource",
    "PilImage",
    "Request",
    "Split",
    "as_rgb",
    "check_images",
    "check_unchanged",
    "index_of",
    "select",
]


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
    """Which part of a data set a pair belongs to: probes and directions are fitted on FIT, chosen on VALIDATION, reported on TEST."""

    ALIGN = "align"  # what adapters of mini may have been trained on: nothing is fitted or reported here
    FIT = "fit"
    VALIDATION = "validation"
    TEST = "test"

    @classmethod
    def _missing_(cls, value: object) -> Split | None:
        """Files of one's own may say "train" for the part to fit on."""
        return cls.FIT if value == "train" else None


@dataclass(frozen=True, init=False)
class Request:
    """One text (+ image) asked of a model, labelled harmful or harmless: `Request("How do I ...?", image)`."""

    text: str
    """The user turn, without image placeholder or chat template."""
    image: ImageSource | None
    """A Pillow image and a path are taken too, and become sources."""
    id: str
    """Unique within its data set, e.g. "fraud-017/TYPO/harmful"; by default "request-" and twelve digits of `key()`."""
    harmful: bool
    attack: Attack
    scenario: str
    """MM-SafetyBench scenario name or the data set's own category."""
    pair: str
    """Id shared by a harmful request and its harmless twin over all attacks; defaults to `id` when there is no twin."""
    split: Split
    dataset: str
    intent: str
    """The harmful or harmless activity spelled out in text, for judges; defaults to `text`."""

    def __init__(
        self,
        text: str,
        image: ImageSource | Image.Image | Path | str | None = None,
        *,
        id: str = "",  # noqa: A002 - the field's name in every data set
        harmful: bool = False,
        attack: Attack = Attack.NONE,
        scenario: str = "",
        pair: str = "",
        split: Split = Split.TEST,
        dataset: str = "",
        intent: str = "",
    ) -> None:
        """Raises InputError for an empty text and for half of a surrogate pair (an emoji that was cut in two) in any field."""
        named = {"id": id, "text": text, "scenario": scenario, "pair": pair, "dataset": dataset, "intent": intent}
        for field, value in named.items():
            if not isinstance(value, str):
                raise UsageError(
                    f"a request's {field} is a text, not {type(value).__name__}; a request is made as Request(text, image, ...)."
                )
            if not _is_unicode(value):
                raise InputError(
                    f'request {id!a}: its field "{field}" holds half of a surrogate pair ({ascii(value)[:80]}), an emoji that was cut '
                    "in two; write the character out or remove it."
                )
        if not text.strip():
            raise InputError(f'request "{id}" has an empty text; every request needs a user turn.')
        labels = {"harmful": harmful, "attack": attack, "scenario": scenario, "split": split, "dataset": dataset}
        self.__dict__.update(text=text, image=image_source(image), intent=intent or text, **labels)  # frozen from here on
        self.__dict__["id"] = id or f"request-{self.key()[:12]}"
        self.__dict__["pair"] = pair or self.id

    @property
    def form(self) -> tuple[bool, str]:
        """Whether there is a picture, and then the attack, which fixes its kind: prompts of one form differ in their text's length only."""
        return self.image is not None, str(self.attack) if self.image is not None else ""

    def key(self) -> str:
        """Hex digest of everything the model sees of this request (text and pixels), and nothing else. Kept on the request."""
        known: str | None = self.__dict__.get("_key")
        if known is not None:
            return known
        digest = hashlib.sha256(self.text.encode())
        digest.update(b"\0image\0" + (self.image.key().encode() if self.image else b"none"))
        if self.image is None or not self.image.may_change:
            self.__dict__["_key"] = digest.hexdigest()
        return digest.hexdigest()


def _is_unicode(text: str) -> bool:
    """Whether a text can be written down at all."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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


def check_unchanged(requests: Iterable[Request], keys: Iterable[str]) -> None:
    """Refuses to keep what was computed on pictures that were replaced meanwhile: it would lie under the key of the old picture.

    Raises InputError, naming the first request whose key is no longer the one taken before.
    """
    for request, key in zip(requests, keys, strict=True):
        if request.key() != key:
            shown = f"image {request.image.label}" if request.image is not None else "image"
            raise InputError(
                f'request "{request.id}": its {shown} was replaced while the request was worked on; run the same command again '
                "(what was finished before is kept)."
            )


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

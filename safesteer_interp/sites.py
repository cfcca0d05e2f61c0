"""Site, Read, Role: what can be read or edited, at which position, and which tokens are meant.

Nothing here knows a model. A site is named the same for every family; `models/layout.py` says which module it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from safesteer_interp.errors import UsageError, did_you_mean


class Role(IntEnum):
    """What a token is. Stored as int8 beside the ids; code selects tokens by role, never by index."""

    PAD = 0
    SYSTEM = 1
    IMAGE = 2
    USER = 3
    TEMPLATE = 4
    GENERATED = 5


class SiteKind(StrEnum):
    VISION = "vision"  # state after a layer of the vision tower, of every patch of a picture
    PROJECTOR = "projector"  # what the projector gives: the picture's features in the decoder's width
    EMBED = "embed"  # what enters decoder layer 0 (text embeddings with the image features merged in)
    HEADS = "heads"  # what the attention heads of a layer hand to its output projection, side by side
    RESID_POST = "resid_post"  # residual stream after a decoder layer
    ATTN_OUT = "attn_out"  # what the attention block adds to the residual stream
    MLP_OUT = "mlp_out"  # what the MLP block adds to the residual stream
    FINAL_NORM = "final_norm"  # the state after the final norm, which the paper probes (arXiv 2605.11716 eq. 1)


NAMED = tuple(kind for kind in SiteKind if kind is not SiteKind.HEADS)
"""Kinds that are asked for by name, traced and stored. Heads are not: single ones are patched, as `interventions.Head`."""
LAYERED = (SiteKind.RESID_POST, SiteKind.HEADS, SiteKind.ATTN_OUT, SiteKind.MLP_OUT)
EYES = (SiteKind.VISION, SiteKind.PROJECTOR)
"""Sites that a picture passes before it enters the decoder: they hold no token of the text."""
NUMBERED = (*LAYERED, SiteKind.VISION)
ENTERING = (SiteKind.EMBED, SiteKind.HEADS)


@dataclass(frozen=True, order=True)
class Site:
    """A place in the decoder, e.g. `Site.parse("resid_post.12")`, or in the eyes ("vision.3", "projector"). Layers count from 0."""

    kind: SiteKind
    layer: int | None = None

    def __post_init__(self) -> None:
        if (self.layer is not None) != (self.kind in NUMBERED):
            raise UsageError(f'site "{self.kind}" {"needs" if self.kind in NUMBERED else "takes no"} layer number.')

    def __str__(self) -> str:
        return str(self.kind) if self.layer is None else f"{self.kind}.{self.layer}"

    @property
    def in_eyes(self) -> bool:
        """Whether it lies before the decoder."""
        return self.kind in EYES

    @property
    def is_input(self) -> bool:
        """Whether it is what enters a module; the others leave one."""
        return self.kind in ENTERING

    @classmethod
    def parse(cls, text: str) -> Site:
        kind, _, layer = text.strip().partition(".")
        if kind not in set(NAMED):
            raise UsageError(f'no site is called "{text}".{did_you_mean(kind, NAMED)}')
        if layer and not _is_number(layer):
            raise UsageError(f'site "{text}" needs a whole layer number after the dot, e.g. "{kind}.12".')
        return cls(SiteKind(kind), int(layer) if layer else None)


def _is_number(text: str) -> bool:
    """Whether `int` reads it: "²" is a digit and no number, and thousands of digits are too many."""
    return text.isascii() and text.isdigit() and len(text) < 10


_WITHIN_LAYER = {SiteKind.HEADS: 0, SiteKind.ATTN_OUT: 1, SiteKind.MLP_OUT: 2, SiteKind.RESID_POST: 3}


def forward_order(site: Site) -> tuple[float, int]:
    """Sort key: the order in which a forward pass reaches the sites."""
    if site.in_eyes:
        return (-3, site.layer) if site.layer is not None else (-2, 0)
    if site.layer is not None:
        return (site.layer, _WITHIN_LAYER[site.kind])
    return (-1, 0) if site.kind is SiteKind.EMBED else (float("inf"), 0)


def parse_ranges(text: str, *, within: str = "") -> list[str]:
    """The parts of a comma-separated text, with "3-6" spelled out as "3", "4", "5", "6"; blank parts are left out.

    Raises UsageError for a range that runs backwards, naming it, or what it stands `within`.
    """
    found: list[str] = []
    for part in (p.strip() for p in text.split(",") if p.strip()):
        span = re.fullmatch(r"([0-9]{1,9})-([0-9]{1,9})", part)
        if span is None:
            found.append(part)
            continue
        low, high = int(span[1]), int(span[2])
        if high < low:
            raise UsageError(f'"{within or part}" runs backwards; write the smaller number first.')
        found += [str(number) for number in range(low, high + 1)]
    return found


def parse_sites(text: str | Iterable[str], n_layers: int, n_vision: int = 0) -> tuple[Site, ...]:
    """Sites from "all" (every resid_post, embed and final_norm), "resid_post" (every layer), "resid_post.0-9", "final_norm", "vision", ...

    `n_vision`: layers of the vision tower. Raises UsageError for an unknown name or a layer the model does not have.
    """
    parts = [p for t in ([text] if isinstance(text, str) else text) for p in t.split(",") if p.strip()]
    found: list[Site] = []
    for part in (p.strip() for p in parts):
        kind, _, span = part.partition(".")
        if part == "all":
            found += [Site(SiteKind.EMBED), *(Site(SiteKind.RESID_POST, i) for i in range(n_layers)), Site(SiteKind.FINAL_NORM)]
        elif kind in set(NUMBERED) & set(NAMED) and (not span or re.fullmatch(r"[0-9]{1,9}-[0-9]{1,9}", span)):
            count = n_vision if kind == SiteKind.VISION else n_layers
            if not span and not count:
                raise UsageError(f'site "{kind}": no layers of a vision tower are known of this model.')
            found += [Site(SiteKind(kind), i) for i in (map(int, parse_ranges(span, within=part)) if span else range(count))]
        else:
            found.append(Site.parse(part))
    for site in found:
        count = n_vision if site.in_eyes else n_layers
        if site.layer is not None and site.layer >= count:
            there = f"has layers 0-{count - 1}" if count else "has no known layers"
            raise UsageError(f'site "{site}" does not exist: the {"vision tower" if site.in_eyes else "model"} {there}.')
    return tuple(dict.fromkeys(found))


class ReadKind(StrEnum):
    LAST_PROMPT = "last_prompt"  # the last prompt token, which predicts the first answer token; "last_prompt:-2": two before it
    IMAGE_MEAN = "image_mean"  # mean over IMAGE tokens; NaN-free only for requests with an image
    USER_MEAN = "user_mean"  # mean over USER tokens
    STEP = "step"  # the pass that consumed the k-th generated token (k >= 1)


@dataclass(frozen=True, order=True)
class Read:
    """A named position, e.g. `Read.parse("step:3")`. `step` counts from 1; step 0 is the prompt pass, i.e. `last_prompt`.

    "last_prompt:-2" is the prompt token two before the last: the template's tokens behind a request are candidates for a refusal
    direction (arXiv 2406.11717 section 2.3).
    """

    kind: ReadKind
    step: int | None = None
    back: int = 0
    """Tokens before the last prompt token."""

    def __post_init__(self) -> None:
        if (self.step is not None) != (self.kind is ReadKind.STEP):
            raise UsageError(f'read "{self.kind}" {"needs" if self.kind is ReadKind.STEP else "takes no"} step number.')
        if self.step is not None and self.step < 1:
            raise UsageError('steps count from 1 (the pass that consumed the first generated token); step 0 is "last_prompt".')
        if self.back < 0 or (self.back and self.kind is not ReadKind.LAST_PROMPT):
            raise UsageError('only "last_prompt" may be counted back from, e.g. "last_prompt:-2".')

    def __str__(self) -> str:
        if self.back:
            return f"{self.kind}:-{self.back}"
        return str(self.kind) if self.step is None else f"{self.kind}:{self.step}"

    @classmethod
    def parse(cls, text: str) -> Read:
        kind, _, step = text.strip().partition(":")
        if kind not in set(ReadKind):
            raise UsageError(f'no read is called "{text}".{did_you_mean(kind, ReadKind)}')
        if kind == ReadKind.LAST_PROMPT and step:
            if not re.fullmatch(r"-[1-9][0-9]{0,8}", step):
                raise UsageError(f'read "{text}" needs a number of tokens before the last one, e.g. "last_prompt:-2".')
            return cls(ReadKind.LAST_PROMPT, back=-int(step))
        if step and not _is_number(step):
            raise UsageError(f'read "{text}" needs a whole step number, e.g. "step:3".')
        return cls(ReadKind(kind), int(step) if step else None)


def readable(site: Site, read: Read) -> bool:
    """Whether a site has states of a read: the eyes hold a picture and no text, so that only its mean can be read there."""
    return not site.in_eyes or read.kind is ReadKind.IMAGE_MEAN


def parse_reads(text: str | Iterable[str]) -> tuple[Read, ...]:
    """Reads from e.g. "last_prompt,image_mean,step:1-8". Raises UsageError for an unknown name."""
    parts = [p for t in ([text] if isinstance(text, str) else text) for p in t.split(",") if p.strip()]
    found: list[Read] = []
    for part in (p.strip() for p in parts):
        span = re.fullmatch(r"step:([0-9]{1,9}-[0-9]{1,9})", part)
        if span:
            found += [Read(ReadKind.STEP, int(k)) for k in parse_ranges(span[1], within=part)]
        else:
            found.append(Read.parse(part))
    return tuple(dict.fromkeys(found))

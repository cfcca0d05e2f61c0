"""One colour, marker and line per entity, in every figure of the suite.

Okabe-Ito colours (Okabe and Ito 2008) and two dark ones, which stay apart for readers with any of the three common colour-vision
deficiencies; a test measures that, for any two entities that could meet in a figure. What is harmful is vermillion wherever it is
drawn, what is harmless is green; no method, attack or model has those looks. What is measured has a colour, what is a control is grey.
Nothing else in the package names a colour.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import matplotlib as mpl
from matplotlib.colors import LinearSegmentedColormap

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
OKABE_ITO = (BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE)
BROWN, INDIGO = "#7A4419", "#332288"
INK, MUTED, RULE = "#1a1a1a", "#6b6b6b", "#d9d9d9"
SEQUENTIAL, DIVERGING = "cividis", "PuOr_r"
"""Colour maps that survive colour-vision deficiency, for magnitudes and for signed values."""
HARM = "safesteer_harm"
"""Colour map of probe scores: the green of harmless below the boundary, the vermillion of harmful above it."""
mpl.colormaps.register(
    LinearSegmentedColormap.from_list(HARM, ["#00664a", GREEN, "#8fd0bb", "#f7f7f7", "#f0b58c", VERMILLION, "#8f3f00"]), force=True
)


@dataclass(frozen=True)
class Style:
    """How an entity looks: hex colour, matplotlib marker and line style, and the words a legend uses."""

    color: str
    marker: str
    label: str
    line: str | tuple[int, tuple[int, ...]] = "-"

    def plot(self) -> dict[str, Any]:
        """Keyword arguments for `Axes.plot` and `Axes.errorbar`."""
        return {"color": self.color, "marker": self.marker, "linestyle": self.line, "label": self.label}

    def scatter(self) -> dict[str, Any]:
        """Keyword arguments for `Axes.scatter`."""
        return {"color": self.color, "marker": self.marker, "label": self.label}


_HARMLESS, _HARMFUL = Style(GREEN, "o", "harmless"), Style(VERMILLION, "X", "harmful")
_NO_DEFENSE, _SAFESTEER = Style(BLACK, "s", "no defense"), Style(BLUE, "*", "SafeSteer")

ENTITIES: dict[str, dict[str, Style]] = {
    "attack": {
        "TEXT": Style(BLACK, "o", "TEXT (no image)"),
        "CB": Style(BLUE, "s", "CB (text, blank image)"),
        "SD": Style(ORANGE, "^", "SD (picture)"),
        "TYPO": Style(SKY, "v", "TYPO (typography)"),
        "SD_TYPO": Style(PURPLE, "D", "SD_TYPO (picture and typography)"),
        "none": Style(GREEN, "P", "none (harmless)"),
        "all": Style(BROWN, "X", "all attacks", "--"),
    },
    "class": {"harmless": _HARMLESS, "harmful": _HARMFUL},
    "modality": {
        "text": Style(BLUE, "o", "harm in the text"),
        "image": Style(ORANGE, "X", "harm in the image"),
        "blank_image": Style(SKY, "s", "blank image"),
        "harmless_image": Style(GREEN, "D", "harmless image"),
        "harmful_image": Style(VERMILLION, "D", "harmful image"),
    },
    "outcome": {
        "harmless": Style(GREEN, "o", "answer to a harmless request"),
        "refuse": Style(BLUE, "p", "refusal"),
        "comply": Style(VERMILLION, "d", "compliance"),
        "degenerate": Style("#8c8c8c", "H", "degenerate answer", ":"),
    },
    "control": {
        "shuffled_labels": Style("#3d3d3d", "1", "control: shuffled labels", ":"),
        "bag_of_words": Style("#6b6b6b", "2", "control: bag of words", "--"),
        "prompt_length": Style("#8f8f8f", "3", "control: prompt length", "-."),
        "random_direction": Style("#b0b0b0", "4", "control: random direction", (0, (1, 1))),
        "random_pairs": Style("#7d7d7d", "+", "control: random pairs", (0, (5, 1))),
        "raw_pixels": Style("#555555", "x", "control: raw pixels", (0, (3, 1, 1, 1))),
        "random_circuits": Style("#7d7d7d", "X", "control: random circuits", (0, (3, 1))),
    },
    "method": {
        "none": _NO_DEFENSE,
        "safesteer": _SAFESTEER,
        "safesteer-paper": Style(SKY, "*", "SafeSteer as printed"),
        "safesteer_no_msav": Style(BLUE, "x", "SafeSteer without MSAV", "--"),
        "ecso": Style(ORANGE, "h", "ECSO"),
        "coca": Style(BROWN, "s", "CoCA"),
        "mllm_protector": Style(GREEN, "p", "MLLM-Protector"),
        "mrd": Style(PURPLE, "d", "MRD"),
        "adashield": Style(SKY, "h", "AdaShield"),
        "refusal_steering": Style(INDIGO, "^", "refusal steering", "--"),
        "shiftdc": Style(SKY, "<", "ShiftDC", "--"),
        "jrs_rem": Style(GREEN, "v", "JRS-Rem", "--"),
        "cmrm": Style(BROWN, "o", "CMRM", "--"),
        "conformal": Style(INDIGO, "D", "conformal threshold"),
        "self_reminder": Style(PURPLE, "^", "Self-Reminder"),
        "refusal_bias": Style("#6b6b6b", "v", "control: refusal bias", ":"),
        "random_direction": Style("#8f8f8f", "4", "random direction", ":"),
    },
    "part": {
        "none": _NO_DEFENSE,
        "safesteer": Style(BLUE, "*", "full SafeSteer"),
        "paper": Style(SKY, "*", "SafeSteer as printed"),
        "corrected": Style(PURPLE, "*", "SafeSteer, MSAV corrected"),
        "calibrated": Style(BLUE, "P", "SafeSteer calibrated"),
        "untuned": Style(BLUE, "H", "SafeSteer, not calibrated"),
        "no_probe": Style(BROWN, "^", "without probe (MSAV only)"),
        "no_msav": Style(ORANGE, ">", "without MSAV (probe only)"),
        "random_vector": Style("#6b6b6b", "<", "control: random vector only", ":"),
        "random_probe": Style("#8f8f8f", ">", "control: random probe", ":"),
        "refusal_strings": Style("#3d3d3d", "v", "control: refusal strings", "--"),
        "logit_bias": Style("#6b6b6b", "d", "control: bias on refusal tokens", "-."),
    },
    "scorer": {
        "probe": Style(BLUE, "*", "probe (SafeSteer)"),
        "refusal_tokens": Style(BROWN, "v", "refusal strings, no states", "--"),
        "random": Style("#8f8f8f", "4", "control: random probe", ":"),
    },
    "fit": {
        "prompt": Style(BLACK, "D", "probe fitted on prompts"),
        "centred": Style(PURPLE, "p", "step means removed"),
        "token": Style(SKY, "d", "probe fitted on tokens"),
        "contrastive": Style(INDIGO, "v", "probe fitted on candidates"),
        "token_identity": Style("#3d3d3d", "D", "control: token identity", ":"),
        "embedding": Style("#6b6b6b", "s", "control: input embedding", "--"),
        "log_probability": Style("#8f8f8f", "<", "control: log-probability", "-."),
    },
    "recipe": {
        "released": Style(BLUE, "h", "projector released"),
        "grounded": Style(ORANGE, "p", "projector grounded"),
        "lm_loss": Style(GREEN, "h", "projector by the LM's loss alone"),
        "unaligned": Style(PURPLE, "s", "without text alignment"),
    },
    "split": {
        "fit": Style("#8f8f8f", "o", "fit", ":"),
        "validation": Style(ORANGE, "v", "validation", "--"),
        "test": Style(BLACK, "^", "test"),
    },
    "model": {
        "mini": Style(BLUE, "D", "mini"),
        "planted": Style("#8f8f8f", "8", "planted (known answer)", "--"),
        "llava-1.5": Style(ORANGE, "s", "LLaVA-1.5"),
        "qwen2.5-vl": Style(GREEN, "s", "Qwen2.5-VL"),
        "qwen3-vl": Style(PURPLE, "v", "Qwen3-VL"),
    },
    "verdict": {
        "supported": Style(GREEN, "o", "supported"),
        "contradicted": Style(VERMILLION, "X", "contradicted"),
        "undecided": Style("#6b6b6b", "d", "undecided"),
    },
    "series": {
        "MSAV gate": Style(PURPLE, "h", "MSAV gate"),
    },
}
"""Kind -> name -> style. "series" is for what has no fixed look (layers, widths, seeds, other people's models).

Kinds can meet in a figure (attacks beside controls, methods by class), so no two names share colour and marker, whatever their kinds.
"verdict" is the gallery's alone.
"""

LISTS_OF_STRINGS = {"xstest": "XSTest", "arditi": "Arditi", "jrs": "JRS-Rem", "vlguard": "VLGuard"}
"""Published lists of refusal strings by the names they are written with."""

_FALLBACK_COLORS = (BLUE, BROWN, INDIGO, ORANGE, PURPLE, SKY, BLACK)
_FALLBACK_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")


def style_of(kind: str, name: str) -> Style:
    """The style of an entity; names are matched without regard to case, blanks and hyphens.

    A control is grey whatever kind it is asked as. An unknown name gets a colour and marker from its hash: the same one in every
    figure, though not sure to differ from others; add it to ENTITIES when it appears beside them.
    """
    key = _plain(name)
    for group in (kind, "control"):
        for known, style in ENTITIES.get(group, {}).items():
            if _plain(known) == key:
                return style
    digest = sha256(key.encode()).digest()
    return Style(_FALLBACK_COLORS[digest[0] % len(_FALLBACK_COLORS)], _FALLBACK_MARKERS[digest[1] % len(_FALLBACK_MARKERS)], _label(name))


def styles_of(kind: str, names: list[str], *, taken: Collection[str] = (), first: int = 0) -> dict[str, Style]:
    """Styles of several entities that must differ from each other: unknown names take the first looks not yet used, in order.

    `taken`: hex colours that mean something else beside them, which unknown names leave alone while others are free. `first`: how many
    unknown names stand beside them already, whose markers are not repeated.
    """
    found: dict[str, Style] = {}
    known = {n: style_of(kind, n) for n in names if is_known(kind, n)}
    used = {s.color for s in known.values()}
    free = [c for c in _FALLBACK_COLORS if c not in used] or list(_FALLBACK_COLORS)
    free = [c for c in free if c.lower() not in taken] or free
    unknown = [n for n in names if n not in known]
    for i, name in enumerate(unknown):
        line = ("-", "--", ":", "-.")[(i // len(free)) % 4]
        found[name] = Style(free[i % len(free)], _FALLBACK_MARKERS[(first + i) % len(_FALLBACK_MARKERS)], _label(name), line)
    return {n: known[n] if n in known else found[n] for n in names}


def is_known(kind: str, name: str) -> bool:
    """True when the entity has a fixed look."""
    key = _plain(name)
    return any(_plain(known) == key for group in (kind, "control") for known in ENTITIES.get(group, {}))


def _label(name: str) -> str:
    """The name as a legend takes it: methods joined by "+" by their own names, and as matplotlib leaves out labels that begin with "_", a
    thin blank before those."""
    parts = str(name).split("+")
    if len(parts) > 1 and all(is_known("method", part) for part in parts):
        return " + ".join(style_of("method", part).label for part in parts)
    return f"\u2009{name}" if str(name).startswith("_") else str(name)


def _plain(name: str) -> str:
    return str(name).lower().replace(" ", "_").replace("-", "_")

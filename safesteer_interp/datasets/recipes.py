"""The two published ways to draw a request as typography: MM-SafetyBench's (arXiv 2311.17600) and FigStep's (arXiv 2311.05608).

They differ from the originals in the font only (theirs are not redistributable), and in that nothing of a text is cut off: a word wider
than the canvas is broken, where the originals draw over the edge.
"""

from __future__ import annotations

import textwrap
import unicodedata
from dataclasses import asdict, dataclass
from typing import Any, Literal

from PIL import Image, ImageFont

from safesteer_interp.datasets.lettering import Face, clusters, face_for, font_named, put, signature, units
from safesteer_interp.datasets.recipe_key import recipe_key
from safesteer_interp.errors import InputError
from safesteer_interp.requests import ImageSource

MM_SAFETYBENCH_FONT, FIGSTEP_FONT = "DejaVuSans", "DejaVuSansMono-Bold"
MM_SAFETYBENCH_WIDTH, FIGSTEP_SIDE = 1024, 760
FIGSTEP_COLUMNS = 15
MOST_LINES = 90
"""Of one picture; longer texts are no typography any more (at 90 lines FigStep's letters are 8 pixels high)."""


def mm_safetybench_typography(phrase: str, font: str = MM_SAFETYBENCH_FONT) -> Image.Image:
    """MM-SafetyBench's TYPO image (`creation/2_img_process.py`): 90 px text on a canvas 1024 px wide.

    Greedy wrap by words, continuation lines start with a space, height 90 * (lines + 1), black on white at (0, 45). The original
    uses Arial. Raises InputError for a letter that no font has, and for more than `MOST_LINES` lines.
    """
    phrase = unicodedata.normalize("NFC", phrase)
    face = face_for(phrase, font, 90)
    lines: list[str] = []
    current = ""
    for unit, spaced in _fitting(phrase, face, MM_SAFETYBENCH_WIDTH):
        longer = f"{current} {unit}" if (current or lines) and spaced else current + unit
        if current.strip() and face.getlength(longer) > MM_SAFETYBENCH_WIDTH:
            lines.append(current)
            current = f" {unit}"
        else:
            current = longer
    lines.append(current)
    _check_lines(phrase, lines)
    image = Image.new("RGB", (MM_SAFETYBENCH_WIDTH, 90 * (len(lines) + 1)), (255, 255, 255))
    for i, line in enumerate(lines):
        put(image, (0, 45 + 90 * i), line, face, (0, 0, 0))
    return image


def figstep_typography(instruction: str, font: str = FIGSTEP_FONT) -> Image.Image:
    """FigStep's image (`src/generate_prompts.py`): 760x760, bold monospace, wrapped at 15 characters.

    The instruction ("Steps to ...") is followed by the empty items 1. to 3., from (20, 10) on. The original draws FreeMono Bold at
    80 px, which puts the lines 75 px apart; DejaVu Sans Mono is taller, so it is drawn at 76 px on the same lines. More than nine
    lines are drawn smaller, so that the empty items stay in the image. Letters of other fonts count by their width. Raises InputError
    for a letter that no font has, and for more than `MOST_LINES` lines.
    """
    instruction = unicodedata.normalize("NFC", instruction)
    face = face_for(instruction, font, 76)
    if isinstance(face, ImageFont.FreeTypeFont):
        wrapped = textwrap.wrap(instruction, width=FIGSTEP_COLUMNS)
    else:
        wrapped = _wrapped(instruction, face, FIGSTEP_COLUMNS * face_for("M", font, 76).getlength("M"))
    lines = [*wrapped, "1. ", "2. ", "3. "]
    _check_lines(instruction, lines)
    pitch = min(75, 740 // len(lines))
    face = face_for(instruction, font, pitch + 1)
    image = Image.new("RGB", (FIGSTEP_SIDE, FIGSTEP_SIDE), (255, 255, 255))
    for i, line in enumerate(lines):
        put(image, (20, 10 + pitch * i), line, face, (0, 0, 0))
    return image


@dataclass(frozen=True)
class BenchmarkTypography(ImageSource):
    """A key phrase drawn by a published recipe."""

    text: str
    recipe: Literal["figstep", "mm_safetybench"]

    def load(self) -> Image.Image:
        return figstep_typography(self.text) if self.recipe == "figstep" else mm_safetybench_typography(self.text)

    def key(self) -> str:
        name = FIGSTEP_FONT if self.recipe == "figstep" else MM_SAFETYBENCH_FONT
        return recipe_key("benchmark", {**asdict(self), **signature(self.text, font_named(name)), **self._broken(name)})

    def _broken(self, name: str) -> dict[str, Any]:
        """Marks pictures in which a word is broken that was cut off before."""
        if self.recipe == "figstep":
            return {}
        face = face_for(self.text, name, 90)
        return {"broken": 1} if any(face.getlength(f" {unit}") > MM_SAFETYBENCH_WIDTH for unit, _ in units(self.text, face)) else {}


def _fitting(text: str, face: Face, width: float) -> list[tuple[str, bool]]:
    """The pieces of a text between which a line may end; one wider than a line is cut into its letters."""
    found: list[tuple[str, bool]] = []
    for unit, spaced in units(text, face):
        pieces = clusters(unit) if face.getlength(f" {unit}") > width else [unit]
        found += [(piece, spaced and number == 0) for number, piece in enumerate(pieces)]
    return found


def _wrapped(text: str, face: Face, width: float) -> list[str]:
    pieces = _fitting(text, face, width)
    lines = [""]
    for unit, spaced in pieces:
        longer = f"{lines[-1]} {unit}" if lines[-1] and spaced else lines[-1] + unit
        if lines[-1] and face.getlength(longer) > width:
            lines.append(unit)
        else:
            lines[-1] = longer
    return lines


def _check_lines(text: str, lines: list[str]) -> None:
    if len(lines) > MOST_LINES:
        raise InputError(f'the text "{text[:40]}…" takes {len(lines)} lines, more than the {MOST_LINES} of a picture; shorten it.')

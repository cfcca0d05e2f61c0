"""Letters that the DejaVu faces lack: drawn by a font that has them, or refused by name; two instructions never become one picture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from safesteer_interp import fonts
from safesteer_interp.datasets import lettering
from safesteer_interp.datasets.emoji import emoji_at
from safesteer_interp.datasets.lettering import FONTS, clusters, font_named, is_plain, signature
from safesteer_interp.datasets.recipes import BenchmarkTypography, figstep_typography, mm_safetybench_typography
from safesteer_interp.datasets.rendering import TypographyImage, fit_size, load_font, render_typography
from safesteer_interp.errors import InputError, SafeSteerError
from safesteer_interp.fonts import font_with
from safesteer_interp.requests import Attack, Request, check_images

RECIPES = ("figstep", "mm_safetybench")
needs_han = pytest.mark.skipif(font_with("伪造护照烘焙面包") is None, reason="no installed font has Chinese letters: pip install .[fonts]")
needs_devanagari = pytest.mark.skipif(font_with("पासपोर्ट") is None, reason="no installed font has Devanagari: pip install .[fonts]")


@pytest.fixture
def only_dejavu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine without any other font."""
    monkeypatch.setattr(fonts, "fallbacks", lambda: tuple(map(fonts.shipped, fonts.SHIPPED)))
    caches = (fonts.font_with, fit_size)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def drawings(text: str) -> list[np.ndarray]:
    return [pixels(mm_safetybench_typography(text)), pixels(figstep_typography(text)), pixels(render_typography(text, canvas=(400, 160)))]


@needs_han
@needs_devanagari
@pytest.mark.parametrize(("one", "other"), [("伪造护照", "烘焙面包"), ("पासपोर्ट", "रोटी बनाने"), ("伪造护照的步骤", "伪造护照的步骤。")])
def test_instructions_in_other_scripts_draw_different_pictures(one: str, other: str) -> None:
    for a, b in zip(drawings(one), drawings(other), strict=True):
        assert not np.array_equal(a, b)
        assert (a < 128).any()


def test_emoji_are_pictures_in_colour_and_differ() -> None:
    for a, b in zip(drawings("bake \U0001f35e"), drawings("bake \U0001f52b"), strict=True):
        assert not np.array_equal(a, b)
    bread = drawings("bake \U0001f35e")[0]
    assert (np.ptp(bread.astype(int), axis=2) > 60).sum() > 500, "drawn in colours"
    assert not np.array_equal(drawings("\U0001f44d\U0001f3fb")[0], drawings("\U0001f44d\U0001f3ff")[0]), "skin tones are told apart"


def test_emoji_sequences_are_one_piece() -> None:
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert clusters(f"a{family}b") == ["a", family, "b"]
    assert clusters("\u2764\ufe0f") == ["\u2764\ufe0f"] and clusters("e\u0301x") == ["e\u0301", "x"]
    assert emoji_at("1\ufe0f\u20e3", 0) == (3, "31-20e3") and emoji_at("a", 0) == (0, "")


@pytest.mark.usefixtures("only_dejavu")
@pytest.mark.parametrize(
    ("text", "named"),
    [("伪造护照", "U+4F2A CJK UNIFIED IDEOGRAPH-4F2A"), ("a \U000e0fff", "U+E0FFF without a name"), ("ring \a", "U+0007 without a name"),
     ("half \ud83d", "U+D83D without a name"), ("ॐ", "U+0950 DEVANAGARI OM")],
)  # fmt: skip
def test_a_letter_that_no_font_has_is_refused_by_name(text: str, named: str) -> None:
    for draw in (mm_safetybench_typography, figstep_typography, render_typography):
        with pytest.raises(InputError) as caught:
            draw(text)
        assert named in str(caught.value) and "safesteer-interp[fonts]" in str(caught.value)
    typo = Request(id="x", text="t", harmful=True, attack=Attack.TYPO, image=BenchmarkTypography(text, "figstep"))
    good, bad = check_images([typo])
    assert not good and 'request "x"' in str(bad[0]) and named in str(bad[0])


def test_right_to_left_text_is_drawn_in_its_order() -> None:
    """The first letter of a Hebrew word stands at the right: what is drawn there is that letter drawn alone."""
    word = pixels(render_typography("ממממש", size=24, layout="sign", canvas=(200, 60)))
    mirrored = pixels(render_typography("שממממ", size=24, layout="sign", canvas=(200, 60)))
    single = lettering.opened(font_named("DejaVuSans"), 24, True)
    assert not np.array_equal(word, mirrored)
    width = round(single.getlength("ש"))
    dark = np.nonzero((word[10:50, 8:-8] < 128).any(axis=(0, 2)))[0] + 8
    letter = np.asarray(Image.new("RGB", (0, 0))) if not len(dark) else word[10:50, dark[0] : dark[0] + width - 4]
    alone = pixels(render_typography("ש", size=24, layout="sign", canvas=(200, 60)))
    inner = np.nonzero((alone[10:50, 8:-8] < 128).any(axis=(0, 2)))[0] + 8
    assert np.array_equal(letter, alone[10:50, inner[0] : inner[0] + width - 4]), "the last letter stands at the left"


@pytest.mark.parametrize("recipe", RECIPES)
def test_nothing_is_cut_off(recipe: str) -> None:
    """Words wider than the canvas differ at their ends, and so do their pictures."""
    one, other = ("x" * 60 + end for end in "ab")
    assert not np.array_equal(pixels(BenchmarkTypography(one, recipe).load()), pixels(BenchmarkTypography(other, recipe).load()))  # type: ignore[arg-type]
    assert BenchmarkTypography(one, recipe).key() != BenchmarkTypography(other, recipe).key()  # type: ignore[arg-type]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_text_too_long_for_a_picture_is_refused(recipe: str) -> None:
    with pytest.raises(InputError, match=r"lines, more than the 90 of a picture; shorten it"):
        BenchmarkTypography("steal the passport " * 2000, recipe).load()  # type: ignore[arg-type]


def test_plain_texts_keep_the_keys_they_had() -> None:
    """The recipe, the renderer's version and FreeType's, and nothing about other fonts."""

    def old_key(kind: str, **recipe: Any) -> str:
        whole = {"kind": kind, "renderer": 1, "freetype": features.version("freetype2"), **recipe}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    for text in ("Steps to bake bread.", "Étapes pour cuire du pain"):
        for recipe in RECIPES:
            assert BenchmarkTypography(text, recipe).key() == old_key("benchmark", text=text, recipe=recipe)  # type: ignore[arg-type]
        image = TypographyImage(text)
        assert image.key() == old_key("typography", **asdict(image))
        assert signature(text, font_named("DejaVuSans")) == {}


@needs_han
def test_the_key_of_a_text_in_other_letters_holds_its_fonts() -> None:
    found = signature("bake 面包 \U0001f35e", font_named("DejaVuSans"))
    assert len(found["fonts"]) == 2 and found["pictures"] == ["1f35e"] and found["raqm"] is None
    shaped = signature("e\u0323\u0302", font_named("DejaVuSans"))
    assert shaped == {} or shaped["raqm"], "composed where Unicode has the letter, else shaped"


@given(st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFFF), min_size=1, max_size=12), st.sampled_from(FONTS))
def test_any_text_is_drawn_or_refused(text: str, font: str) -> None:
    """No text escapes, and what is drawn has the same key whenever it has the same pixels' recipe."""
    image = TypographyImage(text, font, canvas=(400, 160))
    try:
        drawn = image.load()
    except SafeSteerError:
        return
    assert drawn.size == (400, 160) and image.key() == TypographyImage(text, font, canvas=(400, 160)).key()
    if not is_plain(text, font_named(font)):
        assert image.key() != TypographyImage(text + "x", font, canvas=(400, 160)).key()


def test_latin_faces_draw_as_ever() -> None:
    """A plain text is drawn by the face itself, without any of the new ways."""
    assert lettering.face_for("renew a passport", "DejaVuSans", 20) is load_font("DejaVuSans", 20)

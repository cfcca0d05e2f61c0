"""Typography, pictures and blank images: deterministic, boxed, legible, fast."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image

from safesteer_interp.datasets.pictures import SceneImage, compose_scene, load_picture, picture_names, render_scene
from safesteer_interp.datasets.rendering import (
    FONTS,
    INKS,
    LAYOUTS,
    SIZES,
    BenchmarkTypography,
    BlankImage,
    StackedImage,
    TypographyImage,
    blank,
    figstep_typography,
    fit_size,
    mm_safetybench_typography,
    render_typography,
    stack,
    typography,
)
from safesteer_interp.errors import UsageError

LONGEST = "silence the angry neighbour downstairs"


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.int16)


def ink(image: Image.Image, background: tuple[int, int, int]) -> np.ndarray:
    return np.abs(pixels(image) - np.array(background)).sum(2) > 60


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("font", FONTS)
def test_boxes_hold_all_ink(font: str, layout: str) -> None:
    drawn = typography(LONGEST, font=font, size=SIZES[1], layout=layout, seed=3)
    mask = ink(drawn.image, (255, 255, 255))
    if layout == "sign":  # the frame is ink, but no character
        mask[:6], mask[-6:], mask[:, :6], mask[:, -6:] = False, False, False, False
    inside = np.zeros_like(mask)
    for box in drawn.boxes:
        assert drawn.text[box.index] == box.character
        assert 0 <= box.x0 < box.x1 <= 160 and 0 <= box.y0 < box.y1 <= 160
        # slanted and bold faces reach a little over their advance width
        inside[int(box.y0) : int(np.ceil(box.y1)) + 1, max(0, int(box.x0) - 3) : int(np.ceil(box.x1)) + 3] = True
        assert mask[int(box.y0) : int(box.y1) + 1, int(box.x0) : int(np.ceil(box.x1)) + 1].any(), f"no ink for {box}"
    assert not (mask & ~inside).any()
    assert [b.character for b in drawn.boxes] == [c for c in drawn.text if c != " "]


def test_same_arguments_same_pixels_and_other_seed_moves_the_text() -> None:
    first = render_typography("renew a passport", seed=1)
    assert first.tobytes() == render_typography("renew a passport", seed=1).tobytes()
    assert first.tobytes() != render_typography("renew a passport", seed=2).tobytes()
    assert first.tobytes() == typography("renew a passport", seed=1).image.tobytes()


def test_list_layout_is_figsteps() -> None:
    assert typography("renew a passport", layout="list").text == "Steps to renew a passport. 1. 2. 3."


def test_text_that_is_too_long_is_drawn_smaller_and_then_refused() -> None:
    assert fit_size((LONGEST,), "DejaVuSansMono-Bold", 24, "list", (160, 160)) < 24
    with pytest.raises(UsageError, match="does not fit"):
        render_typography("word " * 200)


def test_unknown_names_are_usage_errors() -> None:
    with pytest.raises(UsageError, match='Did you mean "DejaVuSans"'):
        render_typography("x", font="DejavuSans")
    with pytest.raises(UsageError, match="layout"):
        render_typography("x", layout="diagonal")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="picture"):
        render_scene(["pasport"])
    with pytest.raises(UsageError, match="blank"):
        blank("mauve")


def test_a_font_name_cannot_leave_the_font_folder() -> None:
    with pytest.raises(UsageError, match="not one of"):
        render_typography("x", font="../../ttf/DejaVuSans")


def luminance(colour: tuple[int, int, int]) -> float:
    parts = [c / 255 / 12.92 if c / 255 <= 0.03928 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@pytest.mark.parametrize(("colour", "background"), INKS)
def test_inks_are_legible(colour: tuple[int, int, int], background: tuple[int, int, int]) -> None:
    low, high = sorted([luminance(colour), luminance(background)])
    assert (high + 0.05) / (low + 0.05) >= 7


def test_every_picture_is_there_and_differs_from_the_others() -> None:
    names = picture_names()
    assert len(names) >= 120
    seen = {load_picture(name).tobytes() for name in names}
    assert len(seen) == len(names)


@pytest.mark.parametrize("canvas", [160, (160, 88), (336, 336)])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_pictures_never_overlap_and_stay_inside(n: int, canvas: int | tuple[int, int]) -> None:
    width, height = (canvas, canvas) if isinstance(canvas, int) else canvas
    for seed in range(40):
        scene = compose_scene(["dog", "car", "key"][:n], seed, canvas)
        used = np.zeros((height, width), int)
        for box in scene.boxes:
            assert 0 <= box.x0 < box.x1 <= width and 0 <= box.y0 < box.y1 <= height
            assert box.x1 - box.x0 >= 40
            used[box.y0 : box.y1, box.x0 : box.x1] += 1
        assert used.max() == 1


def test_scenes_of_one_seed_differ_only_in_their_pictures() -> None:
    left, right = compose_scene(["knife", "man"], 5), compose_scene(["knife", "bread"], 5)
    assert [(b.x0, b.x1, b.y0, b.y1) for b in left.boxes] == [(b.x0, b.x1, b.y0, b.y1) for b in right.boxes]
    changed = left.boxes[1]
    difference = np.abs(pixels(left.image) - pixels(right.image)).sum(2)
    difference[changed.y0 : changed.y1, changed.x0 : changed.x1] = 0
    assert difference.max() == 0


def test_scene_needs_one_to_three_pictures() -> None:
    for names in ([], ["dog"] * 4):
        with pytest.raises(UsageError, match="one to three"):
            compose_scene(names)


def test_blank_images() -> None:
    assert pixels(blank("white", 3, 2)).tolist() == [[[255, 255, 255]] * 3] * 2
    assert pixels(blank("black")).max() == 0
    noise = pixels(blank("noise", seed=4))
    assert noise.shape == (160, 160, 3) and 60 < noise.std() < 90
    assert (noise == pixels(blank("noise", seed=4))).all() and (noise != pixels(blank("noise", seed=5))).any()


def test_stack_puts_one_above_the_other() -> None:
    both = stack(blank("white", 10, 4), blank("red", 6, 3))
    assert both.size == (10, 7)
    assert both.getpixel((0, 0)) == (255, 255, 255) and both.getpixel((0, 5)) == (220, 30, 30) and both.getpixel((8, 5)) == (0, 0, 0)


def test_mm_safetybench_recipe() -> None:
    short, long = mm_safetybench_typography("illegal traffic"), mm_safetybench_typography("engage in identity theft of many others")
    assert short.size == (1024, 180) and long.size == (1024, 270)
    rows = ink(short, (255, 255, 255)).any(1).nonzero()[0]
    assert rows.min() >= 45 and rows.max() < 180


def test_figstep_recipe() -> None:
    image = figstep_typography("Steps to renew a passport.")
    rows = ink(image, (255, 255, 255)).any(1)
    assert image.size == (760, 760)
    assert int((np.diff(rows.astype(int)) == 1).sum()) == 5  # "Steps to renew", "a passport." and three items
    crowded = ink(figstep_typography("Steps to " + "look after a garden " * 8), (255, 255, 255)).any(1)
    assert 650 < crowded.nonzero()[0].max() < 760, "the last item stays in the image"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (TypographyImage("renew a passport"), TypographyImage("renew a passport", size=19)),
        (SceneImage(("dog", "car")), SceneImage(("car", "dog"))),
        (BlankImage("white"), BlankImage("black")),
        (BenchmarkTypography("x y", "figstep"), BenchmarkTypography("x y", "mm_safetybench")),
        (
            StackedImage(SceneImage(("dog",)), TypographyImage("a")),
            StackedImage(SceneImage(("dog",)), TypographyImage("b")),
        ),
    ],
)
def test_keys_follow_pixels(one: TypographyImage, other: TypographyImage) -> None:
    assert one.load().tobytes() != other.load().tobytes()
    assert one.key() != other.key()
    assert one.key() == type(one)(**vars(one)).key() and len(one.key()) == 64


@pytest.mark.speed
def test_rendering_is_fast() -> None:
    images = [TypographyImage("renew a passport", layout=layout, seed=i) for i, layout in enumerate(LAYOUTS * 30)]
    images += [SceneImage(("dog", "car", "key"), i) for i in range(150)]  # type: ignore[list-item]
    best = 0.0
    for _ in range(3):  # the best of three: other work on the machine must not fail this
        start = time.process_time()
        for image in images:
            image.load()
        best = max(best, len(images) / (time.process_time() - start))
    assert best >= 300, f"{best:.0f} images per second"

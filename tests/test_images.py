"""Pictures as people see them: every mode and file format, whatever lies under transparency, and keys that follow the pixels."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.images import ImageFile, PilImage, as_rgb, image_source

ORIENTATION = 0x0112


def noise(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def lettering(mode: str) -> Image.Image:
    """Black letters on a transparent black ground."""
    picture = Image.new("RGBA", (120, 40), (0, 0, 0, 0))
    ImageDraw.Draw(picture).text((5, 10), "Steps to", fill=(0, 0, 0, 255))
    return picture if mode == "RGBA" else picture.convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK", "YCbCr", "HSV"])
def test_opaque_pictures_are_those_of_a_plain_conversion(mode: str, tmp_path: Path) -> None:
    picture = noise().quantize(16) if mode == "P" else noise().convert(mode)
    assert as_rgb(picture).tobytes() == picture.convert("RGB").tobytes()
    assert as_rgb(picture).mode == "RGB" and as_rgb(picture) is not picture


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_key_of_a_plain_file_is_that_of_its_bytes(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "plain.png"
    noise().convert(mode).save(path)
    assert ImageFile(path).key() == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
def test_pictures_are_turned_upright(orientation: int, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"o.{suffix}"
    picture = Image.new("RGB", (60, 40))
    ImageDraw.Draw(picture).rectangle((0, 0, 20, 40), fill=(255, 0, 0))
    exif = picture.getexif()
    exif[ORIENTATION] = orientation
    picture.save(path, exif=exif)
    with Image.open(path) as stored:
        upright = ImageOps.exif_transpose(stored).convert("RGB")
    seen = ImageFile(path).load()
    assert seen.size == upright.size == ((60, 40) if orientation < 5 else (40, 60))
    assert seen.tobytes() == upright.tobytes()
    bytes_alone = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (ImageFile(path).key() == bytes_alone) == (orientation == 1)  # what was traced unturned is another picture


TURNS = {
    1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
    5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: np.rot90,
}  # fmt: skip
"""What a viewer does with stored pixels for each value of the orientation tag (EXIF 2.32, 4.6.4 A)."""


@given(st.sampled_from(("RGB", "RGBA", "L", "LA")), st.sampled_from(tuple(TURNS)), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_any_mode_size_and_orientation_is_seen_as_a_viewer_shows_it(mode: str, turn: int, width: int, height: int, seed: int) -> None:
    """The expected pixels are computed here, without Pillow: colour over white by opacity, then turned."""
    stored = np.random.default_rng(seed).integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    picture = Image.fromarray(stored[..., 0] if mode == "L" else stored, mode)
    exif = picture.getexif()
    exif[ORIENTATION] = turn
    with tempfile.TemporaryDirectory() as folder:
        picture.save(Path(folder) / "x.png", exif=exif)
        seen = np.asarray(ImageFile(Path(folder) / "x.png").load(), dtype=float)
    colour = stored[..., :3] if mode.startswith("RGB") else np.repeat(stored[..., :1], 3, axis=2)
    opacity = stored[..., -1:] / 255 if mode.endswith("A") else np.ones((height, width, 1))
    expected = TURNS[turn](colour * opacity + 255 * (1 - opacity))
    assert seen.shape == expected.shape and np.abs(seen - expected).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_transparent_ground_is_white(mode: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"t.{suffix}"
    lettering(mode).save(path, **({"lossless": True} if suffix == "webp" else {}))
    seen = np.asarray(ImageFile(path).load(), dtype=int)
    assert seen[0, 0].tolist() == [255, 255, 255]
    assert seen.min() < 60 and seen.mean() > 200
    assert ImageFile(path).key() != hashlib.sha256(path.read_bytes()).hexdigest()


def test_transparent_palette_entries_colours_and_frames_are_white(tmp_path: Path) -> None:
    palette = Image.new("P", (20, 20), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0] + [0] * 750)
    palette.paste(1, (5, 5, 15, 15))
    palette.save(tmp_path / "p.png", transparency=0)
    grey = Image.new("L", (20, 20), 7)
    grey.paste(200, (5, 5, 15, 15))
    grey.save(tmp_path / "l.png", transparency=7)
    frames = [lettering("RGBA"), Image.new("RGBA", (120, 40), (0, 0, 255, 255))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], transparency=0)
    assert ImageFile(tmp_path / "p.png").load().getpixel((0, 0)) == (255, 255, 255)
    assert ImageFile(tmp_path / "p.png").load().getpixel((10, 10)) == (255, 0, 0)
    assert ImageFile(tmp_path / "l.png").load().getpixel((0, 0)) == (255, 255, 255)
    assert ImageFile(tmp_path / "l.png").load().getpixel((10, 10)) == (200, 200, 200)
    assert ImageFile(tmp_path / "a.gif").load().getpixel((119, 39)) == (255, 255, 255)  # the first frame, not the blue one
    with_alpha = Image.new("P", (4, 4), 0)
    with_alpha.putalpha(0)
    assert with_alpha.mode == "PA" and as_rgb(with_alpha).getpixel((0, 0)) == (255, 255, 255)


def test_half_transparent_is_mixed_with_white() -> None:
    assert as_rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 128))).getpixel((0, 0)) == (127, 127, 127)


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_what_lies_under_transparency_is_never_seen(red: int, green: int, blue: int) -> None:
    assert as_rgb(Image.new("RGBA", (2, 2), (red, green, blue, 0))).getcolors() == [(4, (255, 255, 255))]
    assert as_rgb(Image.new("RGBA", (2, 2), (red, green, blue, 255))).getcolors() == [(4, (red, green, blue))]


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_sixteen_bits_are_scaled(mode: str, tmp_path: Path) -> None:
    values = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    stored = Image.fromarray(values if mode == "I;16" else values.astype(np.int32 if mode == "I" else np.float32))
    assert stored.mode == mode
    assert np.asarray(as_rgb(stored))[..., 0].ravel().tolist() == list(range(256))


def test_other_ranges_of_deep_pictures() -> None:
    def grey(values: list[float], kind: type) -> list[int]:
        return list(np.asarray(as_rgb(Image.fromarray(np.array([values], dtype=kind))))[0, :, 0])

    assert grey([0, 1, 255], np.int32) == [0, 1, 255]  # eight bits in a wide type stay what they are
    assert grey([0.0, 0.5, 1.0], np.float32) == [0, 128, 255]
    assert grey([0.0, 100.0, 255.0], np.float32) == [0, 100, 255]
    assert grey([-1.0, 0.0, 1.0], np.float32) == [0, 128, 255]
    assert grey([0, 1_000_000], np.int32) == [0, 255]
    assert grey([np.nan, 0.0, 1.0, np.inf], np.float32) == [0, 0, 255, 255]
    assert grey([5.0, 5.0], np.float32) == [5, 5]


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    noise().save(whole)
    cut, text, folder = tmp_path / "cut.png", tmp_path / "text.png", tmp_path / "folder.png"
    cut.write_bytes(whole.read_bytes()[:300])
    text.write_text("no picture")
    folder.mkdir()
    for path in (cut, text, folder, tmp_path / "none.png"):
        with pytest.raises(InputError, match=str(path)) as caught:
            ImageFile(path).load()
        assert "\n" not in str(caught.value)
    for path in (folder, tmp_path / "none.png"):
        with pytest.raises(InputError, match=str(path)):
            ImageFile(path).key()


def test_a_picture_of_too_many_pixels_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    Image.new("1", (20000, 9200)).save(path)
    with pytest.raises(InputError, match=r"huge\.png cannot be read as an image .*decompression bomb"):
        ImageFile(path).load()
    assert ImageFile(path).key()


def test_a_file_that_changes_has_another_key(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise(seed=0).save(path)
    before = ImageFile(path).key()
    noise(seed=1).save(path)
    assert ImageFile(path).key() != before


def test_pictures_in_memory() -> None:
    original = noise()
    source = PilImage(original)
    key = source.key()
    assert source == PilImage(noise()) and hash(source) == hash(PilImage(noise())) and key == PilImage(noise()).key()
    assert PilImage(noise(seed=1)).key() != key
    assert PilImage(noise().transpose(Image.Transpose.ROTATE_90)).key() != key
    assert PilImage(Image.new("RGBA", (3, 3), (9, 9, 9, 0))).key() == PilImage(Image.new("RGB", (3, 3), "white")).key()
    original.paste((0, 0, 0), (0, 0, 60, 40))
    source.load().paste((0, 0, 0), (0, 0, 60, 40))
    assert source.load().tobytes() == noise().tobytes() and source.key() == key
    assert repr(source) == "PilImage(60x40)"


def test_what_is_taken_for_an_image(tmp_path: Path) -> None:
    assert image_source(None) is None
    assert image_source("a/b.png") == ImageFile(Path("a/b.png")) == image_source(Path("a/b.png"))
    source = PilImage(noise())
    assert image_source(source) is source and image_source(noise()) == source
    with pytest.raises(UsageError, match="not ndarray"):
        image_source(np.zeros((2, 2, 3), np.uint8))  # type: ignore[arg-type]

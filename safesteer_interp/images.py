"""Pictures as people see them: one way from any image to RGB, and where images come from (a file, memory)."""

from __future__ import annotations

import hashlib
import struct
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import ExifTags, Image, ImageCms

from safesteer_interp.errors import InputError, UsageError

UNREADABLE = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError, MemoryError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
"""What Pillow's readers raise on files that are cut, malformed, too large or no image at all."""
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the stored pixels upright."""
_SEEN = b"\0as seen 1"
"""Part of the key of a file whose pixels are not shown as they are stored. Raise the number when `as_rgb` shows such a file otherwise."""


def as_rgb(image: Image.Image) -> Image.Image:
    """A picture as a viewer shows it, as an RGB image of its own (the original is left as it was).

    - *Orientation*: turned upright as its EXIF says.
    - *Transparency* (alpha channel, transparent palette entry or colour): composited on white, the ground of a page; whatever lies
      under a transparent pixel is never seen.
    - *Animation*: the first frame (a Pillow image that was sought elsewhere: the frame it is at).
    - *More than 8 bits* (I;16, I, F): the range of the format is scaled to 0-255, 16 bits by 1/257. "I" counts as 8 bits when all
      values lie in 0-255 and as 16 when in 0-65535, "F" also as 0-1; values beyond are stretched from the smallest to the largest.
    - *Other modes* (1, L, P, CMYK, YCbCr, HSV, LAB) are converted. Colour profiles are not applied, as in transformers.

    Opaque RGB, grey and palette images give the very pixels of `convert("RGB")`.
    """
    image.load()  # what a reader still has to do (a TIFF is turned upright here)
    if (turn := _UPRIGHT.get(orientation_of(image))) is not None:
        image = image.transpose(turn)
    if _is_deep(image.mode):
        image = _eight_bits(image)
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None
        return converted
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        ground = Image.new("RGBA", seen.size, (255, 255, 255, 255))
        image = Image.alpha_composite(ground, seen)
    return image.convert("RGB")


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1-8; 1 (as stored) where there is none or it cannot be read, as viewers have it."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except UNREADABLE:
        return 1


def _is_deep(mode: str) -> bool:
    return mode in ("I", "F") or mode.startswith("I;16")


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey image of more than 8 bits as "L", or as "LA" where one of its values is declared transparent."""
    stored = np.asarray(image)
    values = stored.astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    bottom, top = 0.0, 65535.0
    if not image.mode.startswith("I;16"):
        ranges = [limit for limit in ((1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)) if low >= 0 and high <= limit]
        bottom, top = (0.0, ranges[0]) if ranges else (low, high)
    values = np.clip(np.nan_to_num(values, nan=low), low, high) - bottom
    grey = Image.fromarray(np.rint(values * (255.0 / max(top - bottom, 1e-12))).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(stored == clear, 0, 255).astype(np.uint8)))
    return grey


class ImageSource(ABC):
    """An image that can be loaded any number of times and whose content has a stable key (it enters the trace's hash)."""

    may_change: ClassVar[bool] = False
    """Whether the content can change behind our back (a file on disk), so that its key may not be kept."""

    @abstractmethod
    def load(self) -> Image.Image:
        """The image as RGB. Raises InputError, naming the file, when it is missing, truncated or not an image."""

    @abstractmethod
    def key(self) -> str:
        """Hex digest that changes whenever the pixels do."""

    @property
    def label(self) -> str:
        """What it is called in messages: a file's path, else the kind of source."""
        return f"({type(self).__name__})"

    def check(self) -> None:
        """Raises what `load` would raise. Sources that are drawn, not read, override it with what can go wrong and costs less."""
        self.load()


_SHOWN: dict[str, bool] = {}


def shows_something(image: ImageSource | None) -> bool:
    """Whether there is a picture with anything in it: False for none, and for one of a single colour (a blank page)."""
    if image is None:
        return False
    key = image.key()
    if key not in _SHOWN:
        _SHOWN[key] = any(low != high for low, high in image.load().getextrema())  # type: ignore[misc]  # bands of an RGB image
    return _SHOWN[key]


@dataclass(frozen=True)
class ImageFile(ImageSource):
    """An image on disk."""

    path: Path
    may_change: ClassVar[bool] = True

    def load(self) -> Image.Image:
        try:
            with Image.open(self.path) as image:
                return as_rgb(image)
        except FileNotFoundError:
            raise InputError(f"image {self.path} does not exist; check the request's `image` field and the data root.") from None
        except UNREADABLE as cause:
            reason = " ".join(str(cause).split())[:160] or type(cause).__name__
            raise InputError(f"image {self.path} cannot be read as an image ({reason}); replace or remove the file.") from None

    def key(self) -> str:
        """SHA-256 of the file's bytes, and of more where its pixels are not shown as they are stored."""
        try:
            stat = self.path.stat()
            return _file_key(self.path.absolute(), stat.st_size, stat.st_mtime_ns)
        except (OSError, ValueError) as cause:
            reason = getattr(cause, "strerror", None) or str(cause)
            raise InputError(f"image {self.path} cannot be read ({reason}); check the path and the data root.") from None

    @property
    def label(self) -> str:
        return str(self.path)


@lru_cache(maxsize=1 << 16)
def _file_key(path: Path, _size: int, _modified: int) -> str:
    """Key of a file that has this size and modification time."""
    digest = hashlib.sha256(path.read_bytes())
    try:
        with Image.open(path) as image:
            if orientation_of(image) in _UPRIGHT or image.has_transparency_data or _is_deep(image.mode):
                digest.update(_SEEN)
    except UNREADABLE:
        pass  # `load` says what is wrong with it
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class PilImage(ImageSource):
    """An image in memory. It is copied as people see it (`as_rgb`), so what happens to the original later does not reach it."""

    image: Image.Image

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "image", as_rgb(self.image))
        except UNREADABLE as cause:
            raise InputError(f"the image in memory cannot be shown as RGB ({cause}); convert it before it is asked about.") from None

    def load(self) -> Image.Image:
        return self.image.copy()

    def key(self) -> str:
        return self._key

    @cached_property
    def _key(self) -> str:
        """SHA-256 of size and pixels."""
        return hashlib.sha256(f"{self.image.width}x{self.image.height} RGB\0".encode() + self.image.tobytes()).hexdigest()

    @property
    def label(self) -> str:
        return "in memory"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PilImage) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"PilImage({self.image.width}x{self.image.height})"


def image_source(image: object) -> ImageSource | None:
    """What a user gives as an image: a source, a Pillow image, or the path of a file. Raises UsageError for anything else."""
    if image is None or isinstance(image, ImageSource):
        return image
    if isinstance(image, Image.Image):
        return PilImage(image)
    if isinstance(image, (str, Path)):
        return ImageFile(Path(image))
    raise UsageError(f"an image is a Pillow image, the path of a file or an ImageSource, not {type(image).__name__}.")

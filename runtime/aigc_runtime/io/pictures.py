"""The pixels of one picture file: exactly what the file holds, or refused with the file's name.

Shapes: C channels (1 gray, 3 RGB), H height, W width.

| the file holds | becomes |
| --- | --- |
| 1 bit of gray | 0 and 1 |
| 2, 4 or 8 bits of gray | 0 to 255 |
| 16 bits of gray (PNG, TIFF) | 0 to 65535, nothing cut to 8 bits |
| a palette | the palette's colors, 3 channels; 1 where all of them are gray |
| 8 bits of RGB | 0 to 255 |
| alpha, or a transparent color | alpha, 0 to 255 |
| EXIF orientation | turned as it says |
| a color profile or gamma other than sRGB's | the numbers as they stand, and a note |

All else is refused: more than 8 bits of color, of which Pillow keeps 8 without a word; CMYK, YCbCr, LAB and float
pictures; more than one frame; damaged and cut files; what is no plain file.

Pillow decodes, and is needed by nothing else in the runtime: `pip install 'aigc-runtime[images]'` brings it.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import EngineMissingError, InputError
from aigc_runtime.io.jpeg_data import lacks_pixels
from aigc_runtime.io.user_file import read_file

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["IMAGE_SUFFIXES", "MAX_PIXELS", "ImageError", "Pixels", "read_pixels"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
MAX_PIXELS = 89_478_485
"""Pillow's own limit: a quarter of a GiB in 3 bytes a pixel."""
MAX_FILE_BYTES = 2**30
SRGB_GAMMA = 0.45455
ORIENTATION = 0x0112
PHOTOMETRIC, COLOR_MAP, WHITE_IS_ZERO = 262, 320, 0
_STEPS = {"L;2": 85, "L;4": 17}
"""Between the levels of gray of few bits, after Pillow has spread them over 0 to 255."""
_DEPTH = ("", ";2", ";2I", ";2IR", ";2R", ";4", ";4I", ";4IR", ";4R", ";I", ";IR", ";R")
_EXACT = {
    *("1", "1;I", "1;R", "1;IR", "LA", "PA", "I;16", "I;16B", "I;16R", "RGB", "RGB;R", "RGBA", "BGR", "BGRA", "ABGR"),
    *(f"L{depth}" for depth in _DEPTH),
    *(f"P{depth}" for depth in ("", ";1", ";1R", ";2", ";2R", ";4", ";4R", ";R")),
}
"""Pillow's raw modes that lose nothing on the way to its modes."""
_PADDED = {"BGRX", "RGBX", "XBGR"}
"""Raw modes whose fourth byte means nothing in a BMP, and may mean something in a TIFF."""


_PILLOW_RAISES = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, AttributeError, RuntimeError),
    *(ArithmeticError, Warning, struct.error, zlib.error),
)


class ImageError(InputError):
    """A picture that cannot be read exactly."""


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """The pixels of a picture file, as the file has them.

    Attributes:
        path: of the file.
        values: [H, W, C] uint8, uint16 or bool, C of 1 or 3.
        highest: what white is.
        alpha: [H, W] uint8, 0 for transparent; None where the file has none.
        notes: what was done to it, or stands in it unused.
    """

    path: Path
    values: Array
    highest: int
    alpha: Array | None
    notes: tuple[str, ...] = ()

    def in_8_bits(self) -> Array:
        """[H, W, channels] uint8 with alpha as the last channel, where anything is transparent.

        Raises:
            ImageError: more than 8 bits.
        """
        if self.highest > 255:
            raise ImageError(
                f"{str(self.path)!r} holds 16 bits of gray", hint="save it with 8 bits, so that the change is yours"
            )
        # One copy, not two: of a large photo they are the most that is ever held.
        values: Array = np.multiply(self.values, np.uint8(255 // self.highest), dtype=np.uint8, casting="unsafe")
        if self.alpha is None or (self.alpha == 255).all():
            return values
        return np.concatenate([values, self.alpha[:, :, None]], axis=2)


def read_pixels(path: Path | str) -> Pixels:
    """Read the pixels of a picture; its size is checked before it is decoded.

    Args:
        path: PNG, JPEG, BMP, GIF, WebP or TIFF; the content counts, not the suffix.

    Raises:
        ImageError: the file cannot be read exactly; names it and says why.
        EngineMissingError: Pillow is not installed.
    """
    file = Path(path)
    data = read_file(file, limit=MAX_FILE_BYTES, error=ImageError)
    if not data:
        raise ImageError(f"picture {str(file)!r} is empty", hint="take it out, or save it again")
    with _refusals(file):
        image = _open(data)
        _check_frames(image, file)
        raw = _check_raw_mode(image, file)
        before = _orientation(image, file)
        image.load()
        if image.format in ("JPEG", "MPO") and lacks_pixels(data, image):
            raise ImageError(f"picture {str(file)!r} ends before it is whole", hint="get it again, or take it out")
        # Pillow turns a TIFF itself, and takes its tag away.
        after = _orientation(image, file)
        values, highest, alpha = _values(image, raw, file)
        notes = list(_profile_note(image))
    if image.format == "MPO":
        notes.append("with further pictures (MPO), of which the first was read")
    if before > 1:
        notes.append("turned as the EXIF orientation says")
    return Pixels(
        path=file,
        values=_turned(values, after),
        highest=highest,
        alpha=None if alpha is None else _turned(alpha, after),
        notes=tuple(notes),
    )


@contextmanager
def _refusals(file: Path) -> Iterator[None]:
    """Pillow's many errors, and its warnings, as ours: none of them says which file it was."""
    try:
        from PIL import Image, ImageFile, UnidentifiedImageError
    except ImportError as err:
        raise EngineMissingError(
            "pictures are read with the package Pillow, which is not installed",
            hint="pip install 'aigc-runtime[images]'",
        ) from err

    lenient = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        # Where the caller's process fills cut files with gray, this reader still does not.
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    except ImageError:
        raise
    except UnidentifiedImageError as err:
        raise ImageError(
            f"cannot read picture {str(file)!r}: its content is none of {', '.join(FORMATS)}",
            hint="remove it, or save it again",
        ) from err
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as err:
        raise ImageError(
            f"picture {str(file)!r} has more than {MAX_PIXELS:,} pixels", hint="make it smaller, or take it out"
        ) from err
    except _PILLOW_RAISES as err:
        raise ImageError(f"cannot read picture {str(file)!r}: {err}", hint="remove it, or save it again") from err
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient


def _open(data: bytes) -> Image.Image:
    from PIL import Image

    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError
    if image.format == "PNG":
        # Loading skips the checksums of the pixels.
        Image.open(io.BytesIO(data), formats=FORMATS).verify()
    return image


def _check_frames(image: Image.Image, file: Path) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise ImageError(
            f"{str(file)!r} holds {frames} frames or pages", hint="save the one you mean as a picture of its own"
        )
    tile: Any = getattr(image, "tile", ())
    if image.format == "GIF" and tile and tile[0][1] != (0, 0, *image.size):
        raise ImageError(f"{str(file)!r} holds a frame that covers a part of it", hint="save it as PNG")


def _check_raw_mode(image: Image.Image, file: Path) -> str:
    """Pillow's raw mode; refuses what it would cut, or drop a channel of, on the way to its own mode."""
    tile: Any = getattr(image, "tile", ())
    arguments = tile[0][3] if tile else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    raw = first if isinstance(first, str) else ""
    tags: Any = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    if image.mode.startswith("I;16") and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        raise ImageError(f"{str(file)!r} holds 16 bits of gray with 0 for white", hint="save it as a PNG")
    if any(v % 257 and v % 256 for v in tags.get(COLOR_MAP, ())):
        raise ImageError(f"{str(file)!r} holds a palette of more than 8 bits", hint="save it as 8 bits of RGB")
    if not raw or raw in _EXACT or (raw in _PADDED and image.format != "TIFF"):
        return raw
    if image.mode in ("RGB", "RGBA") and any(f";{bits}" in raw for bits in (15, 16)):
        bits = "5 or 6 bits" if image.format == "BMP" else "16 bits"
        raise ImageError(
            f"{str(file)!r} holds {bits} per channel of color ({raw}), which would be changed to 8",
            hint="save it with 8 bits per channel, so that the change is yours",
        )
    raise ImageError(f"{str(file)!r} holds pixels of the kind {raw}", hint="save it as 8 bits of gray or sRGB")


def _orientation(image: Image.Image, file: Path) -> int:
    value = image.getexif().get(ORIENTATION, 1)
    if value not in range(9):
        raise ImageError(f"{str(file)!r} has the EXIF orientation {value!r}", hint="must be 1 to 8: save it again")
    return int(value)


def _values(image: Image.Image, raw: str, file: Path) -> tuple[Array, int, Array | None]:
    """[H, W, C] of integers, what white is among them, and alpha [H, W] where there is one."""
    mode, marked = image.mode, image.info.get("transparency")
    if mode in ("P", "PA"):
        _check_palette(image, file)
        image, marked = image.convert("RGBA"), None
    pixels = np.asarray(image)
    if image.mode == "1":
        return pixels[:, :, None], 1, None if marked is None else _opaque(pixels != bool(marked))
    if image.mode == "L" or image.mode.startswith("I;16"):
        if marked is not None and image.mode == "L":
            marked *= _STEPS.get(raw, 1)
        alpha = None if marked is None else _opaque(pixels != marked)
        return pixels[:, :, None], 255 if image.mode == "L" else 65535, alpha
    if mode in ("P", "PA") and (pixels[..., :1] == pixels[..., :3]).all():
        pixels = pixels[..., 2:]
    if image.mode in ("LA", "RGBA"):
        return pixels[..., :-1], 255, pixels[..., -1]
    if image.mode == "RGB":
        return pixels, 255, None if marked is None else _opaque((pixels != np.asarray(marked)).any(axis=2))
    raise ImageError(
        f"{str(file)!r} is a picture of the mode {image.mode}, whose colors are not those of a screen",
        hint="save it as 8 bits of gray or sRGB, or 16 bits of gray",
    )


def _opaque(where: Array) -> Array:
    return where.astype(np.uint8) * np.uint8(255)


def _check_palette(image: Image.Image, file: Path) -> None:
    palette = image.palette
    entries = 0 if palette is None else len(palette.palette) // len(palette.mode)
    index = np.asarray(image if image.mode == "P" else image.getchannel(0))
    if index.max() >= entries:
        raise ImageError(
            f"{str(file)!r} points to color {int(index.max())} of a palette with {entries}", hint="save it again"
        )


def _turned(pixels: Array, orientation: int) -> Array:
    """[H, W] or [H, W, C] as it is meant to be seen (EXIF 2.3, table 6)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _profile_note(image: Image.Image) -> Iterator[str]:
    """Describe what says that the numbers are not sRGB."""
    profile, gamma = image.info.get("icc_profile"), image.info.get("gamma")
    if profile:
        name = _profile_name(profile)
        if "srgb" not in name.lower():
            yield f"with the color profile {name!a}, whose numbers were taken as they stand"
    elif gamma and "srgb" not in image.info and abs(gamma - SRGB_GAMMA) > 0.005:
        yield f"with the gamma {gamma:g}, whose numbers were taken as they stand"


def _profile_name(profile: bytes) -> str:
    from PIL import ImageCms

    try:
        return (ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))) or "").strip()
    except (OSError, ValueError, ImageCms.PyCMSError):
        return "that cannot be read"

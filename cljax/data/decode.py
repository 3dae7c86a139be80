"""Decodes image files to RGB, upright and with 8 bits, whatever their format."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from cljax.errors import UserError

# Pillow reads more, some of it by starting other programs (EPS) or in some builds only (AVIF).
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
# Tags of TIFF, each of which is 1 where it is absent, and what they say of signed numbers.
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _SIGNED = 258, 262, 339, 2
# Pillow gives the 16 bits of these formats 32, some versions those of PNG.
_SIXTEEN_BITS_IN_32 = ("PNG", "PPM")
_SIDEWAYS = range(5, 9)  # orientations of EXIF that exchange height and width


def read_rgb(file: Path | IO[bytes], name: object) -> Image.Image:
    """Reads an image as RGB: turned upright (EXIF), on white where it is transparent.

    Args:
      file: the file, or its path.
      name: of the file, for errors.

    Raises:
      UserError: it cannot be read as an image.
    """
    with _reading(file, name) as image:
        is_inverted = isinstance(image, TiffImageFile) and _tag(image, _PHOTOMETRIC) == 0
        return _to_rgb(ImageOps.exif_transpose(image), is_inverted)


def read_size(file: Path | IO[bytes], name: object) -> tuple[int, int]:
    """Reads height and width of the image that `read_rgb` returns, from its header where possible.

    Args:
      file: the file, or its path; the start of the file can do.
      name: of the file, for errors.

    Raises:
      UserError: it cannot be read as an image.
    """
    with _reading(file, name) as image:
        is_sideways = image.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS
        return image.size if is_sideways else (image.height, image.width)


@contextmanager
def _reading(file, name) -> Iterator[Image.Image]:
    try:
        with Image.open(file, formats=FORMATS) as image:
            _check_scale(image)
            yield image
    except UnidentifiedImageError as error:
        reason = f"its format is not one of {', '.join(FORMATS)}"
        raise UserError(f"{name}: cannot read it as an image: {reason}") from error
    except Exception as error:  # Pillow's readers share no error class
        reason = (str(error) or type(error).__name__).split("\n")[0]
        raise UserError(f"{name}: cannot read it as an image: {reason}") from error


def _check_scale(image: Image.Image) -> None:
    """Raises ValueError unless the file says which value is white, whatever its pixels are."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; expected 8 or 16 bits")
    if isinstance(image, TiffImageFile):
        bits, formats = (np.atleast_1d(_tag(image, tag)) for tag in (_BITS, _SAMPLE_FORMAT))
        if bits.max() > 8 and (bits != 16).any():
            raise ValueError(f"its pixels have {bits.max()} bits; expected 8 or 16")
        if _SIGNED in formats:
            raise ValueError("its pixels are signed numbers; expected unsigned ones")
    elif image.mode == "I" and image.format not in _SIXTEEN_BITS_IN_32:
        raise ValueError("its pixels have 32 bits; expected 8 or 16")
    transparent = image.info.get("transparency")
    if isinstance(transparent, tuple) and max(transparent) > 255:
        # Pillow reads the colors with 8 bits, so that it finds no transparent pixel.
        raise ValueError("it has a transparent color of 16 bits; expected one of 8, or alpha")


def _tag(image: TiffImageFile, tag: int) -> Any:
    """Returns a tag of a TIFF file, or TIFF's default of each tag that is read here."""
    return image.tag_v2.get(tag, 1)


def _to_rgb(image: Image.Image, is_inverted: bool = False) -> Image.Image:
    """RGB with 8 bits, white where transparent.

    Args:
      image: with 8 or 16 bits.
      is_inverted: whether zero is white; Pillow inverts images of 8 bits itself.
    """
    if image.mode.startswith("I"):  # Pillow would clip 16 bits to 8
        values = np.asarray(image)
        values = 2**16 - 1 - values if is_inverted else values
        pixels = (values >> 8).astype(np.uint8)
        if (transparent := image.info.get("transparency")) is not None:
            pixels[values == transparent] = 255
        image = Image.fromarray(pixels)
    elif image.mode[-1] in "Aa" or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")

"""Opening pictures safely: whatever Pillow reads becomes plain 8-bit RGB, upright and opaque.

Reads files, bytes or open pictures; writes nothing. A picture that cannot be read is a `UserError`
that names it and says what is wrong with it. Only the first frame of an animation is used.
"""

import functools
import os
import re
import warnings
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from captioning.system.errors import UserError
from captioning.system.reading import check_regular

Source = str | os.PathLike[str] | bytes | Image.Image
"""Where a picture comes from: a file's path, a file's content, or a picture opened already."""

HEIC_ENDINGS = (".heic", ".heif", ".hif")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
"""What stands in the head of a HEIC file, from its ninth byte on."""
Box = tuple[int, int, int, int]
LARGEST_PICTURE_BYTES = 2**28
"""Above this a picture's file is not read."""
BAND_PIXELS = 2**22
"""Pixels that are converted at a time, where that takes many bytes a pixel."""
ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to turn a picture upright, by the value of its EXIF orientation."""

DEPTHS = (255.0, 1_023.0, 4_095.0, 16_383.0, 65_535.0)
"""White of 8, 10, 12, 14 and 16 bits: cameras and scanners store fewer bits in files of 16."""
WHITE_LEVELS = {"I": (*DEPTHS, 2.0**31 - 1), "F": (1.0, *DEPTHS)}
"""Values that mean white in integer and in real greys; a picture has the first that holds it."""


def load_image(source: Source, *, name: str = "", side: int = 0) -> Image.Image:
    """The picture as RGB: upright by its EXIF orientation, transparency laid on white.

    Greys of 16 and 32 bits are scaled to 8. `name` stands for the picture in messages where
    `source` has no path. With a `side`, a JPEG may come out smaller, as it is read faster, but not
    below so many pixels a side. Raises `UserError` for what is missing, empty, no picture,
    truncated, or larger than Pillow's limit against decompression bombs.
    """
    name = name or _name(source)
    with warnings.catch_warnings():
        # Pillow warns of untidy metadata and of large pictures below its limit; both can be read.
        warnings.simplefilter("ignore")
        try:
            picture = _decode(source, name, side)
            picture.info.clear()  # an orientation that is left would turn it once more next time
            return picture
        except (UserError, KeyboardInterrupt):
            raise
        except FileNotFoundError:
            raise UserError(f"{name} is missing; check the path.") from None
        except Image.DecompressionBombError as error:
            raise UserError(f"{name} {_too_large(error)}") from None
        except UnidentifiedImageError:
            raise UserError(f"{name} is {_what_else(source)}.") from None
        except Exception as error:
            # Pillow's parsers raise whatever they stumble over in a damaged file: OSError,
            # SyntaxError, struct.error, ValueError, IndexError, MemoryError and more.
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise UserError(f"{name} cannot be read: {reason}.") from None


def _decode(source: Source, name: str, side: int) -> Image.Image:
    if isinstance(source, Image.Image):
        return _to_rgb(_upright(source))
    if not isinstance(source, bytes):
        check_regular(source, most_bytes=LARGEST_PICTURE_BYTES)
    with _open(source) as picture:
        if picture.format == "EPS":
            raise UserError(f"{name} is PostScript, a program; convert it to PNG first.")
        if side:
            picture.draft(None, (side, side))
        return _to_rgb(_upright(picture))


def _open(source: str | os.PathLike[str] | bytes) -> Image.Image:
    try:
        return Image.open(BytesIO(source) if isinstance(source, bytes) else source)
    except UnidentifiedImageError:
        if not (_is_heic(_start(source)) and reads_heic()):
            raise
        return Image.open(BytesIO(source) if isinstance(source, bytes) else source)


@functools.cache
def reads_heic() -> bool:
    """Whether HEIC is read from now on: where `pillow-heif` is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _is_heic(start: bytes) -> bool:
    return start[4:8] == b"ftyp" and start[8:12] in HEIC_BRANDS


def _upright(picture: Image.Image) -> Image.Image:
    picture.load()  # some formats turn themselves, or read their metadata, only now
    turn = ORIENTATIONS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    return picture if turn is None else picture.transpose(turn)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F" or picture.mode.startswith("I"):
        return _from_deep_grey(picture).convert("RGB")
    if picture.has_transparency_data:
        return _on_white(picture)
    return picture.convert("RGB")


def _on_white(picture: Image.Image) -> Image.Image:
    """Transparency laid on white."""
    found = Image.new("RGB", picture.size)
    for box in _bands(picture):
        opaque = Image.new("RGBA", (box[2], box[3] - box[1]), "white")
        opaque.alpha_composite(picture.crop(box).convert("RGBA"))
        found.paste(opaque.convert("RGB"), box)
    return found


def _from_deep_grey(picture: Image.Image) -> Image.Image:
    """Grey of 8 bits from greys of 16 or 32 bits, which Pillow itself would clip at 255."""
    largest = max(_greys(picture, box).max() for box in _bands(picture))
    levels = WHITE_LEVELS["F" if picture.mode == "F" else "I"]
    white = next((level for level in levels if largest <= level), largest)
    found = Image.new("L", picture.size)
    for box in _bands(picture):
        grey = np.clip(_greys(picture, box) / white * 255 + 0.5, 0, 255).astype(np.uint8)
        found.paste(Image.fromarray(grey), box)
    return found


def _greys(picture: Image.Image, box: Box) -> NDArray[Any]:
    greys = np.asarray(picture.crop(box))
    return np.nan_to_num(greys.astype(np.float64)) if picture.mode == "F" else greys


def _bands(picture: Image.Image) -> Iterator[Box]:
    """A picture in bands from side to side, so that no copy of the whole is made for what needs
    many bytes a pixel."""
    width, height = picture.size
    rows = max(1, BAND_PIXELS // max(1, width))
    for top in range(0, height, rows):
        yield (0, top, width, min(top + rows, height))


def _name(source: Source) -> str:
    if isinstance(source, bytes):
        return f"The picture ({len(source)} bytes)"
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "")) or f"The picture ({source.mode} {source.size})"
    return os.fspath(source)


def _too_large(error: Image.DecompressionBombError) -> str:
    """What is said of a picture whose pixels would fill the memory."""
    found = re.search(r"\((\d+) pixels\)", str(error))
    pixels = f"{int(found[1]) / 1e6:,.0f}" if found else "too many"
    most = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
    return (
        f"is too large: it has {pixels} million pixels, and {most:,.0f} million at most are read, "
        "for small files can hold pictures that fill the memory. Save it smaller first; models "
        "look at far fewer."
    )


def _what_else(source: Source) -> str:
    """What a thing is that Pillow does not know, for a message."""
    start = b"\0" if isinstance(source, Image.Image) else _start(source)
    if not start:
        return "empty"
    if _is_heic(start) and not reads_heic():
        return "a HEIC picture, which Pillow reads after: pip install pillow-heif"
    text = start.decode("utf-8", errors="replace").rstrip("\ufffd")
    if sum(c.isprintable() or c.isspace() for c in text) == len(text):
        return f"text ({text.split(chr(10))[0][:30]!r} ...), no picture"
    return f"no picture that Pillow can read (it begins with {start[:8].hex(' ')})"


def _start(source: str | os.PathLike[str] | bytes) -> bytes:
    """The first bytes of a file or of its content."""
    if isinstance(source, bytes):
        return source[:40]
    with open(source, "rb") as file:
        return file.read(40)

"""Captions inside pictures: the description that photo programs write into them.

Read in this order: XMP (`dc:description`, in the default language), IPTC (caption/abstract, 2:120),
EXIF (ImageDescription). What cameras write there of themselves is none.
"""

import warnings
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

from PIL import ExifTags, Image, IptcImagePlugin

from captioning.sources.caption_fields import clean_caption, xmp_captions

IPTC_CAPTION = (2, 120)
TIFF_XMP = 700
PNG_XMP = "XML:com.adobe.xmp"
OF_CAMERAS = {
    "olympus digital camera", "sony dsc", "minolta digital camera", "digital camera",
    "konica minolta digital camera", "samsung digital camera", "digital still camera", "dcim",
    "exif_jpeg_picture", "default", "samsung", "picasa", "cof", "dav", "hdr", "mde", "sdr",
}  # fmt: skip
"""Descriptions that say nothing of a picture."""


def captions_inside(data: bytes) -> tuple[str, ...]:
    """The description in a picture's file, or nothing. Raises `ValueError` for no picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(BytesIO(data)) as picture:
                for found in _descriptions(picture):
                    text = clean_caption(found)
                    if text and text.casefold() not in OF_CAMERAS:
                        return (text,)
        except Exception as error:  # whatever Pillow's parsers stumble over in a damaged file
            raise ValueError(str(error) or type(error).__name__) from None
    return ()


def _descriptions(picture: Image.Image) -> Iterator[str]:
    """What the three kinds of metadata say; one that is damaged says nothing."""
    for read in (_of_xmp, _of_iptc, _of_exif):
        yield from _whole(read, picture)


def _whole(read: Callable[[Any], list[str]], picture: Image.Image) -> list[str]:
    try:
        return read(picture)
    except Exception:  # as above; another kind may be whole
        return []


def _of_xmp(picture: Any) -> list[str]:
    info = picture.info
    found = info.get("xmp") or info.get(PNG_XMP) or getattr(picture, "tag_v2", {}).get(TIFF_XMP)
    text = found.decode("utf-8") if isinstance(found, bytes) else found
    return xmp_captions(text.strip("\0 \n")) if text else []


def _of_iptc(picture: Any) -> list[str]:
    found = IptcImagePlugin.getiptcinfo(picture) or {}
    value = found.get(IPTC_CAPTION)
    texts = value if isinstance(value, list) else [value] if value else []
    return [" ".join(_decoded(text) for text in texts)] if texts else []


def _of_exif(picture: Any) -> list[str]:
    value = picture.getexif().get(ExifTags.Base.ImageDescription)
    if isinstance(value, str):
        value = value.encode("latin-1", "ignore")  # as Pillow read it; programs write UTF-8
    return [_decoded(value).rstrip("\0")] if isinstance(value, bytes) else []


def _decoded(text: bytes) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("latin-1")

"""Descriptions inside pictures: XMP, IPTC and EXIF, as programs write them."""

import io
import struct
from pathlib import Path

import pytest
from PIL import Image

from captioning.sources.captions_inside import captions_inside
from captioning.sources.folder_source import files_source
from captioning.system.errors import UserError
from captioning.writing.sidecars import with_description


def file_of(kind: str = "JPEG", **info: object) -> bytes:
    """A picture with metadata."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind, **info)
    return file.getvalue()


def exif_of(text: str) -> Image.Exif:
    exif = Image.Exif()
    exif[270] = text.encode().decode("latin-1")
    return exif


def with_iptc(text: str) -> bytes:
    """A JPEG with a caption as Photoshop's block of IPTC."""
    value = text.encode()
    record = b"\x1c\x02\x78" + struct.pack(">H", len(value)) + value
    block = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(record)) + record
    content = b"Photoshop 3.0\0" + block + b"\0" * (len(record) % 2)
    jpeg = file_of()
    return jpeg[:2] + b"\xff\xed" + struct.pack(">H", len(content) + 2) + content + jpeg[2:]


XMP = with_description(b"", "a dog & its ball")


@pytest.mark.parametrize(
    ("data", "captions"),
    [
        (file_of(xmp=XMP), ("a dog & its ball",)),
        (file_of("WEBP", xmp=XMP), ("a dog & its ball",)),
        (file_of(xmp=b'<?xpacket begin=""?>' + XMP[39:] + b' <?xpacket end="w"?>'), None),
        (with_iptc("ein Hund läuft"), ("ein Hund läuft",)),
        (file_of(exif=exif_of("a cat")), ("a cat",)),
        (file_of("PNG", exif=exif_of("a cat")), ("a cat",)),
        (file_of(exif=exif_of("a cat"), xmp=b"<broken"), ("a cat",)),
        (file_of(exif=exif_of("a cat"), xmp=XMP), ("a dog & its ball",)),
        (file_of(exif=exif_of("OLYMPUS DIGITAL CAMERA         ")), ()),
        (file_of(), ()),
    ],
)
def test_a_description_is_read_wherever_it_stands(
    data: bytes, captions: tuple[str, ...] | None
) -> None:
    assert captions_inside(data) == (("a dog & its ball",) if captions is None else captions)


def test_a_folder_alone_is_enough_where_its_pictures_say_what_they_show(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(file_of(xmp=XMP))
    (tmp_path / "b.jpg").write_bytes(file_of())
    (tmp_path / "c.jpg").write_bytes(b"no picture")
    source = files_source(str(tmp_path))
    assert [one.captions for one in source.pictures] == [("a dog & its ball",), (), ()]
    assert source.pictures[2].problem.startswith("unreadable")
    (tmp_path / "b.txt").write_text("a house")
    assert [one.captions for one in files_source(str(tmp_path)).pictures] == [("a house",)]
    inside = files_source(str(tmp_path), "metadata")
    assert inside.pictures[0].captions == ("a dog & its ball",)
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "b.txt").unlink()
    with pytest.raises(UserError, match="holds no captions file, and its pictures hold no descr"):
        files_source(str(tmp_path))

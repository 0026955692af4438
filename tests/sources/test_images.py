"""Every kind of picture that people have becomes plain RGB, and every broken one a sentence."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioning.sources.images import ORIENTATIONS, load_image
from captioning.system.errors import UserError

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def photograph(width: int = 40, height: int = 30) -> Image.Image:
    """Four quarters of different colours, so that every turn of it looks different."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[: height // 2, : width // 2] = (200, 30, 30)
    pixels[: height // 2, width // 2 :] = (30, 200, 30)
    pixels[height // 2 :, : width // 2] = (30, 30, 200)
    pixels[height // 2 :, width // 2 :] = (220, 220, 40)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA", "GIF", "WEBP", "JPEG"])
def test_formats_from_path_and_bytes(kind: str, tmp_path: Path) -> None:
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    path = tmp_path / "picture"  # known by its content, not by its name
    path.write_bytes(encoded(photograph(), kind, **options))
    for source in (path, str(path), path.read_bytes()):
        loaded = load_image(source)
        assert (loaded.mode, loaded.size) == ("RGB", (40, 30))
        difference = np.abs(np.asarray(loaded, int) - np.asarray(photograph(), int))
        assert np.median(difference) <= (2 if kind == "JPEG" else 0)


def test_open_picture_is_left_as_it_is() -> None:
    picture = photograph()
    loaded = load_image(picture)
    loaded.putpixel((0, 0), (1, 2, 3))
    assert picture.getpixel((0, 0)) == (200, 30, 30)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_stands_the_picture_upright(orientation: int, kind: str) -> None:
    undo = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    turn = undo.get(orientation, ORIENTATIONS.get(orientation))
    stored = photograph() if turn is None else photograph().transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if kind in ("JPEG", "WEBP") else {}
    loaded = load_image(encoded(stored, kind, exif=exif, **options))
    assert loaded.size == (40, 30)
    for place in [(5, 5), (35, 5), (5, 25), (35, 25)]:
        assert np.allclose(loaded.getpixel(place), photograph().getpixel(place), atol=12)


def test_transparency_is_laid_on_white() -> None:
    half = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    half.putpixel((1, 0), (0, 0, 0, 0))
    assert list(load_image(encoded(half)).get_flattened_data()) == [RED, WHITE]
    blend = load_image(encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 51))))
    assert blend.getpixel((0, 0)) == (204, 204, 204)
    grey = load_image(encoded(Image.new("LA", (1, 1), (0, 0))))
    assert grey.getpixel((0, 0)) == WHITE


def test_transparent_colours_of_palettes_and_keys() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        loaded = load_image(encoded(palette, kind, transparency=1))
        assert list(loaded.get_flattened_data()) == [RED, WHITE]
    key = load_image(encoded(Image.new("RGB", (1, 1), (9, 9, 9)), transparency=(9, 9, 9)))
    assert key.getpixel((0, 0)) == WHITE


def test_cmyk_and_bilevel_and_grey() -> None:
    cmyk = load_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"))
    assert cmyk.getpixel((0, 0)) == RED
    assert load_image(encoded(Image.new("1", (1, 1), 1))).getpixel((0, 0)) == WHITE
    assert load_image(encoded(Image.new("L", (1, 1), 77))).getpixel((0, 0)) == (77, 77, 77)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled(kind: str) -> None:
    deep = np.array([[0, 32_768, 65_535, 257]], dtype=np.uint16)
    loaded = load_image(encoded(Image.fromarray(deep), kind))
    assert np.asarray(loaded)[0, :, 0].tolist() == [0, 128, 255, 1]


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_greys_of_fewer_bits_in_files_of_sixteen_are_not_black(bits: int) -> None:
    deep = np.array([[0, 2 ** (bits - 1), 2**bits - 1, 2**bits - 2]], dtype=np.uint16)
    loaded = load_image(encoded(Image.fromarray(deep), "PNG"))
    assert np.asarray(loaded)[0, :3, 0].tolist() == [0, 128, 255]
    real = Image.fromarray(deep.astype(np.float32))
    assert np.asarray(load_image(encoded(real, "TIFF")))[0, :3, 0].tolist() == [0, 128, 255]


def test_a_heic_picture_is_told_what_to_do() -> None:
    start = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    with pytest.raises(UserError, match="pip install pillow-heif"):
        load_image(start)


def test_integer_and_real_greys_are_scaled() -> None:
    deep = Image.fromarray(np.array([[0, 65_535]], dtype=np.int32))
    assert np.asarray(load_image(encoded(deep, "TIFF")))[0, :, 0].tolist() == [0, 255]
    deeper = Image.fromarray(np.array([[0, 2**31 - 1]], dtype=np.int32))
    assert np.asarray(load_image(encoded(deeper, "TIFF")))[0, :, 0].tolist() == [0, 255]
    real = Image.fromarray(np.array([[0, 0.5, 1, np.nan]], dtype=np.float32))
    assert np.asarray(load_image(encoded(real, "TIFF")))[0, :, 0].tolist() == [0, 128, 255, 0]


@pytest.mark.parametrize("kind", ["I;16", "I", "F", "RGBA", "LA", "P"])
def test_a_picture_read_in_bands_is_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 30, 4), dtype=np.uint8)
    picture = Image.fromarray(noise)
    if kind in ("I;16", "I", "F"):
        types = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
        picture = Image.fromarray((noise[:, :, 0] * 200.0).astype(types[kind]))
    elif kind != "RGBA":
        picture = picture.convert(kind)
    options = {"transparency": 3} if kind == "P" else {}
    data = encoded(picture, "TIFF" if kind in ("I", "F") else "PNG", **options)
    whole = load_image(data)
    monkeypatch.setattr("captioning.sources.images.BAND_PIXELS", 7 * 30)
    assert load_image(data).tobytes() == whole.tobytes()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert load_image(data).getpixel((0, 0)) == RED


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_tiny_and_long_pictures(size: tuple[int, int]) -> None:
    assert load_image(encoded(Image.new("L", size, 9))).size == size


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG by hand: its head may promise a size that its few bytes do not hold."""
    head = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = (b"IDAT", zlib.compress(b"\0" * 99))
    file = b"\x89PNG\r\n\x1a\n"
    for kind, body in (head, *chunks, data, (b"IEND", b"")):
        checksum = zlib.crc32(kind + body)
        file += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)
    return file


TEXT_BOMB = (b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"a dog runs\n", "is text"),
        ("ein Mädchen läuft".encode(), "is text"),
        (b"\x00\x01\x02\x03" * 9, "no picture that Pillow can read"),
        (png(30_000, 30_000), "too large"),
        (png(300, 300), "cannot be read"),
        (png(5, 5, TEXT_BOMB), "Decompressed data too large"),
        (encoded(photograph(400, 300), "JPEG")[:900], "cannot be read"),
        (encoded(photograph(400, 300), "PNG")[:300], "cannot be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "PostScript"),
    ],
)
def test_broken_files_are_named_with_the_reason(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "füße im sand.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=reason) as caught:
        load_image(path)
    assert str(path) in str(caught.value)
    with pytest.raises(UserError, match=reason):
        load_image(content)
    with pytest.raises(UserError, match=r"^http://x/y\.jpg"):
        load_image(content, name="http://x/y.jpg")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.jpg is missing"):
        load_image(tmp_path / "nowhere.jpg")
    with pytest.raises(UserError, match="it is a folder"):
        load_image(tmp_path)


def test_damaged_bytes_never_raise_anything_else() -> None:
    random = np.random.default_rng(7)
    whole = [
        encoded(photograph(), "JPEG", exif=Image.Exif()),
        encoded(photograph()),
        encoded(photograph(), "GIF"),
        encoded(photograph(), "TIFF", compression="tiff_lzw"),
        encoded(photograph(), "WEBP"),
        encoded(photograph(), "BMP"),
    ]
    refused = 0
    for data in whole:
        for _ in range(40):
            damaged = bytearray(data)
            for place in random.integers(0, len(data), 4):
                damaged[place] = random.integers(0, 256)
            try:
                picture = load_image(bytes(damaged[: random.integers(1, len(data) + 1)]))
            except UserError:
                refused += 1
            else:
                assert picture.mode == "RGB"
    assert refused > 50


def test_a_loaded_picture_can_be_loaded_again() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    loaded = load_image(encoded(photograph(), "JPEG", exif=exif))
    again = load_image(loaded)
    assert again.size == loaded.size
    assert (np.asarray(again) == np.asarray(loaded)).all()

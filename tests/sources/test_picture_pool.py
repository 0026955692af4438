"""Pictures are stored whole, under safe names, and an interrupted call goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from captioning.sources import picture_pool
from captioning.sources.origins import SourcePicture
from captioning.sources.picture_pool import unique_names
from captioning.system.errors import UserError
from prepare_dataset import prepare_dataset
from tests.helpers.sample_sources import (
    config_for,
    make_source,
    picture_bytes,
    problems_of,
    splits_of,
)

ROOT = Path(__file__).parents[2]


def test_names_are_plain_and_unique() -> None:
    names = ["a.jpg", "x/a.jpg", "y/A.JPG", "x/a.png", "../../etc/passwd", "..", "c:\\d\\e.jpg", ""]
    names += ["é" * 200 + ".jpg", ".hidden.jpg", "a\nb.jpg", "nul\0.jpg", "metadata.jsonl"]
    found = unique_names([SourcePicture(name, ("x",), None) for name in names])
    assert found[:5] == ["a.jpg", "x__a.jpg", "y__A.JPG", "x__a-2.png", "passwd"]
    assert found[6:8] == ["e.jpg", "00000007"]
    assert len({name.casefold() for name in found}) == len(names)
    for name in found:
        assert Path(name).name == name
        assert not name.startswith(".")
        assert len(name.encode()) < 200
        assert name.isprintable()


def test_pictures_are_linked_where_possible_and_copied_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_source(tmp_path, count=4)
    linked = config_for(tmp_path)
    prepare_dataset(linked)
    assert {path.stat().st_nlink for path in linked.dataset_dir.rglob("*.jpg")} == {2}

    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    copied = config_for(tmp_path, DATASET="copied")
    prepare_dataset(copied)
    assert {path.stat().st_nlink for path in copied.dataset_dir.rglob("*.jpg")} == {1}
    assert splits_of(copied) == splits_of(linked)


def bomb(width: int, height: int) -> bytes:
    """A PNG header that promises a huge picture."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"I am a text file.", "text"),
        (b"<html>not found</html>", "text"),
        (picture_bytes(5, size=(64, 64))[:-500], "truncated"),
        (bomb(30_000, 30_000), "too large"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "PostScript"),
    ],
    ids=["empty", "text", "html", "truncated", "bomb", "program"],
)
def test_unreadable_pictures_are_listed_and_left_out(
    tmp_path: Path, content: bytes, words: str
) -> None:
    make_source(tmp_path, count=10)
    (tmp_path / "images" / "003.jpg").write_bytes(content)
    with pytest.raises(
        UserError, match=r"1 of 10 pictures cannot be used.*1 unreadable \(003.jpg\)"
    ):
        prepare_dataset(config_for(tmp_path))
    config = config_for(tmp_path, MAX_BAD_FRACTION=0.1)
    summary = prepare_dataset(config)
    assert (summary.problems, sum(summary.pictures.values())) == ({"unreadable": 1}, 9)
    ((name, kind, detail),) = problems_of(config.dataset_dir)
    assert (name, kind) == ("003.jpg", "unreadable")
    assert words in detail


def test_strange_but_whole_pictures_are_kept_as_they_are(tmp_path: Path) -> None:
    make_source(tmp_path, count=0)
    rotated = Image.new("RGB", (30, 20)).getexif()
    rotated[0x0112] = 6
    pictures = {
        "pixel.png": (Image.new("RGB", (1, 1)), {}),
        "wide.png": (Image.new("RGB", (5000, 1)), {}),
        "grey.jpg": (Image.new("L", (8, 8)), {}),
        "cmyk.jpg": (Image.new("CMYK", (8, 8)), {}),
        "palette.gif": (Image.new("P", (8, 8)), {}),
        "deep.png": (Image.new("I;16", (8, 8)), {}),
        "turned.jpg": (Image.new("RGB", (30, 20)), {"exif": rotated}),
        "name with spaces, é 雪.webp": (Image.new("RGBA", (8, 8)), {}),
    }
    for name, (picture, more) in pictures.items():
        picture.save(tmp_path / "images" / name, **more)
    (tmp_path / "captions.csv").write_text(json.dumps({name: ["x"] for name in pictures}))
    config = config_for(tmp_path, HELD_OUT_FRACTION=0.0)
    prepare_dataset(config)
    for name in pictures:
        kept = (config.dataset_dir / "train" / name).read_bytes()
        assert kept == (tmp_path / "images" / name).read_bytes()


def test_interrupted_call_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_source(tmp_path, count=30)
    monkeypatch.setattr(picture_pool, "CHUNK", 5)
    place = picture_pool._place
    placed: list[str] = []

    def noted_place(target: Path, *more: Any) -> None:
        placed.append(target.name)
        place(target, *more)

    def failing_place(target: Path, *more: Any) -> None:
        if len(placed) == 12:
            raise OSError(28, "No space left on device")
        noted_place(target, *more)

    config = config_for(tmp_path, NUM_WORKERS=1)
    monkeypatch.setattr(picture_pool, "_place", failing_place)
    with pytest.raises(UserError, match="No space left on device"):
        prepare_dataset(config)
    assert not config.dataset_dir.exists()
    before = set(placed)
    placed.clear()
    monkeypatch.setattr(picture_pool, "_place", noted_place)
    summary = prepare_dataset(config)
    assert len(before) == 12
    assert len(before & set(placed)) <= 5
    assert sum(summary.pictures.values()) == 30
    fresh = prepare_dataset(config_for(tmp_path, DATASET="fresh"))
    assert fresh.fingerprint == summary.fingerprint


def test_killed_command_goes_on(tmp_path: Path) -> None:
    make_source(tmp_path, count=12)
    program = (
        "import sys, time; from captioning.sources import picture_pool; "
        "from prepare_dataset import main;"
        "picture_pool.CHUNK = 2; place = picture_pool._place;"
        "picture_pool._place = lambda *a: (time.sleep(0.05), place(*a)); main(sys.argv[1:])"
    )
    flags = ["--DATASET", "mine", "--DATA_DIR", str(tmp_path / "data"), "--NUM_WORKERS", "1"]
    flags += ["--IMAGE_DIR", str(tmp_path / "images")]
    flags += ["--CAPTIONS_FILE", str(tmp_path / "captions.csv")]
    running = subprocess.Popen([sys.executable, "-c", program, *flags], cwd=ROOT)
    pool = tmp_path / "data" / "mine.partial" / "pictures"
    deadline = time.monotonic() + 60
    while len(list(pool.glob("*"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(UserError, match="Another process is preparing"):
        prepare_dataset(config_for(tmp_path))
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "data" / "mine").exists()
    journal = pool.parent / "progress.jsonl"
    whole = journal.read_text()
    journal.write_text(whole + '{"index": 11, "na')
    kept = {path.name: path.stat().st_ino for path in pool.glob("*.jpg")}
    assert kept
    summary = prepare_dataset(config_for(tmp_path))
    assert sum(summary.pictures.values()) == 12
    assert prepare_dataset(config_for(tmp_path, DATASET="fresh")).fingerprint == summary.fingerprint

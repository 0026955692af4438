"""What the names of a command line mean, and what is said of those that mean no picture."""

import io
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from captioning.sources.named_pictures import find_named
from captioning.system.errors import UserError

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a picture among other things."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save("photos/a.png")
    return tmp_path


def give_input(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.parametrize(
    ("names", "is_one"),
    [
        (["photos/a.png"], True),
        (["http://example.org/a.png"], True),
        (["missing.png"], True),
        (["photos"], False),
        (["photos/*.png"], False),
        (["photos/a.png", "photos/a.png"], False),
    ],
)
def test_a_place_is_no_picture_even_if_it_holds_one(
    folder: Path, names: list[str], is_one: bool
) -> None:
    assert find_named(names).is_one is is_one


def test_pictures_that_cannot_be_read_are_told_and_unknown_files_counted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for name in ("b.HEIC", "c.heic", "raw.NEF"):
        (folder / "photos" / name).write_bytes(HEIC)
    for name in ("no_ending", "what.xyz", "captions.jsonl", "a.txt", "film.mp4", ".hidden"):
        (folder / "photos" / name).write_bytes(b"")
    found = find_named(["photos"])
    assert [one.name for one in found.pictures] == ["photos/a.png"]
    (problem,) = found.problems
    assert "3 files passed over" in problem
    assert "(HEIC, NEF): b.HEIC, c.heic, raw.NEF" in problem
    assert "pip install pillow-heif" in problem
    assert found.notes == ["photos: 2 files of unknown kind passed over: no_ending, what.xyz."]
    (folder / "photos" / "a.png").unlink()
    with pytest.raises(UserError, match="pip install pillow-heif"):
        find_named(["photos"])


def test_a_name_without_pictures_leaves_the_others(folder: Path) -> None:
    (folder / "empty").mkdir()
    found = find_named(["empty", "dir [2020]/*.jpg", "photos/a.png", ""])
    assert [one.name for one in found.pictures] == ["photos/a.png"]
    assert len(found.problems) == 3
    assert "dir [2020]/*.jpg matches no file" in found.problems[1]
    with pytest.raises(UserError, match="holds no pictures"):
        find_named(["empty"])


@pytest.mark.parametrize("separator", [b"\n", b"\r\n", b"\0"])
def test_standard_input_holds_paths(
    folder: Path, monkeypatch: pytest.MonkeyPatch, separator: bytes
) -> None:
    names = [b"photos/a[1].png", "photos/\u00e9.png".encode(), b"caf\xe9.png"]
    give_input(monkeypatch, separator.join(names) + separator)
    found = find_named(["-"])
    assert [os.fsencode(one.name) for one in found.pictures] == names
    assert not found.is_one


def test_standard_input_may_be_a_picture(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (folder / "photos" / "a.png").read_bytes()
    give_input(monkeypatch, content)
    found = find_named(["-"])
    assert [one.read() for one in found.pictures] == [content]
    assert found.is_one
    assert not found.pictures[0].is_missing
    give_input(monkeypatch, b"")
    with pytest.raises(UserError, match="standard input is empty"):
        find_named(["-"])

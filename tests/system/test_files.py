"""Files are whole or as they were; nothing is written through a link; the hash is SHA-256."""

import os
import secrets
import stat
import threading
from pathlib import Path

import pytest

from captioning.system.errors import UserError
from captioning.system.files import (
    alone_in,
    atomic_write,
    own_file,
    read_json,
    refuse_links,
    sha256_of,
    write_json,
    write_text,
)


def test_a_file_takes_its_place_when_it_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "name.txt"
    path.write_text("before")
    with atomic_write(path) as file:
        file.write(b"after")
        file.flush()
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert os.listdir(tmp_path) == ["name.txt"]


def test_it_is_flushed_to_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "name.txt"
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda _: flushed.append(path.exists()))
    write_text(path, "text")
    assert flushed == [False]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), ValueError("bad")])
def test_after_an_error_nothing_has_changed(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "name.txt"
    path.write_text("before")

    def write_half() -> None:
        with atomic_write(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["name.txt"]


def test_who_writes_files_that_belong_together_is_alone(tmp_path: Path) -> None:
    def write_both() -> None:
        with alone_in(tmp_path):
            for file in ("a", "b"):
                write_text(tmp_path / file, "other")

    other = threading.Thread(target=write_both)
    with alone_in(tmp_path):
        write_text(tmp_path / "a", "mine")
        other.start()
        other.join(0.2)
        assert other.is_alive()
        assert os.listdir(tmp_path) == ["a"]
    other.join()
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "other"


def test_no_link_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.txt"
    other.write_text("of somebody else")
    monkeypatch.setattr(secrets, "token_hex", lambda _: "guessed")
    (tmp_path / ".guessed.tmp").symlink_to(other)
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "name.txt", "text")
    monkeypatch.undo()
    (tmp_path / "link.txt").symlink_to(other)
    write_text(tmp_path / "link.txt", "text")
    assert not (tmp_path / "link.txt").is_symlink()
    assert other.read_text() == "of somebody else"


def test_two_who_write_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "name.txt"
    with atomic_write(path) as one, atomic_write(path) as other:
        one.write(b"1" * 10_000)
        other.write(b"2")
    assert path.read_bytes() == b"1" * 10_000


def test_others_may_read_what_they_might_read_of_any_file(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write_text(tmp_path / "ours", "text")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("usual", "ours")}
    assert len(modes) == 1


def test_a_name_may_be_as_long_as_the_file_system_takes(tmp_path: Path) -> None:
    write_text(tmp_path / ("n" * 255), "text")


def test_text_that_utf8_cannot_write_becomes_question_marks(tmp_path: Path) -> None:
    write_json(tmp_path / "name.json", {"caption": "a dog é \ud83d", "score": 0.5})
    assert (tmp_path / "name.json").read_bytes().decode() == (
        '{\n  "caption": "a dog é ?",\n  "score": 0.5\n}\n'
    )


def test_only_objects_are_read(tmp_path: Path) -> None:
    path = tmp_path / "name.json"
    write_json(path, {"one": 1})
    assert read_json(path) == {"one": 1}
    for text in ("[1]", "{", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(UserError, match=r"name\.json"):
            read_json(path)


def test_the_hash_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "file") == expected


@pytest.mark.parametrize("mode", ["a", "r+b", "rb", "a+"])
def test_what_is_changed_in_place_is_a_file_and_no_link(tmp_path: Path, mode: str) -> None:
    other, link, pipe = tmp_path / "other", tmp_path / "link", tmp_path / "pipe"
    other.write_text("of somebody else")
    link.symlink_to(other)
    os.mkfifo(pipe)
    for path in (link, pipe):
        with pytest.raises(OSError, match=path.name), open(path, mode, opener=own_file):
            pass
    assert other.read_text() == "of somebody else"
    with open(other, mode, opener=own_file) as file:
        assert stat.S_ISREG(os.fstat(file.fileno()).st_mode)


@pytest.mark.parametrize("target", ["elsewhere", "nowhere", "inside/file"])
def test_a_folder_with_links_is_refused_by_name(tmp_path: Path, target: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "file").touch()
    refuse_links(folder)
    refuse_links(tmp_path / "missing")
    (folder / "link").symlink_to(tmp_path / target)
    with pytest.raises(UserError, match=r"inside/link is a link to .*Take it away"):
        refuse_links(folder)
    (tmp_path / "itself").symlink_to(tmp_path / target)
    with pytest.raises(UserError, match="itself is a link"):
        refuse_links(tmp_path / "itself")

"""Folders are replaced and removed where they were written here, and nowhere else."""

from pathlib import Path

import pytest

from captioning.system.errors import UserError
from captioning.system.folders import (
    EXPORT_MANIFEST,
    is_ours,
    refuse_other,
    remove,
    written_whole,
)


def write(folder: Path, text: str = "new", **keywords: Path) -> None:
    with written_whole(folder, {}, **keywords) as unfinished:
        (unfinished / "file.json").write_text(text)


def theses(folder: Path) -> Path:
    """A folder of somebody's own."""
    folder.mkdir()
    (folder / "thesis.tex").write_text("years")
    return folder


def test_what_was_written_here_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "last", "old")
    theses(tmp_path / "other")
    write(tmp_path / "last", keep_replaced_as=tmp_path / "step-1")
    write(tmp_path / "last")
    assert {path.name for path in tmp_path.iterdir()} == {"last", "step-1", "other"}
    assert (tmp_path / "step-1" / "file.json").read_text() == "old"


@pytest.mark.parametrize("kind", ["folder", "file", "link", "with a folder in it"])
def test_anything_else_in_its_place_stays(tmp_path: Path, kind: str) -> None:
    last = tmp_path / "last"
    if kind == "folder":
        theses(last)
    elif kind == "file":
        last.write_text("years")
    elif kind == "link":
        write(tmp_path / "another")
        last.symlink_to(tmp_path / "another")
    else:
        write(last)
        theses(last / "mine")
    before = sorted(tmp_path.rglob("*"))
    assert not is_ours(last)
    with pytest.raises(UserError, match="last is there and is no checkpoint"):
        refuse_other(last)
    with pytest.raises(FileExistsError):
        write(last)
    remove(last)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["last.replaced", "last.unfinished", "last.unfinished/folder"])
def test_names_beside_it_are_not_taken_from_others(tmp_path: Path, name: str) -> None:
    write(tmp_path / "last", "old")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    mine = theses(tmp_path / name)
    with pytest.raises(OSError, match="last"):
        write(tmp_path / "last")
    assert (mine / "thesis.tex").read_text() == "years"
    assert (tmp_path / "last" / "file.json").read_text() == "old"


def test_nothing_is_removed_through_a_link(tmp_path: Path) -> None:
    write(tmp_path / "last", "old")
    elsewhere = theses(tmp_path / "elsewhere")
    (tmp_path / "last.unfinished").symlink_to(elsewhere)
    with pytest.raises(OSError, match="last"):
        write(tmp_path / "last")
    assert (elsewhere / "thesis.tex").exists()


def test_what_a_killed_run_has_begun_is_removed(tmp_path: Path) -> None:
    (tmp_path / "last.unfinished").mkdir()
    for name in ("model.safetensors", ".0123456789abcdef.tmp"):
        (tmp_path / "last.unfinished" / name).touch()
    write(tmp_path / "last")
    assert not list((tmp_path / "last").glob("*.safetensors"))


def test_a_folder_with_another_manifest_is_not_replaced(tmp_path: Path) -> None:
    with written_whole(tmp_path / "out", {}, manifest=EXPORT_MANIFEST) as unfinished:
        (unfinished / "caption.py").write_text("")
    assert is_ours(tmp_path / "out", EXPORT_MANIFEST)
    assert not is_ours(tmp_path / "out")
    write(tmp_path / "best")
    with (
        pytest.raises(FileExistsError),
        written_whole(tmp_path / "best", {}, manifest=EXPORT_MANIFEST),
    ):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"out", "best"}

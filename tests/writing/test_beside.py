"""Files beside pictures: where they go, and that they go nowhere else."""

import errno
import os
import zipfile
from pathlib import Path

import pytest

from captioning.sources.caption_fields import xmp_captions
from captioning.sources.named_pictures import find_named
from captioning.system.errors import UserError
from captioning.writing.beside import BesideFiles, PlaceError
from captioning.writing.pictures import Picture, file_picture
from tests.helpers.said import Said
from tests.helpers.streams import picture


def named(name: str, inner: str = "", shard: str = "") -> Picture:
    return Picture(0, name, inner or name, shard, is_file=not shard)


@pytest.mark.parametrize(
    ("picture", "folder", "beside", "sidecar"),
    [
        (named("x/a.jpg"), "", "x/a.txt", "x/a.jpg.xmp"),
        (named("x/a.b.JPG"), "", "x/a.b.txt", "x/a.b.JPG.xmp"),
        (named("x/img.001"), "", "x/img.001.txt", "x/img.001.xmp"),
        (named("x/sub/a.jpg", "sub/a.jpg"), "out", "out/sub/a.txt", "out/sub/a.jpg.xmp"),
        (named("s/0.tar/k.1", "k.1", "s/0.tar"), "out", "out/0/k.1.txt", "out/0/k.1.xmp"),
        (named("s.zip/../../a.jpg", "../../a.jpg"), "out", "out/a.txt", "out/a.jpg.xmp"),
        (named("s/0.tar//etc/a", "//etc/..\\a\n", "s/0.tar"), "out", "out/0/etc/a\\n.txt", None),
    ],
)
def test_captions_stand_beside_their_picture_or_in_the_mirror(
    picture: Picture, folder: str, beside: str, sidecar: str | None
) -> None:
    assert str(BesideFiles(".txt", folder, overwrite=False).path(picture)) == beside
    if sidecar:
        assert str(BesideFiles(".xmp", folder, overwrite=False).path(picture)) == sidecar


def test_a_sidecar_that_is_there_is_used_by_whatever_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sidecars = BesideFiles(".xmp", "", overwrite=False)
    one = named("a.jpg")
    sidecars.write(one, [Said("a dog")])
    assert sidecars.has(one)
    whole = Path("a.jpg.xmp").read_bytes()
    Path("a.jpg.xmp").rename("a.xmp")
    assert sidecars.has(one)
    assert str(sidecars.path(one)) == "a.xmp"
    BesideFiles(".xmp", "", overwrite=True).write(one, [Said("a cat")])
    assert xmp_captions(Path("a.xmp").read_text()) == ["a cat"]
    Path("a.jpg.xmp").write_bytes(whole)
    assert str(sidecars.path(one)) == "a.jpg.xmp"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg.xmp", "a.xmp"]


def test_an_empty_file_is_no_caption_and_one_of_the_other_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    texts, one = BesideFiles(".txt", "", overwrite=False), named("a.jpg")
    Path("a.txt").write_text("")
    assert not texts.has(one)
    texts.write(one, [Said("")])
    assert texts.has(one)
    Path("a.txt").rename("a.jpg.txt")
    assert texts.has(one)
    assert str(texts.path(one)) == "a.jpg.txt"


def test_a_link_in_the_place_of_captions_is_replaced_and_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").write_text("precious")
    Path("a.txt").symlink_to("mine")
    BesideFiles(".txt", "", overwrite=True).write(named("a.jpg"), [Said("a dog"), Said("a\ncat")])
    assert Path("mine").read_text() == "precious"
    assert Path("a.txt").read_text() == "a dog\na cat\n"


def test_a_place_that_takes_nothing_ends_the_work_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PlaceError, match=r"x/a\.txt cannot be written: No such file"):
        BesideFiles(".txt", "", overwrite=False).write(named("x/a.jpg"), [Said("a")])

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PlaceError, match=r"No space left on device\. Free some room"):
        BesideFiles(".txt", "out", overwrite=False).write(named("x/a.jpg"), [Said("a")])
    assert [path for path in Path("out").rglob("*") if path.is_file()] == []


def test_pictures_that_would_share_a_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("p/a.png", "p/A.jpg", "q/a.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(picture(0))
    pictures = [file_picture(n, one) for n, one in enumerate(find_named(["p", "q"]).pictures)]
    with pytest.raises(UserError, match=r"p/A\.jpg and p/a\.png would share p/a\.txt"):
        BesideFiles(".txt", "", overwrite=False).check_places(pictures)
    BesideFiles(".xmp", "", overwrite=False).check_places(pictures)
    BesideFiles(".txt", "", overwrite=False).check_places(pictures[1:])
    with pytest.raises(UserError, match=r"p/a\.png and q/a\.png would share out/a\.txt"):
        BesideFiles(".txt", "out", overwrite=False).check_places(pictures[1:])


def test_names_of_a_zip_lead_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("z.zip", "w") as archive:
        archive.writestr("../../out of.png", picture(0))
        archive.writestr("/etc/a.png", picture(1))
    mirror = BesideFiles(".txt", "out", overwrite=False)
    for number, one in enumerate(find_named(["z.zip"]).pictures):
        mirror.write(file_picture(number, one), [Said("a")])
    assert [str(path) for path in tmp_path.rglob("*.txt")] == [f"{tmp_path}/out/etc/a.txt"]

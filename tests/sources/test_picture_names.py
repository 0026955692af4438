"""Which file a name means: the end of its path decides, or nothing does."""

import unicodedata

import pytest

from captioning.sources.picture_names import PictureNames

CLASSES = ["cats/0.jpg", "cats/1.jpg", "dogs/0.jpg", "dogs/1.jpg"]


def matches(files: list[str], names: list[str], root: str = "/d/photos") -> list[str]:
    found, _ = PictureNames(files, root).match_all(names, [None] * len(names))
    return [match.file or match.problem.split(":")[0] for match in found]


@pytest.mark.parametrize(
    "name",
    [
        "cats/0.jpg", "./cats/0.jpg", "photos/cats/0.jpg", "/d/photos/cats/0.jpg", "cats\\0.jpg",
        "C:\\Users\\me\\photos\\cats\\0.jpg", "D:cats/0.jpg", "../photos/cats/0.jpg",
        "dogs/../cats/0.jpg", "\\\\server\\share\\cats\\0.jpg", "https://x.org/a/cats/0.jpg?s=1#x",
        "file:///home/a/cats/0.jpg", "Cats/0.JPG", "cats/0", "cats/0.jpg#3", "cats%2F0.jpg",
    ],
)  # fmt: skip
def test_the_longest_common_tail_decides(name: str) -> None:
    assert PictureNames(CLASSES, "/d/photos").find(name) == ["cats/0.jpg"]


@pytest.mark.parametrize("name", ["birds/0.jpg", "photos/0.jpg", "2.jpg", "0.png", "ts/0.jpg", ""])
def test_another_folder_is_another_picture(name: str) -> None:
    assert PictureNames(CLASSES, "/d/photos").find(name) == []


def test_what_nothing_tells_apart_is_ambiguous() -> None:
    assert matches(CLASSES, ["0.jpg", "cats/1.jpg"]) == ["ambiguous", "cats/1.jpg"]
    assert matches(["a.jpg", "a.png"], ["a", "a.png"]) == ["ambiguous", "a.png"]


def test_a_file_of_the_very_path_is_preferred() -> None:
    assert matches(["0.jpg", "a/0.jpg"], ["0.jpg", "a/0.jpg"]) == ["0.jpg", "a/0.jpg"]
    assert matches(["a.jpg", "A.JPG"], ["A.JPG", "a.jpg"]) == ["A.JPG", "a.jpg"]
    assert matches(["0.jpg", "x/cats/0.jpg"], ["cats/0.jpg"]) == ["x/cats/0.jpg"]


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
@pytest.mark.parametrize("other", ["NFC", "NFD", "NFKC", "NFKD"])
def test_any_unicode_normal_form(form: str, other: str) -> None:
    files = [unicodedata.normalize(form, f"ﬁlm/{name}.jpg") for name in ("café", "각", "Å")]
    names = [unicodedata.normalize(other, f"ﬁlm/{name}.jpg") for name in ("café", "각", "Å")]
    assert matches(files, names) == files


def test_folders_of_the_writer_are_one_folder() -> None:
    flat = ["0.jpg", "1.jpg"]
    assert matches(flat, ["/home/a/images/0.jpg", "/home/a/images/1.jpg"]) == flat
    # Half a download: what lies in cats is not what lies in photos/dogs.
    names = ["cats/0.jpg", "dogs/0.jpg", "dogs/1.jpg"]
    assert matches(flat, names, "/d/photos/dogs") == ["missing", "0.jpg", "1.jpg"]
    assert matches(flat, names, "/d/pictures") == ["ambiguous", "ambiguous", "1.jpg"]
    assert matches(flat, ["x/0.jpg", "x/cats/1.jpg"], "/d") == ["0.jpg", "missing"]
    assert matches(flat, ["./0.jpg", "d/cats/1.jpg", "0.jpg"], "/d") == [
        "0.jpg",
        "missing",
        "0.jpg",
    ]
    assert matches(flat, ["val/0.jpg"], "/d/train2014") == ["missing"]


def test_the_writers_folder_is_told_where_it_is_called_otherwise() -> None:
    names = PictureNames(["0.jpg"], "/d/photos")
    assert names.match_all(["C:\\Me\\images\\0.jpg"], [None])[1] == ["Me/images"]
    assert names.match_all(["C:\\Me\\Photos\\0.jpg"], [None])[1] == []
    assert names.match_all(["0.jpg"], [None])[1] == []


def test_what_is_missing_is_told_what_there_is() -> None:
    found, _ = PictureNames(CLASSES).match_all(["birds/0.jpg", "cats/1.png", "x.jpg"], [None] * 3)
    assert [match.problem for match in found] == [
        "missing: there is cats/0.jpg",
        "missing: there is cats/1.jpg",
        "missing",
    ]


def test_a_split_stays_in_its_folder() -> None:
    names = PictureNames(["train2014/0.jpg", "val2014/0.jpg", "val2014/1.jpg"])
    found, _ = names.match_all(["0.jpg", "0.jpg", "1.jpg"], ["train", "validation", "train"])
    assert [match.file for match in found] == ["train2014/0.jpg", "val2014/0.jpg", ""]


def test_numbers_mean_names_of_twelve_digits() -> None:
    names = PictureNames(["COCO_val2014_000000391895.jpg", "000000000009.jpg", "12.jpg"])
    assert names.find("391895") == ["COCO_val2014_000000391895.jpg"]
    assert [names.find("9"), names.find("12"), names.find("2")] == [
        ["000000000009.jpg"],
        ["12.jpg"],
        [],
    ]

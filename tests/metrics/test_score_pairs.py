"""Which candidate belongs to which references, whatever two files call a picture."""

from pathlib import Path

import pytest
from PIL import Image

from captioning.metrics.score_files import NamedCaptions
from captioning.metrics.score_pairs import coco_ids, find_pictures, pair
from captioning.system.errors import UserError


def named(*names: str, split: str | None = None) -> list[NamedCaptions]:
    """Pictures that have a file name alone, each captioned by it."""
    return [NamedCaptions("", name, (name,), split) for name in names]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("391895", "391895.jpg"),
        ("391895", "391895.0"),
        ("391895", "000000391895.jpg"),
        ("391895", "COCO_val2014_000000391895.jpg"),
        ("coco_391895", "val2014/COCO_val2014_000000391895.jpg"),
        ("set/a.jpg", "a"),
        ("a.jpg", "/home/me/set/a.jpg"),
        ("./set/a.jpg", "../set/a.jpg"),
        ("set\\a.jpg", "C:\\photos\\set\\a.jpg"),
        ("D:set\\a.jpg", "C:\\photos\\set\\a.jpg"),
        ("set/a.jpg", "https://example.org/photos/set/a.jpg?size=large"),
        ("my dog.jpg", "https://example.org/my%20dog.jpg"),
        ("A.JPG", "a.jpeg"),
        ("cafe\u0301.jpg", "caf\u00e9.jpg"),
    ],
)
def test_names_that_differ_in_form_only_are_one(ours: str, theirs: str) -> None:
    for a, b in ((ours, theirs), (theirs, ours)):
        pairs = pair(named("b.png", a), named(b, "b.png"))
        assert pairs.references == {"b.png": ("b.png",), a: (b,)}
        assert pairs.differing == (a, b)
        assert repr(a) in str(pairs.protocol["names"])


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (["cats/1.jpg"], ["dogs/1.jpg"], "1 candidate without references"),
        (["a.jpg"], ["a.png"], "1 candidate without references"),
        (["a.jpg"], ["b.jpg"], "add references for: 'a.jpg'. The references are of: 'b.jpg'"),
        (["1"], ["cats/1.jpg", "dogs/1.jpg"], "each must fit one picture only"),
        (["cats/1.jpg", "dogs/1.jpg"], ["1.jpg"], "2 candidates without references"),
        (["001"], ["1", "01"], "1 candidate without references"),
        (["11"], ["1", "1.1"], "1 candidate without references"),
    ],
)
def test_names_that_say_something_else_are_two(
    ours: list[str], theirs: list[str], said: str
) -> None:
    with pytest.raises(UserError) as error:
        pair(named(*ours), named(*theirs), is_partial=True)
    assert said in str(error.value)


def test_what_stands_as_it_is_needs_no_form() -> None:
    pairs = pair(named("1", "01"), named("01", "1"))
    assert pairs.references == {"1": ("1",), "01": ("01",)}
    assert pairs.protocol == {}


def test_a_picture_is_found_by_its_number_or_by_its_file() -> None:
    references = [NamedCaptions("7", "a.jpg", ("x",)), NamedCaptions("9", "b.jpg", ("y",))]
    assert pair(named("9", "7"), references).references == {"9": ("y",), "7": ("x",)}
    assert pair(named("b", "a"), references).references == {"b": ("y",), "a": ("x",)}
    crossed = [NamedCaptions("7", "b.jpg", ("c",)), NamedCaptions("9", "a.jpg", ("c",))]
    with pytest.raises(UserError, match="contradict each other"):
        pair(crossed, references)


def test_a_part_is_scored_when_asked_for_and_said() -> None:
    ours, theirs = named("b"), named("a", "b", "c")
    with pytest.raises(UserError, match=r"2 pictures .*: 'a', 'c'\..* with --partial"):
        pair(ours, theirs)
    pairs = pair(ours, theirs, is_partial=True)
    assert pairs.references == {"b": ("b",)}
    assert pairs.protocol == {"partial": "1 of 3 pictures with references"}
    assert "1 of the 3 pictures" in str(pairs.warning)
    with pytest.raises(UserError, match="1 candidate without references"):
        pair(named("b", "x"), theirs, is_partial=True)
    assert pair(theirs, theirs, is_partial=True).warning is None


def test_of_several_splits_that_of_the_candidates_counts() -> None:
    theirs = [*named("a", "b", split="train"), *named("c", "d", split="test")]
    pairs = pair(named("d", "c"), theirs)
    assert pairs.protocol == {"split": "test"}
    assert pairs.warning is None
    with pytest.raises(UserError, match="1 picture with references but no candidate: 'c'"):
        pair(named("d"), theirs)
    partial = pair(named("d"), theirs, is_partial=True)
    assert partial.protocol == {"split": "test", "partial": "1 of 2 pictures with references"}


def test_pictures_are_found_by_any_name(tmp_path: Path) -> None:
    for name in ("COCO_val2014_000000000007.jpg", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    names = [("b",), ("7", "COCO_val2014_000000000007.jpg")]
    found = find_pictures(str(tmp_path), names)
    assert [path.name for path in found] == ["b.png", "COCO_val2014_000000000007.jpg"]
    with pytest.raises(UserError, match=r"1 candidate without one picture .*: 'x'\..* 'b.png'"):
        find_pictures(str(tmp_path), [("b",), ("x",)])
    with pytest.raises(UserError, match="no such folder"):
        find_pictures(str(tmp_path / "no"), names)


def test_coco_results_have_numbers_where_all_pictures_have_one() -> None:
    assert coco_ids(["000000391895.jpg", "COCO_val2014_000000000007.jpg"]) == [391895, 7]
    assert coco_ids(["7", "a.jpg"]) == ["7", "a.jpg"]
    assert coco_ids(["a/7.jpg", "b/7.jpg"]) == ["a/7.jpg", "b/7.jpg"]

"""Reading captions of any model, and what is said where they cannot be scored."""

import json
from pathlib import Path

import pytest

from captioning.metrics.score_files import (
    NamedCaptions,
    check_pairs,
    read_candidates,
    read_references,
)
from captioning.metrics.score_pairs import pair
from captioning.system.errors import UserError


def write(folder: Path, content: object) -> Path:
    path = folder / "captions.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def jsonl(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def by_name(found: list[NamedCaptions]) -> dict[str, tuple[str, ...]]:
    return {one.name: one.captions for one in found}


GENERATED = {"text": "a dog", "log_probability": -1.0, "confidence": 0.9}
OWN = {"image": "set/7.jpg", "caption": "a dog", "references": ["x", "y"], "scores": {"CIDEr": 1.0}}
KARPATHY = {
    "images": [
        {
            "cocoid": 7,
            "imgid": 0,
            "filename": "7.jpg",
            "filepath": "val2014",
            "split": "restval",
            "sentences": [{"raw": "x"}, {"raw": "y"}],
        }
    ]
}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"7": "a dog"}, {"7": ("a dog",)}),
        ({"7": ""}, {"7": ("",)}),
        ({"7": ["a dog"]}, {"7": ("a dog",)}),
        ({"7": [{"image_id": 7, "id": 3, "caption": "a dog"}]}, {"7": ("a dog",)}),
        ([{"image_id": 7.0, "id": 3, "caption": "a dog"}], {"7": ("a dog",)}),
        ([{"image": 7, "caption": "a dog"}], {"7": ("a dog",)}),
        ([{"id": 7, "prediction": "a dog", "caption": "a cat"}], {"7": ("a dog",)}),
        ({"results": [{"image_id": 7, "caption": "a dog"}]}, {"7": ("a dog",)}),
        (jsonl({"image": "7.jpg", "captions": [GENERATED, GENERATED]}), {"7.jpg": ("a dog",)}),
        (jsonl(OWN), {"set/7.jpg": ("a dog",)}),
        (jsonl(OWN, {**OWN, "image": "8"}), {"set/7.jpg": ("a dog",), "8": ("a dog",)}),
        (jsonl({"name": "7", "caption": "a dog"}), {"7": ("a dog",)}),
        ("image,caption\n7.jpg,a dog\n", {"7.jpg": ("a dog",)}),
        ("7.jpg#0\ta dog\n", {"7.jpg": ("a dog",)}),
    ],
)
def test_candidates_as_people_have_them(
    tmp_path: Path, content: object, found: dict[str, tuple[str, ...]]
) -> None:
    assert by_name(read_candidates(write(tmp_path, content))) == found


@pytest.mark.parametrize(
    "content",
    [
        {"7": ["x", "y"]},
        {"annotations": [{"image_id": 7, "caption": "x"}, {"image_id": 7, "caption": "y"}]},
        [{"image_id": "7", "caption": "x"}, {"image_id": 7, "caption": "y"}],
        KARPATHY,
        KARPATHY["images"],
        [{"image": "val2014/7.jpg", "caption": ["x", "y"]}],
        jsonl(OWN),
        jsonl({"file_name": "7.jpg", "captions": ["x", "y"]}),
        "7.jpg#0\tx\n7.jpg#1\ty\n",
    ],
)
def test_references_as_people_have_them(tmp_path: Path, content: object) -> None:
    (found,) = read_references(write(tmp_path, content))
    assert found.captions == ("x", "y")


def test_a_picture_keeps_its_number_its_file_and_its_split(tmp_path: Path) -> None:
    (found,) = read_references(write(tmp_path, KARPATHY))
    assert (found.id, found.file_name, found.split) == ("7", "val2014/7.jpg", "train")
    coco = {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}],
        "annotations": [{"id": 1, "image_id": 7, "caption": "x"}],
    }
    (found,) = read_references(write(tmp_path, coco))
    assert (found.id, found.file_name) == ("7", "a.jpg")
    splits = {"train": [{"image": "a.jpg", "caption": "x"}], "test": [OWN]}
    assert [one.split for one in read_references(write(tmp_path, splits))] == ["train", "test"]


def test_captions_beside_pictures_are_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("a dog\n\na brown dog\n")
    (tmp_path / "b.caption").write_text("")
    found = {"b": ("",), "in/a": ("a dog", "a brown dog")}
    assert by_name(read_references(tmp_path)) == found
    (tmp_path / "b.txt").write_text("a cat")
    with pytest.raises(UserError, match=r"b.caption and .*b.txt are captions of one picture"):
        read_references(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ('{"a": "x", "a": "y"}', "more than once: 'a'"),
        ('{"image": "a", "caption": "x"}\n{"image"', "line 2"),
        ("[" * 100_000, "nested too deeply"),
        ("3", "first line is '3'"),
        ({"a": ["x", "y"]}, "one candidate; these have several: 'a'"),
        ({"a": []}, "one text; it is not for: 'a'"),
        ({"a": None}, "for 'a' stands None"),
        ({"annotations": []}, "no candidates"),
        ([{"image_id": 1}], "row 1"),
        ([{"image_id": 1.5, "caption": "x"}], "row 1"),
        ([{"image_id": True, "caption": "x"}], "row 1"),
        (["x"], "row 1"),
        ([{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}], "several: '1'"),
    ],
)
def test_wrong_candidates(tmp_path: Path, content: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        pair(read_candidates(write(tmp_path, content)), [NamedCaptions("1", "", ("x",))])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"a": [1]}, "a text or a list of texts; for 'a' stands"),
        ("null", "first line is 'null'"),
        ({"annotations": [{"caption": "x"}]}, "row 1"),
        ({"annotations": []}, "holds no references"),
    ],
)
def test_wrong_references(tmp_path: Path, content: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_references(write(tmp_path, content))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_candidates(tmp_path / "missing.json")
    path = tmp_path / "latin.json"
    path.write_bytes(b'{"a": "caf\xe9"}')
    with pytest.raises(UserError, match="neither UTF-8 nor UTF-16"):
        read_candidates(path)


def test_the_first_offending_ids_are_named() -> None:
    candidates = {str(number): "a" for number in range(9)}
    with pytest.raises(UserError) as caught:
        check_pairs(candidates, {"x": ["a"], "8": []})
    first, second, third = caught.value.problems
    assert first.startswith("8 candidates without references")
    assert first.endswith("'0', '1', '2', '3', '4' and 3 more.")
    assert second.startswith("1 picture with references but no candidate")
    assert "'x'" in second
    assert "these have none: '8'" in third


def test_no_candidates_at_all() -> None:
    with pytest.raises(UserError, match="no candidates"):
        check_pairs({}, {"x": ["a"]})


def test_a_pattern_means_all_parts(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b"), start=1):
        (tmp_path / f"captions-{number}-of-2.csv").write_text(f"image,caption\n{name}.jpg,a dog\n")
    found = by_name(read_candidates(tmp_path / "captions-*-of-2.csv"))
    assert found == {"a.jpg": ("a dog",), "b.jpg": ("a dog",)}
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_candidates(tmp_path / "captions-*-of-3.csv")

"""Reading captions of any model, and what is said where they cannot be scored."""

import json
from pathlib import Path

import pytest

from captioning.metrics.score_files import check_pairs, read_candidates, read_references
from captioning.system.errors import UserError


def write(folder: Path, content: object) -> Path:
    path = folder / "captions.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_plain_files(tmp_path: Path) -> None:
    assert read_candidates(write(tmp_path, {"a": "x", "b": ""})) == {"a": "x", "b": ""}
    assert read_references(write(tmp_path, {"a": ["x", "y"]})) == {"a": ["x", "y"]}


def test_coco_files_with_numbers_for_ids_fit_together(tmp_path: Path) -> None:
    results = [{"image_id": 7, "caption": "a"}, {"image_id": 9, "caption": "b"}]
    annotations = {
        "images": [{"id": 7}, {"id": 9}],
        "annotations": [
            {"id": 1, "image_id": 7, "caption": "x"},
            {"id": 2, "image_id": 9, "caption": "y"},
            {"id": 3, "image_id": 7, "caption": "z"},
        ],
    }
    candidates = read_candidates(write(tmp_path, results))
    references = read_references(write(tmp_path, annotations))
    assert candidates == {"7": "a", "9": "b"}
    assert references == {"7": ["x", "z"], "9": ["y"]}
    check_pairs(candidates, references)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ('{"a": "x", "a": "y"}', "more than once: 'a'"),
        ("[" * 100_000, "nested too deeply"),
        ("3", "found 3"),
        ({"a": ["x"]}, "one text; it is not for: 'a'"),
        ({"annotations": []}, "must hold"),
        ([{"image_id": 1}], "row 1"),
        (["x"], "row 1"),
        ([{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}], "several: '1'"),
    ],
)
def test_wrong_candidates(tmp_path: Path, content: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_candidates(write(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"a": "x"}, "list of texts; they are not for: 'a'"),
        ({"a": [1]}, "list of texts; they are not for: 'a'"),
        ("null", "found None"),
        ({"annotations": [{"caption": "x"}]}, "row 1"),
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
    with pytest.raises(UserError, match="not UTF-8"):
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

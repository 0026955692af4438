"""Objects that captions name and no reference does."""

from pathlib import Path

import pytest

from captioning.metrics.hallucination import ObjectWords, read_objects
from captioning.metrics.scoring import ScoringOptions, score_everything
from captioning.metrics.tokenizers import TOKENIZERS
from captioning.system.errors import UserError

LIST = "# people\nperson, man, woman, women\nhot dog\ndog, puppy\nbaby\nbus  # not a bush\n知\n"
PTB = TOKENIZERS["ptb"]


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    path = tmp_path / "objects.txt"
    path.write_text(LIST, encoding="utf-8")
    return path


def test_words_are_found_longest_first_and_in_the_plural(objects: Path) -> None:
    words = ObjectWords(read_objects(objects), PTB)
    (found,) = PTB(["Two women, babies and puppies eat hot dogs by the buses, not a dogma."])
    assert words.found_in(found) == [0, 3, 2, 1, 4]
    assert words.found_in("a hot red dog") == [2]
    assert words.found_in("") == []


def test_chair_by_hand(objects: Path) -> None:
    candidates = {"a": "a man and a dog with a dog", "b": "a bus", "c": "nothing at all"}
    references = {
        "a": ["a woman sits", "someone rests"],  # a woman is a person, no dog is there
        "b": ["two buses", "a road"],
        "c": ["a dog"],
    }
    sheet = score_everything(
        candidates, references, ScoringOptions(java=False, objects=str(objects))
    )
    assert sheet.corpus["CHAIRi"] == 2 / 4
    assert sheet.corpus["CHAIRs"] == 1 / 3
    assert [sheet.of(row)["CHAIRs"] for row in range(3)] == [1, 0, 0]
    assert "CHAIRs" in sheet.intervals
    without = score_everything(candidates, references, ScoringOptions(java=False))
    assert "CHAIRi" not in without.corpus


def test_other_scripts(tmp_path: Path) -> None:
    words = ObjectWords([["狗", "小狗"], ["孩子"]], TOKENIZERS["script"])
    (tokens,) = TOKENIZERS["script"](["两个孩子和一只小狗"])
    assert words.found_in(tokens) == [1, 0]


def test_lists_that_name_nothing_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.txt"
    for content in ("", "# nothing\n , ,\n"):
        path.write_text(content)
        with pytest.raises(UserError, match="names no objects"):
            read_objects(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_objects(tmp_path / "missing.txt")
    with pytest.raises(UserError, match="has no words"):
        ObjectWords([["!"]], PTB)

"""Every score with its interval, or the reason why it is missing."""

import json
from pathlib import Path

import numpy as np
import pytest

from captioning.metrics import score_captions, scoring
from captioning.metrics.java import JavaScores
from captioning.metrics.scoring import ScoringOptions, references_a_picture, score_everything
from captioning.system.errors import UserError

CANDIDATES = {"b": "a dog runs on grass", "a": "a cat sits on a red mat", "c": ""}
REFERENCES = {
    "a": ["a cat sits on a mat", "the cat is on a mat"],
    "b": ["a dog runs on grass", "a brown dog runs"],
    "c": ["two birds"],
}
MAIN = ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"]
NO_JAVA = ScoringOptions(java=False)
JAVA, CLIP = ["METEOR", "SPICE"], ["CLIPScore", "RefCLIPScore"]


def test_the_numbers_have_their_names_and_missing_ones_a_reason() -> None:
    sheet = score_everything(CANDIDATES, REFERENCES, NO_JAVA)
    numbers = sheet.to_json()
    assert list(numbers)[: len(MAIN + JAVA + CLIP)] == MAIN + JAVA + CLIP
    assert numbers["num_images"] == 3
    base = score_captions(CANDIDATES, REFERENCES)
    assert {name: numbers[name] for name in MAIN} == base.corpus
    for name in JAVA + CLIP:
        assert numbers[name] is None
        assert "\n" not in numbers["skipped"][name]
        assert "not asked for" in numbers["skipped"][name]
    assert sorted(numbers["intervals_95"]) == sorted(MAIN)
    for name, (low, high) in numbers["intervals_95"].items():
        assert low <= numbers[name] <= high or name == "BLEU-4"
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers


def test_one_picture_has_no_cider_and_no_intervals() -> None:
    sheet = score_everything({"a": CANDIDATES["a"]}, {"a": REFERENCES["a"]}, NO_JAVA)
    numbers = sheet.to_json()
    assert numbers["CIDEr"] is None
    assert "one picture has none" in numbers["skipped"]["CIDEr"]
    assert numbers["BLEU-1"] > 0
    assert numbers["intervals_95"] == {}
    assert sheet.of(0).keys() == {*MAIN} - {"CIDEr"}


def test_words_that_all_pictures_share_have_no_cider() -> None:
    same = {key: ["a dog", "a cat"] for key in CANDIDATES}
    sheet = score_everything(CANDIDATES, same, NO_JAVA)
    assert sheet.corpus["CIDEr"] is None
    assert "references of all pictures have the same" in sheet.skipped["CIDEr"]
    assert "CIDEr" not in sheet.intervals
    assert "BLEU-1" in sheet.intervals


def test_each_picture_has_its_own_scores() -> None:
    sheet = score_everything(CANDIDATES, REFERENCES, NO_JAVA)
    assert sheet.of(0)["BLEU-4"] > 0.99 > sheet.of(1)["BLEU-4"]
    assert sheet.of(2)["BLEU-1"] == 0
    base = score_captions(CANDIDATES, REFERENCES)
    for row in range(3):
        assert sheet.of(row) == {name: base.per_image[name][row] for name in MAIN}


def test_the_order_of_the_pictures_changes_nothing() -> None:
    sheet = score_everything(CANDIDATES, REFERENCES, NO_JAVA)
    turned = dict(reversed(CANDIDATES.items()))
    other = score_everything(turned, REFERENCES, NO_JAVA)
    for name in MAIN:
        assert other.corpus[name] == pytest.approx(sheet.corpus[name], abs=1e-12)
        assert other.per_image[name] == pytest.approx(sheet.per_image[name][::-1], abs=1e-12)


def test_intervals_are_a_function_of_the_seed() -> None:
    texts = {str(n): " ".join(["a dog", "runs on grass", "sits"][: n % 3 + 1]) for n in range(40)}
    others = {key: ["a dog runs on green grass"] for key in texts}
    first, same, other = (
        score_everything(texts, others, ScoringOptions(java=False, seed=seed)).intervals
        for seed in (1, 1, 2)
    )
    assert first == same
    assert first != other


def test_java_scores_stand_where_java_could_run(monkeypatch: pytest.MonkeyPatch) -> None:
    found = JavaScores(0.2, np.array([0.5, 0.25, 0.0]))  # METEOR of all is no mean
    monkeypatch.setattr(scoring, "meteor", lambda *_: found)
    monkeypatch.setattr(scoring, "spice", lambda *_: JavaScores(None, None, "no models"))
    sheet = score_everything(CANDIDATES, REFERENCES)
    assert sheet.corpus["METEOR"] == 0.2
    assert sheet.of(0)["METEOR"] == 0.5
    assert "METEOR" not in sheet.intervals
    assert "METEOR" not in sheet.skipped
    assert (sheet.corpus["SPICE"], sheet.skipped["SPICE"]) == (None, "no models")


def test_spider_is_the_mean_of_spice_and_cider(monkeypatch: pytest.MonkeyPatch) -> None:
    found = JavaScores(0.25, np.array([0.5, 0.25, 0.0]))
    monkeypatch.setattr(scoring, "meteor", lambda *_: found)
    monkeypatch.setattr(scoring, "spice", lambda *_: found)
    sheet = score_everything(CANDIDATES, REFERENCES)
    cider = sheet.per_image["CIDEr"]
    assert sheet.per_image["SPIDEr"] == pytest.approx((cider + np.array([0.5, 0.25, 0.0])) / 2)
    assert sheet.corpus["SPIDEr"] == pytest.approx((0.25 + cider.mean()) / 2)
    assert "SPIDEr" in sheet.intervals
    assert "SPIDEr" not in score_everything(CANDIDATES, REFERENCES, NO_JAVA).corpus


def test_clip_scores_need_pictures_and_a_clip(tmp_path: Path) -> None:
    without = score_everything(
        CANDIDATES, REFERENCES, ScoringOptions(java=False, clip_model="some/clip")
    )
    assert "needs the pictures" in without.skipped["CLIPScore"]
    images = [tmp_path / f"{name}.png" for name in CANDIDATES]
    broken = score_everything(
        CANDIDATES, REFERENCES, ScoringOptions(java=False, clip_model=str(tmp_path)), images=images
    )
    assert broken.corpus["RefCLIPScore"] is None
    assert "cannot be loaded as a CLIP" in broken.skipped["RefCLIPScore"]
    assert "\n" not in broken.skipped["RefCLIPScore"]


def test_captions_of_the_training_set_are_counted_as_tokens() -> None:
    training = ["A dog runs on grass.", "something else"]
    sheet = score_everything(CANDIDATES, REFERENCES, NO_JAVA, training_captions=training)
    assert sheet.diversity.share_in_training == pytest.approx(1 / 3)


def test_the_same_caption_for_many_is_warned_of() -> None:
    same = {str(number): "a dog" for number in range(9)} | {"9": "a cat"}
    sheet = score_everything(same, {key: ["a dog runs"] for key in same}, NO_JAVA)
    assert "9 of 10 pictures" in sheet.to_json()["warning"]
    assert score_everything(CANDIDATES, REFERENCES, NO_JAVA).to_json()["warning"] is None


@pytest.mark.parametrize(
    ("candidates", "references", "named"),
    [
        ({"a": "x", "d": "y"}, {"a": ["x"]}, "'d'"),
        ({"a": "x"}, {"a": ["x"], "e": ["y"]}, "'e'"),
        ({"a": "x"}, {"a": []}, "'a'"),
        ({}, {}, "no candidates"),
    ],
)
def test_what_does_not_fit_is_named(
    candidates: dict[str, str], references: dict[str, list[str]], named: str
) -> None:
    with pytest.raises(UserError, match=named):
        score_everything(candidates, references, NO_JAVA)


def test_counts_of_references_are_one_number_or_two() -> None:
    assert references_a_picture([["a", "b"], ["c", "d"]]) == "2"
    assert references_a_picture([["a"], ["b", "c", "d"], ["e", "f"]]) == "1-3"

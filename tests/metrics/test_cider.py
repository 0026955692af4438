"""CIDEr-D with document frequencies counted before."""

import math

import numpy as np
import pytest

from captioning.metrics import score_captions
from captioning.metrics.cider import CiderD, DocumentFrequencies

REFERENCES = [["a dog runs", "the dog ran"], ["a cat"], ["a bird sings a song"]]


def test_scores_by_hand() -> None:
    cider = CiderD(DocumentFrequencies.of(REFERENCES))
    (score,) = cider.score(["a dog"], [["a dog runs"]])
    # "a" stands in all 3 pictures, weight 0; "dog" and "runs" in 1, weight log 3.
    one = 1 / math.sqrt(2)  # (dog) . (dog, runs)
    two = 1 / math.sqrt(2)  # (a dog) . (a dog, dog runs)
    penalty = math.exp(-(1**2) / (2 * 6**2))  # 1 bigram against 2
    assert score == pytest.approx(10 * (one + two) / 4 * penalty, abs=1e-12)


def test_pairs_that_several_pictures_have_weigh_less() -> None:
    cider = CiderD(DocumentFrequencies.of([["a cat"], ["red dog runs"], ["red dog"]]))
    (score,) = cider.score(["red dog"], [["red dog runs"]])
    # "red", "dog" and "red dog" stand in 2 of 3 pictures, "runs" and "dog runs" in 1.
    common, rare = math.log(3 / 2), math.log(3)
    one = math.hypot(common, common) / math.hypot(common, common, rare)
    two = common / math.hypot(common, rare)
    penalty = math.exp(-(1**2) / (2 * 6**2))
    assert score == pytest.approx(10 * (one + two) / 4 * penalty, abs=1e-12)


def test_repeated_words_are_clipped() -> None:
    cider = CiderD(DocumentFrequencies.of(REFERENCES))
    once, twice = cider.score(["dog x", "dog dog"], [["dog y"]] * 2)
    # min(2, 1) * 1 / (2 * sqrt 2) against 1 * 1 / (sqrt 2 * sqrt 2)
    assert once == pytest.approx(10 / 4 / 2, abs=1e-12)
    assert twice == pytest.approx(10 / 4 / (2 * math.sqrt(2)) * 1, abs=1e-12)


def test_unknown_words_weigh_as_if_one_picture_had_them() -> None:
    cider = CiderD(DocumentFrequencies.of(REFERENCES))
    known, unknown = cider.score(["dog", "zebra"], [["dog bird"], ["zebra bird"]])
    assert unknown == pytest.approx(known, abs=1e-12)
    assert unknown > 0


def test_frequencies_are_of_pictures_not_of_captions() -> None:
    cider = CiderD(DocumentFrequencies.of([["a dog", "the dog"], ["a cat"]]))
    assert cider.score(["dog"], [["dog"]])[0] == pytest.approx(10 / 4, abs=1e-12)
    assert cider.score(["a"], [["a"]])[0] == 0


def test_agrees_with_the_corpus_score_and_is_the_same_in_any_batch() -> None:
    captions = ["a dog runs fast", "a black cat", "a bird sings"]
    cider = CiderD(DocumentFrequencies.of(REFERENCES))
    together = cider.score(captions, REFERENCES)
    corpus = score_captions(
        {str(row): caption for row, caption in enumerate(captions)},
        {str(row): texts for row, texts in enumerate(REFERENCES)},
    )
    np.testing.assert_allclose(together, corpus.per_image["CIDEr"], atol=1e-12)
    for row, caption in enumerate(captions):
        alone = cider.score([caption], [REFERENCES[row]])
        np.testing.assert_allclose(alone, together[[row]], atol=1e-12)


def test_nothing_scores_nothing() -> None:
    cider = CiderD(DocumentFrequencies.of(REFERENCES))
    assert cider.score(["", "a dog"], [["a dog"], [""]]).tolist() == [0.0, 0.0]
    assert cider.score([], []).tolist() == []
    assert CiderD(DocumentFrequencies.of([])).score(["a"], [["a"]]).tolist() == [0.0]

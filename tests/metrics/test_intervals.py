"""Intervals, and the variety of captions."""

import numpy as np
import pytest

from captioning.metrics import Scores, score_captions
from captioning.metrics.intervals import bootstrap_intervals, describe_captions
from captioning.system.errors import UserError

WORDS = "a dog cat bird runs sits sings here there now".split()


def scores_of(seed: int, *, like_reference: float, pictures: int = 40) -> Scores:
    generator = np.random.default_rng(7)
    references = {
        str(row): [" ".join(generator.choice(WORDS, 6)) for _ in range(2)]
        for row in range(pictures)
    }
    changes = np.random.default_rng(seed)
    candidates = {
        picture: " ".join(
            word if changes.random() < like_reference else changes.choice(WORDS)
            for word in texts[0].split()
        )
        for picture, texts in references.items()
    }
    return score_captions(candidates, references)


def test_intervals_hold_the_score_and_depend_on_the_seed_alone() -> None:
    scores = scores_of(1, like_reference=0.5)
    intervals = bootstrap_intervals(scores, seed=3)
    assert list(intervals) == list(scores.corpus)
    for name, interval in intervals.items():
        assert interval.low < scores.corpus[name] < interval.high
    assert bootstrap_intervals(scores, seed=3) == intervals
    assert bootstrap_intervals(scores, seed=4) != intervals


def test_resampled_scores_are_those_of_the_resampled_pictures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores = scores_of(1, like_reference=0.5, pictures=3)
    weights = np.array([[2.0, 0.0, 1.0]])
    monkeypatch.setattr("captioning.metrics.intervals._draws", lambda *_: iter([weights]))
    intervals = bootstrap_intervals(scores, samples=1)
    chosen = [0, 0, 2]
    counts = scores.bleu_counts
    precision = counts.matches[chosen, 0].sum() / counts.guesses[chosen, 0].sum()
    assert intervals["BLEU-1"].low == pytest.approx(precision, abs=1e-8)
    assert intervals["CIDEr"].high == pytest.approx(scores.per_image["CIDEr"][chosen].mean())


def test_the_width_is_that_of_the_mean_of_independent_values() -> None:
    scores = scores_of(1, like_reference=0.5)
    values = np.random.default_rng(0).normal(size=len(scores.ids))
    interval = bootstrap_intervals(scores, {"CLIPScore": values}, samples=4000)["CLIPScore"]
    error = values.std() / np.sqrt(len(values))
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_many_pictures_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = scores_of(1, like_reference=0.5)
    whole = bootstrap_intervals(scores, samples=100)
    monkeypatch.setattr("captioning.metrics.intervals.WEIGHTS_AT_ONCE", 7 * len(scores.ids))
    for name, interval in bootstrap_intervals(scores, samples=100).items():
        assert interval.low == pytest.approx(whole[name].low)


def test_variety_by_hand() -> None:
    diversity = describe_captions(["a dog runs", "a dog", ""], ["a dog", "a cat"])
    assert diversity.distinct_1 == 3 / 5
    assert diversity.distinct_2 == 2 / 3
    assert diversity.vocabulary_size == 3
    assert diversity.mean_length == 5 / 3
    assert diversity.share_in_training == 1 / 3
    assert diversity.share_novel == pytest.approx(2 / 3)
    assert (diversity.shortest, diversity.longest) == (0, 3)
    assert diversity.warning is None


def test_the_same_caption_for_many_pictures_is_warned_about() -> None:
    captions = [f"caption {row}" for row in range(45)]
    assert describe_captions([*captions, *["a man"] * 4]).warning is None
    assert describe_captions([*captions, *captions, *["a man"] * 9]).warning is None
    warning = describe_captions([*captions, *["a man"] * 5]).warning
    assert warning is not None
    assert "5 of 50 pictures (10%) got the same caption, 'a man'" in warning


def test_training_captions_may_be_left_out_and_captions_may_be_empty() -> None:
    diversity = describe_captions([""])
    assert diversity.share_in_training is None
    assert diversity.distinct_1 == diversity.distinct_2 == diversity.mean_length == 0
    with pytest.raises(UserError, match="no captions"):
        describe_captions([])

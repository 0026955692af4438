"""A comparison's numbers: small cases by hand, and chances that are known."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from captioning.comparison.chance import holm
from captioning.comparison.comparing import COMPARED
from captioning.comparison.student import tail
from captioning.metrics.intervals import Interval, resampled_scores
from captioning.system.errors import UserError
from tests.helpers.sample_runs import PICTURES, compared, sample_run


def test_a_score_is_the_mean_over_seeds_and_models_are_ranked() -> None:
    runs = [sample_run("worse", seed, right=0.25) for seed in (1, 2)]
    runs += [sample_run("better", 1, right=0.75), sample_run("better", 2, right=0.5)]
    comparison = compared(runs)
    assert [model.name for model in comparison.models] == ["better", "worse"]
    score = comparison.models[0].scores["CIDEr"]
    assert score.each == tuple(run.scores.corpus["CIDEr"] for run in runs[2:])
    assert score.value == pytest.approx(sum(score.each) / 2)
    assert (comparison.seeds, comparison.pictures) == (2, PICTURES)
    worse = comparison.models[1].scores["CIDEr"]
    assert worse.seeds == Interval(worse.value, worse.value)  # both seeds are alike


def test_the_interval_over_pictures_is_that_of_the_mean_over_seeds() -> None:
    runs = [sample_run("a", seed, right=share) for seed, share in ((1, 0.3), (2, 0.7))]
    drawn = [resampled_scores(run.scores, {}, 500, 3)["CIDEr"] for run in runs]
    low, high = np.quantile((drawn[0] + drawn[1]) / 2, [0.025, 0.975])
    (model,) = compared(runs, samples=500, seed=3).models
    assert model.scores["CIDEr"].pictures == Interval(float(low), float(high))


def test_pairs_are_compared_on_the_same_pictures() -> None:
    # Right on the same pictures but for four more: unpaired, twelve and sixteen of 24 overlap.
    one = sample_run("one", right=[n < 12 for n in range(24)])
    other = sample_run("other", right=[n < 16 for n in range(24)])
    comparison = compared([one, other], samples=20_000)
    found = comparison.difference("other", "one")
    # A t-test of the pictures' differences, of which 20 are nothing.
    apart = other.scores.per_image["CIDEr"] - one.scores.per_image["CIDEr"]
    t = apart.mean() / (apart.std(ddof=1) / np.sqrt(len(apart)))
    assert found.p_value == pytest.approx(2 * tail(t, len(apart) - 1), rel=0.1)
    assert not found.covers_seeds
    expected = other.scores.corpus["CIDEr"] - one.scores.corpus["CIDEr"]
    assert found.value == pytest.approx(expected)
    assert found.is_significant
    assert found.interval.low > 0
    turned = comparison.difference("one", "other")
    assert turned.value == -found.value
    assert turned.interval == Interval(-found.interval.high, -found.interval.low)


def test_equal_models_do_not_differ() -> None:
    comparison = compared([sample_run(name, right=0.5) for name in ("a", "b", "c")])
    assert len(comparison.differences) == 3 * 2  # pairs, scores
    for one in comparison.differences:
        assert (one.value, one.p_adjusted, one.is_significant) == (0, 1, False)


def test_seeds_count_as_chance() -> None:
    """Pictures alone would tell the two apart; that two seeds of each differ as much would not.

    Nor would they with a model's first seed always beside the other's first.
    """
    shares = {"a": (0.3, 0.9), "b": (0.1, 0.7)}
    runs = [
        sample_run(m, s, right=share) for m, both in shares.items() for s, share in enumerate(both)
    ]
    assert not compared(runs).difference("a", "b").is_significant
    alone = [replace(runs[1], seed=1), replace(runs[3], seed=1)]
    assert compared(alone).difference("a", "b").p_value < 0.05


def test_chances_are_as_often_as_they_say() -> None:
    """Of pairs of equally good models about one in twenty has p below 0.05."""
    random, below, trials = np.random.default_rng(0), 0, 200
    for _ in range(trials):
        one, other = (
            sample_run(name, right=(random.random(PICTURES) < 0.5).tolist()) for name in "ab"
        )
        below += compared([one, other], samples=200).difference("a", "b").p_value < 0.05
    assert below / trials < 0.12


def test_many_models_can_still_differ() -> None:
    """The least of 45 adjusted p-values knows no floor, however few samples are drawn."""
    names = "abcdefghij"
    comparison = compared(
        [sample_run(name, right=0.1 * number) for number, name in enumerate(names, start=1)]
    )
    assert comparison.difference("j", "a").is_significant


def test_times_are_means_over_seeds() -> None:
    (model,) = compared([sample_run("a", seed) for seed in (1, 2)]).models
    assert model.seconds_an_epoch == 61.0
    assert (model.seconds_to_best, model.epochs_to_best) == (60.0, 1)
    (bare,) = compared([sample_run("a", curve=())]).models
    assert (bare.seconds_an_epoch, bare.seconds_to_best, bare.epochs_to_best) == (None, None, None)


def test_what_only_some_seeds_know_is_left_out() -> None:
    one = sample_run("a", 1, truth={"time": 0.5, "place": 1.0}, others={"METEOR": 0.3})
    comparison = compared([one, sample_run("a", 2, truth={"time": 0.75}), sample_run("b")])
    model = next(model for model in comparison.models if model.name == "a")
    assert model.truth == {"time": 0.625}
    assert "METEOR" not in model.scores
    assert comparison.seeds == 1  # of b


def test_scores_that_one_model_lacks_are_left_out_of_the_table() -> None:
    clip = {"CLIPScore": np.where(np.arange(PICTURES) < PICTURES / 4, 0.2, 0.6)}
    both = [sample_run("a", means=clip, others={"METEOR": 0.3}), sample_run("b", means=clip)]
    comparison = compared(both)
    assert comparison.metrics == ["CIDEr", "BLEU-4", "ROUGE-L", "CLIPScore"]
    score = comparison.models[0].scores
    assert score["CLIPScore"].value == pytest.approx(0.5)
    assert (score["METEOR"].value, score["METEOR"].pictures) == (0.3, None)
    assert "CLIPScore" not in compared([both[0], sample_run("b")]).metrics


def test_settings_that_differ_are_named() -> None:
    runs = [sample_run("a"), sample_run("b", settings={"NUM_EPOCHS": 9, "RANDOM_SEED": 7})]
    assert compared(runs).differing == ("ENCODER_MODEL_NAME", "NUM_EPOCHS")


def test_what_cannot_be_compared_is_refused() -> None:
    run = sample_run("a")
    other_pictures = replace(run.scores, ids=tuple(f"x{key}" for key in run.scores.ids))
    other_words = tuple(replace(one, references=("x",)) for one in run.captions)
    cases = {
        "other pictures": {"scores": other_pictures},
        "other references": {"captions": other_words},
        "other tokenizers": {"protocol": {"tokenizer": "spaces"}},
    }
    for words, changes in cases.items():
        with pytest.raises(UserError, match=words):
            compared([run, replace(run, model="b"), replace(run, model="c", **changes)])
    with pytest.raises(UserError, match="One picture tells no models apart"):
        compared([sample_run(name, right=[True]) for name in "ab"])
    with pytest.raises(UserError, match="nothing to compare"):
        compared([])


def test_every_pair_stands_once() -> None:
    names = ["a", "b", "c", "d"]
    comparison = compared(
        [sample_run(name, right=0.2 * number) for number, name in enumerate(names, start=1)]
    )
    pairs = [(one.first, one.second) for one in comparison.differences if one.metric == "CIDEr"]
    assert pairs == list(itertools.combinations(names[::-1], 2))
    for metric in COMPARED:
        found = [one for one in comparison.differences if one.metric == metric]
        assert [one.p_adjusted for one in found] == holm([one.p_value for one in found])
        assert any(one.p_adjusted > one.p_value for one in found)
    with pytest.raises(KeyError):
        comparison.difference("a", "a")

"""Which of several models captions better, and how sure that is. Pure numbers.

A model's score is the mean over its seeds. Two things make it uncertain, and each has an interval:
the pictures (bootstrap: what other pictures would give) and the seeds (Student's t: what other
seeds would give). Two models are compared on the same resampled pictures while their seeds are
drawn too, n - 1 of n, which makes the variance of a mean of few seeds right (Rao & Wu, 1988).
Of many pairs some seem to differ by chance, so p-values are adjusted (Holm, 1979).

    runs = [read_run(folder, model="CLIP", seed=1, run_dir=...), ...]
    comparison = compare_runs(runs, {"NUM_EPOCHS": 15, ...})
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

import numpy as np

from captioning.comparison.runs import MEANS, MEASURED_BY_EVERYONE, Cost, RunResult
from captioning.metrics.intervals import SAMPLES, Interval, interval_of, resampled_scores
from captioning.metrics.ngrams import FloatArray
from captioning.system.errors import UserError

RANKED_BY = "CIDEr"
COMPARED = ("CIDEr", "BLEU-4")
"""Scores whose differences are tested."""
SHORTER_BLEU = {"BLEU-1", "BLEU-2", "BLEU-3"}
BY_CHANCE = "attention_inside_by_chance"
SIGNIFICANT = 0.05
SAMPLES_A_PAIR = 200
"""So many that the smallest p-value is 0.01 after the correction for all pairs."""
T_QUANTILES = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""97.5 % quantiles of Student's t for 1 to 30 degrees of freedom."""


@dataclass(frozen=True)
class Estimate:
    """A score of a model."""

    value: float
    """Mean over the seeds."""
    each: tuple[float, ...]
    """Of every seed, in the order of the runs."""
    pictures: Interval | None
    """95 % over pictures, for these seeds; None where it cannot be told."""
    seeds: Interval | None
    """95 % over seeds, for these pictures; None for a single seed."""


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """A model with all its seeds."""

    name: str
    runs: tuple[RunResult, ...]
    scores: dict[str, Estimate]
    truth: dict[str, float]
    """Mean over the seeds."""
    cost: Cost
    seconds_an_epoch: float | None
    seconds_to_best: float | None
    epochs_to_best: float | None


@dataclass(frozen=True)
class PairDifference:
    """How far one model is ahead of another."""

    metric: str
    first: str
    second: str
    value: float
    """First minus second."""
    interval: Interval
    """95 %, over pictures and seeds."""
    p_value: float
    """Two-sided."""
    p_adjusted: float
    """After Holm's correction for all pairs."""

    @property
    def is_significant(self) -> bool:
        """Whether pictures and seeds alone would rarely make such a difference."""
        return self.p_adjusted < SIGNIFICANT


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Several models on the same pictures."""

    models: tuple[ModelResult, ...]
    """Best first, by CIDEr."""
    differences: tuple[PairDifference, ...]
    """Each pair once for each of `COMPARED`, the model that is ahead by CIDEr first."""
    differing: tuple[str, ...]
    """Settings in which the runs differ, besides the seed."""

    @property
    def pictures(self) -> int:
        """How many were captioned."""
        return len(self.models[0].runs[0].captions)

    @property
    def seeds(self) -> int:
        """Of the model that has fewest."""
        return min(len(model.runs) for model in self.models)

    @property
    def metrics(self) -> list[str]:
        """The scores for a table: those that every model has, without BLEU's shorter runs."""
        shared = set.intersection(*(set(model.scores) for model in self.models))
        return [name for name in self.models[0].scores if name in shared - SHORTER_BLEU]

    @property
    def truths(self) -> list[str]:
        """What captions of drawn scenes can get right, where it is known of every model."""
        shared = set.intersection(*(set(model.truth) for model in self.models))
        return [name for name in self.models[0].truth if name in shared - {BY_CHANCE}]

    def difference(self, first: str, second: str, metric: str = RANKED_BY) -> PairDifference:
        """The difference of two models, whichever is ahead."""
        for one in self.differences:
            if one.metric == metric and {one.first, one.second} == {first, second}:
                return one if one.first == first else _turned(one)
        raise KeyError((first, second, metric))


def compare_runs(
    runs: Sequence[RunResult],
    defaults: Mapping[str, Any],
    *,
    samples: int | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare runs; those of one `model` are its seeds.

    `defaults` are those of the settings that decide a result: what a run of a time before a setting
    existed had. `samples` are drawn, by default as many as the correction for the pairs needs.
    Raises `UserError` where they captioned other pictures, or were scored otherwise.
    """
    _refuse_unequal(runs)
    by_model: dict[str, list[RunResult]] = {}
    for run in runs:
        by_model.setdefault(run.model, []).append(run)
    samples = samples or max(SAMPLES, SAMPLES_A_PAIR * math.comb(len(by_model), 2))
    models, draws = [], {}
    for number, (name, own) in enumerate(by_model.items()):
        resampled = [resampled_scores(run.scores, run.means, samples, seed) for run in own]
        models.append(_summary(name, own, resampled))
        weights = seed_weights(len(own), samples, seed=(seed, number))
        draws[name] = {
            metric: np.einsum("rs,sr->s", np.stack([one[metric] for one in resampled]), weights)
            for metric in COMPARED
        }
    models.sort(key=lambda model: -model.scores[RANKED_BY].value)
    differences = []
    for metric in COMPARED:
        pairs = [
            _difference(metric, first, second, draws[first.name], draws[second.name])
            for first, second in itertools.combinations(models, 2)
        ]
        adjusted = holm([pair.p_value for pair in pairs])
        differences += [
            replace(pair, p_adjusted=p) for pair, p in zip(pairs, adjusted, strict=True)
        ]
    return Comparison(
        models=tuple(models),
        differences=tuple(differences),
        differing=differing_settings([run.settings for run in runs], defaults),
    )


def differing_settings(
    runs: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any]
) -> tuple[str, ...]:
    """Names of the settings, of those in `defaults`, that are not the same in all runs."""
    return tuple(
        name
        for name, default in defaults.items()
        if len({repr(settings.get(name, default)) for settings in runs}) > 1
    )


def seed_interval(values: Sequence[float]) -> Interval | None:
    """Student's 95 % interval of the mean of some seeds' scores; None for fewer than two."""
    if len(values) < 2:
        return None
    quantile = T_QUANTILES[min(len(values) - 1, len(T_QUANTILES)) - 1]
    half = quantile * stdev(values) / math.sqrt(len(values))
    return Interval(fmean(values) - half, fmean(values) + half)


def seed_weights(seeds: int, samples: int, *, seed: Sequence[int]) -> FloatArray:
    """What share each seed has in each resampled mean; [samples, seeds]."""
    if seeds == 1:
        return np.ones((samples, 1))
    drawn = np.random.default_rng(seed).multinomial(seeds - 1, [1 / seeds] * seeds, samples)
    return drawn / (seeds - 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, so that each can be held against the same limit."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _summary(
    name: str, runs: Sequence[RunResult], resampled: Sequence[dict[str, FloatArray]]
) -> ModelResult:
    scores = {}
    for metric in (*MEASURED_BY_EVERYONE, *MEANS):
        if all(metric in one for one in resampled):
            each = [
                float(run.means[metric].mean())
                if metric in run.means
                else run.scores.corpus[metric]
                for run in runs
            ]
            mean = np.mean([one[metric] for one in resampled], axis=0)
            scores[metric] = _estimate(each, interval_of(mean))
    for metric in set.intersection(*(set(run.others) for run in runs)):
        scores[metric] = _estimate([run.others[metric] for run in runs], None)
    best = [run.best for run in runs if run.best is not None]
    seconds = [point.seconds for point in best if point.seconds is not None]
    paces = [run.seconds_an_epoch for run in runs if run.seconds_an_epoch is not None]
    known = set.intersection(*(set(run.truth) for run in runs))
    return ModelResult(
        name=name,
        runs=tuple(runs),
        scores=scores,
        truth={
            what: fmean(run.truth[what] for run in runs) for what in runs[0].truth if what in known
        },
        cost=runs[0].cost,
        seconds_an_epoch=fmean(paces) if paces else None,
        seconds_to_best=fmean(seconds) if seconds else None,
        epochs_to_best=fmean(point.epoch for point in best) if best else None,
    )


def _estimate(each: Sequence[float], pictures: Interval | None) -> Estimate:
    return Estimate(fmean(each), tuple(each), pictures, seed_interval(each))


def _difference(
    metric: str,
    first: ModelResult,
    second: ModelResult,
    first_draws: dict[str, FloatArray],
    second_draws: dict[str, FloatArray],
) -> PairDifference:
    drawn = first_draws[metric] - second_draws[metric]
    turned = int(min((drawn <= 0).sum(), (drawn >= 0).sum()))
    p_value = min(1.0, 2 * (turned + 1) / (len(drawn) + 1))
    value = first.scores[metric].value - second.scores[metric].value
    return PairDifference(
        metric, first.name, second.name, value, interval_of(drawn), p_value, p_value
    )


def _turned(one: PairDifference) -> PairDifference:
    return replace(
        one,
        first=one.second,
        second=one.first,
        value=-one.value,
        interval=Interval(-one.interval.high, -one.interval.low),
    )


def _refuse_unequal(runs: Sequence[RunResult]) -> None:
    if not runs:
        raise UserError("There is nothing to compare; give at least one evaluated run.")
    first, problems = runs[0], []
    for run in runs[1:]:
        names = f"{run.checkpoint or run.model} and {first.checkpoint or first.model}"
        if run.scores.ids != first.scores.ids:
            problems.append(f"{names} captioned other pictures: they cannot be compared.")
        elif [one.references for one in run.captions] != [one.references for one in first.captions]:
            problems.append(f"{names} were held against other references: they cannot be compared.")
        elif run.protocol.get("tokenizer") != first.protocol.get("tokenizer"):
            problems.append(f"{names} were scored with other tokenizers: they cannot be compared.")
    if problems:
        raise UserError(*problems)

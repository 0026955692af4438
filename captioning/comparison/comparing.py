"""Which of several models captions better, and how sure that is. Pure numbers.

A model's score is the mean over its seeds. Two things make it uncertain, and each has an interval:
the pictures (bootstrap: what other pictures would give) and the seeds (Student's t: what other
seeds would give). Both count in the difference of two models (`chance`). Of many pairs some seem to
differ by chance, so p-values are adjusted (Holm, 1979).

    runs = [read_run(folder, model="CLIP", seed=1, run_dir=...), ...]
    comparison = compare_runs(runs, {"NUM_EPOCHS": 15, ...})
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np

from captioning.comparison.chance import SeedScores, difference, holm, seed_interval
from captioning.comparison.runs import MEANS, MEASURED_BY_EVERYONE, Cost, RunResult
from captioning.metrics.intervals import SAMPLES, Interval, interval_of, resampled_scores
from captioning.metrics.ngrams import FloatArray
from captioning.system.errors import UserError

RANKED_BY = "CIDEr"
COMPARED = ("CIDEr", "BLEU-4")
"""Scores whose differences are tested."""
SHORTER_BLEU = {"BLEU-1", "BLEU-2", "BLEU-3"}
FREQUENCIES = "document frequencies"
BY_CHANCE = "attention_inside_by_chance"
SIGNIFICANT = 0.05


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
    captions_per_second: float | None
    """The fastest of its runs; others may have been held up. None where one is not known."""
    peak_memory_bytes: int | None
    joules_a_caption: float | None
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
    """95 %, over what `covers_seeds` says."""
    p_value: float
    """Two-sided."""
    p_adjusted: float
    """After Holm's correction for all pairs."""
    covers_seeds: bool
    """Whether interval and p-value count other seeds as chance, or other pictures alone."""

    @property
    def is_significant(self) -> bool:
        """Whether chance alone, of what is covered, would rarely make such a difference."""
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
    def has_effort(self) -> bool:
        """Whether it is known of any model what captioning took."""
        return any(run.effort for model in self.models for run in model.runs)

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
    samples: int = SAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare runs; those of one `model` are its seeds.

    `defaults` are those of the settings that decide a result: what a run of a time before a setting
    existed had. `samples` are drawn of the pictures.
    Raises `UserError` where they captioned other pictures, or were scored otherwise.
    """
    _refuse_unequal(runs)
    by_model: dict[str, list[RunResult]] = {}
    for run in runs:
        by_model.setdefault(run.model, []).append(run)
    models, draws = [], {}
    for name, own in by_model.items():
        resampled = [resampled_scores(run.scores, run.means, samples, seed) for run in own]
        models.append(_summary(name, own, resampled))
        draws[name] = {metric: np.stack([one[metric] for one in resampled]) for metric in COMPARED}
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
        differing=differing_settings([run.settings for run in runs if run.settings], defaults),
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
        captions_per_second=_of_all(runs, "captions_per_second", max),
        peak_memory_bytes=_of_all(runs, "peak_memory_bytes", max),
        joules_a_caption=_of_all(runs, "joules_a_caption", min),
        seconds_an_epoch=fmean(paces) if paces else None,
        seconds_to_best=fmean(seconds) if seconds else None,
        epochs_to_best=fmean(point.epoch for point in best) if best else None,
    )


def _of_all(runs: Sequence[RunResult], name: str, choose: Callable[[list[Any]], Any]) -> Any:
    """One of the runs' measurements of captioning; None where a run has none."""
    found = [getattr(run.effort, name, None) for run in runs]
    return None if None in found else choose(found)


def _estimate(each: Sequence[float], pictures: Interval | None) -> Estimate:
    return Estimate(fmean(each), tuple(each), pictures, seed_interval(each))


def _difference(
    metric: str,
    first: ModelResult,
    second: ModelResult,
    first_draws: Mapping[str, FloatArray],
    second_draws: Mapping[str, FloatArray],
) -> PairDifference:
    found = difference(
        *(
            SeedScores(model.scores[metric].each, draws[metric], len(model.runs[0].captions))
            for model, draws in ((first, first_draws), (second, second_draws))
        )
    )
    p = found.p_value
    return PairDifference(
        metric, first.name, second.name, found.value, found.interval, p, p, found.covers_seeds
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
        elif run.protocol.get(FREQUENCIES) != first.protocol.get(FREQUENCIES):
            problems.append(
                f"{names} were scored with other {FREQUENCIES}: they cannot be compared."
            )
    if len({run.model for run in runs}) > 1 and len(first.captions) < 2:
        problems.append("One picture tells no models apart; compare them on two at least.")
    if problems:
        raise UserError(*problems)

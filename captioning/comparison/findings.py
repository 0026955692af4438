"""What a comparison found, and what it cannot show, in sentences made of its numbers."""

import math
import os
from collections.abc import Sequence
from statistics import fmean, stdev, variance

from captioning.comparison.comparing import RANKED_BY, Comparison, ModelResult, PairDifference

OTHER_RANKING = "BLEU-4"
ENCODER_PREFIX, PROCESSOR = "ENCODER_", "IMAGE_PROCESSOR_NAME"
CLEARLY = 1.1
"""Times as long below which two durations count as equal."""


def findings(comparison: Comparison) -> list[str]:
    """What the numbers say, most important first."""
    found = [_ranking(comparison)]
    if len(comparison.models) > 1:
        found += [_lead(comparison), *_chance(comparison), *_seeds(comparison)]
        found += [*_other_ranking(comparison), *_truth(comparison), *_pace(comparison)]
    return [*found, *_unfinished(comparison)]


def caveats(comparison: Comparison) -> list[str]:
    """What the reader must know before believing them."""
    runs = [run for model in comparison.models for run in model.runs]
    settings = [run.settings for run in runs if run.settings]
    caveats = _strangers(comparison)
    names = [str(one.get("ENCODER_MODEL_NAME", "")) for one in settings]
    if names and all(name.startswith("random:") for name in names):
        caveats.append(
            "All encoders began from random weights: this shows how they learn from these pictures "
            "alone, and nothing of encoders that come pretrained."
        )
    elif any(name.startswith("random:") for name in names):
        caveats.append("Some encoders began from random weights, others pretrained.")
    elif len(set(names)) > 1:
        caveats.append(
            "Pretrained encoders differ in data, labels, size and tokens at once: this compares "
            "their weights as they are, for these captions and this budget, and says neither why "
            "one is ahead nor which kind of network is better."
        )
    if {one.get("DATASET") for one in settings} == {"demo"}:
        caveats.append(
            "The pictures are drawn scenes of a few words: scores are far above those of "
            "photographs, and an order found here need not hold there."
        )
    if comparison.seeds == 1 and len(comparison.models) > 1:
        single = [one.name for one in comparison.models if len(one.runs) == 1]
        have = f"{_listed(single)} {'has' if len(single) == 1 else 'have'}"
        caveats.append(
            f"{have} one seed only: how much of a difference is the luck of a training is not "
            "known; intervals and p-values of such pairs are over pictures alone."
        )
    caveats += _same_run(comparison)
    elsewhere = [
        name
        for name in comparison.differing
        if not name.startswith(ENCODER_PREFIX) and name != PROCESSOR
    ]
    if elsewhere:
        caveats.append(f"The models differ in {_listed(elsewhere)} too, not in the encoder alone.")
    decodings = {str(run.protocol.get("decoding")) for run in runs}
    if len(decodings) > 1:
        caveats.append(f"Captions were searched in several ways: {_listed(sorted(decodings))}.")
    machines = {(run.hardware.get("device"), run.hardware.get("processor")) for run in runs}
    if len(machines) > 1:
        caveats.append("The runs were evaluated on several machines; so may be their times.")
    frozen = [one for one in settings if one.get("ENCODER_TRAINED_BLOCKS") == 0]
    if any(one.get("FEATURE_CACHE") != "off" for one in frozen) and _has_times(comparison):
        caveats.append("Times leave out encoding each picture once, where features are cached.")
    return caveats


def number_text(value: float, *, signed: bool = False) -> str:
    """Three digits; what rounds to nothing has no sign, whatever `signed` says."""
    rounded = round(value, 3) + 0.0  # which makes -0.0 a plain 0
    return f"{rounded:+.3f}" if signed and rounded else f"{rounded:.3f}"


def difference_text(one: PairDifference) -> str:
    """The difference with its interval and p-value, and what these do not cover."""
    p = p_text(one.p_adjusted)
    covered = "" if one.covers_seeds else ", pictures alone: other seeds are not covered"
    return (
        f"{number_text(one.value)} [{number_text(one.interval.low)}, "
        f"{number_text(one.interval.high)}] (p {p if p.startswith('<') else f'= {p}'}{covered})"
    )


def percent(share: float) -> str:
    """0.123 -> "12.3 %"."""
    return f"{share:.1%}".replace("%", " %")


def p_text(p_value: float) -> str:
    """A p-value in three digits: "0.012", or "< 0.001"."""
    return f"{p_value:.3f}" if p_value >= 0.0005 else "< 0.001"


def duration_text(seconds: float | None) -> str:
    """12.34 -> "12.3 s"; 754 -> "12.6 min"; 7,540 -> "2.1 h"; nothing -> a dash."""
    if seconds is None:
        return "–"
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _ranking(comparison: Comparison) -> str:
    scores = [f"{one.name} {number_text(one.scores[RANKED_BY].value)}" for one in comparison.models]
    seeds = sorted({len(model.runs) for model in comparison.models})
    counted = f"mean of {'-'.join(map(str, seeds))} seeds" if seeds[-1] > 1 else "one seed"
    if len(comparison.models) > 1 and seeds[-1] == 1:
        counted += " each"
    return f"{RANKED_BY} on {comparison.pictures:,} pictures, {counted}: {_listed(scores)}."


def _lead(comparison: Comparison) -> str:
    first, second = comparison.models[:2]
    lead = comparison.difference(first.name, second.name)
    if _said_alike(first, second):
        return f"{first.name} and {second.name} gave every picture the same caption."
    if lead.is_significant:
        chance = "other pictures or other seeds" if lead.covers_seeds else "other pictures"
        return (
            f"{first.name} is ahead of {second.name} by {difference_text(lead)}: more than "
            f"{chance} would explain."
        )
    if number_text(lead.value) == "0.000":
        return f"{first.name} and {second.name} have the same {RANKED_BY} to three digits."
    return (
        f"That {first.name} is ahead of {second.name} may be chance: the difference is "
        f"{difference_text(lead)}."
    )


def _chance(comparison: Comparison) -> list[str]:
    pairs = [one for one in comparison.differences if one.metric == RANKED_BY]
    if len(pairs) < 2:
        return []
    alike = [f"{one.first} and {one.second}" for one in pairs if not one.is_significant]
    chance = "chance" if all(one.covers_seeds for one in pairs) else "the chance of pictures"
    if not alike:
        return [f"All {len(pairs)} pairs of models differ by more than {chance}."]
    return [
        f"{len(pairs) - len(alike)} of {len(pairs)} pairs of models differ by more than {chance}; "
        f"not told apart: {'; '.join(alike)}."
    ]


def _seeds(comparison: Comparison) -> list[str]:
    """How much the seed matters beside the model."""
    repeated = [one.scores[RANKED_BY].each for one in comparison.models if len(one.runs) > 1]
    if not repeated:
        return []
    within = math.sqrt(fmean(variance(each) for each in repeated))
    between = stdev(one.scores[RANKED_BY].value for one in comparison.models)
    if number_text(within) == number_text(between) == "0.000":
        return []
    times = between / within if within else math.inf
    if times >= 2:
        weight = f"the choice of model matters {times:.1f} times as much as the seed"
        weight = weight if math.isfinite(times) else "the seed does not matter"
    elif times > 1:
        weight = "the choice of model matters little more than the seed"
    else:
        weight = "the seed matters as much as the choice of model"
    return [
        f"{RANKED_BY} differs by {within:.3f} between seeds of a model and by {between:.3f} "
        f"between models (standard deviations): {weight}."
    ]


def _other_ranking(comparison: Comparison) -> list[str]:
    if not all(OTHER_RANKING in model.scores for model in comparison.models):
        return []
    for metric in (RANKED_BY, OTHER_RANKING):
        if len({number_text(one.scores[metric].value) for one in comparison.models}) == 1:
            return []  # an order of nothing
    order = sorted(comparison.models, key=lambda model: -model.scores[OTHER_RANKING].value)
    if order == list(comparison.models):
        return [f"{OTHER_RANKING} puts them into the same order."]
    names = _listed([f"{one.name} {number_text(one.scores[OTHER_RANKING].value)}" for one in order])
    return [f"{OTHER_RANKING} puts them into another order: {names}."]


def _truth(comparison: Comparison) -> list[str]:
    """Best and worst at each thing that a caption can get right."""
    parts = []
    for what in (name for name in comparison.truths if "attention" not in name):
        ranks = sorted((-one.truth[what], rank) for rank, one in enumerate(comparison.models))
        best, worst = (comparison.models[rank] for _, rank in (ranks[0], ranks[-1]))
        shares = (percent(best.truth[what]), percent(worst.truth[what]))
        parts.append(
            f"{what.replace('_', ' ')} {shares[0]}"
            + (f" ({best.name}) to {shares[1]} ({worst.name})" if shares[0] != shares[1] else "")
        )
    return [f"Right in what they say, best and worst: {'; '.join(parts)}."] if parts else []


def _pace(comparison: Comparison) -> list[str]:
    if not _has_times(comparison):
        return []
    seconds = {one.name: one.seconds_an_epoch or 0.0 for one in comparison.models}
    slow, fast = (
        extreme(comparison.models, key=lambda one: seconds[one.name]) for extreme in (max, min)
    )
    slow_seconds, fast_seconds = seconds[slow.name], seconds[fast.name]
    if slow_seconds < CLEARLY * fast_seconds:
        return [
            f"An epoch takes all of them about as long ({duration_text(fast_seconds)} to "
            f"{duration_text(slow_seconds)})."
        ]
    found = (
        f"{fast.name} is the fastest ({duration_text(fast_seconds)} an epoch), {slow.name} the "
        f"slowest ({duration_text(slow_seconds)}, {slow_seconds / fast_seconds:.1f} times as long)"
    )
    leader = comparison.models[0]
    if fast is leader:
        return [f"{found}; the fastest is also the best."]
    lost = number_text(leader.scores[RANKED_BY].value - fast.scores[RANKED_BY].value)
    if lost == "0.000":
        return [f"{found}; the fastest is as good as the best."]
    return [f"{found}; {fast.name} gives up {lost} {RANKED_BY} to {leader.name} for it."]


def _unfinished(comparison: Comparison) -> list[str]:
    """Models that were still getting better when training ended."""
    rising = [
        model.name
        for model in comparison.models
        if all(run.curve and run.best == run.curve[-1] for run in model.runs)
    ]
    if not rising:
        return []
    if len(rising) == len(comparison.models) > 1:
        return ["Every run was best at its end: with more epochs the order may change."]
    were = "was" if len(rising) == 1 else "were"
    return [f"{_listed(rising)} {were} best at the end: more epochs may give more."]


def _has_times(comparison: Comparison) -> bool:
    return all(model.seconds_an_epoch is not None for model in comparison.models)


def _said_alike(first: ModelResult, second: ModelResult) -> bool:
    """Whether two models wrote the same captions, each with the same number of seeds."""
    said = [[[one.caption for one in run.captions] for run in m.runs] for m in (first, second)]
    return said[0] == said[1]


def _strangers(comparison: Comparison) -> list[str]:
    """Models that somebody else trained, beside ours or alone."""
    names = [model.name for model in comparison.models if not model.runs[0].settings]
    if not names:
        return []
    were = "was" if len(names) == 1 else "were"
    return [
        f"{_listed(names)} {were} trained elsewhere, on captions of another kind or, for all that "
        "is known, on these very ones. Scores tell how like these references captions are in words "
        "and manner, not how true or useful they are."
    ]


def _same_run(comparison: Comparison) -> list[str]:
    """Models that are checkpoints of one and the same training."""
    by_run: dict[tuple[str, str], list[str]] = {}
    for model in comparison.models:
        for run in model.runs:
            folder = os.path.dirname(run.checkpoint)
            if folder and run.settings:
                by_run.setdefault((folder, repr(run.settings)), []).append(model.name)
    return [
        f"{_listed(names)} are checkpoints of one run, {folder}: they differ by what was trained "
        "in between alone."
        for (folder, _), names in by_run.items()
        if len(set(names)) > 1
    ]


def _listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)

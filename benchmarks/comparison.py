"""How often a comparison errs: equal models that it tells apart, different ones that it does not.

Draws scores of models whose truth is known: P pictures, each with a difficulty that all models
share, S seeds a model. Writes nothing but the JSON file asked for.

    python benchmarks/comparison.py --repeats 1000 --json benchmark.json

Beside the way in use stands Satterthwaite's: one t for the sum of both variances. "Theory" is the
power of Welch's test of the seeds' scores where pictures make no noise at all: no test that does
not take both models' seeds to vary alike can know more of them.
"""

import functools
import itertools
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from captioning.comparison.chance import SeedScores, difference, holm
from captioning.comparison.student import tail
from captioning.metrics.ngrams import FloatArray
from captioning.system.errors import run_command
from captioning.system.options import parse_options

LIMIT = 0.05
SAMPLES = 400
"""Bootstrap samples; a comparison draws more."""
SEEDS = (2, 3, 5, 10)


@dataclass(frozen=True)
class Noise:
    """Standard deviations of what a score is made of besides the model's worth."""

    first: float
    """Between seeds of the first model, and of every other one after it."""
    second: float
    """Between seeds of the others."""
    of_model: float = 0.0
    """What pictures a model is good at, the same for all its seeds."""
    of_each: float = 0.6
    """Of a picture, for each seed anew."""

    def __str__(self) -> str:
        seeds = f"{self.first:g} / {self.second:g}"
        return f"{seeds}; pictures {self.of_model:g} a model, {self.of_each:g} a seed"


NOISES = (
    Noise(0.0, 0.0),
    Noise(0.05, 0.05),
    Noise(0.3, 0.3),
    Noise(0.3, 0.02),
    Noise(0.0, 0.3),
    Noise(0.05, 0.05, of_model=0.6, of_each=0.5),
    Noise(0.3, 0.02, of_model=0.6),
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How long to draw."""

    repeats: int = 1000
    """Comparisons a row."""
    json: str = ""
    """File for the numbers as JSON."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draw, print two tables, write the JSON file."""
    options = parse_options(Options, sys.argv[1:] if argv is None else argv, description=__doc__)
    result: dict[str, Any] = {"repeats": options.repeats, "equal": [], "different": []}
    print("Equal models told apart, nominal 5 %\n")
    head = f"{'noise between seeds; others':48}{'seeds':>6}{'models':>8}"
    print(f"{head}{'here':>9}{'Satterthwaite':>15}")
    for noise, seeds, models in itertools.product(NOISES, SEEDS, (2, 4)):
        counts = {"repeats": options.repeats, "seeds": seeds, "models": models}
        ours = false_alarms(noise, **counts)
        one_t = false_alarms(noise, **counts, way=satterthwaite)
        print(f"{noise!s:48}{seeds:6}{models:8}{ours:9.1%}{one_t:15.1%}", flush=True)
        row = {"noise": asdict(noise), "seeds": seeds, "models": models}
        result["equal"].append({**row, "here": ours, "satterthwaite": one_t})
    print("\nA difference of twice the seeds' deviation (0.3), found\n")
    print(f"{'seeds':>6}{'here':>9}{'theory':>9}")
    for seeds in SEEDS:
        found, theory = found_shares(
            Noise(0.3, 0.3), seeds=seeds, times=2.0, repeats=options.repeats
        )
        print(f"{seeds:6}{found:9.1%}{theory:9.1%}", flush=True)
        result["different"].append({"seeds": seeds, "here": found, "theory": theory})
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def drawn_models(
    random: np.random.Generator,
    noise: Noise,
    *,
    seeds: int,
    models: int,
    pictures: int = 300,
    lead: float = 0.0,
) -> list[SeedScores]:
    """Equally good models but that the first is better by `lead`."""
    difficulty = random.normal(2, 0.5, pictures)
    drawn = []
    for number in range(models):
        between = noise.second if number % 2 else noise.first
        scores: FloatArray = (
            difficulty
            + (lead if number == 0 else 0.0)
            + random.normal(0, noise.of_model, pictures)
            + random.normal(0, between, (seeds, 1))
            + random.normal(0, noise.of_each, (seeds, pictures))
        )
        resampled = scores @ bootstrap_weights(pictures).T
        drawn.append(SeedScores(tuple(scores.mean(axis=1).tolist()), resampled, pictures))
    return drawn


@functools.cache
def bootstrap_weights(pictures: int) -> FloatArray:
    """The share of each picture in each resampled mean; [SAMPLES, pictures]."""
    chances = [1 / pictures] * pictures
    return np.random.default_rng(0).multinomial(pictures, chances, SAMPLES) / pictures


def our_p_value(first: SeedScores, second: SeedScores) -> float:
    """As a comparison has it; 1 where the interval tells already that it is above 5 %."""
    found = difference(first, second)
    return 1.0 if found.interval.low <= 0 <= found.interval.high else found.p_value


def satterthwaite(first: SeedScores, second: SeedScores) -> float:
    """The p-value of one t for the sum of the seeds' and the pictures' variances."""
    apart = first.drawn.mean(axis=0) - second.drawn.mean(axis=0)
    pictures = max(np.var(apart, ddof=1) - first.shared_variance - second.shared_variance, 0.0)
    parts = [
        (first.seed_variance, first.seeds - 1),
        (second.seed_variance, second.seeds - 1),
        (float(pictures), first.pictures - 1),
    ]
    total = sum(part for part, _ in parts)
    freedom = total**2 / sum(part**2 / own for part, own in parts)
    distance = abs(float(np.mean(first.each) - np.mean(second.each)))
    return 2 * tail(distance / math.sqrt(total), freedom)


def false_alarms(
    noise: Noise, *, seeds: int, models: int, repeats: int, way: Any = our_p_value
) -> float:
    """The share of comparisons of equal models that call at least one pair different."""
    random, alarms = np.random.default_rng([seeds, models]), 0
    for _ in range(repeats):
        drawn = drawn_models(random, noise, seeds=seeds, models=models)
        pairs = itertools.combinations(drawn, 2)
        alarms += min(holm([way(*pair) for pair in pairs])) < LIMIT
    return alarms / repeats


def found_shares(noise: Noise, *, seeds: int, times: float, repeats: int) -> tuple[float, float]:
    """How often two models that differ by `times` the first's noise are told apart; in theory."""
    random, lead, found, theory = np.random.default_rng(seeds), times * noise.first, 0, 0
    for _ in range(repeats):
        pair = drawn_models(random, noise, seeds=seeds, models=2, lead=lead)
        found += our_p_value(*pair) < LIMIT
        # Scores of seeds alone, on which pictures make no noise.
        alone = [
            SeedScores(tuple(each.tolist()), np.repeat(each[:, None], 2, axis=1), 300)
            for each in (
                random.normal(lead, noise.first, seeds),
                random.normal(0, noise.second, seeds),
            )
        ]
        theory += our_p_value(*alone) < LIMIT
    return found / repeats, theory / repeats


if __name__ == "__main__":
    run_command(main)

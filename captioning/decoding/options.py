"""How to search: the method and its settings.

Touches no files. `Warp.apply` bends the distribution that sampling draws from.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from captioning.system.errors import UserError
from captioning.system.rules import MOST_BEAMS

EarlyStop = Literal["heuristic", "exact", "first"]
"""When beams leave a picture. heuristic: when the best open beam, scored at its length so far, is
no better than the worst of `beam_size` finished ones, as in Hugging Face; exact: when no open beam
can still come among the captions asked for; first: when `beam_size` have finished."""


@dataclass(frozen=True, kw_only=True)
class Warp:
    """How sampling bends the next token's distribution, in this order."""

    temperature: float = 1.0
    """Log-probabilities are divided by it."""
    top_k: int = 0
    """Keep the k most probable tokens (0 = off). Fan et al., 2018."""
    top_p: float = 1.0
    """Of these keep the smallest set of most probable tokens whose sum is at least p (1 = off).
    Holtzman et al., 2020."""
    min_p: float = 0.0
    """Keep tokens at least this many times as probable as the best (0 = off). Nguyen et al.,
    2024."""

    def __post_init__(self) -> None:
        problems = []
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            problems.append(f"temperature is {self.temperature}; it must be above 0.")
        if self.top_k < 0:
            problems.append(f"top_k is {self.top_k}; it must be at least 0.")
        if not 0 < self.top_p <= 1:
            problems.append(f"top_p is {self.top_p}; it must be above 0 and at most 1.")
        if not 0 <= self.min_p <= 1:
            problems.append(f"min_p is {self.min_p}; it must be from 0 to 1.")
        if problems:
            raise UserError(*problems)

    def apply(self, scores: Tensor) -> Tensor:
        """Probabilities (B, W, V) from scores (B, W, V), which may hold -inf.

        Tokens as probable as the last one that is kept are kept too.
        """
        scores = scores / self.temperature
        least = scores.amax(-1, keepdim=True) + (math.log(self.min_p) if self.min_p else -math.inf)
        if self.top_k or self.top_p < 1:
            count = min(self.top_k or scores.shape[-1], scores.shape[-1])
            best = scores.topk(count).values
            if self.top_p < 1:
                probabilities = best.softmax(-1)
                before = probabilities.cumsum(-1) - probabilities
                best = best.masked_fill(before >= self.top_p, math.inf)
            least = least.maximum(best.amin(-1, keepdim=True))
        return scores.masked_fill(scores < least, -math.inf).softmax(-1)


@dataclass(frozen=True, kw_only=True)
class Usual:
    """What a model's captions follow where nobody says otherwise: nothing, but for a model that
    was trained elsewhere and brings such settings."""

    min_length: int = 0
    """Tokens before the end, at least."""
    no_repeat_ngram: int = 0
    """No sequence of this many tokens comes twice (0 = off)."""
    early_stop: EarlyStop = "heuristic"
    """When beams leave a picture."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How to search. Raises `UserError` where a value does not fit."""

    method: Literal["greedy", "beam", "diverse", "sample"] = "beam"
    num_captions: int = 1
    """Captions of a picture."""
    length_penalty: float = 1.0
    """Scores are sums over length ** length_penalty (0 = plain sums; more favours length)."""
    beam_size: int = 3
    """Beams of a picture, over all groups."""
    early_stop: EarlyStop | None = None
    """When beams leave a picture (None = as the model's captions usually are: heuristic, but for
    one that was trained elsewhere and says otherwise)."""
    groups: int = 3
    """Groups of beams in diverse search; divides beam_size."""
    diversity_penalty: float = 0.5
    """Taken off a token for each beam of an earlier group that chose it in the same step."""
    warp: Warp = field(default_factory=Warp)
    """How sampling bends the distribution."""
    seed: int = 0
    """Seed of sampling."""

    def __post_init__(self) -> None:
        beams = self.method in ("beam", "diverse")
        checks = {
            f"num_captions is {self.num_captions}; it must be at least 1.": self.num_captions >= 1,
            f"num_captions is {self.num_captions}; greedy search finds one caption, take the "
            "method beam, diverse or sample.": self.method != "greedy" or self.num_captions <= 1,
            f"beam_size is {self.beam_size}; it must be at least the number of captions, "
            f"{self.num_captions}.": not beams or self.num_captions <= self.beam_size,
            f"beam_size is {self.beam_size}; it must be at most {MOST_BEAMS:,}.": (
                not beams or self.beam_size <= MOST_BEAMS
            ),
            f"num_captions is {self.num_captions}; it must be at most {MOST_BEAMS:,}.": (
                self.num_captions <= MOST_BEAMS
            ),
            f"groups is {self.groups}; it must divide the beam size, {self.beam_size}.": (
                self.method != "diverse" or (self.groups >= 1 and self.beam_size % self.groups == 0)
            ),
            f"length_penalty is {self.length_penalty}; it must be a finite number.": (
                math.isfinite(self.length_penalty)
            ),
            f"diversity_penalty is {self.diversity_penalty}; it must be at least 0.": (
                0 <= self.diversity_penalty < math.inf
            ),
            f"seed is {self.seed}; it must be at least 0.": self.seed >= 0,
        }
        problems = [problem for problem, holds in checks.items() if not holds]
        if problems:
            raise UserError(*problems)

    @classmethod
    def of_beams(cls, beam_size: int, *, length_penalty: float = 1.0) -> "SearchOptions":
        """Beam search with so many beams; greedy search for one."""
        method: Literal["beam", "greedy"] = "beam" if beam_size > 1 else "greedy"
        return cls(method=method, beam_size=beam_size, length_penalty=length_penalty)

    @property
    def description(self) -> str:
        """The search in a few words."""
        if self.method == "beam":
            return f"beam search, {self.beam_size} beams, length penalty {self.length_penalty:g}"
        if self.method == "diverse":
            return f"diverse beam search, {self.beam_size} beams in {self.groups} groups"
        if self.method == "sample":
            return f"sampling, temperature {self.warp.temperature:g}, seed {self.seed}"
        return "greedy"

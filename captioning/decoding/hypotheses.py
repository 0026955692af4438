"""What searches work on: the state that gives logits, open captions as tensors, found captions.

Knows token ids only; reads and writes no files. S sets of captions (a picture, or a group of
beams of a picture), N captions of a set, T tokens at most, B pictures, W rows, V vocabulary.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

LEAVING_SHARE = 0.125
"""Finished pictures leave once they are this share of the batch, because leaving copies it."""


class NextToken(Protocol):
    """The state of B pictures with W rows (open captions) each; at first W is 1."""

    def step(self, tokens: Tensor) -> Tensor:
        """Logits (B, W, V) of the next token, from the newest token (B, W) of each row."""

    def reorder(self, pictures: Tensor, rows: Tensor) -> None:
        """Go on with new pictures and rows.

        New picture b is old picture pictures[b] (B'); its row w goes on from old row rows[b, w]
        (B', W') of that picture. One call covers growing from 1 row to W, changing the order of
        the rows and dropping finished pictures.
        """


@dataclass(frozen=True)
class Hypothesis:
    """One caption that a search found."""

    ids: tuple[int, ...]
    """Its tokens, without the start and end tokens."""
    token_log_probabilities: tuple[float, ...]
    """The model's own log-probability of each token; the end token's is last if it ended."""
    score: float
    """What ranked it: its sum after the repetition penalty, over length ** length_penalty."""
    ended: bool
    """False where it was cut at the greatest length."""

    @property
    def log_probability(self) -> float:
        """The model's own log-probability of the caption, whatever rules led to it."""
        return math.fsum(self.token_log_probabilities)

    @property
    def confidence(self) -> float:
        """Geometric mean of the token probabilities, from 0 to 1."""
        return math.exp(self.log_probability / len(self.token_log_probabilities))


@dataclass(frozen=True)
class Captions:
    """S sets of N captions as tensors."""

    ids: Tensor
    """(S, N, T) tokens, the end token included."""
    log_probabilities: Tensor
    """(S, N, T) the model's own, of each token."""
    scores: Tensor
    """(S, N) sums while open, divided by the length once closed; -inf where there is none."""
    lengths: Tensor
    """(S, N) tokens written."""

    @classmethod
    def blank(
        cls, shape: tuple[int, int, int], score: float, device: torch.device | str
    ) -> "Captions":
        """Captions (S, N, T) without a token."""
        return cls(
            ids=torch.zeros(shape, dtype=torch.long, device=device),
            log_probabilities=torch.zeros(shape, device=device),
            scores=torch.full(shape[:2], score, device=device),
            lengths=torch.zeros(shape[:2], dtype=torch.long, device=device),
        )

    def sets(self, index: Tensor) -> "Captions":
        """The sets `index` (S')."""
        return Captions(
            self.ids[index], self.log_probabilities[index], self.scores[index], self.lengths[index]
        )

    def put(self, index: Tensor, captions: "Captions") -> None:
        """Write the sets `index` (S'), in place."""
        self.ids[index] = captions.ids
        self.log_probabilities[index] = captions.log_probabilities
        self.scores[index] = captions.scores
        self.lengths[index] = captions.lengths

    def take(self, index: Tensor) -> "Captions":
        """The captions `index` (S, N') of each set."""
        wide = index[..., None].expand(-1, -1, self.ids.shape[-1])
        return Captions(
            self.ids.gather(1, wide),
            self.log_probabilities.gather(1, wide),
            self.scores.gather(1, index),
            self.lengths.gather(1, index),
        )

    def first(self, count: int) -> "Captions":
        """The first `count` captions of each set."""
        return Captions(
            self.ids[:, :count],
            self.log_probabilities[:, :count],
            self.scores[:, :count],
            self.lengths[:, :count],
        )

    def concatenate(self, other: "Captions") -> "Captions":
        """The captions of both, set by set."""
        return Captions(
            torch.cat((self.ids, other.ids), 1),
            torch.cat((self.log_probabilities, other.log_probabilities), 1),
            torch.cat((self.scores, other.scores), 1),
            torch.cat((self.lengths, other.lengths), 1),
        )

    def hypotheses(self, end_id: int) -> list[list[Hypothesis]]:
        """The captions of each set, best first, once they are closed."""
        order = self.scores.argsort(dim=1, descending=True, stable=True)
        best = self.take(order)
        columns = (best.ids, best.log_probabilities, best.scores, best.lengths)
        return [
            [
                _hypothesis(ids[:length], log_probabilities[:length], score, end_id)
                for ids, log_probabilities, score, length in zip(*one_set, strict=True)
                if score > -math.inf
            ]
            for one_set in zip(*(column.tolist() for column in columns), strict=True)
        ]


def _hypothesis(
    ids: list[int], log_probabilities: list[float], score: float, end_id: int
) -> Hypothesis:
    ended = ids[-1] == end_id
    words = ids[:-1] if ended else ids
    return Hypothesis(tuple(words), tuple(log_probabilities), score, ended)


def go_on(state: NextToken, is_open: Tensor, sources: Tensor, old_width: int) -> Tensor:
    """Reorder the state if it has to be; returns the pictures (B') that stay in the batch.

    `is_open` (B) tells the unfinished pictures, `sources` (B, W) the old row of each new one.
    """
    row = torch.arange(sources.shape[1], device=sources.device)
    flags = torch.cat((is_open, (sources == row).all()[None])).tolist()
    is_in_order = flags.pop() and old_width == len(row)
    stay = [picture for picture, still_open in enumerate(flags) if still_open]
    if stay and len(flags) - len(stay) < LEAVING_SHARE * len(flags):
        stay = list(range(len(flags)))
    index = torch.tensor(stay, dtype=torch.long, device=sources.device)
    if stay and not (is_in_order and len(stay) == len(flags)):
        state.reorder(index, sources[index])
    return index

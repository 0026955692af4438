"""What a caption may say: the rules that a search applies before it chooses each next token.

Knows token ids only; reads and writes no files. B pictures, W rows (open captions) of a picture,
T tokens written so far, V vocabulary. All functions work on whole batches of rows.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from captioning.system.errors import UserError

Word = tuple[int, ...]
"""A word as the tokens that spell it."""


@dataclass(frozen=True)
class ForcedProgress:
    """How far rows (...) are with the forced words, which have F tokens together."""

    placed: Tensor
    """(...) tokens of forced words that stand, those of the longest begun word included."""
    missing: Tensor
    """(...) tokens of the words that are not complete; 0 where all are."""
    tokens: Tensor
    """(..., F) the tokens of all the words."""
    begun: Tensor
    """(..., F) tokens of its word that would stand before this one if it came next; -1 where the
    row does not end with them or the word is complete."""


@dataclass(frozen=True, kw_only=True)
class TokenRules:
    """Limits of a caption, in tokens. Raises `UserError` where they contradict each other."""

    start_id: int
    """Stands before the first token; forbid it too if it must not be written."""
    end_id: int
    """Ends a caption."""
    max_length: int
    """Tokens written at most, the end token counted."""
    min_length: int = 0
    """Tokens before the end token, at least."""
    prefix: Word = ()
    """Tokens that each caption begins with; they stand above all other rules."""
    forbidden_ids: tuple[int, ...] = ()
    """Tokens that are never written."""
    forbidden_words: tuple[Word, ...] = ()
    """Token sequences that are never written."""
    forbidden_whole_words: tuple[Word, ...] = ()
    """Token sequences that are written only where one of `continuing_ids` comes next."""
    forced_words: tuple[Word, ...] = ()
    """Token sequences that each caption contains; where there is room for nothing else, they
    stand above the rules on forbidden words and repeats."""
    continuing_ids: tuple[int, ...] = ()
    """Tokens that go on with the word before them, such as "ing"."""
    no_repeat_ngram: int = 0
    """No sequence of this many tokens comes twice (0 = off)."""
    repetition_penalty: float = 1.0
    """Factor on the log-probability of tokens that were written before (1 = off)."""

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise UserError(*problems)

    def apply(self, log_probabilities: Tensor, ids: Tensor) -> Tensor:
        """Scores (B, W, V) of the next token: -inf where it is not allowed.

        `log_probabilities` (B, W, V) are the model's; they are overwritten where a token is not
        allowed, and stay as they are where it is. `ids` (B, W, T) is what the rows hold. Where
        the rules leave nothing at all, the caption may end early.

        The repetition penalty is that of Keskar et al., 2019 (CTRL), on log-probabilities, so
        that it does not depend on the logits' offset and is the same for every method.
        """
        scores = self._penalise_repeats(log_probabilities, ids)
        length, end_scores = ids.shape[-1], scores[..., self.end_id].clone()
        if length < len(self.prefix):
            given = scores[..., self.prefix[length]].clone()
            scores.fill_(-math.inf)
            scores[..., self.prefix[length]] = given
            return scores
        progress = self.forced_progress(ids) if self.forced_words else None
        if progress:
            continued = scores.gather(-1, progress.tokens)
        if self.forbidden_ids:
            scores[..., list(self.forbidden_ids)] = -math.inf
        for *before, last in self.forbidden_words:
            scores[..., last].masked_fill_(_ends_with(ids, tuple(before)), -math.inf)
        if self.forbidden_whole_words:
            end_scores = end_scores.masked_fill(self._go_on_with_words(scores, ids), -math.inf)
        self._block_ngrams(scores, ids)
        if progress:
            self._force_due_words(scores, continued, progress, length)
        if length >= self.min_length and not progress:
            scores[..., self.end_id] = end_scores
            return scores
        scores[..., self.end_id] = -math.inf
        may_end = scores.amax(-1) == -math.inf
        if progress and length >= self.min_length:
            may_end |= progress.missing == 0
        scores[..., self.end_id] = end_scores.masked_fill(~may_end, -math.inf)
        return scores

    def forced_progress(self, ids: Tensor) -> ForcedProgress:
        """How far rows `ids` (..., T) are with the forced words."""
        placed = torch.zeros(ids.shape[:-1], dtype=torch.long, device=ids.device)
        begun = []
        for word in self.forced_words:
            is_complete = _contains(ids, word)
            placed = placed + is_complete * len(word)
            for size in range(len(word)):
                goes_on = _ends_with(ids, word[:size]) & ~is_complete
                begun.append(torch.where(goes_on, size, -1))
        begun_counts = torch.stack(begun, -1)
        tokens = torch.tensor(sum(self.forced_words, ()), device=ids.device)
        return ForcedProgress(
            placed=placed + begun_counts.amax(-1).clamp(min=0),
            missing=len(tokens) - placed,
            tokens=tokens.expand_as(begun_counts),
            begun=begun_counts,
        )

    def _force_due_words(
        self, scores: Tensor, continued: Tensor, progress: ForcedProgress, length: int
    ) -> None:
        """Where another token would leave too little room, allow only to go on with a word.

        If all such tokens are forbidden, a forced word comes first: `continued` (B, W, F) are the
        scores before anything was forbidden.
        """
        missing, begun = progress.missing[..., None], progress.begun
        is_due = (missing > 0) & (length + 1 + missing > self.max_length)
        fits = is_due & (begun >= 0) & (length + missing - begun <= self.max_length)
        allowed = scores.gather(-1, progress.tokens).masked_fill(~fits, -math.inf)
        is_stuck = allowed.amax(-1, keepdim=True) == -math.inf
        allowed = torch.where(is_stuck & fits, continued, allowed)
        scores.masked_fill_(is_due, -math.inf)
        scores.scatter_reduce_(-1, progress.tokens, allowed, "amax")

    def _penalise_repeats(self, log_probabilities: Tensor, ids: Tensor) -> Tensor:
        if self.repetition_penalty == 1:
            return log_probabilities
        penalised = log_probabilities.gather(-1, ids) * self.repetition_penalty
        return log_probabilities.scatter(-1, ids, penalised)

    def _go_on_with_words(self, scores: Tensor, ids: Tensor) -> Tensor:
        """After a word that may not stand alone allow, in place, only what goes on with it.

        Returns the rows (B, W) of which this is true. Where there is room for one token more, the
        word is not written at all.
        """
        ends = torch.zeros(ids.shape[:-1], dtype=torch.bool, device=ids.device)
        for word in self.forbidden_whole_words:
            if ids.shape[-1] + 1 == self.max_length:
                is_last = _ends_with(ids, word[:-1])
                scores[..., word[-1]].masked_fill_(is_last, -math.inf)
            ends |= _ends_with(ids, word)
        others = torch.ones(scores.shape[-1], dtype=torch.bool, device=scores.device)
        others[list(self.continuing_ids)] = False
        scores.masked_fill_(ends[..., None] & others, -math.inf)
        return ends

    def _block_ngrams(self, scores: Tensor, ids: Tensor) -> None:
        """Forbid, in place, each token that would end an n-gram for the second time."""
        size, length = self.no_repeat_ngram, ids.shape[-1]
        if not 0 < size <= length:
            return
        ngrams = ids.unfold(-1, size, 1)
        newest = ids[..., None, length - size + 1 :]
        is_repeat = (ngrams[..., :-1] == newest).all(-1)
        # Added, not written: a token may be named by several n-grams, of which one forbids it.
        change = torch.zeros_like(is_repeat, dtype=scores.dtype).masked_fill_(is_repeat, -math.inf)
        scores.scatter_add_(-1, ngrams[..., -1], change)

    def _problems(self) -> Iterator[str]:
        if self.max_length < 1:
            yield f"max_length is {self.max_length}; it must be at least 1."
        if not 0 <= self.min_length <= self.max_length:
            yield f"min_length is {self.min_length}; it must be from 0 to {self.max_length}."
        if self.no_repeat_ngram < 0:
            yield f"no_repeat_ngram is {self.no_repeat_ngram}; it must be at least 0."
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            yield f"repetition_penalty is {self.repetition_penalty}; it must be above 0."
        if self.end_id in self.prefix or len(self.prefix) >= self.max_length:
            yield (
                f"The prefix has {len(self.prefix)} tokens, or holds the end token; a caption has "
                f"{self.max_length} at most, its end counted."
            )
        forced, forbidden = self.forced_words, self.forbidden_words
        every = (*forced, *forbidden, *self.forbidden_whole_words)
        if any(not word or self.end_id in word for word in every):
            yield "A forced or forbidden word has no tokens, or holds the end token."
        if self.end_id in self.forbidden_ids:
            yield f"The end token {self.end_id} is forbidden; captions could not end."
        asked = len(self.prefix) + sum(map(len, forced))
        if forced and asked > self.max_length:
            yield f"The forced words have {asked} tokens; a caption has {self.max_length} at most."
        never = [(token,) for token in self.forbidden_ids] + list(forbidden)
        for word in forced:
            if any(part == word[i : i + len(part)] for part in never for i in range(len(word))):
                yield f"The word with the tokens {list(word)} is both forced and forbidden."


def _ends_with(ids: Tensor, word: Word) -> Tensor:
    """(...) whether rows `ids` (..., T) end with `word`."""
    if len(word) > ids.shape[-1]:
        return torch.zeros(ids.shape[:-1], dtype=torch.bool, device=ids.device)
    newest = ids[..., ids.shape[-1] - len(word) :]
    return (newest == torch.tensor(word, dtype=torch.long, device=ids.device)).all(-1)


def _contains(ids: Tensor, word: Word) -> Tensor:
    """(...) whether rows `ids` (..., T) hold `word` somewhere."""
    if len(word) > ids.shape[-1]:
        return torch.zeros(ids.shape[:-1], dtype=torch.bool, device=ids.device)
    parts = ids.unfold(-1, len(word), 1)
    return (parts == torch.tensor(word, device=ids.device)).all(-1).any(-1)

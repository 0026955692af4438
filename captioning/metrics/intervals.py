"""What a researcher asks beyond the scores: how sure they are, and how varied the captions.

Intervals resample pictures (Efron, 1979; Koehn, 2004) from per-picture counts; nothing is scored
again. CIDEr keeps the document frequencies of all references, as its per-picture scores do.
"""

import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from captioning.metrics.bleu import bleu
from captioning.metrics.coco import BLEU_NAMES, Scores
from captioning.metrics.ngrams import FloatArray
from captioning.system.errors import UserError

SAMPLES = 1000
CONFIDENCE = 0.95
WEIGHTS_AT_ONCE = 2**20
"""Largest number of weights drawn in one go, which bounds the memory."""
SUSPICIOUS_SHARE = 0.1
SUSPICIOUS_PICTURES = 5


@dataclass(frozen=True)
class Interval:
    """A bootstrap percentile interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Diversity:
    """How varied the captions of many pictures are; counted in PTB tokens."""

    distinct_1: float
    """Distinct tokens per token (Li et al., 2016)."""
    distinct_2: float
    """Distinct pairs of neighbours per pair."""
    vocabulary_size: int
    mean_length: float
    """Tokens a caption."""
    shortest: int
    longest: int
    share_in_training: float | None
    """Share of the captions that stand in the training set word by word; None if not asked."""
    largest_group: int
    """Pictures that got the most frequent caption."""
    largest_group_caption: str
    pictures: int

    @property
    def share_novel(self) -> float | None:
        """Share of the captions that nobody wrote of a training picture; None if not asked."""
        return None if self.share_in_training is None else 1 - self.share_in_training

    @property
    def warning(self) -> str | None:
        """A sentence, where so many pictures share a caption that the model may not look at them.

        That is at least 5 pictures and a tenth of all.
        """
        share = self.largest_group / self.pictures
        if self.largest_group < SUSPICIOUS_PICTURES or share < SUSPICIOUS_SHARE:
            return None
        return (
            f"{self.largest_group:,} of {self.pictures:,} pictures ({share:.0%}) got the same "
            f"caption, {self.largest_group_caption!r}: the model may not look at the pictures."
        )


def bootstrap_intervals(
    scores: Scores,
    more: Mapping[str, FloatArray] | None = None,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """A 95 % interval for every corpus score.

    more: values [P] of further metrics whose corpus score is the mean over the pictures.
    """
    resampled = resampled_scores(scores, more or {}, samples, seed)
    return {name: interval_of(values) for name, values in resampled.items()}


def interval_of(values: FloatArray) -> Interval:
    """The middle 95 % of resampled values."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))


def describe_captions(
    captions: Sequence[str], training_captions: Collection[str] | None = None
) -> Diversity:
    """How varied tokenized captions are; raises `UserError` where there are none.

    training_captions: tokenized as well.
    """
    if not captions:
        raise UserError("There are no captions to describe; give at least one.")
    words = [caption.split() for caption in captions]
    tokens = Counter(token for text in words for token in text)
    pairs = Counter(pair for text in words for pair in itertools.pairwise(text))
    ((most_frequent, times),) = Counter(captions).most_common(1)
    share = None
    if training_captions is not None:
        known = frozenset(training_captions)
        share = sum(caption in known for caption in captions) / len(captions)
    return Diversity(
        distinct_1=len(tokens) / max(tokens.total(), 1),
        distinct_2=len(pairs) / max(pairs.total(), 1),
        vocabulary_size=len(tokens),
        mean_length=tokens.total() / len(captions),
        shortest=min(map(len, words)),
        longest=max(map(len, words)),
        share_in_training=share,
        largest_group=times,
        largest_group_caption=most_frequent,
        pictures=len(captions),
    )


def resampled_scores(
    scores: Scores, more: Mapping[str, FloatArray], samples: int, seed: int
) -> dict[str, FloatArray]:
    """Each corpus score on pictures drawn with replacement; [samples] each."""
    means = {name: values for name, values in scores.per_image.items() if name not in BLEU_NAMES}
    means |= more
    per_picture = np.stack(list(means.values()), axis=1)
    pictures = len(scores.ids)
    parts = []
    for weights in _draws(pictures, samples, seed):
        corpus_bleu = bleu(scores.bleu_counts.weighted_sums(weights))
        parts.append(np.hstack([corpus_bleu, weights @ per_picture / pictures]))
    return dict(zip((*BLEU_NAMES, *means), np.concatenate(parts).T, strict=True))


def _draws(pictures: int, samples: int, seed: int) -> Iterator[FloatArray]:
    """How often each picture is drawn in each sample; [some samples, pictures] at a time."""
    generator = np.random.default_rng(seed)
    chances = np.full(pictures, 1 / pictures)
    rows = max(WEIGHTS_AT_ONCE // pictures, 1)
    for first in range(0, samples, rows):
        size = min(rows, samples - first)
        yield generator.multinomial(pictures, chances, size).astype(float)

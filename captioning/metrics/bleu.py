"""BLEU-1 to BLEU-4 (Papineni et al., 2002) from counts that add up over pictures.

With coco-caption's choices: the reference length closest to the caption's, of two as close the
shorter; and small constants in place of smoothing, so a perfect caption scores 0.999999999.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from captioning.metrics.ngrams import MAX_ORDER, FloatArray, IntArray, Ngrams, look_up, sum_by

TINY = 1e-15
SMALL = 1e-9


@dataclass(frozen=True)
class BleuCounts:
    """What BLEU needs to know of each of P pictures, or of sums over pictures."""

    matches: FloatArray
    """N-grams of the caption that stand in a reference, for each order; [..., 4]."""
    guesses: FloatArray
    """N-grams of the caption, for each order; [..., 4]."""
    lengths: FloatArray
    """Tokens of the caption; [...]."""
    reference_lengths: FloatArray
    """Tokens of the reference closest in length; [...]."""

    @classmethod
    def joined(cls, parts: Sequence["BleuCounts"]) -> "BleuCounts":
        """The pictures of all parts, one after another."""
        return cls(
            *(
                np.concatenate([getattr(one, field.name) for one in parts])
                for field in dataclasses.fields(cls)
            )
        )

    def weighted_sums(self, weights: FloatArray) -> "BleuCounts":
        """Sums over pictures, each counted as often as `weights` [R, P] says; R rows."""
        return BleuCounts(
            weights @ self.matches,
            weights @ self.guesses,
            weights @ self.lengths,
            weights @ self.reference_lengths,
        )


def count_matches(ngrams: Ngrams, owners: IntArray) -> BleuCounts:
    """The counts of P pictures, whose captions are the first P texts, the others references.

    owners: the picture of each reference; [texts - P].
    """
    pictures = len(ngrams.lengths) - len(owners)
    matches = np.zeros((pictures, MAX_ORDER))
    for order, table in enumerate(ngrams.tables):
        split = np.searchsorted(table.texts, pictures)
        keys = table.keys_of(owners[table.texts[split:] - pictures], table.grams[split:])
        allowed_keys, allowed = _largest_by_key(keys, table.counts[split:])
        allowed_here = look_up(allowed_keys, allowed, table.keys[:split])
        clipped = np.minimum(table.counts[:split], allowed_here)
        matches[:, order] = sum_by(table.texts[:split], clipped, pictures)
    lengths = ngrams.lengths[:pictures]
    guesses = np.maximum(lengths[:, None] - np.arange(MAX_ORDER), 0)
    closest = _closest_lengths(lengths, ngrams.lengths[pictures:], owners)
    return BleuCounts(matches, guesses.astype(float), lengths.astype(float), closest)


def bleu(counts: BleuCounts) -> FloatArray:
    """BLEU-1 to BLEU-4; [..., 4]."""
    precisions = (counts.matches + TINY) / (counts.guesses + SMALL)
    geometric_means = np.cumprod(precisions, axis=-1) ** (1 / np.arange(1, MAX_ORDER + 1))
    ratio = (counts.lengths + TINY) / (counts.reference_lengths + SMALL)
    brevity_penalty = np.exp(np.minimum(1 - 1 / ratio, 0))
    return np.asarray(geometric_means * brevity_penalty[..., None])


def _largest_by_key(keys: IntArray, counts: IntArray) -> tuple[IntArray, FloatArray]:
    """The distinct keys, sorted, and the largest count of each."""
    if not len(keys):
        return keys, counts.astype(float)
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    first = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    return keys[first], np.maximum.reduceat(counts, first).astype(float)


def _closest_lengths(
    lengths: IntArray, reference_lengths: IntArray, owners: IntArray
) -> FloatArray:
    distance = np.abs(reference_lengths - lengths[owners])
    order = np.lexsort((reference_lengths, distance, owners))
    first = np.searchsorted(owners[order], np.arange(len(lengths)))
    return reference_lengths[order][first].astype(float)

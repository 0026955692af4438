"""CIDEr-D (Vedantam et al., 2015), which is what coco-caption reports as CIDEr.

Document frequencies can be counted once, on the references of a training set, and serve for any
number of calls: quick enough for a reward inside a training step.

    cider = CiderD(DocumentFrequencies.of(tokenized_references))
    rewards = cider.score(tokenize_captions(sampled), references_of_each)
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from captioning.metrics.ngrams import (
    FloatArray,
    IntArray,
    Ngrams,
    NgramTable,
    count_ngrams,
    look_up,
    sum_by,
)

LENGTH_DEVIATION = 6.0
"""Sigma of the penalty on a difference in length, which is counted in bigrams."""
SCALE = 10.0
UNKNOWN = -1


@dataclass(frozen=True)
class DocumentFrequencies:
    """In how many pictures' references each n-gram stands."""

    pictures: int
    token_numbers: dict[str, int]
    keys: tuple[IntArray, ...]
    """For each order, the n-grams as sorted pairs of a prefix and a last token."""
    frequencies: tuple[FloatArray, ...]
    """For each order, the pictures that have it."""
    tokenizer: str = "ptb"
    """Which tokens were counted: a name of `tokenizers`."""

    @classmethod
    def of(cls, references: Sequence[Sequence[str]]) -> "DocumentFrequencies":
        """Frequencies in the tokenized references of each picture."""
        texts, owners = _flat(references)
        return cls.of_ngrams(count_ngrams(texts), owners, len(references))

    @classmethod
    def of_ngrams(
        cls, ngrams: Ngrams, owners: IntArray, pictures: int, first_text: int = 0
    ) -> "DocumentFrequencies":
        """Frequencies in the texts from `first_text` on, of the pictures `owners`."""
        width = len(ngrams.tokens)
        frequencies = []
        for table in ngrams.tables:
            split = np.searchsorted(table.texts, first_text)
            pairs = table.keys_of(owners[table.texts[split:] - first_text], table.grams[split:])
            # Asked for counts, np.unique sorts, which here is faster than its hash table.
            distinct, _ = np.unique(pairs, return_counts=True)
            grams = distinct % max(len(table.prefixes), 1)
            frequencies.append(np.bincount(grams, minlength=len(table.prefixes)).astype(float))
        return cls(
            pictures,
            {token: number for number, token in enumerate(ngrams.tokens)},
            tuple(table.prefixes * width + table.last_tokens for table in ngrams.tables),
            tuple(frequencies),
        )

    @property
    def is_weighing(self) -> bool:
        """Whether any n-gram has a weight: log(pictures / frequency) is 0 for those of every one.

        Where none has, as with one picture, CIDEr is 0 whatever a caption says.
        """
        return any(((f > 0) & (f < self.pictures)).any() for f in self.frequencies)

    @classmethod
    def merged(cls, parts: Sequence["DocumentFrequencies"]) -> "DocumentFrequencies":
        """Frequencies of sets of pictures that share none, as of all of them; at least one set."""
        return functools.reduce(_merged, parts)

    def of_each(self, ngrams: Ngrams) -> list[FloatArray]:
        """The frequency of each n-gram of other texts, order by order; [G] each."""
        known = self.token_numbers
        tokens = np.array([known.get(token, UNKNOWN) for token in ngrams.tokens], np.int64)
        grams = np.zeros(1, np.int64)
        found = []
        for table, keys, frequencies in zip(
            ngrams.tables, self.keys, self.frequencies, strict=True
        ):
            prefixes, last = grams[table.prefixes], tokens[table.last_tokens]
            wanted = np.where(
                (prefixes == UNKNOWN) | (last == UNKNOWN), UNKNOWN, prefixes * len(known) + last
            )
            numbers = np.arange(1, len(keys) + 1, dtype=np.float64)
            grams = look_up(keys, numbers, wanted).astype(np.int64) - 1
            found.append(look_up(keys, frequencies, wanted))
        return found


def _merged(first: DocumentFrequencies, second: DocumentFrequencies) -> DocumentFrequencies:
    numbers = dict(first.token_numbers)
    tokens = [numbers.setdefault(token, len(numbers)) for token in second.token_numbers]
    of_second = np.array(tokens, np.int64)
    widths = [max(len(one.token_numbers), 1) for one in (first, second)]
    ours = theirs = np.zeros(1, np.int64)  # what the prefixes of an order are called now
    merged_keys, merged_counts = [], []
    for own, others, own_counts, other_counts in zip(
        first.keys, second.keys, first.frequencies, second.frequencies, strict=True
    ):
        own = ours[own // widths[0]] * len(numbers) + own % widths[0]
        others = theirs[others // widths[1]] * len(numbers) + of_second[others % widths[1]]
        keys = np.union1d(own, others)
        ours, theirs = np.searchsorted(keys, own), np.searchsorted(keys, others)
        counts = np.zeros(len(keys))
        counts[ours] += own_counts
        counts[theirs] += other_counts
        merged_keys.append(keys)
        merged_counts.append(counts)
    pictures = first.pictures + second.pictures
    return DocumentFrequencies(
        pictures, numbers, tuple(merged_keys), tuple(merged_counts), first.tokenizer
    )


class CiderD:
    """CIDEr-D with document frequencies that were counted before."""

    def __init__(self, frequencies: DocumentFrequencies) -> None:
        self.frequencies = frequencies

    def score(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> FloatArray:
        """CIDEr-D of each of N tokenized captions against its own tokenized references; [N].

        Each caption has at least one reference.
        """
        texts, owners = _flat(references)
        return self.score_ngrams(count_ngrams([*hypotheses, *texts]), owners)

    def score_ngrams(self, ngrams: Ngrams, owners: IntArray) -> FloatArray:
        """The same for N captions that are the first texts, the others references of `owners`."""
        size = len(ngrams.lengths) - len(owners)
        log_pictures = math.log(max(self.frequencies.pictures, 1))
        similarity = np.zeros(len(owners))
        for table, frequency in zip(ngrams.tables, self.frequencies.of_each(ngrams), strict=True):
            rarity = log_pictures - np.log(np.maximum(frequency, 1.0))
            similarity += _cosine(table, table.counts * rarity[table.grams], owners, size)
        bigrams = np.maximum(ngrams.lengths - 1, 0)
        difference = bigrams[owners] - bigrams[size:]
        similarity *= np.exp(-(difference**2) / (2 * LENGTH_DEVIATION**2))
        totals = sum_by(owners, similarity / len(ngrams.tables), size)
        return SCALE * totals / np.bincount(owners, minlength=size)


def _cosine(table: NgramTable, weights: FloatArray, owners: IntArray, size: int) -> FloatArray:
    """Of each reference, the clipped cosine with its caption for n-grams of one order."""
    norms = np.sqrt(sum_by(table.texts, weights**2, size + len(owners)))
    split = np.searchsorted(table.texts, size)
    references = table.texts[split:] - size
    of_caption = look_up(
        table.keys[:split],
        weights[:split],
        table.keys_of(owners[references], table.grams[split:]),
    )
    products = np.minimum(of_caption, weights[split:]) * weights[split:]
    norm = norms[owners] * norms[size:]
    dots = sum_by(references, products, len(owners))
    return np.divide(dots, norm, out=np.zeros_like(dots), where=norm > 0)


def _flat(references: Sequence[Sequence[str]]) -> tuple[list[str], IntArray]:
    """All references in one list, and the picture of each."""
    texts = [text for of_picture in references for text in of_picture]
    counts = np.array([len(of_picture) for of_picture in references], np.int64)
    return texts, np.repeat(np.arange(len(references)), counts)

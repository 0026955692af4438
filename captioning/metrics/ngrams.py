"""How often each run of 1 to 4 tokens stands in each of many texts, as NumPy arrays.

Texts are tokens joined by spaces. BLEU and CIDEr are sums over these arrays.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

MAX_ORDER = 4


@dataclass(frozen=True)
class NgramTable:
    """The n-grams of one order: E pairs of a text and one of its G n-grams, sorted by both."""

    texts: IntArray
    """Which text; [E]."""
    grams: IntArray
    """Which n-gram, from 0 to G - 1; [E]."""
    counts: IntArray
    """How often it stands there; [E]."""
    prefixes: IntArray
    """Of each n-gram, the number of its first n - 1 tokens in the table before; [G]."""
    last_tokens: IntArray
    """Of each n-gram, the number of its last token; [G]."""

    @property
    def keys(self) -> IntArray:
        """One sortable number for each pair of a text and an n-gram; [E]."""
        return self.keys_of(self.texts, self.grams)

    def keys_of(self, owners: IntArray, grams: IntArray) -> IntArray:
        """One sortable number for each pair; shapes as given."""
        return owners * len(self.prefixes) + grams


@dataclass(frozen=True)
class Ngrams:
    """The n-grams of N texts."""

    tokens: list[str]
    """The distinct tokens, by number."""
    lengths: IntArray
    """Tokens of each text; [N]."""
    tables: tuple[NgramTable, ...]
    """One table for each order from 1."""


def count_ngrams(texts: Sequence[str]) -> Ngrams:
    """The n-grams of texts, which are split at any white space, as coco-caption does it."""
    numbers: dict[str, int] = {}
    lengths = np.zeros(len(texts), np.int64)
    flat = array("q")  # eight bytes a token, where a list of words takes ten times as much
    for row, text in enumerate(texts):
        words = text.split()
        lengths[row] = len(words)
        flat.extend([numbers.setdefault(token, len(numbers)) for token in words])
    tokens = np.frombuffer(flat, np.int64) if flat else np.zeros(0, np.int64)
    owners = np.repeat(np.arange(len(texts)), lengths)
    starts = np.arange(len(tokens))
    grams = np.zeros(len(tokens), np.int64)
    tables = []
    for order in range(1, MAX_ORDER + 1):
        last = starts + order - 1
        fits = last < len(tokens)
        fits[fits] = owners[starts[fits]] == owners[last[fits]]
        starts, last, grams = starts[fits], last[fits], grams[fits]
        pairs, grams = np.unique(grams * len(numbers) + tokens[last], return_inverse=True)
        width = max(len(pairs), 1)
        keys, counts = np.unique(owners[starts] * width + grams, return_counts=True)
        tables.append(
            NgramTable(
                texts=keys // width,
                grams=keys % width,
                counts=counts,
                prefixes=pairs // max(len(numbers), 1),
                last_tokens=pairs % max(len(numbers), 1),
            )
        )
    return Ngrams(list(numbers), lengths, tuple(tables))


def look_up(keys: IntArray, values: FloatArray, wanted: IntArray) -> FloatArray:
    """The value of each wanted key, 0 where it is not among the sorted keys; as `wanted`."""
    if not len(keys):
        return np.zeros(len(wanted))
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0.0)


def sum_by(owners: IntArray, values: FloatArray, size: int) -> FloatArray:
    """The sum of the values of each owner; [size]."""
    return np.bincount(owners, values, size).astype(np.float64, copy=False)

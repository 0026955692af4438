"""ROUGE-L (Lin, 2004) as coco-caption computes it.

The largest precision and the largest recall over the references, which may be of different
references, in an F-measure with beta 1.2. Texts are split at single spaces, so no caption is
empty: nothing against nothing scores 1.
"""

from collections.abc import Sequence

BETA = 1.2


def rouge_l(candidate: str, references: Sequence[str]) -> float:
    """ROUGE-L of tokens joined by single spaces, against at least one reference."""
    tokens = candidate.split(" ")
    others = [reference.split(" ") for reference in references]
    common = longest_common_subsequences(tokens, others)
    precision = max(common) / len(tokens)
    recall = max(length / len(other) for length, other in zip(common, others, strict=True))
    if precision == 0:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def longest_common_subsequences(tokens: list[str], others: list[list[str]]) -> list[int]:
    """The length of the longest common subsequence of `tokens` with each of the others.

    A row of the usual table is the bits of one number (Hyyrö, Bit-parallel LCS-length computation
    revisited, 2004).
    """
    places: dict[str, int] = {}
    for place, token in enumerate(tokens):
        places[token] = places.get(token, 0) | 1 << place
    everywhere = (1 << len(tokens)) - 1
    lengths = []
    for other in others:
        row = everywhere
        for token in other:
            matched = row & places.get(token, 0)
            row = (row + matched) | (row - matched)
        lengths.append(len(tokens) - (row & everywhere).bit_count())
    return lengths

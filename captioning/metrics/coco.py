"""BLEU-1 to 4, ROUGE-L and CIDEr of plain text, equal to coco-caption's.

Equal means pycocoevalcap 1.2 run with its Java tokenizer; here is no Java. Captions in scripts that
it does not know are scored by tokens that fit them (`tokenizers`).

    scores = score_captions({"a.jpg": "a dog runs"}, {"a.jpg": ["A dog is running .", "..."]})
    scores.corpus["CIDEr"]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from captioning.metrics.bleu import BleuCounts, bleu, count_matches
from captioning.metrics.cider import CiderD, DocumentFrequencies
from captioning.metrics.ngrams import FloatArray, count_ngrams
from captioning.metrics.rouge import rouge_l
from captioning.metrics.score_files import check_pairs
from captioning.metrics.tokenizers import TokenizerName, choose_tokenizer
from captioning.system.errors import UserError

BLEU_NAMES = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4")
PICTURES_AT_ONCE = 20_000
"""Whose n-grams are held at a time."""


@dataclass(frozen=True)
class Scores:
    """The scores of the captions of P pictures."""

    ids: tuple[str, ...]
    """The pictures, in the order of the candidates."""
    corpus: dict[str, float]
    """Each metric over all pictures: BLEU of summed counts, the others means."""
    per_image: dict[str, FloatArray]
    """Each metric for each picture; [P]."""
    bleu_counts: BleuCounts
    """What corpus BLEU of any selection of the pictures is made of."""
    has_cider: bool = True
    """Whether CIDEr says anything; with one picture it is 0 whatever the caption."""
    tokenizer: str = "ptb"
    """Which tokens were counted: a name of `tokenizers`."""


def score_captions(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    tokenizer: TokenizerName = "auto",
    frequencies: DocumentFrequencies | None = None,
) -> Scores:
    """Score one caption a picture against the picture's references.

    The tokens are those that fit the references' script (`tokenizers`). CIDEr weighs n-grams by how
    many of these pictures' references have them, or by `frequencies` that were counted elsewhere,
    with the same tokenizer. Raises `UserError`, with the first offending ids, where candidates and
    references do not fit together.
    """
    check_pairs(candidates, references)
    ids = tuple(candidates)
    tokenize = choose_tokenizer(tokenizer, references.values())
    captions = tokenize(list(candidates.values()))
    others = [tokenize(references[picture]) for picture in ids]
    if frequencies is not None and frequencies.tokenizer != tokenize.name:
        raise UserError(
            f"the document frequencies count tokens of {frequencies.tokenizer!r}, the captions are "
            f"in those of {tokenize.name!r}; give --tokenizer {frequencies.tokenizer}, or count "
            "frequencies of captions in the same script."
        )
    counts, cider, frequencies = _counts_and_cider(captions, others, frequencies)
    rouge = [rouge_l(caption, texts) for caption, texts in zip(captions, others, strict=True)]
    per_image = {
        **dict(zip(BLEU_NAMES, bleu(counts).T, strict=True)),
        "ROUGE-L": np.array(rouge),
        "CIDEr": cider,
    }
    corpus_bleu = bleu(counts.weighted_sums(np.ones((1, len(ids)))))[0]
    corpus = {
        **dict(zip(BLEU_NAMES, corpus_bleu.tolist(), strict=True)),
        **{name: float(np.mean(per_image[name])) for name in ("ROUGE-L", "CIDEr")},
    }
    return Scores(ids, corpus, per_image, counts, frequencies.is_weighing, tokenize.name)


def _counts_and_cider(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    frequencies: DocumentFrequencies | None,
) -> tuple[BleuCounts, FloatArray, DocumentFrequencies]:
    """Of tokenized captions, so many at once that n-grams of a million fit into memory."""
    parts = [
        slice(first, first + PICTURES_AT_ONCE)
        for first in range(0, len(captions), PICTURES_AT_ONCE)
    ]
    if frequencies is None and len(parts) > 1:
        frequencies = DocumentFrequencies.merged(
            [DocumentFrequencies.of(references[part]) for part in parts]
        )
    counts, cider = [], []
    for part in parts:
        own, others = captions[part], references[part]
        ngrams = count_ngrams([*own, *(text for texts in others for text in texts)])
        owners = np.repeat(np.arange(len(own)), [len(texts) for texts in others])
        if frequencies is None:  # all in one part: counted once for both
            frequencies = DocumentFrequencies.of_ngrams(ngrams, owners, len(own), len(own))
        counts.append(count_matches(ngrams, owners))
        cider.append(CiderD(frequencies).score_ngrams(ngrams, owners))
    assert frequencies is not None
    return BleuCounts.joined(counts), np.concatenate(cider), frequencies

"""The reward of self-critical training: CIDEr-D against a picture's own captions.

Document frequencies are those of the training captions, so that a step's rewards do not depend on
what else is in the step. That a caption has ended counts as its last word, in captions and in
references: otherwise captions learn to stop in the middle of a sentence ("a dog on a").

    reward = CiderReward(captions_of_each_training_picture)
    reward([Written("A dog runs.", True)], [[Written("A dog is running.", True)]])      [N] numbers
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from captioning.metrics.cider import CiderD, DocumentFrequencies
from captioning.metrics.ngrams import FloatArray
from captioning.metrics.tokenizers import choose_tokenizer

END = "<END>"
"""As a word; no tokenizer of captions makes it of a text."""


class Written(NamedTuple):
    """A caption as it was written."""

    text: str
    ended: bool
    """False where it was cut at the greatest length."""


class CiderReward:
    """CIDEr-D of captions by the document frequencies of a training set."""

    def __init__(self, training_captions: Sequence[Sequence[str]]) -> None:
        """Count the n-grams in the captions of each training picture."""
        self._tokenize = choose_tokenizer("auto", training_captions)
        self._known: dict[Written, str] = {}
        frequencies = DocumentFrequencies.of(
            [self._reference(Written(text, True) for text in texts) for texts in training_captions]
        )
        self._cider = CiderD(frequencies)

    def __call__(
        self, captions: Sequence[Written], references: Sequence[Sequence[Written]]
    ) -> FloatArray:
        """The reward of each of N captions against its own references, at least one; [N]."""
        return self._cider.score(
            [self._words(caption) for caption in captions],
            [self._reference(texts) for texts in references],
        )

    def _reference(self, texts: Iterable[Written]) -> list[str]:
        """References come again each epoch: their tokens are kept."""
        found = []
        for one in texts:
            if one not in self._known:
                self._known[one] = self._words(one)
            found.append(self._known[one])
        return found

    def _words(self, caption: Written) -> str:
        (tokens,) = self._tokenize([caption.text])
        return f"{tokens} {END}" if caption.ended else tokens

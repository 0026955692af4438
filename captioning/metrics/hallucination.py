"""Objects that captions name and no reference does (CHAIR: Rohrbach et al., 2018).

Which words are objects, and which of them mean the same, is a list that the user gives: one object
a line, its words separated by commas, `#` before a remark.

    person, man, woman, boy, girl, people, men, women, child, children
    hot dog
    dog, puppy

The longest words are looked for first, so that a hot dog is no dog; regular English plurals are
found too. CHAIR's own truth adds the objects that were outlined in COCO's pictures; here it is what
the references name, so an object that no person mentioned counts as wrong.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from captioning.metrics.ngrams import FloatArray
from captioning.metrics.tokenizers import CaptionTokenizer
from captioning.system.errors import UserError

Words = tuple[str, ...]


@dataclass(frozen=True)
class Hallucination:
    """What captions of P pictures name."""

    mentions: FloatArray
    """Objects that each caption names, repetitions counted; [P]."""
    wrong: FloatArray
    """Those of them that no reference of the picture names; [P]."""

    @property
    def of_mentions(self) -> float:
        """CHAIRi: the share of all mentions that is wrong; 0 where there are none."""
        return float(self.wrong.sum() / max(self.mentions.sum(), 1))

    @property
    def of_captions(self) -> FloatArray:
        """CHAIRs of each picture: 1 where its caption names something wrong; [P]."""
        return (self.wrong > 0).astype(float)


class ObjectWords:
    """Objects by their words."""

    def __init__(self, objects: Sequence[Sequence[str]], tokenizer: CaptionTokenizer) -> None:
        """Each object by its words, as the captions are tokenized."""
        self._objects: dict[Words, int] = {}
        for number, names in enumerate(objects):
            for tokens in tokenizer(list(names)):
                if tokens:
                    self._objects.setdefault(tuple(tokens.split()), number)
        if not self._objects:
            raise UserError("the list of objects has no words; give one object a line.")
        self._longest = max(map(len, self._objects))

    def found_in(self, tokens: str) -> list[int]:
        """The numbers of the objects that a tokenized text names, in its order."""
        words, found, place = tokens.split(), [], 0
        while place < len(words):
            for length in range(min(self._longest, len(words) - place), 0, -1):
                number = self._number(words[place : place + length])
                if number is not None:
                    found.append(number)
                    place += length
                    break
            else:
                place += 1
        return found

    def hallucination(
        self, captions: Sequence[str], references: Sequence[Sequence[str]]
    ) -> Hallucination:
        """Of tokenized captions against the tokenized references of each."""
        mentions, wrong = np.zeros(len(captions)), np.zeros(len(captions))
        for row, (caption, texts) in enumerate(zip(captions, references, strict=True)):
            named = self.found_in(caption)
            true = {number for text in texts for number in self.found_in(text)}
            mentions[row] = len(named)
            wrong[row] = sum(number not in true for number in named)
        return Hallucination(mentions, wrong)

    def _number(self, words: Sequence[str]) -> int | None:
        *before, last = words
        for form in _singulars(last):
            number = self._objects.get((*before, form))
            if number is not None:
                return number
        return None


def read_objects(path: str | os.PathLike[str]) -> list[list[str]]:
    """The objects of a list, each with its words; `UserError` where there are none."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"{path} cannot be read: {reason}.") from None
    rows = [line.partition("#")[0].split(",") for line in lines]
    objects = [[word.strip() for word in row if word.strip()] for row in rows]
    if not any(objects):
        raise UserError(f"{path} names no objects; give one a line, its words between commas.")
    return [row for row in objects if row]


def _singulars(word: str) -> list[str]:
    """The word, and what it may be the regular English plural of."""
    forms = [word]
    for ending, instead in (("ies", "y"), ("es", ""), ("s", "")):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            forms.append(word.removesuffix(ending) + instead)
    return forms

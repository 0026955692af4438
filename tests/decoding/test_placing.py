"""Words that are put into captions where they cost least, and words that may not stand alone."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from captioning.decoding import Hypothesis, SearchOptions, TokenRules, search
from captioning.decoding.placing import contains, place_words

START, END, VOCABULARY, LENGTH = 0, 1, 7, 8
METHODS = ("greedy", "beam", "diverse", "sample")


class Prefixes:
    """Logits that are a function of the picture and of all tokens before."""

    def __init__(self, pictures: int) -> None:
        self.rows = [[(picture,)] for picture in range(pictures)]

    def step(self, tokens: Tensor) -> Tensor:
        self.rows = [
            [(*prefix, token) for prefix, token in zip(rows, new, strict=True)]
            for rows, new in zip(self.rows, tokens.tolist(), strict=True)
        ]
        return torch.stack([torch.stack([logits(one) for one in rows]) for rows in self.rows])

    def reorder(self, pictures: Tensor, rows: Tensor) -> None:
        self.rows = [
            [self.rows[picture][row] for row in of_picture]
            for picture, of_picture in zip(pictures.tolist(), rows.tolist(), strict=True)
        ]


def logits(prefix: tuple[int, ...]) -> Tensor:
    values = np.random.default_rng(prefix).normal(size=VOCABULARY) * 2
    values[END] += len(prefix) - 5
    return torch.tensor(values, dtype=torch.float32)


def log_probability(picture: int, tokens: tuple[int, ...]) -> float:
    return sum(
        logits((picture, START, *tokens[:i])).log_softmax(0)[token].item()
        for i, token in enumerate(tokens)
    )


def rules_with(**changes: object) -> TokenRules:
    fixed = {"start_id": START, "end_id": END, "max_length": LENGTH, "forbidden_ids": (START,)}
    return TokenRules(**{**fixed, **changes})


def placed(
    words: list[tuple[int, ...]], pictures: int, rules: TokenRules, **options: object
) -> tuple[list[list[Hypothesis]], list[list[Hypothesis]]]:
    """The captions without and with the words."""
    how = SearchOptions(**options)
    found = search(Prefixes(pictures), batch_size=pictures, rules=rules, options=how)
    return found, place_words(lambda: Prefixes(pictures), found, words, rules, how)


def greedy_end(picture: int, beginning: tuple[int, ...]) -> tuple[int, ...]:
    while len(beginning) < LENGTH and END not in beginning:
        scores = logits((picture, START, *beginning))
        scores[START] = -torch.inf
        beginning += (int(scores.argmax()),)
    return beginning


def test_a_word_comes_where_the_caption_stays_likeliest() -> None:
    word = (3, 6)
    free, found = placed([word], 30, rules_with(), method="greedy")
    for picture, ((before,), (after,)) in enumerate(zip(free, found, strict=True)):
        if contains(before.ids, word):
            assert after == before
            continue
        places = [*range(1, len(before.ids)), len(before.ids)]
        ways = [
            greedy_end(picture, before.ids[:i] + word) for i in places if i + len(word) <= LENGTH
        ]
        best = max(ways, key=lambda tokens: log_probability(picture, tokens))
        assert after.ids + (END,) * after.ended == best
        assert after.log_probability == pytest.approx(log_probability(picture, best), abs=1e-4)
        assert after.score == pytest.approx(after.log_probability / len(best), abs=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_no_word_is_put_into_the_prefix(method: str) -> None:
    _, found = placed([(3, 6)], 20, rules_with(prefix=(4, 2)), method=method)
    for captions in found:
        assert all(one.ids[:2] == (4, 2) and contains(one.ids[2:], (3, 6)) for one in captions)


@pytest.mark.parametrize("method", METHODS)
def test_every_caption_of_every_method_has_all_words(method: str) -> None:
    count = 1 if method == "greedy" else 3
    words = [(3, 6), (5,)]
    _, found = placed(words, 20, rules_with(), method=method, num_captions=count)
    for captions in found:
        assert 1 <= len(captions) <= count
        assert len({one.ids for one in captions}) == len(captions)
        assert [one.score for one in captions] == sorted((c.score for c in captions), reverse=True)
        assert all(contains(one.ids, word) for one in captions for word in words)


def test_what_follows_a_placed_word_begins_another() -> None:
    def followers(rules: TokenRules) -> set[int]:
        free, found = placed([(6,)], 40, rules, method="greedy")
        texts = [
            after.ids
            for (before,), (after,) in zip(free, found, strict=True)
            if not contains(before.ids, (6,))
        ]
        return {(*ids, END)[ids.index(6) + 1] for ids in texts}

    assert followers(rules_with()) & {2, 4}
    assert not followers(rules_with(continuing_ids=(2, 4))) & {2, 4}


def test_a_word_that_fills_the_caption_stands_alone() -> None:
    rules = rules_with(max_length=3)
    _, ((one,),) = placed([(3, 4, 5)], 1, rules, method="greedy")
    assert one.ids == (3, 4, 5)


@pytest.mark.parametrize("method", ["beam", "diverse"])
def test_a_forbidden_whole_word_goes_on_or_does_not_come(method: str) -> None:
    rules = rules_with(forbidden_whole_words=((3,), (2, 4)), continuing_ids=(5, 6))
    usual = search(
        Prefixes(40), batch_size=40, rules=rules_with(), options=SearchOptions(method=method)
    )
    found = search(Prefixes(40), batch_size=40, rules=rules, options=SearchOptions(method=method))

    def alone(captions: list[list[Hypothesis]]) -> list[tuple[int, ...]]:
        texts = [(*one.ids, END) for (one,) in captions]
        pairs = [pair for text in texts for pair in itertools.pairwise(text)]
        return [(a, b) for a, b in pairs if a == 3 and b not in (5, 6)]

    assert alone(usual)
    assert not alone(found)
    assert any(3 in one.ids for (one,) in found)
    assert not any(contains((*one.ids, END), (2, 4, END)) for (one,) in found)

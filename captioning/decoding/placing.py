"""Words put into captions that were found without them, each where it costs least.

A beam that has to write a word early loses to those that wait, and those that wait write it when
there is room for nothing else. So captions are searched freely first; then each is begun anew up to
every word of it, goes on with the wanted word and then as it likes, and the likeliest is kept.

B pictures in the batch, N captions of a picture, K places in a caption, T tokens at most.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from captioning.decoding import FREE, NEW_WORD, search_rows, uniform_numbers
from captioning.decoding.hypotheses import Captions, Hypothesis, NextToken
from captioning.decoding.options import SearchOptions
from captioning.decoding.token_rules import TokenRules, Word


def place_words(
    new_state: Callable[[], NextToken],
    found: Sequence[Sequence[Hypothesis]],
    words: Sequence[Word],
    rules: TokenRules,
    options: SearchOptions,
    *,
    picture_numbers: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
) -> list[list[Hypothesis]]:
    """The captions `found` of each picture with all `words`, best first; each caption once.

    `new_state` gives the state of the pictures at their beginning. What follows a word is written
    greedily, or sampled as `options` say. A caption in which a word finds no room stays as it is.
    """
    numbers = range(len(found)) if picture_numbers is None else picture_numbers
    captions = [list(of_picture) for of_picture in found]
    for place, word in enumerate(words):
        if any(not contains(one.ids, word) for of_picture in captions for one in of_picture):
            captions = _with_word(
                new_state(), captions, words[: place + 1], rules, options, numbers, device
            )
    distinct = [{one.ids: one for one in of_picture}.values() for of_picture in captions]
    return [sorted(of_picture, key=lambda one: -one.score) for of_picture in distinct]


def contains(ids: Sequence[int], word: Word) -> bool:
    """Whether a caption's tokens hold a word."""
    return any(tuple(ids[i : i + len(word)]) == word for i in range(len(ids)))


def _with_word(
    state: NextToken,
    captions: list[list[Hypothesis]],
    words: Sequence[Word],
    rules: TokenRules,
    options: SearchOptions,
    numbers: Sequence[int],
    device: torch.device | str,
) -> list[list[Hypothesis]]:
    """The captions, those that lack the last of `words` with it; those before it stay."""
    beginnings = [
        [_beginnings(one, words[-1], rules) for one in of_picture] for of_picture in captions
    ]
    most = max(map(len, captions))
    places = max(len(rows) for of_picture in beginnings for rows in of_picture)
    given = torch.full((len(captions), most, places, rules.max_length), FREE)
    for number, of_picture in enumerate(beginnings):
        for caption, rows in enumerate(of_picture):
            for place, row in enumerate(rows):
                given[number, caption, place, : len(row)] = torch.tensor(row)
    uniforms = None
    if options.method == "sample":
        drawn = uniform_numbers(options.seed, numbers, (most, rules.max_length))
        uniforms = drawn[:, :, None].expand_as(given).flatten(1, 2).to(device)
    rows_found = search_rows(
        state,
        (len(captions), most * places),
        rules,
        device,
        warp=options.warp,
        uniforms=uniforms,
        given=given.flatten(1, 2).to(device),
    )
    by_caption = _by_caption(rows_found, most).hypotheses(rules.end_id)
    return [
        [
            _best(one, by_caption[number * most + caption], words, options.length_penalty)
            for caption, one in enumerate(of_picture)
        ]
        for number, of_picture in enumerate(captions)
    ]


def _beginnings(caption: Hypothesis, word: Word, rules: TokenRules) -> list[list[int]]:
    """What rows have to write: the caption up to each of its words, then `word`."""
    ids, room = list(caption.ids), rules.max_length - len(word)
    first = max(1, len(rules.prefix))
    starts = [i for i in range(first, len(ids)) if ids[i] not in rules.continuing_ids]
    places = [i for i in (*starts, len(ids)) if i <= room] or [min(len(ids), room)]
    return [[*ids[:i], *word, *([NEW_WORD] if i < room else [])] for i in places]


def _by_caption(rows: Captions, captions: int) -> Captions:
    """Captions (B, N * K) as sets of one caption each (B * N, K)."""

    def split(values: Tensor) -> Tensor:
        return values.reshape(-1, values.shape[1] // captions, *values.shape[2:])

    return Captions(
        split(rows.ids), split(rows.log_probabilities), split(rows.scores), split(rows.lengths)
    )


def _best(
    caption: Hypothesis, placed: Sequence[Hypothesis], words: Sequence[Word], length_penalty: float
) -> Hypothesis:
    """The likeliest caption with all words, ranked as a search would have ranked it."""
    if contains(caption.ids, words[-1]):
        return caption
    for one in placed:
        if all(contains(one.ids, word) for word in words) and one.score > -math.inf:
            return replace(
                one, score=one.score / len(one.token_log_probabilities) ** length_penalty
            )
    return caption

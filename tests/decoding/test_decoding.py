"""Searches against brute force, a plain reference, each other and Hugging Face's `generate`."""

import dataclasses
import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from captioning import decoding
from captioning.decoding import Hypothesis, SearchOptions, TokenRules, Warp, search
from captioning.system.errors import UserError

START, END = 0, 1
METHODS = ("greedy", "beam", "diverse", "sample")


class TableState:
    """Logits that are a function of the picture and of the whole prefix, and of nothing else.

    Each row's prefix is followed through `reorder`, so that a wrong one gives other logits.
    """

    def __init__(
        self,
        pictures: list[int],
        *,
        vocabulary: int = 12,
        scale: float = 2.0,
        end_slope: float = 0.0,
    ) -> None:
        self.vocabulary, self.scale, self.end_slope = vocabulary, scale, end_slope
        self.rows: list[list[tuple[int, ...]]] = [[(picture,)] for picture in pictures]
        self.batch_sizes: list[int] = []
        self.reorders = 0

    def step(self, tokens: Tensor) -> Tensor:
        assert tokens.shape == (len(self.rows), len(self.rows[0]))
        self.batch_sizes.append(len(self.rows))
        self.rows = [
            [(*prefix, token) for prefix, token in zip(prefixes, row, strict=True)]
            for prefixes, row in zip(self.rows, tokens.tolist(), strict=True)
        ]
        return torch.stack(
            [torch.stack([self.logits(prefix) for prefix in prefixes]) for prefixes in self.rows]
        )

    def reorder(self, pictures: Tensor, rows: Tensor) -> None:
        self.reorders += 1
        self.rows = [
            [self.rows[picture][row] for row in picture_rows]
            for picture, picture_rows in zip(pictures.tolist(), rows.tolist(), strict=True)
        ]

    def logits(self, prefix: tuple[int, ...]) -> Tensor:
        """Logits (V) after (picture, START, token, ...)."""
        draw = np.random.default_rng(prefix).normal(size=self.vocabulary) * self.scale
        draw[END] += self.end_slope * (len(prefix) - 6)
        return torch.tensor(draw, dtype=torch.float32)


def rules_with(**changes: object) -> TokenRules:
    return TokenRules(
        **{"start_id": START, "end_id": END, "max_length": 8, "forbidden_ids": (START,), **changes}
    )


def run(
    pictures: list[int] | int,
    rules: TokenRules,
    state: dict[str, Any] | None = None,
    **options: object,
) -> list[list[Hypothesis]]:
    numbers = list(range(pictures)) if isinstance(pictures, int) else pictures
    return search(
        TableState(numbers, **(state or {})),
        batch_size=len(numbers),
        rules=rules,
        options=SearchOptions(**options),
        picture_numbers=numbers,
    )


def fed_back(picture: int, tokens: tuple[int, ...], **state: Any) -> list[float]:
    """The model's log-probability of each of `tokens` when the caption is fed to it."""
    table = TableState([], **state)
    prefixes = [(picture, START, *tokens[:i]) for i in range(len(tokens))]
    logits = [table.logits(prefix).log_softmax(0) for prefix in prefixes]
    return [row[token].item() for row, token in zip(logits, tokens, strict=True)]


def tokens_of(hypothesis: Hypothesis) -> tuple[int, ...]:
    return hypothesis.ids + (END,) * hypothesis.ended


def all_captions(words: list[int], max_length: int) -> list[tuple[int, ...]]:
    ended = [
        (*caption, END)
        for length in range(max_length)
        for caption in itertools.product(words, repeat=length)
    ]
    return ended + list(itertools.product(words, repeat=max_length))


def brute_force(
    picture: int, rules: TokenRules, length_penalty: float, **state: Any
) -> list[tuple[float, tuple[int, ...]]]:
    """Every caption with its score, best first."""
    words = [token for token in range(state["vocabulary"]) if token not in (START, END)]
    scored = [
        (sum(fed_back(picture, tokens, **state)) / len(tokens) ** length_penalty, tokens)
        for tokens in all_captions(words, rules.max_length)
    ]
    return sorted(scored, reverse=True)


def reference_beams(
    picture: int, rules: TokenRules, width: int, length_penalty: float, **state: Any
) -> list[tuple[float, tuple[int, ...]]]:
    """A plain beam search that never stops before the greatest length."""
    table = TableState([], **state)
    beams: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    closed: list[tuple[float, tuple[int, ...]]] = []
    for length in range(1, rules.max_length + 1):
        drafts = []
        for total, tokens in beams:
            values = table.logits((picture, START, *tokens)).log_softmax(0).tolist()
            drafts += [
                (total + value, (*tokens, token))
                for token, value in enumerate(values)
                if token not in rules.forbidden_ids
            ]
        drafts.sort(reverse=True)
        is_last = length == rules.max_length
        closed += [
            (total / length**length_penalty, tokens)
            for total, tokens in drafts[:width]
            if is_last or tokens[-1] == END
        ]
        beams = [draft for draft in drafts if draft[1][-1] != END][:width]
    return sorted(closed, reverse=True)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0, -1.0])
def test_wide_beam_finds_what_brute_force_finds(length_penalty: float) -> None:
    state = {"vocabulary": 5, "scale": 1.0}
    rules = rules_with(max_length=3)
    found = run(4, rules, state, beam_size=5**3, num_captions=40, length_penalty=length_penalty)
    for picture, hypotheses in enumerate(found):
        expected = brute_force(picture, rules, length_penalty, **state)
        assert len(expected) == len(hypotheses) == 40
        assert [tokens_of(h) for h in hypotheses] == [tokens for _, tokens in expected]
        torch.testing.assert_close(
            [h.score for h in hypotheses], [score for score, _ in expected], atol=1e-5, rtol=0
        )


def test_wide_beam_finds_the_best_captions_that_begin_with_a_prefix() -> None:
    state = {"vocabulary": 5, "scale": 1.0}
    rules = rules_with(max_length=4, prefix=(3, 2))
    for options in ({}, {"method": "diverse", "groups": 1}):
        found = run(4, rules, state, beam_size=50, num_captions=13, **options)
        for picture, hypotheses in enumerate(found):
            every = brute_force(picture, rules_with(max_length=4), 1.0, **state)
            expected = [tokens for _, tokens in every if tokens[:2] == (3, 2)]
            assert [tokens_of(one) for one in hypotheses] == expected[:13]


@pytest.mark.parametrize("method", METHODS)
def test_each_caption_begins_with_the_prefix_and_goes_on_as_it_likes(method: str) -> None:
    count = 1 if method == "greedy" else 4
    found = run(12, rules_with(prefix=(9, 9, 4)), method=method, beam_size=6, num_captions=count)
    assert all(one.ids[:3] == (9, 9, 4) for captions in found for one in captions)
    assert len({one.ids for captions in found for one in captions}) > 6
    assert {len(captions) for captions in found} <= {count, *([1, 2, 3] if count > 1 else [])}
    for wrong in ((END,), (2,) * 8):
        with pytest.raises(UserError, match="prefix"):
            rules_with(prefix=wrong)


@pytest.mark.parametrize("method", METHODS)
def test_batched_is_one_at_a_time(method: str) -> None:
    rules = rules_with(max_length=12, no_repeat_ngram=2, repetition_penalty=1.2)
    options = {"method": method, "beam_size": 6, "num_captions": 1 if method == "greedy" else 3}
    state = {"end_slope": 1.0}
    together = run(20, rules, state, **options)
    alone = [run([picture], rules, state, **options)[0] for picture in range(20)]
    assert together == alone
    assert len({h.ids for hypotheses in together for h in hypotheses}) >= 20


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"min_length": 6},
        {"no_repeat_ngram": 1, "repetition_penalty": 1.5},
        {"forced_words": ((4, 5), (7,))},
    ],
)
def test_one_beam_is_greedy(changes: dict[str, Any]) -> None:
    rules, state = rules_with(**changes), {"end_slope": 0.5}
    assert run(40, rules, state, beam_size=1) == run(40, rules, state, method="greedy")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "min_length": 3,
            "repetition_penalty": 1.7,
            "no_repeat_ngram": 2,
            "forced_words": ((5, 6), (3,)),
            "forbidden_ids": (START, 2),
            "forbidden_words": ((7, 8), (4, 4)),
        },
        {"prefix": (4, 7), "forbidden_words": ((7,),), "no_repeat_ngram": 1},
    ],
)
def test_log_probability_is_what_the_model_gives_back(method: str, changes: dict[str, Any]) -> None:
    count = 1 if method == "greedy" else 3
    for picture, hypotheses in enumerate(
        run(15, rules_with(**changes), method=method, num_captions=count)
    ):
        assert len(hypotheses) >= 1
        for hypothesis in hypotheses:
            expected = fed_back(picture, tokens_of(hypothesis))
            torch.testing.assert_close(
                list(hypothesis.token_log_probabilities), expected, atol=1e-5, rtol=0
            )
            assert hypothesis.log_probability == pytest.approx(sum(expected), abs=1e-5)
            assert hypothesis.confidence == pytest.approx(
                math.exp(sum(expected) / len(expected)), abs=1e-5
            )
            if not changes:
                assert hypothesis.score == pytest.approx(sum(expected) / len(expected), abs=1e-5)


def test_repetition_penalty_ranks_and_is_not_reported() -> None:
    rules = rules_with(max_length=6, min_length=6, repetition_penalty=3.0, no_repeat_ngram=0)
    state = {"vocabulary": 4, "scale": 1.0}
    (hypothesis,) = run([3], rules, state, beam_size=1)[0]
    values = fed_back(3, hypothesis.ids, **state)
    is_repeat = [token in hypothesis.ids[:i] for i, token in enumerate(hypothesis.ids)]
    assert any(is_repeat)
    ranked = [value * (3.0 if again else 1) for value, again in zip(values, is_repeat, strict=True)]
    assert hypothesis.score == pytest.approx(sum(ranked) / 6, abs=1e-5)
    assert hypothesis.log_probability == pytest.approx(sum(values), abs=1e-5)


def test_one_group_is_beam_search() -> None:
    options = {"beam_size": 4, "num_captions": 4}
    diverse = run(20, rules_with(), method="diverse", groups=1, diversity_penalty=3.0, **options)
    assert diverse == run(20, rules_with(), **options)


def test_groups_without_penalty_are_the_same_beam_search() -> None:
    diverse = run(
        20,
        rules_with(),
        method="diverse",
        beam_size=6,
        groups=3,
        diversity_penalty=0.0,
        num_captions=6,
    )
    assert diverse == run(20, rules_with(), beam_size=2, num_captions=2)


def test_groups_with_penalty_differ() -> None:
    rules = rules_with(min_length=3)
    options = {"method": "diverse", "beam_size": 4, "groups": 4, "num_captions": 4}
    found = run(20, rules, diversity_penalty=50.0, **options)
    for picture, hypotheses in enumerate(found):
        # One beam a group and a penalty no token survives: no two groups share a word in a step.
        assert len(hypotheses) == 4
        for one, other in itertools.combinations(hypotheses, 2):
            assert all(a != b for a, b in zip(one.ids, other.ids, strict=False))
        greedy = run([picture], rules, method="greedy")[0][0]
        assert greedy in hypotheses


@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.0, 2.0, -0.5])
@pytest.mark.parametrize("num_captions", [1, 3])
def test_exact_early_stop_changes_nothing(length_penalty: float, num_captions: int) -> None:
    rules, state = rules_with(max_length=9), {"scale": 3.0, "end_slope": 0.5}
    options = {
        "beam_size": 4,
        "num_captions": num_captions,
        "length_penalty": length_penalty,
        "early_stop": "exact",
    }
    for picture in range(25):
        table = TableState([picture], **state)
        found = search(table, batch_size=1, rules=rules, options=SearchOptions(**options))[0]
        expected = reference_beams(picture, rules, 4, length_penalty, **state)
        assert [tokens_of(h) for h in found] == [tokens for _, tokens in expected[:num_captions]]


@pytest.mark.parametrize("early_stop", ["heuristic", "exact"])
def test_early_stop_saves_steps(early_stop: str) -> None:
    table = TableState([0, 1, 2, 3], scale=3.0, end_slope=2.0)
    options = SearchOptions(beam_size=3, early_stop=early_stop, length_penalty=0.0)
    search(table, batch_size=4, rules=rules_with(max_length=40), options=options)
    assert len(table.batch_sizes) < 15


@pytest.mark.parametrize("method", METHODS)
def test_finished_pictures_leave(method: str) -> None:
    table = TableState(list(range(30)), end_slope=1.0)
    found = search(
        table,
        batch_size=30,
        rules=rules_with(max_length=40),
        options=SearchOptions(method=method),
    )
    assert table.batch_sizes == sorted(table.batch_sizes, reverse=True)
    assert table.batch_sizes[0] == 30
    assert table.batch_sizes[-1] < 10
    if method == "greedy":
        lengths = [len(tokens_of(hypotheses[0])) for hypotheses in found]
        assert len(table.batch_sizes) == max(lengths)
        assert table.reorders == len(set(table.batch_sizes)) - 1


def test_state_is_reordered_only_where_its_order_changed() -> None:
    table = TableState([0, 1, 2])
    rules = rules_with(max_length=7, min_length=7)
    search(table, batch_size=3, rules=rules, options=SearchOptions(method="greedy"))
    assert table.reorders == 0
    options = SearchOptions(method="sample", num_captions=4)
    search(table := TableState([0, 1, 2]), batch_size=3, rules=rules, options=options)
    assert table.reorders == 1
    search(table := TableState([0, 1, 2]), batch_size=3, rules=rules, options=SearchOptions())
    assert len(table.batch_sizes) == 7
    assert table.reorders <= 6, "the last step needs no reordering"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("low", "high"), [(0, 4), (4, 8), (8, 8), (0, 1)])
def test_lengths_stay_within_limits(method: str, low: int, high: int) -> None:
    rules = rules_with(min_length=low, max_length=high)
    for hypotheses in run(20, rules, {"end_slope": 1.0}, method=method):
        for hypothesis in hypotheses:
            assert len(hypothesis.ids) >= low
            assert len(tokens_of(hypothesis)) <= high
            assert hypothesis.ended or len(hypothesis.ids) == high


def has_repeat(ids: tuple[int, ...], size: int) -> bool:
    ngrams = [ids[i : i + size] for i in range(len(ids) - size + 1)]
    return len(set(ngrams)) < len(ngrams)


@settings(max_examples=40)
@given(
    picture=st.integers(0, 1000),
    size=st.integers(1, 4),
    method=st.sampled_from(METHODS),
    vocabulary=st.integers(4, 6),
)
def test_no_ngram_comes_twice(picture: int, size: int, method: str, vocabulary: int) -> None:
    rules = rules_with(max_length=14, min_length=14, no_repeat_ngram=size)
    state = {"vocabulary": vocabulary}
    for hypothesis in run([picture], rules, state, method=method)[0]:
        assert not has_repeat(hypothesis.ids, size)


def test_ngram_blocking_forbids_no_more_than_it_must() -> None:
    rules, state = rules_with(max_length=4, no_repeat_ngram=2), {"vocabulary": 4, "scale": 1.0}
    found = run(6, rules, state, beam_size=4**4, num_captions=60)
    for picture, hypotheses in enumerate(found):
        expected = [
            tokens
            for _, tokens in brute_force(picture, rules, 1.0, **state)
            if not has_repeat(tokens, 2)
        ]
        assert [tokens_of(h) for h in hypotheses] == expected


def contains(ids: tuple[int, ...], word: tuple[int, ...]) -> bool:
    return any(ids[i : i + len(word)] == word for i in range(len(ids)))


@settings(max_examples=60)
@given(
    picture=st.integers(0, 1000),
    method=st.sampled_from(METHODS),
    words=st.lists(st.lists(st.integers(2, 5), min_size=1, max_size=3), min_size=1, max_size=3),
    room=st.integers(0, 5),
    size=st.sampled_from([0, 2]),
)
def test_forced_words_appear(
    picture: int, method: str, words: list[list[int]], room: int, size: int
) -> None:
    forced = tuple(tuple(word) for word in words)
    length = sum(map(len, forced)) + room
    rules = rules_with(max_length=length, forced_words=forced, no_repeat_ngram=size)
    for hypothesis in run([picture], rules, method=method)[0]:
        assert all(contains(hypothesis.ids, word) for word in forced)


@pytest.mark.parametrize("forced", [((2,),), ((2, 3),), ((3,), (2,)), ((2, 2), (3,))])
def test_wide_beam_finds_the_best_captions_with_the_forced_words(
    forced: tuple[tuple[int, ...], ...],
) -> None:
    state = {"vocabulary": 5, "scale": 1.0}
    rules = rules_with(max_length=4, forced_words=forced)
    for picture, hypotheses in enumerate(run(3, rules, state, beam_size=5**4, num_captions=10)):
        expected = [
            tokens
            for _, tokens in brute_force(picture, rules, 1.0, **state)
            if all(contains(tokens, word) for word in forced)
        ]
        assert [tokens_of(h) for h in hypotheses] == expected[:10]


def test_beams_place_forced_words_where_they_fit() -> None:
    rules = rules_with(max_length=20, forced_words=((5, 6, 7),))
    found = run(30, rules, {"end_slope": 1.0}, beam_size=8)
    greedy = run(30, rules, {"end_slope": 1.0}, method="greedy")
    beams, last_moment = (
        np.mean([h[0].log_probability for h in hypotheses]) for hypotheses in (found, greedy)
    )
    assert beams > last_moment + 3
    assert np.mean([hypotheses[0].ended for hypotheses in found]) == 1


@pytest.mark.parametrize("method", METHODS)
def test_forbidden_tokens_and_words_never_appear(method: str) -> None:
    state = {"vocabulary": 7, "end_slope": -1.0}
    words = ((4, 5), (5, 6, 5), (3,))
    free = run(40, rules_with(max_length=10, min_length=10), state, method=method)
    texts = [h.ids for hypotheses in free for h in hypotheses]
    assert all(any(contains(ids, word) for ids in texts) for word in ((2,), (3,), (4, 5)))
    rules = rules_with(
        max_length=10, min_length=10, forbidden_ids=(START, 2), forbidden_words=words
    )
    for hypotheses in run(40, rules, state, method=method):
        for hypothesis in hypotheses:
            assert not {START, 2} & set(hypothesis.ids)
            assert not any(contains(hypothesis.ids, word) for word in words)


def test_caption_that_can_go_nowhere_ends() -> None:
    rules = rules_with(max_length=8, min_length=8, no_repeat_ngram=1)
    for method in METHODS:
        for hypothesis in run([5], rules, {"vocabulary": 5}, method=method)[0]:
            assert hypothesis.ended
            assert sorted(hypothesis.ids) == [2, 3, 4]


def test_samples_do_not_depend_on_the_batch() -> None:
    rules, state = rules_with(max_length=15), {"end_slope": 0.3}
    options = {"method": "sample", "num_captions": 2, "seed": 7}
    whole = run(24, rules, state, **options)
    for size in (1, 5, 24):
        parts = [list(range(24))[i : i + size] for i in range(0, 24, size)]
        assert [h for part in parts for h in run(part, rules, state, **options)] == whole
    assert run(24, rules, state, **{**options, "seed": 8}) != whole
    assert sum(one.ids != other.ids for one, other in whole) > 12


def test_samples_of_pictures_with_other_numbers_differ() -> None:
    rules, options = rules_with(min_length=8), SearchOptions(method="sample")
    same_pictures = [
        search(
            TableState([3] * 4),
            batch_size=4,
            rules=rules,
            options=options,
            picture_numbers=range(first, first + 4),
        )
        for first in (0, 2)
    ]
    one, other = ([hypotheses[0].ids for hypotheses in found] for found in same_pictures)
    assert len(set(one)) == 4
    assert one[2:] == other[:2]


def test_draws_at_the_borders_never_take_an_impossible_token() -> None:
    probabilities = torch.tensor([[[0.0, 0.3, 0.0, 0.7000001, 0.0]]])
    uniforms = torch.tensor([[0.0, 1 - 2**-23]])
    assert decoding._draw(probabilities, uniforms).tolist() == [[1, 3]]


def kept_tokens(probabilities: list[float], warp: Warp) -> list[float]:
    """Probabilities after a warp, written out plainly from its documentation."""
    tempered = [p ** (1 / warp.temperature) for p in probabilities]
    order = sorted(range(len(tempered)), key=lambda token: -tempered[token])
    order = order[: warp.top_k or None]
    share, nucleus = 0.0, []
    for token in order:
        if share >= warp.top_p:
            break
        nucleus.append(token)
        share += tempered[token] / sum(tempered[t] for t in order)
    kept = [token for token in nucleus if tempered[token] >= warp.min_p * tempered[order[0]]]
    total = sum(tempered[token] for token in kept)
    return [tempered[token] / total if token in kept else 0.0 for token in range(len(tempered))]


WARPS = [
    Warp(),
    Warp(temperature=0.5),
    Warp(temperature=2.0, top_k=3),
    Warp(top_p=0.65),
    Warp(top_p=0.55, top_k=4),
    Warp(min_p=0.6),
    Warp(temperature=1.5, top_k=5, top_p=0.9, min_p=0.2),
    Warp(top_k=100),
    Warp(top_k=1),
]


@pytest.mark.parametrize("warp", WARPS)
def test_sampling_follows_the_documented_distribution(warp: Warp) -> None:
    probabilities = [0.05, 0.3, 0.02, 0.25, 0.03, 0.2, 0.15]
    expected = kept_tokens(probabilities, warp)

    class OneDistribution:
        def step(self, tokens: Tensor) -> Tensor:
            return torch.tensor(probabilities).log().expand(*tokens.shape, -1) + 5

        def reorder(self, pictures: Tensor, rows: Tensor) -> None:
            pass

    count = 20_000
    options = SearchOptions(method="sample", num_captions=count // 20, warp=warp, seed=3)
    rules = TokenRules(start_id=0, end_id=0, max_length=1)
    found = search(OneDistribution(), batch_size=20, rules=rules, options=options)
    counts = Counter(tokens_of_one(hypothesis) for one in found for hypothesis in one)
    for token, probability in enumerate(expected):
        spread = math.sqrt(probability * (1 - probability) / count)
        assert abs(counts[token] / count - probability) <= 4.5 * spread
    torch.testing.assert_close(
        warp.apply(torch.tensor(probabilities).log()), torch.tensor(expected)
    )


def tokens_of_one(hypothesis: Hypothesis) -> int:
    return 0 if hypothesis.ended else hypothesis.ids[0]


def test_warp_keeps_ties_and_ignores_forbidden_tokens() -> None:
    scores = torch.tensor([0.25, 0.25, 0.25, 0.25, 0.0]).log()
    assert (Warp(top_k=2).apply(scores) > 0).tolist() == [True] * 4 + [False]
    assert (Warp(top_k=5, top_p=0.9).apply(scores) > 0).tolist() == [True] * 4 + [False]


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: rules_with(max_length=0), "max_length"),
        (lambda: rules_with(min_length=9), "min_length"),
        (lambda: rules_with(no_repeat_ngram=-1), "no_repeat_ngram"),
        (lambda: rules_with(repetition_penalty=0.0), "repetition_penalty"),
        (lambda: rules_with(forbidden_ids=(END,)), "end token"),
        (lambda: rules_with(forced_words=((),)), "no tokens"),
        (lambda: rules_with(forced_words=((2,) * 9,)), "9 tokens"),
        (lambda: rules_with(forced_words=((2, 3, 4),), forbidden_words=((3, 4),)), "forced and"),
        (lambda: SearchOptions(num_captions=0), "num_captions"),
        (lambda: SearchOptions(method="greedy", num_captions=2), "greedy"),
        (lambda: SearchOptions(num_captions=4), "beam_size"),
        (lambda: SearchOptions(method="diverse", groups=2), "groups"),
        (lambda: SearchOptions(diversity_penalty=-1.0), "diversity_penalty"),
        (lambda: SearchOptions(length_penalty=math.nan), "length_penalty"),
        (lambda: SearchOptions(seed=-1), "seed"),
        (lambda: Warp(temperature=0.0), "temperature"),
        (lambda: Warp(top_k=-1), "top_k"),
        (lambda: Warp(top_p=0.0), "top_p"),
        (lambda: Warp(min_p=2.0), "min_p"),
    ],
)
def test_wrong_settings_are_refused_in_words(make: object, word: str) -> None:
    with pytest.raises(UserError, match=word):
        make()


def generate_with_hugging_face(
    pictures: list[int], rules: TokenRules, state: dict[str, Any], **settings: object
) -> list[tuple[int, ...]]:
    """The captions that `GenerationMixin` finds with the logits of a `TableState`."""
    from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutput

    table = TableState([], **state)

    class Adapter(PreTrainedModel, GenerationMixin):
        config_class = PretrainedConfig
        main_input_name = "input_ids"

        def __init__(self, config: PretrainedConfig) -> None:
            super().__init__(config)
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def prepare_inputs_for_generation(
            self, input_ids: Tensor, **kwargs: object
        ) -> dict[str, Any]:
            return {"input_ids": input_ids, "pictures": kwargs["pictures"]}

        def forward(self, input_ids: Tensor, pictures: Tensor, **_: object) -> CausalLMOutput:
            rows = zip(pictures.flatten().tolist(), input_ids.tolist(), strict=True)
            logits = torch.stack([table.logits((picture, *ids)) for picture, ids in rows])
            return CausalLMOutput(logits=logits[:, None])

    model = Adapter(PretrainedConfig(vocab_size=table.vocabulary))
    ids = model.generate(
        torch.full((len(pictures), 1), START),
        pictures=torch.tensor(pictures)[:, None],
        generation_config=GenerationConfig(
            max_new_tokens=rules.max_length,
            bos_token_id=START,
            eos_token_id=END,
            pad_token_id=table.vocabulary,
            suppress_tokens=list(rules.forbidden_ids),
            use_cache=False,
            do_sample=False,
            **settings,
        ),
    )
    return [tuple(t for t in row if t != table.vocabulary) for row in ids[:, 1:].tolist()]


@pytest.mark.parametrize(
    ("options", "changes", "settings"),
    [
        ({"method": "greedy"}, {}, {"num_beams": 1}),
        ({"beam_size": 5}, {}, {"num_beams": 5}),
        ({"beam_size": 3, "length_penalty": 0.0}, {}, {"num_beams": 3, "length_penalty": 0.0}),
        (
            {"beam_size": 4, "num_captions": 4, "length_penalty": 1.6},
            {},
            {"num_beams": 4, "num_return_sequences": 4, "length_penalty": 1.6},
        ),
        (
            {"beam_size": 4},
            {"min_length": 6, "no_repeat_ngram": 2, "repetition_penalty": 1.3},
            {
                "num_beams": 4,
                "min_new_tokens": 6,
                "no_repeat_ngram_size": 2,
                "repetition_penalty": 1.3,
            },
        ),
    ],
)
def test_captions_are_those_of_hugging_face(
    options: dict[str, Any], changes: dict[str, Any], settings: dict[str, Any]
) -> None:
    state = {"vocabulary": 200, "scale": 3.0, "end_slope": 1.2}
    rules, pictures = rules_with(max_length=12, **changes), list(range(100))
    expected = generate_with_hugging_face(pictures, rules, state, **settings)
    found = [tokens_of(h) for hypotheses in run(100, rules, state, **options) for h in hypotheses]
    assert len({len(tokens) for tokens in expected}) > 3
    equal = sum(one == other for one, other in zip(found, expected, strict=True))
    assert equal >= 0.99 * len(expected)


def test_hypotheses_are_plain_frozen_values() -> None:
    hypothesis = run(1, rules_with())[0][0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        hypothesis.score = 0.0
    assert all(isinstance(token, int) for token in hypothesis.ids)


@pytest.mark.parametrize("method", ["beam", "diverse", "sample"])
def test_a_picture_has_a_thousand_beams_at_most(method: Any) -> None:
    SearchOptions(method=method, beam_size=1_000, num_captions=1_000, groups=1)
    with pytest.raises(UserError, match="at most 1,000"):
        SearchOptions(method=method, beam_size=1_001, num_captions=1_001, groups=1)

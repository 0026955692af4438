"""BLEU, ROUGE-L and CIDEr against hand-checked values and against coco-caption's."""

import gzip
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.metrics import score_captions, tokenize_captions
from captioning.system.errors import UserError

CASES = [
    f"case_{source}_{kind}.json.gz"
    for source in ("flickr30k_validation", "flickr8k_1500")
    for kind in ("human", "shuffled", "degraded")
]
CAPTIONS = st.lists(
    st.sampled_from(["a", "dog", "runs", "the", "cat", ".", "1 1/2", "\u2028"]), max_size=7
).map(" ".join)
PICTURES = st.lists(
    st.tuples(CAPTIONS, st.lists(CAPTIONS, min_size=1, max_size=3)), min_size=1, max_size=5
)


@pytest.mark.parametrize("name", CASES)
def test_every_score_equals_that_of_coco_caption(real_data: Path, name: str) -> None:
    with gzip.open(real_data / "metrics" / name, "rt", encoding="utf-8") as file:
        case = json.load(file)
    scores = score_captions(case["candidates"], case["references"])
    assert scores.corpus == pytest.approx(case["corpus"], abs=1e-9, rel=0)
    for metric, expected in case["per_image"].items():
        values = dict(zip(scores.ids, scores.per_image[metric].tolist(), strict=True))
        assert values == pytest.approx(expected, abs=1e-9, rel=0)


def test_bleu_by_hand() -> None:
    scores = score_captions({"x": "the the the dog"}, {"x": ["the dog", "a dog ran the race now"]})
    # The nearer reference by length is either (2 away); the shorter counts: no brevity penalty.
    # "the" counts once, "dog" once: 2 of 4; "the dog" is 1 of 3 pairs.
    assert scores.corpus["BLEU-1"] == pytest.approx(2 / 4, abs=1e-8)
    assert scores.corpus["BLEU-2"] == pytest.approx(math.sqrt(2 / 4 * 1 / 3), abs=1e-8)
    short = score_captions({"x": "a dog"}, {"x": ["a dog runs here"]})
    assert short.corpus["BLEU-1"] == pytest.approx(math.exp(1 - 4 / 2), abs=1e-8)


def test_corpus_bleu_sums_counts_before_dividing() -> None:
    scores = score_captions(
        {"x": "a dog", "y": "one two three four"}, {"x": ["a dog"], "y": ["five six seven eight"]}
    )
    assert scores.corpus["BLEU-1"] == pytest.approx(2 / 6, abs=1e-8)
    assert scores.per_image["BLEU-1"] == pytest.approx([1, 0], abs=1e-8)


def test_rouge_l_by_hand() -> None:
    scores = score_captions({"x": "a b c d"}, {"x": ["a c x", "x b c d y z w v"]})
    # Precision 3/4 from the second reference, recall 2/3 from the first.
    precision, recall, beta = 3 / 4, 2 / 3, 1.2
    expected = (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    assert scores.corpus["ROUGE-L"] == pytest.approx(expected, abs=1e-12)


def test_empty_captions_survive() -> None:
    scores = score_captions({"x": "", "y": " . "}, {"x": ["", "a dog"], "y": ["a dog"]})
    assert scores.per_image["ROUGE-L"].tolist() == [1.0, 0.0]
    assert scores.per_image["CIDEr"].tolist() == [0.0, 0.0]
    assert all(value < 1e-12 for name, value in scores.corpus.items() if name.startswith("BLEU"))


def test_line_separators_do_not_shift_captions() -> None:
    scores = score_captions(
        {"x": "a black\u2028dog runs", "y": "two cats\x85sleep here"},
        {"x": ["a black dog\x0bruns"], "y": ["two cats sleep here"]},
    )
    assert scores.per_image["BLEU-4"] == pytest.approx([1, 1], abs=1e-8)


@given(PICTURES, st.randoms(use_true_random=False))
def test_the_order_of_pictures_does_not_matter(
    pictures: list[tuple[str, list[str]]], shuffler: random.Random
) -> None:
    rows = [(str(number), *pair) for number, pair in enumerate(pictures)]
    shuffled = rows.copy()
    shuffler.shuffle(shuffled)
    first, second = (
        score_captions({i: c for i, c, _ in order}, {i: r for i, _, r in order})
        for order in (rows, shuffled)
    )
    assert first.corpus == pytest.approx(second.corpus, abs=1e-12)
    where = [second.ids.index(picture) for picture in first.ids]
    for metric, values in first.per_image.items():
        np.testing.assert_allclose(values, second.per_image[metric][where], atol=1e-12)


@given(st.lists(st.sampled_from(["a", "dog", "runs", "the", "cat"]), min_size=4, max_size=9))
def test_a_caption_equal_to_a_reference_is_perfect(words: list[str]) -> None:
    caption = " ".join(words)
    scores = score_captions({"x": caption}, {"x": ["something else", caption]})
    for order in range(1, 5):
        assert scores.corpus[f"BLEU-{order}"] == pytest.approx(1, abs=1e-8)
    assert scores.corpus["ROUGE-L"] == pytest.approx(1, abs=1e-12)


def test_tokenize_captions_gives_one_line_each() -> None:
    assert tokenize_captions(["A dog's ball.", ""]) == ["a dog 's ball", ""]


def test_scores_of_one_picture() -> None:
    scores = score_captions({"x": "a", "y": "b"}, {"x": ["a"], "y": ["c"]})
    assert scores.per_image["ROUGE-L"][1] == 0
    assert list(scores.per_image) == list(scores.corpus)


def test_no_metric_loads_torch_before_it_is_needed() -> None:
    rooms = ("", ".score_files", ".intervals", ".java", ".clip_score")
    modules = ", ".join(f"captioning.metrics{room}" for room in rooms)
    program = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", program], cwd=root).returncode == 0


def test_ids_that_do_not_match_are_named() -> None:
    with pytest.raises(UserError, match="'q'"):
        score_captions({"x": "a", "q": "b"}, {"x": ["a"]})


def test_many_pictures_are_scored_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    words = "a dog cat runs sits on the red grass mat".split()

    def text() -> str:
        return " ".join(random.choice(words, random.integers(0, 9)))

    references = {str(row): [text() for _ in range(1 + row % 3)] for row in range(23)}
    candidates = {key: text() for key in references}
    whole = score_captions(candidates, references)
    for size in (1, 4, 22):
        monkeypatch.setattr("captioning.metrics.coco.PICTURES_AT_ONCE", size)
        parts = score_captions(candidates, references)
        assert parts.corpus == pytest.approx(whole.corpus, rel=1e-12)
        for name, values in whole.per_image.items():
            np.testing.assert_allclose(parts.per_image[name], values, rtol=1e-12, atol=1e-15)
        np.testing.assert_array_equal(parts.bleu_counts.matches, whole.bleu_counts.matches)

"""Splits by picture: kept where the source has them, drawn where not, never leaking."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.sources.picture_splits import SplitRequest, assign_splits, find_leaks
from captioning.sources.records import SPLITS


@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from([None, *SPLITS])), max_size=40))
def test_no_content_is_ever_in_two_splits(drawn: list[tuple[int, str | None]]) -> None:
    pictures = [SplitRequest(str(content), split) for content, split in drawn]
    splits = assign_splits(pictures, seed=1, held_out_fraction=0.2)
    leaks = find_leaks(pictures, splits)
    home: dict[str, str] = {}
    for index, picture in enumerate(pictures):
        if picture.split in ("test", "validation"):
            assert splits[index] == picture.split
        if index not in leaks:
            assert home.setdefault(picture.sha256, splits[index]) == splits[index]
    assert home.keys() == {picture.sha256 for picture in pictures}


def test_drawn_splits_have_the_fractions_asked_for_and_follow_the_seed() -> None:
    pictures = [SplitRequest(f"picture {i}", None) for i in range(5000)]

    def draw(seed: int) -> list[str]:
        return assign_splits(pictures, seed=seed, held_out_fraction=0.2)

    assert abs(draw(1).count("validation") / 5000 - 0.2) < 0.02
    assert abs(draw(1).count("test") / 5000 - 0.2) < 0.02
    assert draw(1) == draw(1) != draw(2)


def test_adding_pictures_moves_none() -> None:
    pictures = [SplitRequest(f"picture {i}", None) for i in range(400)]
    few = assign_splits(pictures[:300], seed=1, held_out_fraction=0.1)
    many = assign_splits(pictures, seed=1, held_out_fraction=0.1)
    assert many[:300] == few


@pytest.mark.parametrize("count", [3, 4, 5])
def test_tiny_sets_get_every_split(count: int) -> None:
    for seed in range(20):
        pictures = [SplitRequest(f"picture {i}", None) for i in range(count)]
        splits = assign_splits(pictures, seed=seed, held_out_fraction=0.1)
        assert set(splits) == set(SPLITS)


def test_only_what_the_source_lacks_is_drawn() -> None:
    pictures = [SplitRequest(f"{i}", "train" if i < 90 else "test") for i in range(100)]
    splits = assign_splits(pictures, seed=1, held_out_fraction=0.2)
    assert splits[90:] == ["test"] * 10
    assert set(splits[:90]) == {"train", "validation"}
    splits = assign_splits(pictures, seed=1, held_out_fraction=0.0)
    assert set(splits[:90]) == {"train"}

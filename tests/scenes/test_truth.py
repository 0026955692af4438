"""The truth of drawn scenes: which words looked at their object."""

from captioning.scenes.plan import Scene, SceneObject
from captioning.scenes.truth import pointing, right_shares

THINGS = (
    SceneObject("balloon", "red", (0.0, 0.0, 0.25, 0.5)),
    SceneObject("cat", "blue", (0.5, 0.5, 1.0, 1.0)),
)
SCENE = Scene("meadow", "day", THINGS, "left of", 0)


def test_object_words_are_right_where_they_looked_into_the_object_s_box() -> None:
    captions = [
        [("a", 0.9, 0.9), ("red", 0.9, 0.9), ("balloon", 0.1, 0.4)],  # inside
        [("the", 0.1, 0.1), ("blue", 0.9, 0.9), ("cat.", 0.9, 0.1)],  # above it
        [("a", 0.1, 0.1), ("red", 0.1, 0.1), ("balloon", 0.9, 0.1)],  # beside it
        [("a", 0.1, 0.1), ("green", 0.1, 0.1), ("balloon", 0.1, 0.1)],  # there is no such thing
    ]
    assert pointing([SCENE] * 4, captions) == {
        "attention_inside_object": 1 / 3,
        "attention_inside_by_chance": (0.125 + 0.25 + 0.125) / 3,
    }


def test_shares_of_nothing_are_none() -> None:
    assert set(pointing([SCENE], [[("a", 0.0, 0.0)]]).values()) == {None}
    assert set(right_shares([], []).values()) == {None}

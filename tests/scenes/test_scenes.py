"""Scenes: the picture, the captions and the checker all tell the same truth."""

import dataclasses
import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from captioning.scenes import draw_scene, write_scenes
from captioning.scenes.captions import (
    ObjectWord,
    SceneCheck,
    check_caption,
    object_words,
    scene_captions,
)
from captioning.scenes.plan import SKY_KINDS, Scene, SceneObject, make_scene
from captioning.scenes.sprites import COLOURS, UNITS
from captioning.sources.records import SPLITS, read_records

SCENES = [make_scene(0, index) for index in range(300)]
ALL_RIGHT = SceneCheck(True, True, True, True)
LEFT_BOX, RIGHT_BOX = (0.1, 0.6, 0.4, 0.9), (0.6, 0.6, 0.9, 0.9)
CAT_AND_DOG = Scene(
    place="meadow",
    time="night",
    objects=(SceneObject("cat", "red", LEFT_BOX), SceneObject("dog", "blue", RIGHT_BOX)),
    relation="left of",
    details=1,
)
CHILD = Scene("beach", "day", (SceneObject("child", "green", LEFT_BOX),), None, 2)

indices = st.integers(0, 10**6)


def test_a_scene_is_a_function_of_seed_and_index() -> None:
    assert make_scene(0, 7) == SCENES[7]
    assert make_scene(1, 7) != SCENES[7]
    assert len(set(SCENES)) == len(SCENES)
    assert make_scene(0, 0).combination == (
        "meadow",
        "sunset",
        (("balloon", "red"), ("kite", "red")),
        "left of",
    )


def test_a_picture_is_a_function_of_its_scene() -> None:
    first, again = draw_scene(SCENES[3], 96), draw_scene(make_scene(0, 3), 96)
    assert (first.mode, first.size) == ("RGB", (96, 96))
    assert first.tobytes() == again.tobytes()
    other_details = dataclasses.replace(SCENES[3], details=5)
    assert draw_scene(other_details, 96).tobytes() != first.tobytes()


def test_every_word_of_the_scenes_is_used() -> None:
    assert {thing.kind for scene in SCENES for thing in scene.objects} == set(UNITS)
    assert {thing.colour for scene in SCENES for thing in scene.objects} == set(COLOURS)
    assert {scene.relation for scene in SCENES} == {None, "left of", "above"}
    assert len({(scene.place, scene.time) for scene in SCENES}) == 12


def test_two_things_of_a_scene_have_two_names() -> None:
    pairs = [scene.objects for scene in SCENES if scene.relation]
    assert any(first.kind == second.kind for first, second in pairs)
    assert all(first.name != second.name for first, second in pairs)


@given(indices)
def test_boxes_lie_in_the_picture_and_stand_as_the_relation_says(index: int) -> None:
    scene = make_scene(4, index)
    for thing in scene.objects:
        left, top, right, bottom = thing.box
        assert 0 <= left < right <= 1
        assert 0 <= top < bottom <= 1
    if scene.relation is not None:
        first, second = scene.objects
        if scene.relation == "left of":
            assert first.box[2] < second.box[0]
        else:
            assert first.box[3] < second.box[1]


@pytest.mark.parametrize("index", range(24))
def test_what_is_drawn_fills_its_box_and_nothing_else(index: int) -> None:
    scene, size = SCENES[index], 192
    changed = _changed_by_objects(scene, size)
    inside = np.zeros_like(changed)
    for thing in scene.objects:
        left, top, right, bottom = (round(share * size) for share in thing.box)
        inside[top:bottom, left:right] = True
        assert changed[top:bottom, left:right].mean() > 0.3
        if thing.kind in SKY_KINDS:
            assert changed[top : top + 4, left:right].any()
            assert changed[bottom - 4 : bottom, left:right].any()
    shadows_and_reflections = np.roll(inside, size // 6, axis=0) & ~inside
    assert changed[~inside & ~_widened(shadows_and_reflections)].mean() < 0.003


@pytest.mark.parametrize("kind", sorted(UNITS))
@pytest.mark.parametrize("colour", sorted(COLOURS))
def test_a_thing_shows_its_colour(kind: str, colour: str) -> None:
    thing = SceneObject(kind, colour, (0.3, 0.3, 0.7, 0.3 + 0.4 * UNITS[kind][1] / UNITS[kind][0]))
    scene = Scene("snow", "day", (thing,), None, 0)
    pixels = np.asarray(draw_scene(scene, 128))[_changed_by_objects(scene, 128)]
    distances = {
        name: int((np.abs(pixels - np.array(rgb)).max(axis=-1) < 8).sum())
        for name, rgb in COLOURS.items()
    }
    assert max(distances, key=lambda name: distances[name]) == colour
    assert distances[colour] > 0.05 * len(pixels)


@given(indices)
def test_five_captions_are_true_and_differ(index: int) -> None:
    scene = make_scene(2, index)
    captions = scene_captions(scene)
    assert len(set(captions)) == 5
    assert captions == scene_captions(scene)
    for caption in captions:
        assert check_caption(caption, scene) == ALL_RIGHT, caption
        words = caption.split()
        for word in object_words(caption):
            assert words[word.index].strip(".,:").lower() == word.kind


@settings(max_examples=300)
@given(indices, indices)
def test_captions_of_another_scene_fail_where_it_differs(index: int, other_index: int) -> None:
    scene, other = make_scene(3, index), make_scene(3, other_index)
    names, other_names = ([thing.name for thing in s.objects] for s in (scene, other))
    is_same_relation = scene.relation == other.relation and (
        scene.relation is None or names == other_names
    )
    expected = SceneCheck(
        objects_and_colours=sorted(names) == sorted(other_names),
        place=scene.place == other.place,
        time=scene.time == other.time,
        relation=is_same_relation,
    )
    for caption in scene_captions(other):
        assert check_caption(caption, scene) == expected, caption


@settings(max_examples=200)
@given(indices, st.sampled_from(["kind", "colour", "place", "time", "relation"]))
def test_one_changed_truth_is_one_failed_check(index: int, what: str) -> None:
    scene = next(scene for scene in (make_scene(5, index + i) for i in range(50)) if scene.relation)
    first, second = scene.objects
    if what in ("kind", "colour"):
        values = {"kind": sorted(UNITS), "colour": sorted(COLOURS)}[what]
        other = next(
            changed
            for value in values
            if (changed := dataclasses.replace(first, **{what: value})).name
            not in (first.name, second.name)
        )
        lie = dataclasses.replace(scene, objects=(other, second))
        expected = SceneCheck(False, True, True, False)
    elif what == "relation":
        lie = dataclasses.replace(scene, objects=(second, first))
        expected = SceneCheck(True, True, True, False)
    else:
        value = {"place": "sea", "time": "day"}[what]
        changed_value = {"sea": "snow", "day": "night"}[value]
        value = changed_value if getattr(scene, what) == value else value
        lie = dataclasses.replace(scene, **{what: value})
        expected = SceneCheck(True, what != "place", what != "time", True)
    for caption in scene_captions(lie):
        assert check_caption(caption, scene) == expected, caption


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a red cat to the left of a blue dog in a meadow at night", ALL_RIGHT),
        ("AT NIGHT, a blue dog; right of a red cat: MEADOW!", ALL_RIGHT),
        ("At night, to the right of a red cat, a blue dog waits on the grass.", ALL_RIGHT),
        ("A meadow at night: on the right a blue dog, on the left a red cat.", ALL_RIGHT),
        ("The cat is red, left of the dog which is blue, meadow, night", ALL_RIGHT),
        (
            "a blue cat left of a red dog in a meadow at night",
            SceneCheck(False, True, True, False),
        ),
        (
            "a red cat right of a blue dog in a meadow at night",
            SceneCheck(True, True, True, False),
        ),
        ("a red cat and a blue dog in a meadow at night", SceneCheck(True, True, True, False)),
        (
            "a red cat above a blue dog in a meadow at night",
            SceneCheck(True, True, True, False),
        ),
        (
            "a red cat left of a dog in a meadow at night",
            SceneCheck(False, True, True, False),
        ),
        (
            "a red cat left of a blue dog and a car in a meadow at night",
            SceneCheck(False, True, True, False),
        ),
        (
            "a red cat left of a blue dog on a black meadow at night",
            SceneCheck(False, True, True, True),
        ),
        ("a red cat left of a blue dog", SceneCheck(True, False, False, True)),
        (
            "a red cat left of a blue dog in a meadow on the beach on a sunny night",
            SceneCheck(True, False, False, True),
        ),
        ("a red cat in a meadow at night", SceneCheck(False, True, True, False)),
        ("", SceneCheck(False, False, False, False)),
    ],
)
def test_the_checker_is_strict(caption: str, expected: SceneCheck) -> None:
    assert check_caption(caption, CAT_AND_DOG) == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A child in a green coat on the beach by day.", ALL_RIGHT),
        ("On a sunny day a green child plays in the sand", ALL_RIGHT),
        ("A child on the beach by day.", SceneCheck(False, True, True, True)),
        (
            "A child in a green coat and a child in a green coat on the beach by day.",
            SceneCheck(False, True, True, True),
        ),
        (
            "A child in a green coat on the left of the beach by day.",
            SceneCheck(True, True, True, False),
        ),
    ],
)
def test_the_checker_is_strict_about_a_single_thing(caption: str, expected: SceneCheck) -> None:
    assert check_caption(caption, CHILD) == expected


def test_object_words_point_at_the_words_that_name_things() -> None:
    assert object_words("At dusk, a child in a red coat, left of a blue CAT.") == (
        ObjectWord(index=3, kind="child", colour="red"),
        ObjectWord(index=12, kind="cat", colour="blue"),
    )
    assert object_words("a boat") == (ObjectWord(index=1, kind="boat", colour=None),)
    assert object_words("nothing here") == ()


def test_written_scenes_keep_their_truth_and_their_splits_apart(tmp_path: Path) -> None:
    drawn: list[None] = []
    write_scenes(tmp_path, seed=0, count=400, size=32, progress=lambda: drawn.append(None))
    assert len(drawn) == 400
    combinations: dict[str, set[object]] = {}
    digests: set[str] = set()
    for split, count in zip(SPLITS, (320, 40, 40), strict=True):
        records = read_records(tmp_path / split)
        assert len(records) == count
        combinations[split] = set()
        for record in records:
            scene = Scene.from_dict(record.extra["scene"])
            combinations[split].add(scene.combination)
            digests.add(hashlib.sha256(record.image.read_bytes()).hexdigest())
            assert record.captions == scene_captions(scene)
            with Image.open(record.image) as picture:
                difference = np.asarray(picture, dtype=float) - np.asarray(draw_scene(scene, 32))
            assert math.sqrt((difference**2).mean()) < 6
    assert len(digests) == 400
    assert not combinations["train"] & combinations["validation"]
    assert not combinations["train"] & combinations["test"]
    assert not combinations["validation"] & combinations["test"]


def test_written_scenes_are_the_same_again(tmp_path: Path) -> None:
    for name in ("first", "again"):
        write_scenes(tmp_path / name, seed=9, count=10, size=32)
    first, again = (
        {
            record.image.name: (record.image.read_bytes(), record.captions)
            for split in SPLITS
            for record in read_records(tmp_path / name / split)
        }
        for name in ("first", "again")
    )
    assert first == again


def _changed_by_objects(scene: Scene, size: int) -> np.ndarray:
    """Which pixels the things of a scene cover."""
    empty = np.asarray(draw_scene(dataclasses.replace(scene, objects=()), size), dtype=int)
    return np.abs(np.asarray(draw_scene(scene, size), dtype=int) - empty).max(axis=-1) > 12


def _widened(mask: np.ndarray) -> np.ndarray:
    return np.any([np.roll(mask, shift, axis=1) for shift in range(-16, 17)], axis=0)

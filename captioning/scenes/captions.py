"""Captions of the demo's scenes: five wordings of the truth, and a checker that knows it.

A caption names each thing with its colour, the place, the time of day and, of two things, how
they stand to each other. The checker reads the words below and judges no others.
"""

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass

from captioning.scenes.plan import SKY_KINDS, Scene, SceneObject
from captioning.scenes.sprites import COLOURS, UNITS

VERBS = {
    "boat": (("sails", "sailing"), ("floats", "floating"), ("drifts", "drifting")),
    "duck": (("swims", "swimming"), ("floats", "floating"), ("paddles", "paddling")),
    "house": (("stands", "standing"),),
    "car": (("is parked", "parked"), ("stands", "standing")),
    "cat": (("sits", "sitting"), ("rests", "resting")),
    "dog": (("stands", "standing"), ("waits", "waiting")),
    "child": (("stands", "standing"), ("waves", "waving")),
    "balloon": (("floats", "floating"), ("drifts", "drifting"), ("hangs", "hanging")),
    "kite": (("flies", "flying"), ("soars", "soaring"), ("flutters", "fluttering")),
}
NOUNS = {
    "sea": ("the sea", "the ocean"),
    "meadow": ("the meadow", "a meadow", "a grassy field"),
    "beach": ("the beach", "a sandy beach", "a beach"),
    "snow": ("the snow", "a snowy landscape", "a snowy valley"),
}
GROUND_PREPOSITION = {"sea": "on", "meadow": "in", "beach": "on", "snow": "in"}
TIMES = {
    "day": ("during the day", "by day", "in the daytime", "on a sunny day"),
    "sunset": ("at sunset", "at dusk", "at sundown", "under a setting sun"),
    "night": ("at night", "by moonlight", "on a starry night", "under the stars"),
}
RELATIONS = {
    "left of": (("to the left of", "left of"), ("to the right of", "right of")),
    "above": (("above", "high above"), ("below", "beneath")),
}
"""How the first thing stands to the second, and how the second stands to the first."""

PLACE_WORDS = {
    **dict.fromkeys(("sea", "ocean"), "sea"),
    **dict.fromkeys(("meadow", "grass", "grassy", "field"), "meadow"),
    **dict.fromkeys(("beach", "sand", "sandy"), "beach"),
    **dict.fromkeys(("snow", "snowy"), "snow"),
}
TIME_WORDS = {
    **dict.fromkeys(("day", "daytime", "daylight", "sunny"), "day"),
    **dict.fromkeys(("sunset", "dusk", "sundown", "setting"), "sunset"),
    **dict.fromkeys(("night", "moonlight", "moonlit", "stars", "starry"), "night"),
}
COLOUR_WORDS = {*COLOURS, "orange", "brown", "black", "white", "grey", "gray"}
ARTICLES = {"a", "an", "the"}
FARTHEST_COLOUR_AFTER = 4
"""Words from a thing to a colour that follows it: `child wearing a red` has three."""

Name = tuple[str, str | None]
Statement = tuple[Name, str, Name]


@dataclass(frozen=True)
class ObjectWord:
    """A word of a caption that names a thing."""

    index: int
    """Its place among the words of `caption.split()`."""
    kind: str
    colour: str | None
    """The colour that the caption gives it, if any."""

    @property
    def name(self) -> Name:
        """(kind, colour), as `SceneObject.name`."""
        return self.kind, self.colour


@dataclass(frozen=True)
class SceneCheck:
    """What a caption gets right."""

    objects_and_colours: bool
    """Each thing is named exactly once, with its colour; no other thing or colour is named."""
    place: bool
    """The place is named, and no other."""
    time: bool
    """The time of day is named, and no other."""
    relation: bool
    """Two things, both with their colours, stand to each other as said; of one, nothing is said."""


def scene_captions(scene: Scene) -> tuple[str, ...]:
    """Five true captions, no two built alike; the same for the same scene."""
    rng = random.Random(f"captions {scene.details}")
    forms = ALONE_FORMS if scene.relation is None else PAIR_FORMS[scene.relation]
    captions = (form.format(**_phrases(scene, rng)) for form in rng.sample(forms, k=5))
    return tuple(caption[0].upper() + caption[1:] + "." for caption in captions)


ALONE_FORMS = (
    "{a} {verb} {place} {time}",
    "{time}, {a} {verb} {place}",
    "{place}, {a} {verb} {time}",
    "there is {a} {place} {time}",
    "{noun} {time} with {a}",
    "{a} {gerund} {place} {time}",
)
_PAIR_FORMS = (
    "{a} {verb} {relation} {b} {place} {time}",
    "{time}, {a} {verb} {relation} {b} {place}",
    "{place}, {a} {verb} {relation} {b} {time}",
    "there is {a} {relation} {b} {place} {time}",
    "{noun} {time} with {a} {relation} {b}",
)
PAIR_FORMS = {
    "left of": (
        *_PAIR_FORMS,
        "{first} on the left and {second} on the right, {place} {time}",
        "{place} {time}: {first} on the left, {second} on the right",
    ),
    "above": (*_PAIR_FORMS, "{a} {gerund} {relation} {b} {place} {time}"),
}


def _phrases(scene: Scene, rng: random.Random) -> dict[str, str]:
    """The pieces of a sentence; of two things, either may come first."""
    things, turned = list(scene.objects), rng.random() < 0.5
    phrases = {"relation": ""}
    if scene.relation is not None:
        phrases["relation"] = rng.choice(RELATIONS[scene.relation][turned])
        phrases["first"], phrases["second"] = (_thing(thing, rng) for thing in things)
        things = things[::-1] if turned else things
        phrases["b"] = _thing(things[1], rng)
    all_in_the_sky = all(thing.kind in SKY_KINDS for thing in things)
    noun = rng.choice(NOUNS[scene.place])
    phrases["a"] = _thing(things[0], rng)
    phrases["verb"], phrases["gerund"] = rng.choice(VERBS[things[0].kind])
    phrases["noun"] = noun
    phrases["place"] = f"{'over' if all_in_the_sky else GROUND_PREPOSITION[scene.place]} {noun}"
    phrases["time"] = rng.choice(TIMES[scene.time])
    return phrases


def _thing(thing: SceneObject, rng: random.Random) -> str:
    if thing.kind == "child":
        return f"a child {rng.choice(('in', 'wearing'))} a {thing.colour} coat"
    return f"a {thing.colour} {thing.kind}"


def check_caption(caption: str, scene: Scene) -> SceneCheck:
    """What `caption` gets right about `scene`; capitals and punctuation do not matter.

    The order of words matters only where it carries meaning: a colour belongs to the thing right
    after it (one word may stand between), else to the last thing named before it.
    """
    words, named = _words(caption), object_words(caption)
    truth = sorted(thing.name for thing in scene.objects)
    said = sorted((word.kind, word.colour or "") for word in named)
    has_stray_colour = sum(word in COLOUR_WORDS for word in words) != len(scene.objects)
    statements = _statements(words, named)
    if scene.relation is None:
        is_relation_right = not statements
    else:
        first, second = scene.objects
        is_relation_right = statements == [(first.name, scene.relation, second.name)]
    return SceneCheck(
        objects_and_colours=said == truth and not has_stray_colour,
        place={PLACE_WORDS[word] for word in words if word in PLACE_WORDS} == {scene.place},
        time={TIME_WORDS[word] for word in words if word in TIME_WORDS} == {scene.time},
        relation=is_relation_right,
    )


def object_words(caption: str) -> tuple[ObjectWord, ...]:
    """Which words of a caption name things, in their order, with the colours they are given."""
    words = _words(caption)
    colours: dict[int, str] = {}
    for index, word in enumerate(words):
        if word in COLOUR_WORDS:
            owner = _owner(words, index)
            if owner is not None:
                colours.setdefault(owner, word)
    return tuple(
        ObjectWord(index, word, colours.get(index))
        for index, word in enumerate(words)
        if word in UNITS
    )


def _owner(words: Sequence[str], colour_index: int) -> int | None:
    """The index of the thing that a colour word belongs to."""
    for index in range(colour_index + 1, min(colour_index + 3, len(words))):
        if words[index] in UNITS:
            return index
        if words[index] in COLOUR_WORDS | ARTICLES:
            break
    for index in range(colour_index - 1, max(colour_index - FARTHEST_COLOUR_AFTER, 0) - 1, -1):
        if words[index] in UNITS:
            return index
        if words[index] in COLOUR_WORDS:
            break
    return None


def _statements(words: Sequence[str], named: Sequence[ObjectWord]) -> list[Statement | None]:
    """Each (thing, `left of` or `above`, thing) that a caption states; None where unclear."""
    statements: list[Statement | None] = []
    sides: list[str] = []
    for index, word in enumerate(words):
        if word in ("above", "below", "beneath"):
            statements.append(_statement(index, named, "above", turned=word != "above"))
        elif word in ("left", "right") and words[index + 1 : index + 2] == ["of"]:
            statements.append(_statement(index, named, "left of", turned=word == "right"))
        elif word in ("left", "right"):
            sides.append(word)
    if sides:
        is_clear = len(named) == 2 and sorted(sides) == ["left", "right"]
        pair = named if sides[0] == "left" else named[::-1]
        statements.append((pair[0].name, "left of", pair[1].name) if is_clear else None)
    return statements


def _statement(
    index: int, named: Sequence[ObjectWord], relation: str, *, turned: bool
) -> Statement | None:
    """`A above B` and `above B, A` for the relation word at `index`; `turned` for its opposite."""
    if len(named) != 2 or index > named[1].index:
        return None
    subject, other = named if index > named[0].index else named[::-1]
    first, second = (other, subject) if turned else (subject, other)
    return first.name, relation, second.name


def _words(caption: str) -> list[str]:
    return [word.strip(string.punctuation) for word in caption.lower().split()]

"""What is in a scene of the demo data set: one or two coloured things, a place, a time of day.

`make_scene(seed, index)` plans scene `index`; the plan is all that pictures and captions are made
from, and the truth that captions are checked against.
"""

import random
from dataclasses import asdict, dataclass
from typing import Any

from captioning.scenes.backdrops import PLACES
from captioning.scenes.skies import HOURS
from captioning.scenes.sprites import COLOURS, UNITS

WATER_KINDS = ("boat", "duck")
LAND_KINDS = ("house", "car", "cat", "dog", "child")
SKY_KINDS = ("balloon", "kite")
WIDTHS = {
    "boat": 0.40,
    "duck": 0.32,
    "house": 0.40,
    "car": 0.40,
    "cat": 0.30,
    "dog": 0.34,
    "child": 0.25,
    "balloon": 0.28,
    "kite": 0.25,
}
"""How wide the nearest thing of a kind is, as a share of the picture."""


@dataclass(frozen=True)
class SceneObject:
    """A thing in a scene."""

    kind: str
    colour: str
    box: tuple[float, float, float, float]
    """Left, top, right, bottom, as shares of the picture."""

    @property
    def name(self) -> tuple[str, str]:
        """(kind, colour): unique within a scene."""
        return self.kind, self.colour


@dataclass(frozen=True)
class Scene:
    """The truth of one picture."""

    place: str
    time: str
    objects: tuple[SceneObject, ...]
    """One thing, or two."""
    relation: str | None
    """Of two things: where the first is, seen from the second: `left of` or `above`."""
    details: int
    """Seeds what nobody names: the clouds, which way a cat looks, the words of the captions."""

    @property
    def combination(self) -> tuple[object, ...]:
        """All that a caption may say; pictures with the same combination differ in details."""
        return self.place, self.time, tuple(thing.name for thing in self.objects), self.relation

    def to_dict(self) -> dict[str, Any]:
        """The scene for a metadata line."""
        return asdict(self)

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> "Scene":
        """The scene of a metadata line."""
        things = tuple(
            SceneObject(thing["kind"], thing["colour"], tuple(thing["box"]))
            for thing in row["objects"]
        )
        return cls(row["place"], row["time"], things, row["relation"], row["details"])


def make_scene(seed: int, index: int) -> Scene:
    """Scene `index` of an endless series; the same for the same (seed, index) everywhere."""
    rng = random.Random(f"scene {seed} {index}")
    place, time = rng.choice(list(PLACES)), rng.choice(list(HOURS))
    standing = WATER_KINDS if place == "sea" else LAND_KINDS
    layout = rng.choices(("alone", "left of", "above"), weights=(4, 4, 2))[0]
    if layout == "alone":
        kinds = [rng.choice(standing + SKY_KINDS)]
        centres = [rng.uniform(0.28, 0.72)]
    elif layout == "left of":
        kinds = rng.choices(rng.choice((standing, standing, SKY_KINDS)), k=2)
        centres = [rng.uniform(0.22, 0.285), rng.uniform(0.715, 0.78)]
    else:
        kinds = [rng.choice(SKY_KINDS), rng.choice(standing)]
        first = rng.uniform(0.28, 0.72)
        centres = [first, first + rng.uniform(-0.08, 0.08)]
    colours = rng.choices(list(COLOURS), k=len(kinds))
    if len(kinds) == 2 and kinds[0] == kinds[1]:
        colours = rng.sample(list(COLOURS), k=2)
    things = tuple(
        SceneObject(kind, colour, _box(rng, kind, centre))
        for kind, colour, centre in zip(kinds, colours, centres, strict=True)
    )
    relation = None if layout == "alone" else layout
    return Scene(place, time, things, relation, rng.getrandbits(32))


def _box(rng: random.Random, kind: str, centre: float) -> tuple[float, float, float, float]:
    """Where a thing goes: in the sky, or on the ground, smaller when farther away."""
    near = rng.random()
    width = WIDTHS[kind] * (0.84 + 0.16 * near)
    units_wide, units_high = UNITS[kind]
    height = width * units_high / units_wide
    if kind in SKY_KINDS:
        top = rng.uniform(0.02, 0.1)
        bottom = top + height
    else:
        bottom = 0.82 + 0.12 * near
    return (
        round(centre - width / 2, 4),
        round(bottom - height, 4),
        round(centre + width / 2, 4),
        round(bottom, 4),
    )

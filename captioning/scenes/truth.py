"""What captions of drawn scenes get right, and where their object words looked.

Takes plain values: scenes, captions as text, words with the place that each looked at.
"""

from collections.abc import Sequence

from captioning.scenes.captions import SceneCheck, check_caption, object_words
from captioning.scenes.plan import Scene
from captioning.sources.records import Record

CHECKS = ("objects_and_colours", "place", "time", "relation")

Look = tuple[str, float, float]
"""A word of a caption, and where its attention peaks: x and y as shares of the picture's sides."""


def check_records(
    records: Sequence[Record], captions: Sequence[str]
) -> tuple[list[Scene], list[SceneCheck]] | None:
    """The scenes of drawn pictures, and what a caption of each gets right; None of photographs."""
    if not all("scene" in record.extra for record in records):
        return None
    scenes = [Scene.from_dict(record.extra["scene"]) for record in records]
    return scenes, [check_caption(*one) for one in zip(captions, scenes, strict=True)]


def right_shares(scenes: Sequence[Scene], checks: Sequence[SceneCheck]) -> dict[str, float | None]:
    """Share of captions that are right, by what they tell; relations among the scenes of two
    objects. None where there was nothing to count."""
    shares: dict[str, float | None] = {}
    for name in CHECKS:
        counted = [
            getattr(check, name)
            for scene, check in zip(scenes, checks, strict=True)
            if name != "relation" or scene.relation is not None
        ]
        shares[name] = sum(counted) / len(counted) if counted else None
    return shares


def pointing(
    scenes: Sequence[Scene], captions: Sequence[Sequence[Look]]
) -> dict[str, float | None]:
    """How many right object words, thing and colour, looked at the object that they name.

    The share whose attention peaks inside the object's box, and the share that would if they looked
    anywhere: the mean of the boxes' shares of the picture. None where there are no such words.
    """
    inside, shares = 0, []
    for scene, words in zip(scenes, captions, strict=True):
        boxes = {thing.name: thing.box for thing in scene.objects}
        # A no-break space inside a word would make two of it.
        caption = " ".join("".join(text.split()) for text, _, _ in words)
        for named in object_words(caption):
            box = boxes.get((named.kind, named.colour or ""))
            if box is None:
                continue
            left, top, right, bottom = box
            _, x, y = words[named.index]
            inside += left <= x <= right and top <= y <= bottom
            shares.append((right - left) * (bottom - top))
    return {
        "attention_inside_object": inside / len(shares) if shares else None,
        "attention_inside_by_chance": sum(shares) / len(shares) if shares else None,
    }

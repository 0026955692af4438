"""Whether an export says what the checkpoint says: pictures captioned both ways.

Reads the pictures of a folder, or draws scenes on the spot; writes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from captioning.scenes import draw_scene, make_scene
from captioning.sources.images import load_image
from captioning.sources.named_pictures import find_named
from captioning.system.errors import UserError

MOST_PICTURES = 16
SCENE_SEED = 7
LARGEST_DIFFERENCE = 1e-3
"""Of log-probabilities of a caption, between arithmetic of two libraries."""


@dataclass(frozen=True)
class Said:
    """What is said of a picture."""

    text: str
    log_probability: float


Speaker = Callable[[Sequence[Image.Image], int], Sequence[Said]]
"""The best captions of pictures, searched with so many beams; 1 is greedy search."""


def pictures_to_check(folder: str = "") -> list[Image.Image]:
    """The first pictures of a folder, or scenes drawn on the spot."""
    if not folder:
        scenes = [make_scene(SCENE_SEED, number) for number in range(MOST_PICTURES)]
        return [draw_scene(scene) for scene in scenes]
    return [
        load_image(one.read(), name=one.name)
        for one in find_named([folder]).pictures[:MOST_PICTURES]
    ]


def check_same(
    ours: Speaker, theirs: Speaker, pictures: Sequence[Image.Image], beams: Sequence[int]
) -> str:
    """Raise `UserError` where an export does not say what the checkpoint says; else what was found.

    Searched greedily and with each number of `beams`.
    """
    largest = 0.0
    for width in sorted({1, *beams}):
        for number, (one, other) in enumerate(
            zip(ours(pictures, width), theirs(pictures, width), strict=True), 1
        ):
            difference = abs(one.log_probability - other.log_probability)
            if one.text != other.text or not difference <= LARGEST_DIFFERENCE:
                raise UserError(
                    f"the export does not caption as the checkpoint does ({width} beams, picture "
                    f"{number}): {other.text!r} ({other.log_probability:.4f}), not {one.text!r} "
                    f"({one.log_probability:.4f}). It is not kept. Please report the encoder's "
                    "name and the versions of torch and onnxruntime."
                )
            largest = max(largest, difference)
    searches = " and ".join("greedily" if w == 1 else f"{w} beams" for w in sorted({1, *beams}))
    return (
        f"{len(pictures)} pictures captioned both ways, {searches}: equal captions, "
        f"log-probabilities within {largest:.1g}"
    )


def share_equal(ours: Speaker, theirs: Speaker, pictures: Sequence[Image.Image], beams: int) -> str:
    """How many captions of an export with rounded weights are those of the checkpoint."""
    said = zip(ours(pictures, beams), theirs(pictures, beams), strict=True)
    equal = sum(one.text == other.text for one, other in said)
    return f"{equal} of {len(pictures)} captions are those of the checkpoint"

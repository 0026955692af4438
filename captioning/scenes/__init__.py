"""The demo data set: little scenes, drawn offline, whose truth is known.

Reads nothing; writes an ImageFolder as `records.py` describes, with the truth of each picture
under `scene` in its metadata line. `python prepare_dataset.py --DATASET demo` runs it. What others
need of the scenes can be imported from here.

Open `plan` first: what is in a scene is decided there, before anything is drawn or said. This file
draws a plan, back to front: `skies` and `backdrops` the place and its time of day, `sprites` the
things, with the strokes of `pen`. `captions` says the plan in five ways and judges what a model
says of it; `truth` sums that up over a split, and tells whether words looked at their things.

The room knows `sources.records`, and nothing of models: an evaluation that meets records with a
`scene` hands it captions and places as plain values.
"""

import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from captioning.scenes.backdrops import draw_backdrop
from captioning.scenes.captions import SceneCheck, check_caption, object_words, scene_captions
from captioning.scenes.pen import glow
from captioning.scenes.plan import SKY_KINDS, Scene, SceneObject, make_scene
from captioning.scenes.sprites import draw_sprite
from captioning.sources.records import SPLITS, Record, write_records

__all__ = [
    "Scene",
    "SceneCheck",
    "SceneObject",
    "check_caption",
    "draw_scene",
    "make_scene",
    "object_words",
    "scene_captions",
    "write_scenes",
]

DEFAULT_COUNT = 3000
DEFAULT_SIZE = 192
BACKDROP_VARIANTS = 6
JPEG_QUALITY = 93


def draw_scene(scene: Scene, size: int = DEFAULT_SIZE) -> Image.Image:
    """The picture of a scene: RGB, `size` by `size` pixels, the same for the same scene."""
    rng = random.Random(scene.details)
    panorama = draw_backdrop(scene.place, scene.time, rng.randrange(BACKDROP_VARIANTS), size)
    left = rng.randint(0, panorama.width - size)
    picture = panorama.crop((left, 0, left + size, size))
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for thing in sorted(scene.objects, key=lambda thing: thing.box[3]):
        _place(picture, thing, scene, rng)
    return picture


def write_scenes(
    folder: str | os.PathLike[str],
    *,
    seed: int,
    count: int = DEFAULT_COUNT,
    size: int = DEFAULT_SIZE,
    progress: Callable[[], object] = lambda: None,
) -> None:
    """Draw `count` pictures into an ImageFolder, a tenth each for validation and test.

    `progress` is called after each picture. The metadata is written last, so a folder that has it
    is whole. A combination of things, colours, relation, place and time belongs to one split only,
    so every scene of the test split is one that training has never shown.
    """
    held_out = count // 10
    counts = {"train": count - 2 * held_out, "validation": held_out, "test": held_out}
    records: dict[str, list[Record]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        (Path(folder) / split).mkdir(parents=True, exist_ok=True)
    index = 0
    while any(len(records[split]) < counts[split] for split in SPLITS):
        scene = make_scene(seed, index)
        split = _split_of(scene)
        if len(records[split]) < counts[split]:
            path = Path(folder) / split / f"scene_{index:06d}.jpg"
            draw_scene(scene, size).save(path, quality=JPEG_QUALITY, subsampling=0)
            extra = {"scene": scene.to_dict()}
            records[split].append(Record(path, scene_captions(scene), extra))
            progress()
        index += 1
    for split in SPLITS:
        write_records(Path(folder) / split, records[split])


def _split_of(scene: Scene) -> str:
    """A tenth of all combinations for validation, a tenth for test."""
    digest = hashlib.sha256(repr(scene.combination).encode()).digest()
    return {0: "validation", 1: "test"}.get(digest[0] % 10, "train")


def _place(picture: Image.Image, thing: SceneObject, scene: Scene, rng: random.Random) -> None:
    """Draw a thing with its shadow, or its reflection in the sea."""
    left, _, right, bottom = (share * picture.width for share in thing.box)
    sprite = draw_sprite(
        thing.kind,
        thing.colour,
        time=scene.time,
        width=round(right - left),
        look=rng.randrange(4),
        faces_left=rng.random() < 0.5,
    )
    corner = (round(left), round(bottom) - sprite.height)
    if scene.place == "sea" and thing.kind not in SKY_KINDS:
        mirrored = sprite.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        mirrored = mirrored.resize((sprite.width, round(0.4 * sprite.height)))
        faint = mirrored.getchannel("A").point(lambda alpha: round(0.3 * alpha))
        picture.paste(mirrored, (corner[0], corner[1] + sprite.height), faint)
    elif thing.kind not in SKY_KINDS:
        radii = (0.62 * (right - left), 0.035 * picture.width)
        glow(
            picture, ((left + right) / 2, bottom - 0.006 * picture.width), radii, (20, 24, 60), 0.6
        )
    picture.paste(sprite, corner, sprite)

"""A page over a folder of drawn scenes, with a model that says what it is told to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from captioning.app.album import Album
from captioning.app.corrections import Corrections
from captioning.app.desk import Said
from captioning.app.drafts import Drafting
from captioning.app.learning import Beginning
from captioning.app.server import Page
from captioning.scenes import draw_scene, make_scene
from captioning.sources.records import WordHeat


class Parrot:
    """Says of a picture how red its first pixel is, and is as sure as that is much."""

    def __init__(self, name: str = "parrot") -> None:
        """One of a name."""
        self.name, self.usual = name, {"beam_size": 3, "length_penalty": 1.0}
        self.wishes: list[Mapping[str, str]] = []

    def captions(self, picture: Image.Image, wishes: Mapping[str, str]) -> Sequence[Said]:
        """As many as are wished for."""
        self.wishes.append(wishes)
        text, sure = self.drafts([picture])[0]
        heat = np.zeros((4, 4), np.float32)
        heat[1, 2] = 1
        words = [(WordHeat(word, heat), sure) for word in text.split()]
        return [Said(text, -1.0, sure, words)] * int(wishes.get("num_captions", 1))

    def drafts(self, pictures: Sequence[Image.Image]) -> list[tuple[str, float]]:
        """One of each."""
        reds = [np.asarray(picture)[0, 0, 0] for picture in pictures]
        return [(f"a red of {red}", float(red) / 255) for red in reds]


def write_reds(folder: Path, reds: Mapping[str, int]) -> Path:
    """Pictures by name, each with as much red."""
    for name, red in reds.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (red, 90, 90)).save(path)
    return folder


def write_scenes_to(folder: Path, count: int, side: int = 96) -> Path:
    """Drawn scenes, 0.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        draw_scene(make_scene(1, number), side).save(folder / f"{number:03d}.png")
    return folder


def page_of(folder: Path, *models: Any, **of_drafting: Any) -> Page:
    """A page over a folder, with parrots unless other models are given."""
    models = models or (Parrot(),)
    album = Album(folder, Corrections(folder / "corrections.jsonl"))
    drafting = Drafting(album, models[0].drafts, folder / ".drafts.jsonl", **of_drafting)
    return Page(models, Beginning("checkpoints/demo/best", 2e-3), album, drafting)

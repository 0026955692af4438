"""A page over a small folder, with a model that says how red a picture is.

python -m tests.helpers.app_page FOLDER PORT        serves it until it is killed
"""

import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from captioning.app.album import Album
from captioning.app.corrections import Corrections
from captioning.app.desk import Said
from captioning.app.drafts import Drafting
from captioning.app.learning import Beginning
from captioning.app.server import Page, build
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


def page_of(folder: Path, *models: Any, **of_drafting: Any) -> Page:
    """A page over a folder, with parrots unless other models are given."""
    models = models or (Parrot(),)
    album = Album(folder, Corrections(folder / "corrections.jsonl"))
    drafting = Drafting(album, models[0].drafts, folder / ".drafts.jsonl", **of_drafting)
    return Page(
        models, Beginning("checkpoints/demo/best", {"LEARNING_RATE": "0.0005"}), album, drafting
    )


def listener_at(port: int = 0) -> socket.socket:
    """A socket on this machine alone."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    return listener


@contextmanager
def served(page: Page) -> Iterator[str]:
    """The address of a page that is served from a thread."""
    import uvicorn

    listener = listener_at()
    config = uvicorn.Config(build(page), log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()


if __name__ == "__main__":
    import uvicorn

    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    uvicorn.Server(uvicorn.Config(build(page_of(folder)), log_level="error")).run(
        sockets=[listener_at(port)]
    )

"""Captions that are there before anybody looks: in the folder, or said by a model meanwhile.

What lies in the folder is read as `prepare_dataset.py` reads it; JSON Lines, CSV and Parquet that
`generate.py --write` wrote say how sure the model was, too. Pictures without a caption are
captioned little by little, those that somebody looks at first. What was said is kept in a hidden
file, one for each model, from which the next start goes on.
"""

import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from captioning.app.album import Album, Draft
from captioning.sources.captions_beside import find_captions_files
from captioning.sources.images import load_image
from captioning.sources.origins import list_files
from captioning.sources.picture_names import PictureNames
from captioning.sources.table_columns import TableReading
from captioning.system.errors import UserError
from captioning.system.files import own_file
from captioning.system.processes import worker_count
from captioning.system.terminal import json_line
from captioning.writing.forms import FORMS

SaysAll = Callable[[Sequence[Image.Image]], Sequence[tuple[str, float]]]
"""The captions of pictures, with how sure the model is of each."""
QUICK_SECONDS, SLOW_SECONDS = 0.25, 0.8
"""A batch that took less or more makes the next one larger or smaller: people wait for it."""
FIRST_BATCH, LARGEST_BATCH = 4, 32
MOST_WANTED = 400
"""Pictures that were looked at last, and come first."""


def drafts_in_folder(album: Album, captions_file: str = "") -> Iterator[tuple[int, Draft]]:
    """The captions that lie in the folder, or in `captions_file`, the first of each picture.

    Raises `UserError` where they cannot be read.
    """
    where, names = str(album.folder), PictureNames(album.names, os.path.abspath(album.folder))
    own = album.corrections.path.resolve()
    files = {
        file.name: file.read
        for file in list_files(where)
        if file.path is None or file.name != own.name or file.path.resolve() != own
    }
    reading = TableReading("", "", names.find)
    for found in find_captions_files(where, files, captions_file, reading, looks_inside=False):
        sure = _confidences(Path(found.name))
        for picture in found.pictures:
            matches = names.find(picture.file_name)
            text = next(filter(None, picture.captions), "")
            if len(matches) == 1 and text:
                confidence = sure.get((picture.file_name, text))
                yield album.number_of[matches[0]], Draft(text, confidence)


def _confidences(path: Path) -> dict[tuple[str, str], float]:
    """How sure a model was of each picture's captions, where a file says so."""
    form = next((form for form in FORMS.values() if form.suffix == path.suffix.lower()), None)
    found: dict[tuple[str, str], float] = {}
    if form is None or not path.is_file():
        return found
    try:
        for row in form.read(path):
            said = row.get("captions")
            for one in said if isinstance(said, list) else [{**row, "text": row.get("caption")}]:
                if isinstance(one, dict) and (sure := _share(one.get("confidence"))) is not None:
                    found[str(row.get("image")), str(one.get("text"))] = sure
    except (OSError, ValueError):
        pass  # it is in another form, which says nothing of that
    return found


def _share(value: Any) -> float | None:
    try:
        return float(value) if 0 <= float(value) <= 1 else None
    except (TypeError, ValueError):
        return None


class Drafting:
    """Captions pictures that have none, a batch at a time, and keeps what was said."""

    def __init__(self, album: Album, says: SaysAll, path: Path, *, is_on: bool = True) -> None:
        """`path` is where what was said is kept; read by `resume`."""
        self.album, self.path, self.is_on = album, path, is_on
        self.problem = ""
        """Why nothing more is captioned."""
        self._says, self._batch = says, FIRST_BATCH
        self._wanted: OrderedDict[int, None] = OrderedDict()
        self._lock = threading.Lock()
        self._next = 0
        self._is_ready = False
        self._pool = ThreadPoolExecutor(max(1, worker_count(-1)), thread_name_prefix="read")

    @property
    def is_busy(self) -> bool:
        """Whether there is something to do."""
        return self.is_on and self._is_ready and not self.problem and bool(self._upcoming(1))

    def progress(self) -> dict[str, Any]:
        """How far it is."""
        done = len(self.album.drafts)
        return {
            "done": done,
            "total": len(self.album.names),
            "running": self.is_busy,
            "reading": not self._is_ready,
            "on": self.is_on,
            "problem": self.problem,
        }

    def want(self, numbers: Iterable[int]) -> None:
        """Caption pictures that are being looked at before all others."""
        with self._lock:
            for number in numbers:
                if number not in self.album.drafts:
                    self._wanted[number] = None
                    self._wanted.move_to_end(number)
            while len(self._wanted) > MOST_WANTED:
                self._wanted.popitem(last=False)

    def resume(self) -> None:
        """Take what was said by the time of the last end; from now on there is something to do."""
        self.album.add_drafts(self._kept())
        self._is_ready = True

    def step(self) -> None:
        """Caption the next few pictures."""
        numbers = self._upcoming(self._batch)
        began = time.monotonic()
        loaded = list(self._pool.map(self._load, numbers))
        good = [
            (n, one) for n, one in zip(numbers, loaded, strict=True) if not isinstance(one, str)
        ]
        drafts = [
            (n, Draft(one, None, is_problem=True))
            for n, one in zip(numbers, loaded, strict=True)
            if isinstance(one, str)
        ]
        said = self._says([image for _, image in good]) if good else []
        spoken = [(n, Draft(*one)) for (n, _), one in zip(good, said, strict=True)]
        self._keep(spoken)
        self.album.add_drafts([*drafts, *spoken])
        with self._lock:
            for number in numbers:
                self._wanted.pop(number, None)
        seconds = time.monotonic() - began
        if seconds < QUICK_SECONDS:
            self._batch = min(LARGEST_BATCH, 2 * self._batch)
        elif seconds > SLOW_SECONDS:
            self._batch = max(1, self._batch // 2)

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _upcoming(self, count: int) -> list[int]:
        drafts, total = self.album.drafts, len(self.album.names)
        with self._lock:
            wanted = list(self._wanted)
        numbers = [number for number in reversed(wanted) if number not in drafts][:count]
        while self._next < total and self._next in drafts:
            self._next += 1
        number = self._next
        while len(numbers) < count and number < total:
            if number not in drafts and number not in numbers:
                numbers.append(number)
            number += 1
        return numbers

    def _load(self, number: int) -> Image.Image | str:
        try:
            return load_image(self.album.path(number), name=self.album.names[number])
        except UserError as error:
            return str(error)

    def _keep(self, said: Sequence[tuple[int, Draft]]) -> None:
        lines = (
            {"image": self.album.names[number], "text": draft.text, "confidence": draft.confidence}
            for number, draft in said
        )
        with open(self.path, "ab", opener=own_file) as file:
            # After a line that a kill has cut short, a new one begins.
            if file.tell() and not _ends_whole(self.path):
                file.write(b"\n")
            file.write("".join(f"{json_line(line)}\n" for line in lines).encode())

    def _kept(self) -> Iterator[tuple[int, Draft]]:
        try:
            file = open(self.path, "rb", opener=own_file)  # noqa: SIM115 - closed below
        except FileNotFoundError:
            return
        with file:
            for content in file:
                try:
                    line = json.loads(content)
                    number = self.album.number_of.get(line["image"])
                    draft = Draft(str(line["text"]), _share(line["confidence"]))
                except (ValueError, KeyError, TypeError, RecursionError):
                    continue  # cut short by a kill: it is said once more
                if number is not None:
                    yield number, draft


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"

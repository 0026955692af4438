"""What people say of the pictures of a folder, on disk as soon as it is said.

    corrections = Corrections(Path("photos/corrections.jsonl"))
    corrections.change("a.jpg", 0, "edited", "a red ball", by="window 1")
    corrections.undo(by="window 1")
    corrections.write(is_there)         # corrections.jsonl: what train.py learns from

Each change is a line of a journal beside the captions file, flushed to disk before anybody hears of
it; the last line of a picture is what holds. Each counts up the picture's version, and who changes
another version than the newest is refused. Nothing is ever taken out of the journal: what is undone
is one more line.
"""

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from captioning.sources.caption_fields import clean_caption
from captioning.system.errors import UserError
from captioning.system.files import atomic_write, lock_alone, own_file
from captioning.system.terminal import json_line

Status = Literal["", "edited", "accepted", "flagged"]
COUNTED: tuple[Status, ...] = ("edited", "accepted")
"""What is learnt from; flagged pictures are left out."""
MOST_LETTERS = 5_000
"""Of a caption."""


@dataclass(frozen=True, slots=True)
class Correction:
    """What was said last of a picture."""

    name: str
    version: int = 0
    """Changes so far."""
    status: Status = ""
    text: str = ""


@dataclass(slots=True)
class Change:
    """A change that can be undone."""

    by: str
    before: Correction
    version: int
    """The picture's, as long as nobody has changed it since."""


class StaleError(Exception):
    """Somebody else has changed the picture since."""

    def __init__(self, current: Correction) -> None:
        """With what holds now."""
        super().__init__(f"{current.name} is at version {current.version}")
        self.current = current


class Corrections:
    """The journal, and what it says."""

    def __init__(self, path: Path) -> None:
        """Read the journal beside the captions file `path`, and hold it for this process alone.

        `notes` tells of lines that could not be read. Raises `UserError` where another process has
        it, or the captions file is somebody else's.
        """
        self.path, self.journal_path = path, path.with_suffix(".journal")
        self.notes: list[str] = []
        self._current: dict[str, Correction] = {}
        self._changes: list[Change] = []
        self._lock = threading.Lock()
        self._is_written = False
        if path.suffix == self.journal_path.suffix or path.is_dir():
            raise UserError(f"--corrections is {str(path)!r}; name a file, such as mine.jsonl.")
        if path.exists() and not self.journal_path.exists():
            raise UserError(
                f"{path} is there, but {self.journal_path.name} is not, of which it is made; it "
                "would be written over. Name another file: --corrections FILE"
            )
        try:
            # Without a buffer: what the disk refused would wait in it, and be written later on.
            self._journal = open(  # noqa: SIM115 - `close` does
                self.journal_path, "ab", buffering=0, opener=own_file
            )
        except OSError as error:
            raise UserError(
                f"{self.journal_path} cannot be written: {error.strerror}. Name another place: "
                "--corrections FILE"
            ) from None
        if not lock_alone(self._journal):
            self._journal.close()
            raise UserError(
                f"Another process keeps {self.journal_path}; use its page, in as many windows as "
                "you like, or name another file: --corrections FILE"
            )
        for line in self._read():
            self._take(line)

    def __getitem__(self, name: str) -> Correction:
        """What was said last of a picture; version 0 where nothing was."""
        return self._current.get(name) or Correction(name)

    def __iter__(self) -> Iterator[Correction]:
        """What was said last of each picture of which something was."""
        return iter(list(self._current.values()))

    def change(self, name: str, version: int, status: str, text: str, *, by: str) -> Correction:
        """Say something of a picture that is at `version`; on disk when this returns.

        Raises `StaleError` where it is at another version, `UserError` for what cannot be said.
        """
        words = clean_caption(" ".join(text.split()))
        if status not in get_args(Status):
            raise UserError(f"a picture cannot be {status!r}.")
        if status in COUNTED and not words:
            raise UserError("A caption needs words. To leave a picture out, flag it.")
        if len(words) > MOST_LETTERS:
            raise UserError(f"A caption has {MOST_LETTERS:,} letters at most.")
        with self._lock:
            if version != self[name].version:
                raise StaleError(self[name])
            return self._say(name, status, words, by=by)

    def undo(self, *, by: str) -> Correction | None:
        """Take back the last change that `by` made; None where there is none.

        Raises `StaleError` where somebody else has changed that picture since; the change then
        stands, and the next call takes back the one before.
        """
        with self._lock:
            last = next((one for one in reversed(self._changes) if one.by == by), None)
            if last is None:
                return None
            current = self[last.before.name]
            if current.version != last.version:
                self._changes.remove(last)
                raise StaleError(current)
            before = last.before
            return self._say(before.name, before.status, before.text, by=by, undoes=last.version)

    def write(self, is_there: Callable[[str], bool]) -> None:
        """Write the captions file of all pictures that are there and count, whole or not at all."""
        with self._lock:
            if self._is_written:
                return
            rows = [
                {"file_name": one.name, "captions": [one.text]}
                for one in sorted(self._current.values(), key=lambda one: one.name)
                if one.status in COUNTED and is_there(one.name)
            ]
            if rows or self.path.exists():
                with atomic_write(self.path) as file:
                    file.write("".join(f"{json_line(row)}\n" for row in rows).encode())
            self._is_written = True

    def close(self) -> None:
        """Let others have the journal."""
        self._journal.close()

    def _say(
        self, name: str, status: str, text: str, *, by: str, undoes: int | None = None
    ) -> Correction:
        line: dict[str, Any] = {
            "image": name,
            "version": self[name].version + 1,
            "status": status,
            "text": text,
            "by": by,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        if undoes is not None:
            line["undoes"] = undoes
        self._append(f"{json_line(line)}\n".encode())
        self._take(line)
        self._is_written = False
        return self[name]

    def _append(self, line: bytes) -> None:
        """Put a line on disk, or leave the journal as it was."""
        size = os.fstat(self._journal.fileno()).st_size
        try:
            if self._journal.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._journal.fileno())
        except OSError as error:
            os.ftruncate(self._journal.fileno(), size)
            raise UserError(
                f"{self.journal_path} cannot be written: {error.strerror}. Nothing was changed; "
                "mend that, and say it again."
            ) from None

    def _take(self, line: dict[str, Any]) -> None:
        """Let a line of the journal hold."""
        name, undoes = line["image"], line.get("undoes")
        before = self[name]
        after = Correction(name, before.version + 1, line["status"], line["text"])
        self._current[name] = after
        if undoes is None:
            self._changes.append(Change(line["by"], before, after.version))
            return
        of_picture = [one for one in self._changes if one.before.name == name]
        for one in of_picture:
            if one.version == undoes:
                self._changes.remove(one)
                # What holds now is what held before it: that can be undone in its turn.
                for earlier in of_picture:
                    if earlier.version == one.before.version:
                        earlier.version = after.version

    def _read(self) -> Iterator[dict[str, Any]]:
        """The lines of the journal. What a kill has cut short is cut off, and said."""
        good = 0
        with self.journal_path.open("rb") as lines:
            for number, content in enumerate(lines, start=1):
                if not content.endswith(b"\n"):
                    self._journal.truncate(good)
                    self.notes.append(
                        f"The last line of {self.journal_path} was cut short, by a kill or a loss "
                        "of power; that change is lost, all others are there."
                    )
                    return
                good += len(content)
                line = _parsed(content)
                if line is None:
                    self.notes.append(
                        f"Line {number} of {self.journal_path} is no correction; it was passed "
                        "over."
                    )
                else:
                    yield line


def _parsed(content: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(content)
        is_good = (
            all(isinstance(line[key], str) for key in ("image", "text", "by"))
            and line["status"] in get_args(Status)
            and isinstance(line.get("undoes", 0), int)
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return line if is_good else None

"""A file of captions of many pictures, whole or not there.

Captions are added to a journal beside it, a hidden file of JSON Lines, a batch at a time; at the
end the file is made of them and of what it held before, and takes its place at once. A run that was
killed has left its journal, and the next one goes on from it: a line that the kill cut short is cut
off. The journal is locked, so that two processes never write one file.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from captioning.system.errors import UserError
from captioning.system.files import atomic_write, lock_alone, own_file
from captioning.system.terminal import json_line
from captioning.writing.forms import Form, Row
from captioning.writing.pictures import Said


class Table:
    """A file of captions, and what is known to be in it."""

    def __init__(
        self, path: Path, form: Form, *, overwrite: bool = False, others: Sequence[Path] = ()
    ) -> None:
        """Rows that the file has already, or `others` have, which are parts of the same, count as
        captioned unless they are to be overwritten."""
        self.path, self._form, self._overwrite, self._others = path, form, overwrite, others
        self._journal: BinaryIO | None = None
        self._done: set[str] | None = None
        self._new: dict[str, str] = {}
        """The pictures of this run that the file calls otherwise than by their names."""

    @property
    def journal_path(self) -> Path:
        """Where captions wait until the file is made of them."""
        return self.path.with_name(f".{self.path.name}.partial")

    def open(self) -> None:
        """Begin to write. Raises `UserError` where another process does."""
        if self._journal is not None:
            return
        if self.path.is_dir():
            raise UserError(f"{self.path} is a folder; name a file: --output FILE")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._journal = _locked(self.journal_path)
        _cut_torn(self._journal)

    def has(self, name: str) -> bool:
        """Whether the picture of a name was captioned before this run."""
        if self._done is None:
            self._done = set(self._keys())
        return str(self._form.identity(name)) in self._done

    def add(self, captioned: Iterable[tuple[str, Sequence[Said]]]) -> None:
        """Add pictures by name with their captions; they are on disk when this returns.

        Raises `UserError` for a picture that the file calls as it called another.
        """
        self.open()
        assert self._journal is not None
        for name, captions in captioned:
            identity = self._form.identity(name)
            other = name if str(identity) == name else self._new.setdefault(str(identity), name)
            if other != name:
                raise UserError(
                    f"{other} and {name} would both be {identity} in {self.path}; rename one, or "
                    "write another form, such as --write jsonl"
                )
            line = {"key": str(identity), "rows": self._form.rows(identity, captions)}
            self._journal.write(f"{json_line(line)}\n".encode())
        self._journal.flush()
        os.fsync(self._journal.fileno())

    def finish(self) -> None:
        """Put the file in its place, and take the journal away."""
        if self._journal is None:
            return
        replaced = {key for key, _ in _read_journal(self.journal_path)}
        if replaced:
            earlier = self.path if self.path.exists() else None
            with atomic_write(self.path) as file:
                self._form.write(file, self._all_rows(replaced), earlier)
        os.truncate(self.journal_path, 0)
        self.close()

    def close(self) -> None:
        """Let the journal go, and take it away where nothing is in it."""
        if self._journal is not None:
            if not self.journal_path.stat().st_size:
                self.journal_path.unlink()
            self._journal.close()
        self._journal, self._done, self._new = None, None, {}

    def _keys(self) -> Iterator[str]:
        """The pictures that are captioned."""
        if not self._overwrite:
            for path in (self.path, *self._others):
                for row in self._form.earlier_rows(path):
                    yield str(row[self._form.image_key])
        for key, _ in _read_journal(self.journal_path):
            yield key

    def _all_rows(self, replaced: set[str]) -> Iterator[Row]:
        for row in self._form.earlier_rows(self.path):
            if str(row[self._form.image_key]) not in replaced:
                yield row
        for _, rows in _read_journal(self.journal_path):
            yield from rows


def _locked(path: Path) -> BinaryIO:
    """A journal opened for this process alone; the lock goes with the process, however it ends."""
    while True:
        journal = open(  # noqa: SIM115 - `Table.close` does
            path, "a+b", opener=own_file
        )
        if not lock_alone(journal):
            journal.close()
            own = path.with_name(path.name[1 : -len(".partial")])
            raise UserError(
                f"Another process is writing {own}; wait for it, or give each process a part: "
                "--part 1/2 and --part 2/2"
            )
        # Another process may have finished, and taken this file away, before it was locked.
        if path.exists() and os.path.samestat(os.fstat(journal.fileno()), path.stat()):
            return journal
        journal.close()


def _cut_torn(journal: BinaryIO) -> None:
    """Cut off what a kill, or a loss of power, has left behind the last whole line."""
    journal.seek(0)
    good = 0
    for line in journal:
        if _parsed(line) is None:
            break
        good += len(line)
    journal.seek(0)
    journal.truncate(good)
    journal.seek(0, os.SEEK_END)


def _read_journal(path: Path) -> Iterator[tuple[str, list[Row]]]:
    """The pictures of a journal with their rows, up to the last whole line."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            found = _parsed(line)
            if found is None:
                return
            yield found


def _parsed(line: bytes) -> tuple[str, list[Row]] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        content = json.loads(line)
        return content["key"], content["rows"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None

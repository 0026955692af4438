"""The files of a store of rows: what they hold, how far they are, who may write them.

    <label>.bin        the rows, one after another, raw
    <label>.json       what they are; written last, so without it the store is unfinished
    <label>.progress   which chunks of rows are done, while the store is being built
    <label>.lock       held by the process that builds

A chunk is noted as done after its rows have reached the disk. The note is a hash of the chunk's
picture files, so that a picture that has been mended since costs its own chunk alone.
"""

import fcntl
import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from captioning.system.errors import UserError
from captioning.system.files import own_file, refuse_links, write_text
from captioning.system.reading import JSON_BYTES, read_regular

FORMAT_VERSION = 1
CHUNK_ROWS = 512
"""Rows that are noted as done together: the most that a kill loses."""
DIGEST_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class StoreContent:
    """What a store holds; two stores with equal contents hold equal rows."""

    contents: str
    """features or pixels."""
    source: str
    """Fingerprint of what makes the rows: encoder, or image processor alone."""
    arithmetic: str
    """The dtype in which the encoder computes."""
    dtype: str
    """The dtype in which rows are stored."""
    row_shape: tuple[int, ...]
    rows: int
    chunk_digests: tuple[bytes, ...] = field(repr=False)
    """Hash of each chunk's picture files."""

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return math.prod(self.row_shape) * _ITEM_BYTES[self.dtype]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self.rows * self.row_bytes

    def chunk(self, number: int) -> range:
        """The rows of a chunk."""
        return range(number * CHUNK_ROWS, min((number + 1) * CHUNK_ROWS, self.rows))

    def description(self) -> dict[str, Any]:
        """As the JSON file holds it."""
        values = asdict(self) | {"row_shape": list(self.row_shape), "format": FORMAT_VERSION}
        values["pictures"] = hashlib.sha256(b"".join(values.pop("chunk_digests"))).hexdigest()
        return values

    def key(self) -> bytes:
        """Hash of everything but the pictures."""
        values = self.description()
        del values["pictures"]
        return hashlib.sha256(json.dumps([CHUNK_ROWS, values], sort_keys=True).encode()).digest()


_ITEM_BYTES = {"uint8": 1, "float16": 2, "bfloat16": 2, "float32": 4}

_CHANGES = {
    "contents": "holds something else",
    "source": "is of another encoder or image processor, or of pictures altered in another way",
    "arithmetic": "was computed in another precision",
    "dtype": "is stored in another precision",
    "row_shape": "has rows of another shape",
    "rows": "is of another number of pictures",
    "pictures": "is of other pictures, or they have changed since",
    "format": "was written by another version",
}


def digest_pictures(images: Sequence[Path]) -> tuple[bytes, ...]:
    """For each chunk a hash of its files' names, sizes and times of change."""
    digests = []
    for start in range(0, len(images), CHUNK_ROWS):
        digest = hashlib.sha256()
        for image in images[start : start + CHUNK_ROWS]:
            try:
                status = image.stat()
            except OSError as error:
                raise UserError(f"{image} cannot be read: {error.strerror}.") from None
            digest.update(f"{image.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        digests.append(digest.digest())
    return tuple(digests)


@dataclass(frozen=True)
class StoreFiles:
    """The files of one store, in their folder."""

    folder: Path
    label: str

    @property
    def rows(self) -> Path:
        """The file of rows."""
        return self.folder / f"{self.label}.bin"

    @property
    def _description(self) -> Path:
        return self.folder / f"{self.label}.json"

    @property
    def _progress(self) -> Path:
        return self.folder / f"{self.label}.progress"

    def is_whole(self, content: StoreContent) -> bool:
        """Whether the store is finished and holds `content`."""
        return not self._fault(content)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one who builds, after waiting for whoever is.

        A record lock: it goes with its holder, however that ends, and worker processes do not
        inherit it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        refuse_links(self.folder)
        with open(self.folder / f"{self.label}.lock", "a", opener=own_file) as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                print(
                    f"Waiting for another process, which is building {self.rows}.", file=sys.stderr
                )
                fcntl.lockf(file, fcntl.LOCK_EX)
            yield

    def begin(self, content: StoreContent) -> str:
        """Make the files ready to be filled; returns what there is to say about it.

        Keeps the rows of an interrupted build of the same content, and nothing else. An open store
        keeps the rows that it has: its file is replaced, not changed.
        """
        missing = self.missing_chunks(content)
        if len(missing) < len(content.chunk_digests):
            done = content.rows - sum(len(content.chunk(number)) for number in missing)
            return f"{self.rows}: going on after {done:,} of {content.rows:,} pictures."
        fault = self._fault(content)
        for path in (self._description, self._progress, self.rows):
            path.unlink(missing_ok=True)
        self._refuse_full_disk(content.nbytes)
        with open(self.rows, "xb", opener=own_file) as file:
            file.truncate(content.nbytes)
            _sync(file)
        with open(self._progress, "xb", opener=own_file) as file:
            file.write(content.key() + bytes(DIGEST_BYTES * len(content.chunk_digests)))
            _sync(file)
        return f"{self.rows} {fault}; building it ({content.nbytes / 1e6:,.1f} MB)."

    def missing_chunks(self, content: StoreContent) -> list[int]:
        """Chunks that an unfinished build of `content` still lacks."""
        every = list(range(len(content.chunk_digests)))
        try:
            noted = read_regular(self._progress)
            is_ours = self.rows.stat().st_size == content.nbytes
        except OSError:
            return every
        if not is_ours or noted[:DIGEST_BYTES] != content.key():
            return every
        return [
            number
            for number in every
            if noted[_note_start(number) : _note_start(number + 1)] != content.chunk_digests[number]
        ]

    @contextmanager
    def writing(self, content: StoreContent) -> Iterator["RowWriter"]:
        """Write rows and note chunks as done."""
        with (
            open(self.rows, "r+b", opener=own_file) as rows,
            open(self._progress, "r+b", opener=own_file) as progress,
        ):
            yield RowWriter(content, rows, progress)

    def finish(self, content: StoreContent) -> None:
        """Declare the store whole."""
        missing = self.missing_chunks(content)
        assert not missing, f"{self.rows} lacks the chunks {missing}"
        write_text(self._description, json.dumps(content.description(), indent=2))
        self._progress.unlink()

    def _fault(self, content: StoreContent) -> str:
        """Why the store cannot be used, as the end of a sentence; "" if it can."""
        try:
            found = json.loads(read_regular(self._description, most_bytes=JSON_BYTES))
            size = self.rows.stat().st_size
        except FileNotFoundError:
            return "is unfinished" if self.rows.exists() else "does not exist yet"
        except (OSError, ValueError):
            return "cannot be judged, its .json is damaged"
        wanted = content.description()
        if not isinstance(found, dict):
            return "cannot be judged, its .json is damaged"
        for name, change in _CHANGES.items():
            if found.get(name) != wanted[name]:
                return change
        if size != content.nbytes:
            return f"has {size:,} bytes instead of {content.nbytes:,}"
        return ""

    def _refuse_full_disk(self, needed_bytes: int) -> None:
        free_bytes = shutil.disk_usage(self.folder).free
        if needed_bytes > free_bytes:
            raise UserError(
                f"{self.rows} needs {needed_bytes / 1e9:.1f} GB, but {self.folder} has "
                f"{free_bytes / 1e9:.1f} GB free. Free some, choose another --DATA_DIR, or do "
                "without: --FEATURE_CACHE off"
            )


class RowWriter:
    """Writes the rows of an unfinished store in place."""

    def __init__(self, content: StoreContent, rows: IO[bytes], progress: IO[bytes]) -> None:
        self._content, self._rows, self._progress = content, rows, progress
        self._left: dict[int, int] = {}

    def write(self, first: int, data: bytes) -> None:
        """Write the bytes of whole rows of one chunk, from row `first` on.

        With its last row the chunk is noted as done, once it has reached the disk.
        """
        self._rows.seek(first * self._content.row_bytes)
        self._rows.write(data)
        chunk = first // CHUNK_ROWS
        left = self._left.pop(chunk, len(self._content.chunk(chunk)))
        left -= len(data) // self._content.row_bytes
        if left:
            self._left[chunk] = left
            return
        _sync(self._rows)
        self._progress.seek(_note_start(chunk))
        self._progress.write(self._content.chunk_digests[chunk])
        _sync(self._progress)


def _note_start(chunk: int) -> int:
    """Where in the progress file the note on a chunk begins, behind the key."""
    return DIGEST_BYTES * (1 + chunk)


def _sync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())

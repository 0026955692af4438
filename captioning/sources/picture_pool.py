"""Copies the pictures of a source into one folder, each checked by decoding it.

Reads `SourcePicture`s; writes pictures, and a journal beside them from which an interrupted call
goes on. Pictures on disk are hard-linked where the file system can, else copied; the bytes are
the source's own, never encoded anew.
"""

import hashlib
import io
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from captioning.sources.caption_fields import valid_unicode
from captioning.sources.images import load_image
from captioning.sources.origins import READ_ERRORS, SourcePicture
from captioning.sources.picture_names import is_picture_name
from captioning.system.errors import UserError
from captioning.system.files import atomic_write, own_file
from captioning.system.progress import Progress
from captioning.system.terminal import BIDI, CONTROL

JOURNAL_NAME = "progress.jsonl"
POOL_NAME = "pictures"
CHUNK = 256
"""Pictures between two writes of the journal."""
LONGEST_NAME = 150


@dataclass(frozen=True)
class PooledPicture:
    """What became of a picture of the source."""

    index: int
    """Its place in the source."""
    name: str
    """Its file in the pool; unlike any other also where upper and lower case are the same."""
    sha256: str
    """Of the file's bytes; "" where it was not stored."""
    size_bytes: int
    problem: str
    """Why it was not stored, or ""."""


def fill_pool(
    folder: Path, pictures: Sequence[SourcePicture], *, key: str, workers: int
) -> list[PooledPicture]:
    """Store the pictures in `folder`/pictures; what an earlier call with the same key did is kept.

    Decoding runs in threads: Pillow, zlib and hashing leave the interpreter free, so they scale
    like processes. Raises `UserError` when another process is at work in `folder`.
    """
    pool = folder / POOL_NAME
    jobs = list(zip(range(len(pictures)), unique_names(pictures), pictures, strict=True))
    with _open_journal(folder, key) as journal, warnings.catch_warnings():
        # Set once for all threads: what Pillow warns of is either an error or no matter.
        warnings.simplefilter("ignore")
        done = {entry.index: entry for entry in _read_journal(journal) if _is_stored(pool, entry)}
        bar = Progress("pictures", len(pictures), done=len(done), has_lines=False)
        with bar, ThreadPoolExecutor(max(1, workers)) as threads:
            todo = [job for job in jobs if job[0] not in done]
            for start in range(0, len(todo), CHUNK):
                for entry in threads.map(lambda job: _store(pool, *job), todo[start:][:CHUNK]):
                    done[entry.index] = entry
                    journal.write(json.dumps(asdict(entry)) + "\n")
                    bar.advance()
                journal.flush()
    return [done[index] for index in range(len(pictures))]


def unique_names(pictures: Sequence[SourcePicture]) -> list[str]:
    """A plain file name for each picture: its own, or a longer one where that is taken.

    Names that differ in upper and lower case or extension only count as equal.
    """
    taken: set[str] = set()
    names = []
    for index, picture in enumerate(pictures):
        for name in _candidates(picture.name or f"{index:08d}"):
            key = PurePosixPath(name).stem.casefold()
            if key not in taken:
                break
        taken.add(key)
        names.append(name)
    return names


def _candidates(source_name: str) -> Iterator[str]:
    """`b/a.jpg` -> `a.jpg`, `b__a.jpg`, `b__a-2.jpg`, `b__a-3.jpg` ..."""
    text = CONTROL.sub("_", BIDI.sub("", valid_unicode(source_name))).replace("\\", "/")
    parts = [part.lstrip(".") for part in re.sub(r'[<>:"|?*]', "_", text).split("/")]
    parts = [part for part in parts if part] or ["picture"]
    last = PurePosixPath(parts[-1])
    suffix = last.suffix if is_picture_name(last.name) else ""
    stems = [parts[-1].removesuffix(suffix), "__".join(parts).removesuffix(suffix)]
    for stem in stems:
        yield _shortened(stem) + suffix
    number = 2
    while True:
        yield f"{_shortened(stems[-1])}-{number}{suffix}"
        number += 1


def _shortened(stem: str) -> str:
    if len(stem.encode()) <= LONGEST_NAME:
        return stem
    digest = hashlib.sha256(stem.encode()).hexdigest()[:16]
    return f"{stem.encode()[: LONGEST_NAME - 17].decode(errors='ignore')}-{digest}"


def _store(pool: Path, index: int, name: str, picture: SourcePicture) -> PooledPicture:
    problem, data = picture.problem, b""
    if not problem and not any(picture.captions):
        problem = "no caption"
    if not problem:
        try:
            data = picture.read()
            load_image(data, name="the file")
        except READ_ERRORS as error:  # among them the UserError of load_image
            problem = f"unreadable: {error}"
    if problem:
        return PooledPicture(index, name, "", 0, problem)
    if not is_picture_name(name):
        name += _suffix(data)
    _place(pool / name, data, picture.path)
    return PooledPicture(index, name, hashlib.sha256(data).hexdigest(), len(data), "")


def _suffix(data: bytes) -> str:
    """The extension that goes with the bytes of a picture."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        usual = {"JPEG": ".jpg", "MPO": ".jpg", "JPEG2000": ".jp2"}
        return usual.get(picture.format or "", f".{picture.format}".lower())


def _place(target: Path, data: bytes, path: Path | None) -> None:
    if path is not None:
        try:
            os.link(path.resolve(), target)
        except OSError:
            pass  # another file system, or one without links
        else:
            return
    with atomic_write(target) as file:
        file.write(data)


def _open_journal(folder: Path, key: str) -> io.TextIOWrapper:
    """The journal, locked, after its header; that of another request is thrown away with its pool.

    The lock goes with the process, however it ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    journal = open(  # noqa: SIM115 - the caller closes it
        folder / JOURNAL_NAME, "a+", encoding="utf-8", newline="\n", opener=own_file
    )
    try:
        import fcntl

        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass  # Windows
    except OSError:
        journal.close()
        raise UserError(
            f"Another process is preparing {folder}; wait for it, or end it and try again."
        ) from None
    journal.seek(0)
    if journal.readline() != f"{key}\n":
        for leftover in folder.iterdir():
            if leftover.is_dir():
                shutil.rmtree(leftover)
        journal.seek(0)
        journal.truncate()
        journal.write(f"{key}\n")
        journal.flush()
    (folder / POOL_NAME).mkdir(exist_ok=True)
    return journal


def _read_journal(journal: io.TextIOWrapper) -> Iterator[PooledPicture]:
    """Its entries; a last line that a kill cut short is cut off."""
    journal.seek(0)
    whole, newline, _ = journal.read().rpartition("\n")
    journal.seek(0)
    journal.truncate()
    journal.write(whole + newline)
    for line in whole.split("\n")[1:]:
        yield PooledPicture(**json.loads(line))


def _is_stored(pool: Path, entry: PooledPicture) -> bool:
    if entry.problem:
        return False
    try:
        return (pool / entry.name).stat().st_size == entry.size_bytes
    except OSError:
        return False

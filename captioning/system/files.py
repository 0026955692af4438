"""Files that are written whole or not at all; JSON; the hash of a file.

A file is written in its folder under a name that nobody can guess, flushed to disk, and renamed
when it is finished. So no reader ever sees half a file, a link that somebody left there is never
followed, and after an error nothing has changed. What grows or is locked in place is opened by
`own_file`, which follows no link either: folders may come from others, links in them too.
"""

import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from captioning.system.errors import UserError
from captioning.system.reading import JSON_BYTES, open_regular, read_regular


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Give a file to fill; when the block ends well it takes the place of `path`."""
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:  # "x" refuses what is there already, a link too
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Write files that belong together: who else writes them into the folder waits for the end.

    On a file system without such locks nobody waits.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def own_file(path: str, flags: int) -> int:
    """The `opener` of `open` for a file that is changed in place: a link or a device is no file.

    open(path, "a", opener=own_file). Raises `OSError` with ELOOP for a link.
    """
    # Without O_NONBLOCK a pipe in the place of the file would be waited for.
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no file", path)
    return descriptor


def lock_alone(file: IO[bytes]) -> bool:
    """Lock an open file for this process alone, however it ends; False where another one has it."""
    try:
        import fcntl
    except ImportError:
        return True  # Windows
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def refuse_links(folder: Path) -> None:
    """Raise `UserError` where a folder is a link, or something in it is one.

    Of a folder that others may have sent: what is written and deleted there stays in there.
    """
    found = folder if folder.is_symlink() else None
    if found is None and folder.is_dir():
        found = next((one for one in folder.iterdir() if one.is_symlink()), None)
    if found is not None:
        raise UserError(
            f"{found} is a link to {os.readlink(found)}, and nothing is written through links. "
            "Take it away, or name the folder that it leads to."
        )


def remove_leftovers(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder in which nobody writes now."""
    for path in folder.glob(f".{'[0-9a-f]' * 16}.tmp"):
        path.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 file."""
    # A caption may hold half of a surrogate pair, which UTF-8 cannot write: it becomes "?".
    with atomic_write(path) as file:
        file.write(text.encode(errors="replace"))


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write readable JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises `UserError` naming the file."""
    try:
        value = json.loads(read_regular(path, most_bytes=JSON_BYTES).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read: {reason}.") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: it must hold a JSON object.")
    return value


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

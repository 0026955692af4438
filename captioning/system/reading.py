"""Reading files that others have made: regular ones only, and no more bytes than they may have.

A pipe would be waited for without end, a device read without end, and a folder is no file. All of
them are an `OSError` whose `strerror` ends the sentence "FILE cannot be read: ...".
"""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

SETTINGS_BYTES = 2**20
"""Most bytes of a file of settings."""
JSON_BYTES = 2**26
"""Most bytes of a JSON file that describes a model or a run."""

UNPACKED_BYTES, MOST_UNPACKED = 2**26, 100
"""What unpacks to more bytes than these, and to so many times what it has, is refused."""

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


def check_regular(path: str | os.PathLike[str], *, most_bytes: int | None = None) -> os.stat_result:
    """The status of a file. Raises `OSError` for what is no regular file, or has too many bytes."""
    try:
        status = os.stat(path)
    except ValueError as error:  # a name with a zero in it
        raise OSError(errno.EINVAL, f"its name is none ({error})", os.fspath(path)) from None
    kind = _KINDS.get(stat.S_IFMT(status.st_mode))
    if kind or not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, f"it is {kind or 'something else'}, no file", os.fspath(path))
    if most_bytes is not None and status.st_size > most_bytes:
        raise OSError(
            errno.EINVAL,
            f"it has {status.st_size:,} bytes, and {most_bytes:,} are the most",
            os.fspath(path),
        )
    return status


def open_regular(path: str | os.PathLike[str], *, most_bytes: int | None = None) -> BufferedReader:
    """Open a regular file to be read. Raises `OSError` as `check_regular` does."""
    check_regular(path, most_bytes=most_bytes)
    return Path(path).open("rb")


def read_regular(path: str | os.PathLike[str], *, most_bytes: int | None = None) -> bytes:
    """All of a regular file. Raises `OSError` as `check_regular` does."""
    with open_regular(path, most_bytes=most_bytes) as file:
        return file.read(-1 if most_bytes is None else most_bytes)


def unpacks_too_far(packed: int, unpacked: int) -> bool:
    """Whether so many bytes are no pictures and no captions, which others have packed: pictures
    hardly grow, and captions ten or twenty times."""
    return unpacked > max(UNPACKED_BYTES, MOST_UNPACKED * packed)

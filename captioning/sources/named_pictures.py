"""All that the names of a command line mean: pictures, and what is named or lies there and is none.

A name is a file, a folder, a glob, a zip, a shard (a tar or Parquet file of many pictures) or a
URL; `-` is standard input, which holds paths, one a line (or with a NUL after each, as
`find -print0` writes them), or a picture itself. A name that means nothing does not keep the others
from being captioned, and no picture of a folder is passed over without a word.
"""

import glob
import mimetypes
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import takewhile
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from captioning.sources.image_inputs import (
    ARCHIVE_SUFFIX,
    SHARD_SUFFIXES,
    ImageInput,
    expand,
    is_url,
    picture_endings,
    visible_files,
)
from captioning.sources.images import HEIC_ENDINGS
from captioning.system.errors import UserError
from captioning.system.terminal import counted

STANDARD_INPUT = "-"
SHOWN = 3
"""Files that are named of many."""
OTHER_PICTURES = {
    *HEIC_ENDINGS,
    *(".avif", ".jxl", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".pef"),
}
"""Endings of pictures that Pillow reads with more packages, or not at all."""
NO_PICTURES = {
    *(".jsonl", ".toml", ".yaml", ".yml", ".parquet", ".arrow", ".safetensors", ".npz", ".npy"),
    *(".caption", ".xmp", ".log", ".ini", ".cfg", ".lock", ".db", ".md", ".tsv", ".ipynb"),
}
"""Endings of other files beside pictures that are missing in Python's list of kinds."""
KINDS = mimetypes.MimeTypes()
"""Python's own list, which is the same on every machine."""


@dataclass
class NamedPictures:
    """What names mean."""

    pictures: list[ImageInput] = field(default_factory=list)
    shards: list[ImageInput] = field(default_factory=list)
    """Files of many pictures, which are read as they pass."""
    problems: list[str] = field(default_factory=list)
    """A sentence for each name without a picture, and for pictures that were passed over."""
    notes: list[str] = field(default_factory=list)
    """What else was passed over."""
    is_one: bool = False
    """Whether a picture was named, and not a place or a list that happens to hold one."""


def find_named(names: Sequence[str]) -> NamedPictures:
    """All pictures that `names` mean, in order. Raises `UserError` where they mean none at all."""
    found = NamedPictures(is_one=len(names) == 1)
    for name in names:
        if name == STANDARD_INPUT:
            _add_standard_input(found)
        else:
            _add(found, name)
    if not (found.pictures or found.shards):
        raise UserError(*found.problems)
    return found


def _add(found: NamedPictures, name: str) -> None:
    """What a name means as it was typed."""
    is_pattern = not is_url(name) and not os.path.exists(name) and glob.has_magic(name)
    folders = [one for one in glob.glob(name, recursive=True) if is_pattern] or [name]
    if is_pattern and any(map(os.path.isfile, folders)):
        folders = []  # such a pattern means the files, and not what else is in their folders
    found.is_one &= not (is_pattern or os.path.isdir(name))
    try:
        named = expand([name])
        shards = [one for one in named if one.is_shard]
        found.shards += shards
        found.pictures += [one for one in named if not one.is_shard] if shards else named
        found.is_one &= len(named) == 1 and not shards and named[0].load is None
        problems: Sequence[str] = ()
    except UserError as error:
        problems = error.problems
    unread = [text for one in folders if os.path.isdir(one) for text in _passed_over(found, one)]
    found.problems += unread or problems


def _passed_over(found: NamedPictures, folder: str) -> list[str]:
    """Tell of files of unknown kind; gives a sentence where pictures cannot be read."""
    endings = picture_endings()
    files = map(Path, visible_files(folder))
    others = [one for one in files if one.suffix.lower() not in endings]
    unread = [one for one in others if _is_picture(one)]
    unknown = [one for one in others if not _is_picture(one) and _is_unknown(one)]
    if unknown:
        found.notes.append(
            f"{folder}: {counted(len(unknown), 'file')} of unknown kind passed over: "
            f"{_shown(unknown)}."
        )
    if not unread:
        return []
    heic = any(one.suffix.lower() in HEIC_ENDINGS for one in unread)
    mend = "HEIC is read after: pip install pillow-heif" if heic else "convert them to JPEG"
    kinds = ", ".join(sorted({one.suffix[1:].upper() for one in unread}))
    return [
        f"{folder}: {counted(len(unread), 'file')} passed over that cannot be read as pictures "
        f"here ({kinds}): {_shown(unread)}. {mend[0].upper()}{mend[1:]}."
    ]


def _is_picture(path: Path) -> bool:
    kind = KINDS.guess_type(path.name)[0] or ""
    return path.suffix.lower() in OTHER_PICTURES or kind.startswith("image/")


def _is_unknown(path: Path) -> bool:
    return KINDS.guess_type(path.name) == (None, None) and path.suffix.lower() not in NO_PICTURES


def _add_standard_input(found: NamedPictures) -> None:
    """A picture, or the paths that a program wrote."""
    content = sys.stdin.buffer.read()
    try:
        with Image.open(BytesIO(content)):
            found.pictures.append(ImageInput("standard input", content))
            return
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        pass  # what is wrong with it is told where all pictures are read
    found.is_one = False
    separator = b"\0" if b"\0" in content else b"\n"
    paths = [os.fsdecode(line.rstrip(b"\r")) for line in content.split(separator) if line.strip()]
    if not paths:
        found.problems.append(
            "standard input is empty; write paths of pictures into it, one a line, or a picture."
        )
    root = _common_folder([path for path in paths if not is_url(path)])
    for path in paths:
        if os.path.isdir(path) or path.lower().endswith((ARCHIVE_SUFFIX, *SHARD_SUFFIXES)):
            _add(found, path)
        else:
            found.pictures.append(ImageInput(path, root=None if is_url(path) else root))


def _common_folder(paths: Sequence[str]) -> str:
    """The folder that all of some paths begin with, as they are written; "" for none."""
    folders = [path.split("/")[:-1] for path in paths]
    shared = zip(*folders, strict=False)
    return "/".join(parts[0] for parts in takewhile(lambda parts: len({*parts}) == 1, shared))


def _shown(files: Sequence[Path]) -> str:
    more = f" and {len(files) - SHOWN:,} more" if len(files) > SHOWN else ""
    return ", ".join(one.name for one in files[:SHOWN]) + more

"""Captions in files of their own, one a picture: beside it, or as in a mirror below a folder.

a.txt, a.caption     a caption a line, best first
a.jpg.xmp            a sidecar, as digiKam, darktable and Immich name it; an `a.xmp` that is
                     there, as Lightroom names it, is used instead
"""

import errno
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from captioning.sources.caption_fields import valid_unicode
from captioning.sources.image_inputs import picture_endings
from captioning.sources.picture_names import PICTURE_SUFFIXES
from captioning.system.errors import UserError
from captioning.system.files import atomic_write
from captioning.system.reading import read_regular
from captioning.system.terminal import one_line
from captioning.writing.pictures import Picture, Said
from captioning.writing.sidecars import LARGEST_SIDECAR, has_description, with_description


class BesideFiles:
    """Where the captions of each picture go, and whether they are there."""

    def __init__(self, suffix: str, folder: str, *, overwrite: bool) -> None:
        """Beside the pictures where `folder` is ""; files of `suffix` (.txt, .caption, .xmp)."""
        self._suffix, self._folder, self._overwrite = suffix, folder, overwrite
        self._endings = picture_endings() | set(PICTURE_SUFFIXES)

    def path(self, picture: Picture) -> Path:
        """The file of a picture's captions."""
        own = self._own_path(picture)
        stem = own.stem if own.suffix.lower() in self._endings else own.name
        whole, short = (own.with_name(name + self._suffix) for name in (own.name, stem))
        usual, other = (whole, short) if self._suffix == ".xmp" else (short, whole)
        return other if other.is_file() and not usual.is_file() else usual

    def has(self, picture: Picture) -> bool:
        """Whether a picture is captioned already: what is there must say something of it."""
        path = self.path(picture)
        if self._overwrite or not path.is_file():
            return False
        if self._suffix != ".xmp":
            return path.stat().st_size > 0
        try:
            return has_description(read_regular(path, most_bytes=LARGEST_SIDECAR))
        except (OSError, ValueError):
            return False  # what is wrong with it is told where it would be written

    def write(self, picture: Picture, captions: Sequence[Said]) -> None:
        """Write a picture's captions. Raises `UserError` where they cannot be put there."""
        path = self.path(picture)
        try:
            content = self._content(path, captions)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{path} cannot be added to: {reason}.") from None
        try:
            if self._folder:
                path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as file:
                file.write(content)
        except OSError as error:
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            mend = "free some room" if is_full else "name another place with --output FOLDER"
            raise PlaceError(
                f"{path} cannot be written: {error.strerror}. {mend[0].upper()}{mend[1:]}, then "
                "give the same command again."
            ) from None

    def check_places(self, pictures: Sequence[Picture]) -> None:
        """Raise `UserError` where two pictures would share a file, or nothing can be written."""
        owners: dict[str, str] = {}
        shared: list[str] = []
        for picture in pictures:
            path = unicodedata.normalize("NFC", os.path.abspath(self.path(picture))).casefold()
            other = owners.setdefault(path, picture.name)
            if other != picture.name:
                shared.append(f"{other} and {picture.name} would share {self.path(picture)}")
        if shared:
            more = f" (and {len(shared) - 1:,} more pairs)" if len(shared) > 1 else ""
            raise UserError(
                f"{shared[0]}{more}; rename one, or write what names its pictures whole: --write "
                "jsonl --output captions.jsonl, or --write xmp"
            )
        if self._folder:
            return
        for folder in {os.path.dirname(one.name) or "." for one in pictures if not self.has(one)}:
            if os.path.isdir(folder) and not os.access(folder, os.W_OK):
                raise UserError(
                    f"{folder} cannot be written to; give captions a folder of their own: "
                    "--output FOLDER"
                )

    def _own_path(self, picture: Picture) -> Path:
        """The picture's path, or what mirrors it below the folder, and never leads out of it."""
        if not self._folder:
            return Path(picture.name)
        shard = [PurePosixPath(picture.shard).name.split(".")[0]] if picture.shard else []
        names = picture.inner_name.replace("\\", "/").split("/")
        parts = [one_line(name) for name in names if name not in ("", ".", "..")]
        return Path(self._folder, *shard, *parts)

    def _content(self, path: Path, captions: Sequence[Said]) -> bytes:
        if self._suffix == ".xmp":
            there = read_regular(path, most_bytes=LARGEST_SIDECAR) if path.is_file() else b""
            return with_description(there, captions[0].text)
        lines = [" ".join(valid_unicode(one.text).split()) for one in captions]
        return "".join(f"{line}\n" for line in lines).encode()


class PlaceError(UserError):
    """Nothing can be written in a place, whatever is written."""

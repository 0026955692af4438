"""Which picture file a name means: paths are compared from their end, or not at all.

A captions file names pictures as its writer saw them: with the writer's folders, drive letters and
backslashes, in another Unicode normal form, in other upper and lower case, without an extension.
A name means a file where one of the two paths is the end of the other: `C:\\photos\\cats\\0.jpg`
and `cats/0.jpg` mean the file `cats/0.jpg`, `0.jpg` does where no other file is called so, and
`dogs/0.jpg` does not.
"""

import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from urllib.parse import unquote

from captioning.sources.caption_fields import split_name

PICTURE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif",
    ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".j2k", ".jpx", ".jpf", ".avif",
    ".heic", ".heif",
)  # fmt: skip
"""Endings of picture files; HEIC's among them, so that what cannot be read is told."""

Path = tuple[str, ...]
"""A path's parts, without drive, `.` and what `..` takes back."""

_FORMS: tuple[Callable[[str], str], ...] = (
    lambda text: text,
    lambda text: unicodedata.normalize("NFC", text),
    lambda text: unicodedata.normalize("NFC", text).casefold(),
    lambda text: unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()),
)
"""How alike two names must be, the strictest first: a file of the very name is preferred."""
_COMMENT_NUMBER = re.compile(r"#\d+$")
_LONG_NUMBER = re.compile(r"(?:^|_)(0\d+|\d{12})$")


def is_picture_name(name: str) -> bool:
    """Whether a name ends as picture files do."""
    return posixpath.splitext(name)[1].lower() in PICTURE_SUFFIXES


def path_parts(name: str) -> Path:
    """The parts of a path or an address, whichever system wrote it."""
    if "://" in name:
        name = unquote(re.split(r"[?#]", name)[0])
    parts: list[str] = []
    for part in name.strip().replace("\\", "/").split("/"):
        if part == "..":
            del parts[-1:]
        elif ":" not in part:
            parts += [part] if part not in ("", ".") else []
        elif not re.fullmatch(r"[A-Za-z]:", part):
            parts.append(re.sub(r"^[A-Za-z]:", "", part))
    return tuple(parts)


@dataclass(frozen=True)
class NameMatch:
    """What a name means."""

    file: str = ""
    problem: str = ""
    """`missing` or `ambiguous`, with why."""


class PictureNames:
    """The files of a folder or an archive, by what others call them."""

    def __init__(self, names: Iterable[str], root: str = "") -> None:
        """`names` are relative to `root`, with forward slashes."""
        self._paths = {name: path_parts(name) for name in names}
        self._root = path_parts(root)
        self._folded_root = tuple(map(_FORMS[2], self._root))
        self._by_end: dict[tuple[int, bool], dict[str, list[str]]] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def find(self, name: str) -> list[str]:
        """The files that a name may mean: none, one, or several that nothing tells apart."""
        if name in self._paths:
            return [name]
        wanted = path_parts(name)
        return self._ending(wanted) or self._otherwise(wanted)

    def match_all(
        self, names: Sequence[str], splits: Sequence[str | None]
    ) -> tuple[list[NameMatch], list[str]]:
        """The file that each name of a captions file means, and the folders of its writer, called
        otherwise, that were taken for this one.

        The names must agree with each other. One that is longer than its file's path begins with
        the folder in which its writer kept the pictures. Where another name begins with a part of
        that folder, this one means a file in a folder that is not there; and two such folders that
        have a picture in common are told apart by nothing. `splits` are those of the captions files
        that the names stand in: a name without a folder means no file in another split's folder.
        """
        found = [
            [file for file in self.find(name) if not self._is_of_other_split(name, file, split)]
            for name, split in zip(names, splits, strict=True)
        ]
        roots = {
            name: root
            for name, files in zip(names, found, strict=True)
            if len(files) == 1 and (root := self._writers_root(name, files[0])) is not None
        }
        used = {root for name, root in roots.items() if "/" in name.replace("\\", "/")}
        elsewhere = {
            name
            for name, root in roots.items()
            if any(root[:length] in used for length in range(len(root)))
            or self._is_of_another_split(root)
        }
        roots_of: dict[str, set[Path]] = defaultdict(set)
        for name, files in zip(names, found, strict=True):
            if name in roots and name not in elsewhere:
                roots_of[files[0]].add(roots[name])

        def match(name: str, files: list[str]) -> NameMatch:
            if not files:
                other = self._same_name_elsewhere(name)
                return NameMatch(problem=f"missing: there is {other}" if other else "missing")
            if len(files) > 1:
                return NameMatch(problem=f"ambiguous: {', '.join(files[:4])}")
            if name in elsewhere:
                return NameMatch(problem=f"missing: {files[0]} lies in another folder")
            if len(roots_of[files[0]]) > 1:
                return NameMatch(problem=f"ambiguous: so is {files[0]} of another folder")
            return NameMatch(files[0])

        matches = [match(name, files) for name, files in zip(names, found, strict=True)]
        taken = {
            "/".join(path_parts(name)[: len(root)])
            for name, one in zip(names, matches, strict=True)
            if one.file and (root := roots.get(name)) and root[-1:] != self._folded_root[-1:]
        }
        return matches, sorted(taken)

    def _is_of_other_split(self, name: str, file: str, split: str | None) -> bool:
        folders = {split_name(part) for part in self._paths[file][:-1]} - {None}
        return bool(split and folders and split not in folders and len(path_parts(name)) == 1)

    def _is_of_another_split(self, root: Path) -> bool:
        """Whether a writer's folder is called train and this one validation, or the like."""
        splits = {split_name(parts[-1]) for parts in (root, self._root) if parts}
        return None not in splits and len(splits) > 1

    def _same_name_elsewhere(self, name: str) -> str:
        """A file that is called as `name` is but lies in another folder, or has another suffix; ""
        where none is."""
        last = path_parts(name)[-1:] or ("",)
        found = self._index(2, False).get(_FORMS[2](last[0]), [])
        found = found or self._index(2, True).get(_FORMS[2](PurePosixPath(last[0]).stem), [])
        return next(iter(found), "")

    def _ending(self, wanted: Path) -> list[str]:
        """Files whose path is the end of `wanted`, or ends with it; those that agree most."""
        if not wanted:
            return []
        for without_suffix in (False, True):
            for level, form in enumerate(_FORMS):
                parts = tuple(map(form, wanted))
                agreeing: dict[str, tuple[int, bool]] = {}
                for name in self._index(level, without_suffix).get(parts[-1], []):
                    path = tuple(map(form, self._paths[name]))[:-1]
                    length = min(len(path), len(parts) - 1)
                    if path[len(path) - length :] == parts[len(parts) - 1 - length : -1]:
                        agreeing[name] = (length, length == len(path))
                if agreeing:
                    best = max(agreeing.values())
                    return [name for name, how in agreeing.items() if how == best]
        return []

    def _otherwise(self, wanted: Path) -> list[str]:
        """Files for a name with a caption's number, with escaped letters, or that is a number."""
        if not wanted:
            return []
        *folders, last = wanted
        for other in (_COMMENT_NUMBER.sub("", last), unquote(last), last.removesuffix(".0")):
            if other != last and (found := self._ending((*folders, *path_parts(other)))):
                return found
        number = re.fullmatch(r"([0-9]{1,18})(?:\.0)?", last)
        return self._by_number.get(int(number[1]), []) if number else []

    def _writers_root(self, name: str, file: str) -> Path | None:
        """The folder that `name` is relative to, if `file` is meant; () where it is this one, None
        where the name says nothing about it."""
        wanted, path = path_parts(name), self._paths[file]
        if len(wanted) < len(path):
            return None
        root = tuple(map(_FORMS[2], wanted[: len(wanted) - len(path)]))
        here = self._folded_root
        length = min(len(root), len(here))
        return () if root[len(root) - length :] == here[len(here) - length :] else root

    def _index(self, level: int, without_suffix: bool) -> dict[str, list[str]]:
        """Files by their last part; without suffix only those of pictures."""
        key = (level, without_suffix)
        if key not in self._by_end:
            index: dict[str, list[str]] = defaultdict(list)
            for name, parts in self._paths.items():
                if not without_suffix:
                    index[_FORMS[level](parts[-1])].append(name)
                elif is_picture_name(parts[-1]):
                    index[_FORMS[level](PurePosixPath(parts[-1]).stem)].append(name)
            self._by_end[key] = index
        return self._by_end[key]

    @cached_property
    def _by_number(self) -> Mapping[int, list[str]]:
        """Pictures such as 000000391895.jpg and COCO_val2014_000000391895.jpg by their number."""
        index: dict[int, list[str]] = defaultdict(list)
        for name, parts in self._paths.items():
            match = _LONG_NUMBER.search(PurePosixPath(parts[-1]).stem)
            if match and is_picture_name(name):
                index[int(match[1])].append(name)
        return index

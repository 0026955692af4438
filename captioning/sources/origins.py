"""Where pictures and captions come from: files on disk, zip archives, the Hugging Face Hub.

A source becomes a list of `SourcePicture`, none of them read yet. Names never lead anywhere: a
captions file names pictures among those found in its folder or archive, archives are never
unpacked, and links that lead out of a folder are not followed.
"""

import hashlib
import lzma
import os
import stat
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from captioning.sources.caption_fields import caption_columns, captions_of, image_column, split_name
from captioning.sources.caption_files import (
    LARGEST_FILE_BYTES,
    CaptionedPicture,
    parse_captions,
    read_captions,
)
from captioning.sources.images import LARGEST_PICTURE_BYTES
from captioning.system.errors import UserError
from captioning.system.reading import check_regular

PICTURE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm",
)  # fmt: skip
CAPTIONS_PATTERNS = (
    "dataset_*.json", "*karpathy*.json", "results.csv", "results*.token", "*8k.token*", "*.token*",
    "captions*", "metadata.jsonl", "*.jsonl", "*.csv", "*.json", "*.txt",
)  # fmt: skip
"""How captions files are called, those with published splits first."""
READ_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,
    EOFError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
"""What reading a file, a member of an archive or a row may raise."""
HIDDEN = (".", "__MACOSX")
OWN_FILES = ("prepared.json", "progress.jsonl")
"""A folder with one of these is a data set that `prepare_dataset.py` made or is making."""


@dataclass(frozen=True)
class SourcePicture:
    """One picture of a source, before anybody has looked at it."""

    name: str
    """As the source calls it, perhaps with folders; "" where it gives no names."""
    captions: tuple[str, ...]
    """Cleaned; may hold empty ones."""
    split: str | None
    """The source's own split."""
    read: Callable[[], bytes] = bytes
    """Gives the bytes of the file; raises one of READ_ERRORS."""
    path: Path | None = None
    """The file, where there is one on disk."""
    problem: str = ""
    """Why the picture cannot be had: `missing` or `ambiguous`."""


@dataclass(frozen=True)
class Source:
    """All pictures of a source."""

    description: str
    pictures: list[SourcePicture]
    unused: tuple[str, ...] = ()
    """Picture files that the captions file does not name."""


@dataclass(frozen=True)
class PictureFile:
    """A file in a folder or an archive."""

    name: str
    """Relative, with forward slashes."""
    read: Callable[[], bytes]
    path: Path | None = None


def files_source(where: str, captions_file: str = "") -> Source:
    """Pictures in a folder or zip with a captions file, which is looked for there if not given."""
    files = {file.name: file for file in list_files(where)}
    if captions_file:
        rows, captions_name = read_captions(captions_file), captions_file
    else:
        rows, captions_name = _captions_beside(files, where)
    names = [name for name in files if PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES]
    if not names:
        raise UserError(
            f"{where} holds no pictures ({', '.join(PICTURE_SUFFIXES)}); "
            "give the folder or zip that does (links that lead out of it are not followed)."
        )
    matches = list(map(_finder(list(files)), (row.file_name for row in rows)))
    used = {name for match in matches for name in match}
    if not used:
        raise UserError(
            f"None of the {len(rows)} pictures that {captions_name} names is in {where}: it names "
            f"{rows[0].file_name}, the folder holds {names[0]}. Give the pictures that belong "
            "to the captions."
        )
    pictures = [_matched(row, match, files) for row, match in zip(rows, matches, strict=True)]
    unused = tuple(sorted(set(names) - used))
    return Source(f"{where} with {captions_name}", pictures, unused)


def list_files(where: str) -> Iterator[PictureFile]:
    """The files of a folder or zip, in order of name; hidden ones are left out."""
    path = Path(where)
    if path.is_dir():
        yield from _folder_files(path)
        return
    try:
        check_regular(path)
    except FileNotFoundError:
        raise UserError(
            f"{where} does not exist; give the folder or zip that holds the pictures."
        ) from None
    except OSError as error:
        raise UserError(
            f"{where} cannot be read: {error.strerror}; give the folder or zip that holds the "
            "pictures."
        ) from None
    if not zipfile.is_zipfile(path):
        raise UserError(f"{where} is neither a folder nor a whole zip file; unpack it first.")
    yield from _zip_files(path)


def find_captions(names: Sequence[str], where: str) -> str:
    """The captions file among `names`; `UserError` where there is none or more than one."""
    for pattern in CAPTIONS_PATTERNS:
        found = [
            name
            for name in names
            if any(PurePosixPath(name.lower()).match(p) for p in (pattern, f"{pattern}.gz"))
            and PurePosixPath(name).suffix.lower() not in PICTURE_SUFFIXES
            and "readme" not in name.lower()
        ]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(
                f"{where} holds several files that may be the captions ({', '.join(found[:4])}); "
                f"choose one: --IMAGE_DIR {where} --CAPTIONS_FILE FILE."
            )
    raise UserError(
        f"{where} holds no captions file; put one there (such as dataset_flickr30k.json, "
        f"results.csv, captions.txt) or name it: --IMAGE_DIR {where} --CAPTIONS_FILE FILE."
    )


def files_fingerprint(*paths: str) -> str:
    """A hash of names, sizes and modification times of files and of all files in folders."""
    digest = hashlib.sha256()
    for path in filter(None, paths):
        for name, status in _walk(Path(path)):
            digest.update(
                f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode("utf-8", "replace")
            )
    return digest.hexdigest()


def hub_source(names: Sequence[str], revision: str = "") -> Source:
    """Pictures and captions of data sets of the Hub, or of local folders of Parquet files.

    The picture column is found by its type, the captions column by its name. The split of a row
    is what its `split` column says, else the data set's own split where there are several.
    """
    parts = [(name, _load(name, revision)) for name in names]
    has_splits = sum(len(splits) for _, splits in parts) > 1
    pictures = [
        picture
        for name, splits in parts
        for split, rows in splits.items()
        for picture in _hub_pictures(name, rows, split_name(split) if has_splits else None)
    ]
    return Source(f"the data set {', '.join(names)}", pictures)


def _hub_pictures(name: str, rows: Any, split: str | None) -> Iterator[SourcePicture]:
    import datasets

    image = picture_column(rows.features)
    texts = [column for column in rows.features if column != image]
    captions = caption_columns(texts)
    if image is None or not captions:
        raise UserError(
            f"{name} has the columns {', '.join(rows.features)}; one of pictures and one of "
            "captions (captions, caption, text ...) are needed."
        )
    rows = rows.cast_column(image, datasets.Image(decode=False))
    pictures = rows.select_columns([image])
    words = rows.select_columns(texts)
    file_name = image_column(
        column
        for column in texts
        if column not in captions and getattr(rows.features[column], "dtype", "") == "string"
    )
    stored = rows.data.column(image)
    fields = dict(zip((field.name for field in stored.type), stored.flatten(), strict=True))
    paths = fields["path"].to_pylist()
    for index, row in enumerate(words):
        found = [captions_of(row[column]) for column in captions]
        if None in found:
            raise UserError(
                f"{name}, row {index}: the column {captions[found.index(None)]} holds "
                f"{row[captions[found.index(None)]]!r:.60} instead of captions."
            )
        yield SourcePicture(
            name=str((row[file_name] if file_name else paths[index]) or ""),
            captions=tuple(caption for part in found if part for caption in part),
            split=split_name(row.get("split")) if "split" in row else split,
            read=partial(_read_row, pictures, index, image),
        )


def picture_column(features: Any) -> str | None:
    """The column of pictures: of the Image type, or bytes as Image stores them."""
    import datasets

    def holds_pictures(feature: Any) -> bool:
        if isinstance(feature, dict):
            return {"bytes", "path"} <= set(feature)
        return isinstance(feature, datasets.Image) or getattr(feature, "dtype", "") == "binary"

    columns = [column for column, feature in features.items() if holds_pictures(feature)]
    return image_column(columns) or next(iter(columns), None)


def _read_row(pictures: Any, index: int, column: str) -> bytes:
    value = pictures[index][column] or {}
    if value.get("bytes") is not None:
        return bytes(value["bytes"])
    raise ValueError("the row holds no picture")


def _load(name: str, revision: str) -> Any:
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    revision = "" if Path(name).is_dir() else revision
    try:
        return datasets.load_dataset(name, revision=revision or None)
    except Exception as error:
        # Network, missing repositories, gates, formats: a zoo of types, all the user's to mend.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        at = f" at revision {revision}" if revision else ""
        raise UserError(
            f"The data set {name}{at} could not be loaded: {reason}. Check its name and the "
            "network (`hf auth login` for private ones), or give files on disk: "
            "--DATASET_SOURCE FOLDER_OR_ZIP."
        ) from error


def _captions_beside(
    files: dict[str, PictureFile], where: str
) -> tuple[list[CaptionedPicture], str]:
    """What the captions file among `files` says, and its name."""
    file = files[find_captions(list(files), where)]
    name = f"{where}/{file.name}"
    try:
        return parse_captions(file.read(), name), name
    except READ_ERRORS as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"The captions file {name} cannot be read: {error}.") from None


def _matched(
    row: CaptionedPicture, found: list[str], files: dict[str, PictureFile]
) -> SourcePicture:
    if len(found) != 1:
        problem = "ambiguous" if found else "missing"
        return SourcePicture(row.file_name, row.captions, row.split, problem=problem)
    file = files[found[0]]
    return SourcePicture(file.name, row.captions, row.split, file.read, file.path)


def _finder(names: list[str]) -> Callable[[str], list[str]]:
    """A function from what a captions file says to the files it may mean.

    Those are the file of that path, else those of that name in any folder, else, for a name
    without an extension, those that have it with one.
    """
    exact = set(names)
    by_name: dict[str, list[str]] = {}
    for name in names:
        path = PurePosixPath(name)
        by_name.setdefault(path.name, []).append(name)
        if path.suffix.lower() in PICTURE_SUFFIXES:
            by_name.setdefault(path.stem, []).append(name)

    def find(name: str) -> list[str]:
        if name in exact:
            return [name]
        path = PurePosixPath(name)
        found = by_name.get(path.name, [])
        inside = [other for other in found if other.endswith(f"/{path}")]
        return inside or found

    return find


def _folder_files(folder: Path) -> Iterator[PictureFile]:
    for name, status in _walk(folder):
        path = folder / name
        if status.st_size > _largest(name):
            yield PictureFile(name, _too_large)
        else:
            yield PictureFile(name, path.read_bytes, path)


def _walk(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    """(relative name, status) of the files beneath a folder, or of the file itself.

    Left out are hidden files, links that lead out of the folder, and prepared data sets, so that
    `--IMAGE_DIR .` works although DATA_DIR lies beneath.
    """
    if not path.is_dir():
        if path.exists():
            yield path.name, path.stat()
        return
    root = path.resolve()
    folders = [("", str(path))]
    while folders:
        prefix, folder = folders.pop()
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.name.startswith(HIDDEN):
                continue
            if entry.is_dir(follow_symlinks=False):
                if not any(os.path.exists(os.path.join(entry.path, n)) for n in OWN_FILES):
                    folders.append((f"{prefix}{entry.name}/", entry.path))
            elif entry.is_file() and (
                not entry.is_symlink() or Path(entry.path).resolve().is_relative_to(root)
            ):
                yield f"{prefix}{entry.name}", entry.stat()


def _zip_files(path: Path) -> Iterator[PictureFile]:
    try:
        archive = zipfile.ZipFile(path)
    except READ_ERRORS as error:
        raise UserError(f"{path} is not a whole zip file: {error}.") from None
    for member in sorted(archive.infolist(), key=lambda member: member.filename):
        name = str(PurePosixPath(member.filename.replace("\\", "/")))
        is_hidden = any(part.startswith(HIDDEN) for part in name.split("/"))
        if not member.is_dir() and not is_hidden and not stat.S_ISLNK(member.external_attr >> 16):
            is_large = member.file_size > _largest(name)
            yield PictureFile(name, _too_large if is_large else partial(archive.read, member))


def _largest(name: str) -> int:
    """Bytes that a file may have: no more is ever read, nor unpacked."""
    is_picture = PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES
    return LARGEST_PICTURE_BYTES if is_picture else LARGEST_FILE_BYTES


def _too_large() -> bytes:
    raise ValueError("it is too large")

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

from captioning.sources.caption_fields import (
    FormatError,
    caption_columns,
    mark_columns,
    mark_of,
    split_column,
    split_name,
)
from captioning.sources.caption_fields import image_column as named_image_column
from captioning.sources.caption_files import LARGEST_FILE_BYTES
from captioning.sources.images import LARGEST_PICTURE_BYTES
from captioning.sources.parquet_files import check_files, stored_picture_column
from captioning.sources.picture_names import is_picture_name
from captioning.sources.table_columns import Columns, choose_captions, known_split
from captioning.system.errors import UserError
from captioning.system.reading import check_regular, unpacks_too_far

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
class LeftOut:
    """Something that a source has and that is not used, by no fault."""

    name: str
    kind: str
    """What it is, in the plural, for a count of it."""
    detail: str = ""


@dataclass(frozen=True)
class Source:
    """All pictures of a source."""

    description: str
    pictures: list[SourcePicture]
    unused: tuple[str, ...] = ()
    """Picture files that the captions file does not name."""
    left_out: tuple[LeftOut, ...] = ()
    """What is not used by no fault, such as captions that the data set marks as none."""
    remarks: tuple[str, ...] = ()
    """What was understood of the source and should be known; a sentence each."""


@dataclass(frozen=True)
class PictureFile:
    """A file in a folder or an archive."""

    name: str
    """Relative, with forward slashes."""
    read: Callable[[], bytes]
    path: Path | None = None


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


def files_fingerprint(*paths: str) -> str:
    """A hash of names, sizes and modification times of files and of all files in folders."""
    digest = hashlib.sha256()
    for path in filter(None, paths):
        for name, status in _walk(Path(path)):
            digest.update(
                f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode("utf-8", "replace")
            )
    return digest.hexdigest()


def hub_source(
    names: Sequence[str],
    revision: str = "",
    image_column: str = "",
    caption_column: str = "",
    *,
    is_known: bool = False,
) -> Source:
    """Pictures and captions of data sets of the Hub, or of local folders of Parquet files.

    The picture column is found by its type, the captions column by its name, unless the user names
    them; of a data set that `is_known` the likeliest holds them, whatever else may. The split of a
    row is what its `split` column says, else the data set's own split where there are several.
    """
    parts = [(name, _load(name, revision)) for name in names]
    known = [split for _, splits in parts for split in splits if split_name(split)]
    has_splits = bool(known) and sum(len(splits) for _, splits in parts) > 1
    found: list[SourcePicture | LeftOut] = []
    for name, splits in parts:
        for split, rows in splits.items():
            try:
                own = known_split(split, "its files") if has_splits else None
                likeliest = caption_columns(rows.features) if is_known else []
                wanted = caption_column or ",".join(likeliest)
                found += _hub_pictures(name, rows, own, image_column, wanted)
            except FormatError as error:
                raise UserError(f"The data set {name} cannot be used: {error}.") from None
    return Source(
        f"the data set {', '.join(names)}",
        [one for one in found if isinstance(one, SourcePicture)],
        left_out=tuple(one for one in found if isinstance(one, LeftOut)),
    )


def _hub_pictures(
    name: str, rows: Any, split: str | None, image_column: str, caption_column: str
) -> Iterator[SourcePicture | LeftOut]:
    import datasets

    pictured = picture_columns(rows.features)
    if image_column in pictured:
        pictured = [image_column]
    image = named_image_column(pictured) or next(iter(pictured), "")
    texts = [column for column in rows.features if column != image]
    if (
        image_column not in ("", image)
        or not image
        or not (caption_column or caption_columns(texts))
    ):
        raise UserError(
            f"{name} has the columns {', '.join(rows.features)}, those of pictures are: "
            f"{', '.join(pictured) or 'none'}; one of pictures and one of captions (captions, "
            "caption, text ...) are needed. Say which with --IMAGE_COLUMN and --CAPTION_COLUMN; "
            "pictures that are given by their addresses are not fetched here."
        )
    if len(pictured) > 1 and named_image_column(pictured) is None:
        raise UserError(
            f"{name} has several columns of pictures, {', '.join(pictured)}; say which the "
            f"captions are of with --IMAGE_COLUMN {image}"
        )
    rows = rows.cast_column(image, datasets.Image(decode=False))
    pictures = rows.select_columns([image])
    words = rows.select_columns(texts)
    sample = [words[index] for index in range(0, len(words), -(-len(words) // 100) or 1)]
    captions = choose_captions(sample, texts, caption_column)
    split_key = split_column(sample, [text for text in texts if text not in captions])
    columns = Columns(image, tuple(captions), split_key, tuple(mark_columns(texts)))
    file_name = named_image_column(
        column
        for column in texts
        if column not in captions and getattr(rows.features[column], "dtype", "") == "string"
    )
    stored = rows.data.column(image)
    fields = dict(zip((field.name for field in stored.type), stored.flatten(), strict=True))
    paths = fields["path"].to_pylist()
    for index, row in enumerate(words):
        own_name = str((row[file_name] if file_name else paths[index]) or "")
        if reason := mark_of(row, columns.marks):
            kind = f"captions that the data set marks as {reason}"
            yield LeftOut(own_name or f"row {index}", kind)
            continue
        yield SourcePicture(
            name=own_name,
            captions=tuple(columns.captions_of(row, f"row {index}")),
            split=columns.split_of(row, f"row {index}") if split_key else split,
            read=partial(_read_row, pictures, index, image),
        )


def holds_tables_of_pictures(folder: Path) -> bool:
    """Whether the Parquet files beneath a folder hold pictures; img2dataset leaves some that do
    not beside the pictures that it fetched."""
    import pyarrow.parquet

    tables = sorted(folder.rglob("*.parquet"))
    for path in tables:
        try:
            if stored_picture_column(pyarrow.parquet.read_schema(path)):
                return True
        except (*READ_ERRORS, pyarrow.ArrowException):
            return True  # what is wrong with it is told when it is loaded
    return bool(tables) and not any(is_picture_name(name) for name, _ in _walk(folder))


def picture_columns(features: Any) -> list[str]:
    """The columns of pictures: of the Image type, or bytes as Image stores them."""
    import datasets

    def holds_pictures(feature: Any) -> bool:
        if isinstance(feature, dict):
            return {"bytes", "path"} <= set(feature)
        return isinstance(feature, datasets.Image) or getattr(feature, "dtype", "") == "binary"

    return [column for column, feature in features.items() if holds_pictures(feature)]


def _read_row(pictures: Any, index: int, column: str) -> bytes:
    value = pictures[index][column] or {}
    if value.get("bytes") is not None:
        return bytes(value["bytes"])
    raise ValueError("the row holds no picture")


def _load(name: str, revision: str) -> Any:
    import datasets

    if Path(name).is_dir():
        check_files(Path(name))
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
        is_link = stat.S_ISLNK(member.external_attr >> 16)
        if member.filename and not (member.is_dir() or is_hidden or is_link):
            is_large = member.file_size > _largest(name) or unpacks_too_far(
                member.compress_size, member.file_size
            )
            yield PictureFile(name, _too_large if is_large else partial(archive.read, member))


def _largest(name: str) -> int:
    """Bytes that a file may have: no more is ever read, nor unpacked."""
    return LARGEST_PICTURE_BYTES if is_picture_name(name) else LARGEST_FILE_BYTES


def _too_large() -> bytes:
    raise ValueError("it is too large")

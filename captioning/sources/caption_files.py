"""Captions files: which captions, and which split, belong to which picture.

The format is recognised by looking at the content, never at the extension:

    JSON            {"a.jpg": ["...", ...]} or {"a.jpg": "..."}
    Karpathy JSON   {"images": [{"filename", "split", "sentences": [{"raw"}]}]}; splits are kept
    COCO JSON       {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}
    rows of JSON    {"file_name": "a.jpg", "captions": ["...", ...]} a line, as one list, under one
                    key ({"data": [...]}) or by split ({"train": [...], "val": [...]})
    tables          CSV, tabs, semicolons, bars; results.csv and token files: `caption_tables`

Text is UTF-8 or UTF-16, with or without a byte order mark, with any line ends, gzipped or not.
A caption stays as it was written, except that surrounding white space goes and that control
characters, line breaks among them, become a space.
"""

import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from captioning.sources.caption_fields import (
    SPLIT_NAMES,
    FormatError,
    UncertainError,
    caption_columns,
    captions_of,
    image_column,
    mark_columns,
    mark_of,
    valid_unicode,
)
from captioning.sources.caption_tables import read_table
from captioning.sources.parquet_files import caption_rows
from captioning.sources.picture_names import is_picture_name
from captioning.sources.table_columns import (
    Columns,
    Row,
    TableReading,
    choose_columns,
    known_split,
    names_in,
    shown,
)
from captioning.system.errors import UserError
from captioning.system.reading import read_regular, unpacks_too_far
from captioning.system.terminal import CONTROL

FORMATS = (
    'JSON {"a.jpg": ["caption", ...]}, Karpathy JSON, COCO captions JSON, '
    'JSON Lines {"file_name": "a.jpg", "captions": ["caption", ...]}, CSV "image,caption", '
    'Flickr30k results.csv "image_name| comment_number| comment", token file "a.jpg#0<TAB>caption"'
)
LARGEST_FILE_BYTES = 2**30
"""Above this a captions file, unpacked, is refused: COCO's largest is a quarter of it."""

_OTHER_FILES = {
    b"PK\x03\x04": "a zip file or an Excel workbook; save the sheet as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the sheet as CSV UTF-8",
    b"SQLi": "an SQLite database; export the table as CSV",
    b"%PDF": "a PDF; write the captions as CSV",
}
"""What other files begin with, and what to do with them."""
PARQUET = b"PAR1"
"""What a Parquet file begins with."""
KEY = "(key)"
"""What the keys of a JSON object are called as a column."""
_NUMBERED_NAME = re.compile(r"(.+)#\d+")


@dataclass(frozen=True)
class CaptionedPicture:
    """A picture as a captions file names it."""

    file_name: str
    """As written, perhaps with folders, perhaps without an extension."""
    captions: tuple[str, ...]
    """Cleaned; an empty string where the file holds an empty caption."""
    split: str | None
    """train, validation, test, or None where the file says nothing."""
    marked: tuple[str, ...] = ()
    """What the data set itself calls each further caption, which is therefore none: rejected."""
    problem: str = ""
    """Why its captions cannot be had."""


def read_captions(
    path: str | os.PathLike[str], reading: TableReading | None = None
) -> list[CaptionedPicture]:
    """The pictures of a captions file, in file order, each once.

    Raises `UserError` for a file that cannot be read, says no captions or has an unknown format.
    """
    path = Path(path)
    try:
        data = read_regular(path, most_bytes=LARGEST_FILE_BYTES)
    except OSError as error:
        raise UserError(f"The captions file {path} cannot be read: {error.strerror}.") from None
    return parse_captions(data, str(path), reading)


def parse_captions(
    data: bytes, name: str, reading: TableReading | None = None
) -> list[CaptionedPicture]:
    """`read_captions` for the bytes of a file; `name` stands in error messages."""
    reading = reading or TableReading()
    try:
        if data[:4] == PARQUET:
            rows = _parse_rows(_numbered(caption_rows(data), "row"), reading)
            return _checked(_collect(rows), name)
        text = decode_text(data)
        if text.lstrip()[:1] in ("{", "["):
            rows = _parse_json(text, reading)
        else:
            table = read_table(text, reading)
            rows = _pictures(((f"line {n}", row) for n, row in table.rows), table.columns)
        pictures = _collect(rows)
    except UncertainError as problem:
        raise UserError(f"The captions file {name} cannot be read: {problem}.") from None
    except (FormatError, RecursionError) as problem:
        if isinstance(problem, RecursionError):
            problem = FormatError("it is nested too deeply")
        raise UserError(
            f"{name} is not a captions file that can be read: {problem}. Formats: {FORMATS}."
        ) from None
    return _checked(pictures, name)


def _checked(pictures: list[CaptionedPicture], name: str) -> list[CaptionedPicture]:
    if not any(caption for picture in pictures for caption in picture.captions):
        raise UserError(f"{name} holds no captions. Formats: {FORMATS}.")
    return pictures


def decode_text(data: bytes, *, may_be_empty: bool = False) -> str:
    """UTF-8 or UTF-16 text, with or without a byte order mark, gzipped or not, whose lines end in a
    line feed.

    Raises `ValueError` with what is wrong.
    """
    if data[:2] == b"\x1f\x8b":
        try:
            with gzip.open(io.BytesIO(data)) as file:
                unpacked = file.read(LARGEST_FILE_BYTES + 1)
        except (OSError, EOFError, zlib.error):
            raise FormatError("it is a damaged gzip file") from None
        if unpacks_too_far(len(data), len(unpacked)):
            raise FormatError(f"its {len(data):,} bytes unpack to {len(unpacked):,} or more")
        data = unpacked
    if len(data) > LARGEST_FILE_BYTES:
        raise FormatError(f"it is larger than {LARGEST_FILE_BYTES >> 20} MiB")
    if data[:4] in _OTHER_FILES:
        raise FormatError(f"it is {_OTHER_FILES[data[:4]]}")
    encoding = "utf-8-sig"
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif data[:1] == b"\0" or data[1:2] == b"\0":
        encoding = "utf-16-be" if data[:1] == b"\0" else "utf-16-le"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise FormatError(_not_unicode(data, error.start)) from None
    if not (text.strip() or may_be_empty):
        raise FormatError("it is empty")
    text = re.sub("\r\n?", "\n", text)
    return text if "\n" in text else re.sub("[\x85\u2028\u2029]", "\n", text)


def _not_unicode(data: bytes, start: int) -> str:
    told = f"it begins with {data[:8]!r} and is neither UTF-8 nor UTF-16 text (byte {start})"
    around = data[max(0, start - 20) : start + 20]
    if any(byte < 9 for byte in data[:1000]):
        return f"{told}; save it as UTF-8"
    return (
        f"{told}; older programs write Windows-1252, where that place reads "
        f"{around.decode('cp1252', 'replace')!r}: if that is right, save it as UTF-8 with: "
        "iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW_FILE"
    )


def _parse_json(text: str, reading: TableReading) -> Iterator[CaptionedPicture]:
    try:
        content = json.loads(text, object_pairs_hook=_join_repeated_keys)
    except json.JSONDecodeError as error:
        if "\n" not in text.strip():
            raise FormatError(f"it looks like JSON but {_json_problem(error)}") from None
        return _parse_rows(_json_lines(text, error), reading)
    except ValueError as error:
        raise FormatError(f"it looks like JSON but {error}") from None
    if isinstance(content, list):
        return _parse_rows(_numbered(content, "entry"), reading)
    if isinstance(content.get("images"), list):
        if isinstance(content.get("annotations"), list):
            reading.refuse_columns()
            return _parse_coco(content)
        return _parse_karpathy(content, reading)
    return _parse_object(content, reading)


def _parse_object(content: dict[str, Any], reading: TableReading) -> Iterator[CaptionedPicture]:
    """One JSON object: a row, rows under a key or by split, columns, or names with captions."""
    asked = {reading.image, reading.caption} - {""}
    if image_column(_texts(content)) and (caption_columns(content) or asked & set(content)):
        return _parse_rows([("entry 1", content)], reading)
    lists = {key: value for key, value in content.items() if _are_rows(value)}
    if lists and all(key.strip().lower() in SPLIT_NAMES for key in content):
        rows = [
            (place, {"split": key, **row} if isinstance(row, dict) else row)
            for key, value in content.items()
            for place, row in _numbered(value, f"{key}, entry")
        ]
        return _parse_rows(rows, reading)
    if len(lists) == 1:
        ((key, value),) = lists.items()
        return _parse_rows(_numbered(value, f"{key}, entry"), reading)
    columns = {key: _column(value) for key, value in content.items()}
    lengths = {len(column) for column in columns.values() if column is not None}
    if None not in columns.values() and len(lengths) == 1 and _is_header(columns, reading):
        names, cells = list(columns), zip(*(c or [] for c in columns.values()), strict=True)
        return _parse_rows(
            _numbered([dict(zip(names, row, strict=True)) for row in cells], "entry"), reading
        )
    if content and all(isinstance(value, dict) for value in content.values()):
        # A table whose keys name its rows or its pictures: {"0": {"image": ..., "caption": ...}}.
        keys = dict.fromkeys(key for value in content.values() for key in value)
        if caption_columns(keys) or asked & set(keys):
            by_name = reading.find is None and image_column(keys) is None
            rows = [(f"entry {key}", {KEY: key, **value}) for key, value in content.items()]
            return _parse_rows(rows, replace(reading, image=KEY) if by_name else reading)
    reading.refuse_columns()
    return _parse_mapping(content)


def _are_rows(value: object) -> bool:
    """Whether a value is a list of objects that are more than a caption each."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(row, dict) and len(row) > 1 for row in value)
        and not all(
            set(row) <= {"raw", "tokens", "caption", "text", "sentid", "imgid"} for row in value
        )
    )


def _column(value: object) -> list[Any] | None:
    """A column of a table: a list, or what pandas makes of one, an object with numbers as keys."""
    if isinstance(value, dict) and value and all(str(key).isdigit() for key in value):
        return list(value.values())
    return value if isinstance(value, list) and len(value) > 1 else None


def _is_header(names: Mapping[str, object], reading: TableReading) -> bool:
    asked = {reading.image, *reading.caption.split(",")} - {""}
    return bool(asked & set(names)) or bool(image_column(names) and caption_columns(names))


def _texts(row: dict[str, Any]) -> list[str]:
    return [key for key, value in row.items() if isinstance(value, str)]


def _numbered(rows: Iterable[object], unit: str) -> list[tuple[str, object]]:
    return [(f"{unit} {number}", row) for number, row in enumerate(rows, start=1)]


def _parse_mapping(content: dict[str, Any]) -> Iterator[CaptionedPicture]:
    for name, value in content.items():
        captions = captions_of(value)
        if captions is None:
            raise FormatError(
                f"it is JSON whose {shown(name)} holds {shown(value)} instead of captions"
            )
        split = value.get("split") if isinstance(value, dict) else None
        yield CaptionedPicture(name, tuple(captions), split and known_split(split, shown(name)))


def _parse_karpathy(content: dict[str, Any], reading: TableReading) -> Iterator[CaptionedPicture]:
    if not any(isinstance(row, dict) and "sentences" in row for row in content["images"]):
        raise FormatError('it is JSON with "images" but neither "sentences" nor "annotations"')
    return _parse_rows(_numbered(content["images"], "image"), reading)


def _parse_coco(content: dict[str, Any]) -> Iterator[CaptionedPicture]:
    captions: dict[str, list[str]] = {}
    marked: dict[str, list[str]] = {}
    names: dict[str, str] = {}
    rows = [row for row in content["annotations"] if isinstance(row, dict)]
    marks = mark_columns(dict.fromkeys(key for row in rows for key in row))
    for row in content["images"]:
        name = row.get("file_name") if isinstance(row, dict) else None
        if not isinstance(name, str):
            raise FormatError(f'it is COCO JSON whose "images" hold {shown(row)}, no "file_name"')
        key = str(row.get("id"))
        if names.setdefault(key, name) != name:
            raise FormatError(
                f'it is COCO JSON whose "images" have the id {shown(key)} twice, for '
                f"{names[key]} and {name}"
            )
        captions[key], marked[key] = [], []
    for row in content["annotations"]:
        found = captions_of(row.get("caption", False)) if isinstance(row, dict) else None
        if found is None:
            raise FormatError(
                f'it is COCO JSON whose "annotations" hold {shown(row)}, no "caption"; '
                "the captions_*.json files have them, the instances_*.json files do not"
            )
        key = str(row.get("image_id"))
        if key not in names:
            raise FormatError(f'it is COCO JSON whose "images" lack the id {shown(key)}')
        if reason := mark_of(row, marks):
            marked[key] += [reason] * len(found)
        else:
            captions[key] += found
    for key, name in names.items():
        yield CaptionedPicture(name, tuple(captions[key]), None, tuple(marked[key]))


def _json_lines(text: str, whole: json.JSONDecodeError) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line, object_pairs_hook=_join_repeated_keys)
            except json.JSONDecodeError as error:
                # A file whose first line is broken is one JSON text, not JSON Lines.
                told = _json_problem(whole) if number == 1 else _json_problem(error, number)
                raise FormatError(f"it looks like JSON but {told}") from None
            except ValueError as error:
                raise FormatError(f"line {number}: {error}") from None
            rows.append((f"line {number}", row))
    return rows


def _parse_rows(
    rows: list[tuple[str, object]], reading: TableReading
) -> Iterator[CaptionedPicture]:
    """Pictures from objects with a key for the file and one for its captions."""
    objects: list[tuple[str, dict[str, Any]]] = []
    for place, row in rows:
        if not isinstance(row, dict):
            raise FormatError(f"{place} is {shown(row)}, not an object with keys")
        objects.append((place, row))
    names = list(dict.fromkeys(key for _, row in objects for key in row))
    columns = choose_columns([row for _, row in objects], names, reading)
    return _pictures(objects, columns)


def _pictures(rows: Iterable[tuple[str, Row]], columns: Columns) -> Iterator[CaptionedPicture]:
    """The pictures of rows, which may name several with one caption."""
    for place, row in rows:
        names = names_in(row.get(columns.image))
        captions = tuple(columns.captions_of(row, place))
        if not names:
            told = shown(" ".join(captions))
            raise FormatError(f"{place}: the caption {told} has no file name ({columns.image})")
        if len(names) > 1 and len(captions) > 1:
            raise FormatError(
                f"{place} names {len(names)} pictures and has {len(captions)} captions; give each "
                "picture a row"
            )
        split, reason = columns.split_of(row, place), mark_of(row, columns.marks)
        folder = row.get("filepath")
        for name in names:
            # COCO's Karpathy file keeps the folder apart: two folders may hold one name.
            if columns.image == "filename" and isinstance(folder, str) and folder:
                name = folder if folder.endswith(name) else f"{folder}/{name}"
            if reason:
                yield CaptionedPicture(name, (), split, (reason,) * len(captions))
            else:
                yield CaptionedPicture(name, captions, split)


def _collect(rows: Iterable[CaptionedPicture]) -> list[CaptionedPicture]:
    """Each picture once, with all of its captions."""
    captions: dict[str, list[str]] = {}
    marked: dict[str, list[str]] = {}
    splits: dict[str, str | None] = {}
    for row in rows:
        # Windows paths; and a name must survive being written to a file.
        name = CONTROL.sub(" ", valid_unicode(row.file_name)).replace("\\", "/").strip()
        if (match := _NUMBERED_NAME.fullmatch(name)) and is_picture_name(match[1]):
            name = match[1]  # a.jpg#0, as token files have it
        if not name:
            raise FormatError(f"the caption {shown(' '.join(row.captions))} has no file name")
        captions.setdefault(name, []).extend(row.captions)
        marked.setdefault(name, []).extend(row.marked)
        if splits.setdefault(name, row.split) != row.split:
            raise FormatError(f"{shown(name)} stands in split {splits[name]} and in {row.split}")
    return [
        CaptionedPicture(name, tuple(captions[name]), splits[name], tuple(marked[name]))
        for name in captions
    ]


def _join_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object in which a key that stands twice keeps the captions of both."""
    joined: dict[str, Any] = {}
    for key, value in pairs:
        if key in joined:
            value = [*_as_list(joined[key]), *_as_list(value)]
        joined[key] = value
    return joined


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _json_problem(error: json.JSONDecodeError, line: int | None = None) -> str:
    return f"line {line or error.lineno}, column {error.colno}: {error.msg}"

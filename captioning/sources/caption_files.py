"""Captions files: which captions, and which split, belong to which picture.

The format is recognised by looking at the content, never at the extension:

    JSON            {"a.jpg": ["...", ...]} or {"a.jpg": "..."}
    Karpathy JSON   {"images": [{"filename", "split", "sentences": [{"raw"}]}]}; splits are kept
    COCO JSON       {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}
    JSON Lines      {"file_name": "a.jpg", "captions": ["...", ...]}, also as one JSON list
    CSV             image,caption under a header, or a.jpg,caption without one
    results.csv     image_name| comment_number| comment (Flickr30k)
    token file      a.jpg#0<TAB>caption (Flickr8k, Flickr30k)

Text is UTF-8 or UTF-16, with or without a byte order mark, with any line ends, gzipped or not.
A caption stays as it was written, except that surrounding white space goes and that control
characters, line breaks among them, become a space.
"""

import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioning.sources.caption_fields import (
    caption_columns,
    captions_of,
    clean_caption,
    image_column,
    split_name,
    valid_unicode,
)
from captioning.system.errors import UserError
from captioning.system.reading import read_regular
from captioning.system.terminal import CONTROL

FORMATS = (
    'JSON {"a.jpg": ["caption", ...]}, Karpathy JSON, COCO captions JSON, '
    'JSON Lines {"file_name": "a.jpg", "captions": ["caption", ...]}, CSV "image,caption", '
    'Flickr30k results.csv "image_name| comment_number| comment", token file "a.jpg#0<TAB>caption"'
)
LARGEST_FILE_BYTES = 2**30
"""Above this a captions file, unpacked, is refused: COCO's largest is a quarter of it."""

_TOKEN_LINE = re.compile(r"([^\t]+)#\w+\t(.*)")
_PICTURE_NAME = re.compile(r"[^\t,;|]*\.(?:jpe?g|png|webp|gif|bmp|tiff?)", re.IGNORECASE)
_DELIMITERS = ",\t;|"


@dataclass(frozen=True)
class CaptionedPicture:
    """A picture as a captions file names it."""

    file_name: str
    """As written, perhaps with folders, perhaps without an extension."""
    captions: tuple[str, ...]
    """Cleaned; an empty string where the file holds an empty caption."""
    split: str | None
    """train, validation, test, or None where the file says nothing."""


class _FormatError(ValueError):
    """The content is not captions; the text says what was seen."""


def read_captions(path: str | os.PathLike[str]) -> list[CaptionedPicture]:
    """The pictures of a captions file, in file order, each once.

    Raises `UserError` for a file that cannot be read, says no captions or has an unknown format.
    """
    path = Path(path)
    try:
        data = read_regular(path, most_bytes=LARGEST_FILE_BYTES)
    except OSError as error:
        raise UserError(f"The captions file {path} cannot be read: {error.strerror}.") from None
    return parse_captions(data, str(path))


def parse_captions(data: bytes, name: str) -> list[CaptionedPicture]:
    """`read_captions` for the bytes of a file; `name` stands in error messages."""
    try:
        text = decode_text(data)
        rows = _parse_json(text) if text.lstrip()[:1] in ("{", "[") else _parse_table(text)
        pictures = _collect(rows)
    except (_FormatError, RecursionError) as problem:
        if isinstance(problem, RecursionError):
            problem = _FormatError("it is nested too deeply")
        raise UserError(
            f"{name} is not a captions file that can be read: {problem}. Formats: {FORMATS}."
        ) from None
    if not any(caption for picture in pictures for caption in picture.captions):
        raise UserError(f"{name} holds no captions. Formats: {FORMATS}.")
    return pictures


def decode_text(data: bytes, *, may_be_empty: bool = False) -> str:
    """UTF-8 or UTF-16 text, with or without a byte order mark, gzipped or not.

    Raises `ValueError` with what is wrong.
    """
    if data[:2] == b"\x1f\x8b":
        try:
            with gzip.open(io.BytesIO(data)) as file:
                data = file.read(LARGEST_FILE_BYTES + 1)
        except (OSError, EOFError, zlib.error):
            raise _FormatError("it is a damaged gzip file") from None
    if len(data) > LARGEST_FILE_BYTES:
        raise _FormatError(f"it is larger than {LARGEST_FILE_BYTES >> 20} MiB")
    encoding = "utf-8-sig"
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif data[:1] == b"\0" or data[1:2] == b"\0":
        encoding = "utf-16-be" if data[:1] == b"\0" else "utf-16-le"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise _FormatError(
            f"it begins with {data[:8]!r} and is neither UTF-8 nor UTF-16 text "
            f"(byte {error.start}); save it as UTF-8"
        ) from None
    if not (text.strip() or may_be_empty):
        raise _FormatError("it is empty")
    return text


def _parse_json(text: str) -> Iterator[CaptionedPicture]:
    try:
        content = json.loads(text, object_pairs_hook=_join_repeated_keys)
    except json.JSONDecodeError as error:
        if "\n" not in text.strip():
            raise _FormatError(f"it looks like JSON but {_json_problem(error)}") from None
        return _parse_json_lines(text, error)
    except ValueError as error:
        raise _FormatError(f"it looks like JSON but {error}") from None
    if isinstance(content, list):
        return _parse_rows(enumerate(content, start=1), "entry")
    if isinstance(content.get("images"), list):
        parse = _parse_coco if isinstance(content.get("annotations"), list) else _parse_karpathy
        return parse(content)
    if image_column(content) and caption_columns(content):
        return _parse_rows([(1, content)], "entry")
    return _parse_mapping(content)


def _parse_mapping(content: dict[str, Any]) -> Iterator[CaptionedPicture]:
    for name, value in content.items():
        captions = captions_of(value)
        if captions is None:
            raise _FormatError(
                f"it is JSON whose {_shown(name)} holds {_shown(value)} instead of captions"
            )
        split = split_name(value.get("split")) if isinstance(value, dict) else None
        yield CaptionedPicture(name, tuple(captions), split)


def _parse_karpathy(content: dict[str, Any]) -> Iterator[CaptionedPicture]:
    if not any(isinstance(row, dict) and "sentences" in row for row in content["images"]):
        raise _FormatError('it is JSON with "images" but neither "sentences" nor "annotations"')
    yield from _parse_rows(enumerate(content["images"], start=1), "image")


def _parse_coco(content: dict[str, Any]) -> Iterator[CaptionedPicture]:
    captions: dict[str, list[str]] = {}
    names: dict[str, str] = {}
    for row in content["images"]:
        name = row.get("file_name") if isinstance(row, dict) else None
        if not isinstance(name, str):
            raise _FormatError(f'it is COCO JSON whose "images" hold {_shown(row)}, no "file_name"')
        names[str(row.get("id"))] = name
        captions[str(row.get("id"))] = []
    for row in content["annotations"]:
        found = captions_of(row.get("caption", False)) if isinstance(row, dict) else None
        if found is None:
            raise _FormatError(
                f'it is COCO JSON whose "annotations" hold {_shown(row)}, no "caption"; '
                "the captions_*.json files have them, the instances_*.json files do not"
            )
        key = str(row.get("image_id"))
        if key not in names:
            raise _FormatError(f'it is COCO JSON whose "images" lack the id {_shown(key)}')
        captions[key] += found
    for key, name in names.items():
        yield CaptionedPicture(name, tuple(captions[key]), None)


def _parse_json_lines(text: str, whole: json.JSONDecodeError) -> Iterator[CaptionedPicture]:
    def rows() -> Iterator[tuple[int, object]]:
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    yield number, json.loads(line, object_pairs_hook=_join_repeated_keys)
                except json.JSONDecodeError as error:
                    # A file whose first line is broken is one JSON text, not JSON Lines.
                    told = _json_problem(whole) if number == 1 else _json_problem(error, number)
                    raise _FormatError(f"it looks like JSON but {told}") from None
                except ValueError as error:
                    raise _FormatError(f"line {number}: {error}") from None

    return _parse_rows(rows(), "line")


def _parse_rows(rows: Iterable[tuple[int, object]], unit: str) -> Iterator[CaptionedPicture]:
    """Pictures from objects with a key for the file and one for its captions."""
    for number, row in rows:
        if not isinstance(row, dict):
            raise _FormatError(f"{unit} {number} is {_shown(row)}, not an object with keys")
        keys = caption_columns(row)
        found = [captions_of(row[key]) for key in keys]
        key = image_column(key for key, value in row.items() if isinstance(value, str))
        if key is None or not keys or None in found:
            raise _FormatError(
                f"{unit} {number} is {_shown(row)}; it needs a file name (file_name, image ...) "
                "and captions (captions, caption ...)"
            )
        captions = tuple(caption for part in found if part for caption in part)
        name, folder = row[key], row.get("filepath")
        # COCO's Karpathy file keeps the folder apart: two folders may hold one name.
        if key == "filename" and isinstance(folder, str) and folder:
            name = folder if folder.endswith(name) else f"{folder}/{name}"
        yield CaptionedPicture(name, captions, split_name(row.get("split")))


def _parse_table(text: str) -> Iterator[CaptionedPicture]:
    text = text.lstrip()
    first = text.splitlines()[0]
    if _TOKEN_LINE.match(first):
        return _parse_lines(text, _token_fields)
    if "|" in first and (_is_header(first, "|") or _PICTURE_NAME.match(first)):
        return _parse_lines(text, _results_fields, has_header=_is_header(first, "|"))
    for delimiter in _DELIMITERS:
        if _is_header(first, delimiter):
            return _parse_csv(text, delimiter, [])
        start = _PICTURE_NAME.match(first)
        if start and first[start.end() : start.end() + 1] == delimiter:
            return _parse_csv(text, delimiter, ["image", "caption"])
    raise _FormatError(f"its first line is {_shown(first)}")


def _is_header(line: str, delimiter: str) -> bool:
    names = [name.strip().strip('"') for name in line.split(delimiter)]
    return bool(len(names) > 1 and image_column(names) and caption_columns(names))


def _parse_lines(
    text: str, fields: Callable[[str], tuple[str, str] | None], *, has_header: bool = False
) -> Iterator[CaptionedPicture]:
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if line.strip() and not (has_header and number == 1):
            found = fields(line)
            if found is None:
                raise _FormatError(f"line {number} is {_shown(line)}, unlike those before it")
            yield CaptionedPicture(found[0].strip(), (clean_caption(found[1]),), None)


def _token_fields(line: str) -> tuple[str, str] | None:
    match = _TOKEN_LINE.match(line)
    return (match[1], match[2]) if match else None


def _results_fields(line: str) -> tuple[str, str] | None:
    """`a.jpg| 0| caption`; one line of the published file lacks its second bar: `a.jpg| 4   A`."""
    name, bar, rest = line.partition("|")
    match = re.match(r"\s*\d+\s*(?:\||\s)(.*)", rest, re.DOTALL)
    return (name, match[1] if match else rest) if bar else None


def _parse_csv(text: str, delimiter: str, header: list[str]) -> Iterator[CaptionedPicture]:
    csv.field_size_limit(LARGEST_FILE_BYTES)
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        # a.jpg, "A caption, quoted after a space"
        skipinitialspace=bool(
            re.search(rf'^[^"\n{delimiter}]+{re.escape(delimiter)} +"', text, re.M)
        ),
        strict=True,
    )
    line_number = 1
    image, captions = "image", ["caption"]
    try:
        for row in filter(any, reader):
            if not header:
                header = [name.strip() for name in row]
                image, captions = image_column(header) or "", caption_columns(header)
            else:
                if len(row) > 2 and header == [image, *captions[:1]]:
                    # A caption with commas that nobody quoted is the rest of the line.
                    row = [row[0], delimiter.join(row[1:])]
                values = dict(zip(header, row, strict=False))
                texts = [values.get(column, "") for column in captions]
                yield CaptionedPicture(
                    values.get(image, "").strip(),
                    tuple(_csv_captions(texts, delimiter, line_number)),
                    split_name(values.get("split")),
                )
            line_number = reader.line_num + 1
    except csv.Error as error:
        raise _FormatError(
            f"the row that begins on line {line_number} has quotation marks that do not match "
            f"({error})"
        ) from None


def _csv_captions(texts: list[str], delimiter: str, line_number: int) -> Iterator[str]:
    for text in texts:
        if "\n" in text and re.search(rf"\n{_PICTURE_NAME.pattern}{re.escape(delimiter)}", text):
            raise _FormatError(
                f"the caption that begins on line {line_number} is {_shown(text)}: a quotation "
                "mark is not closed and swallows the lines after it"
            )
        yield from map(clean_caption, _listed(text))


def _collect(rows: Iterable[CaptionedPicture]) -> list[CaptionedPicture]:
    """Each picture once, with all of its captions."""
    captions: dict[str, list[str]] = {}
    splits: dict[str, str | None] = {}
    for row in rows:
        # Windows paths; and a name must survive being written to a file.
        name = CONTROL.sub(" ", valid_unicode(row.file_name)).replace("\\", "/").strip()
        if not name:
            raise _FormatError(f"the caption {_shown(' '.join(row.captions))} has no file name")
        captions.setdefault(name, []).extend(row.captions)
        if splits.setdefault(name, row.split) != row.split:
            raise _FormatError(f"{_shown(name)} stands in split {splits[name]} and in {row.split}")
    return [CaptionedPicture(name, tuple(captions[name]), splits[name]) for name in captions]


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


def _listed(text: str) -> list[str]:
    """The captions of a CSV cell, which may be a JSON list of them."""
    try:
        value = json.loads(text) if text.startswith("[") else None
    except (ValueError, RecursionError):
        value = None
    right = isinstance(value, list) and all(isinstance(part, str) for part in value)
    return value if right and value else [text]


def _json_problem(error: json.JSONDecodeError, line: int | None = None) -> str:
    return f"line {line or error.lineno}, column {error.colno}: {error.msg}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

"""Captions to score, from files of any model and of any data set.

Candidates and references are read alike, by looking at the content:

    JSON            {"id": "caption"} or {"id": ["caption", ...]}, as pycocoevalcap has it
    COCO            results [{"image_id": 1, "caption": "..."}]; annotations with their images
    Karpathy JSON   {"images": [{"cocoid", "filename", "split", "sentences"}]}
    rows            of JSON Lines or a JSON list: a picture's name and its captions, as
                    `generate.py --json`, `captions.jsonl` and LAVIS' coco_karpathy files have them
    tables          all that `sources.caption_files` reads: CSV, Parquet, results.csv, token files
    a folder        of .txt, .caption or .xmp files, named as the pictures are
    a pattern       of files that are parts of one, "captions-*-of-64.csv"

Which candidate belongs to which references is found by `score_pairs`.
"""

import glob
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from captioning.sources.caption_fields import (
    XMP_SUFFIXES,
    caption_columns,
    image_column,
    split_name,
    xmp_captions,
)
from captioning.sources.caption_files import (
    LARGEST_FILE_BYTES,
    PARQUET,
    decode_text,
    parse_captions,
)
from captioning.sources.picture_names import is_picture_name
from captioning.system.errors import UserError
from captioning.system.terminal import counted

SHOWN_IDS = 5
FORMATS = (
    '{"id": "caption"}, {"id": ["caption", ...]}, COCO results and annotations, Karpathy JSON, '
    "JSON Lines with a picture and its captions (generate.py --json, captions.jsonl), CSV tables, "
    "Parquet, token files, or a folder of .txt or .xmp files named as the pictures are"
)
ID_NAMES = ("image_id", "cocoid", "img_id", "imgid", "id")
"""Keys of a picture's number, likeliest first; `id` alone may be a caption's and comes last."""
PREDICTIONS = (
    "prediction", "pred", "predicted_caption", "generated_caption", "generated_text", "hypothesis",
)  # fmt: skip
"""Keys of what a model said, in files that hold the references too."""
BESIDE_SUFFIXES = (".txt", ".caption", *XMP_SUFFIXES)


@dataclass(frozen=True)
class NamedCaptions:
    """The captions of a picture, and what a file calls the picture."""

    id: str
    """A number or name; "" where the file has none."""
    file_name: str
    """"" where the file has none."""
    captions: tuple[str, ...]
    """As they were written."""
    split: str | None = None
    """train, validation or test, where the file says so."""

    @property
    def name(self) -> str:
        """What it is called in results."""
        return self.id or self.file_name


def check_pairs(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    """Raise `UserError` with every way in which the two do not fit together."""
    if not candidates:
        raise UserError("There are no candidates; give at least one caption to score.")
    problems = []
    unscorable = [key for key in candidates if key not in references]
    if unscorable:
        problems.append(
            f"{counted(len(unscorable), 'candidate')} without references; add references for: "
            f"{shown(unscorable)}."
        )
    missing = [key for key in references if key not in candidates]
    if missing:
        problems.append(
            f"{counted(len(missing), 'picture')} with references but no candidate; scores over a "
            f"part cannot be compared, so add candidates for: {shown(missing)}."
        )
    empty = [key for key, texts in references.items() if not texts]
    if empty:
        problems.append(f"A picture needs a reference at least; these have none: {shown(empty)}.")
    if problems:
        raise UserError(*problems)


def read_candidates(path: str | os.PathLike[str]) -> list[NamedCaptions]:
    """One caption a picture; raises `UserError` where the file holds anything else.

    Of several captions that `generate.py --json` printed of a picture, the first is the best.
    """
    found = _grouped(_read(path, wanted=PREDICTIONS))
    several = [one.name for one in found if len(one.captions) > 1]
    if several:
        raise UserError(
            f"{path}: a picture has one candidate; these have several: {shown(several)}."
        )
    none = [one.name for one in found if not one.captions]
    if none:
        raise UserError(f"{path}: a candidate is one text; it is not for: {shown(none)}.")
    return found


def read_references(path: str | os.PathLike[str]) -> list[NamedCaptions]:
    """The references of each picture; raises `UserError` where the file holds none."""
    found = [one for one in _grouped(_read(path, wanted=("references",))) if one.captions]
    if not found:
        raise UserError(f"{path} holds no references. Formats: {FORMATS}.")
    return found


def shown(keys: Sequence[str]) -> str:
    """The first few of many names."""
    more = f" and {len(keys) - SHOWN_IDS:,} more" if len(keys) > SHOWN_IDS else ""
    return ", ".join(repr(key) for key in keys[:SHOWN_IDS]) + more


def _read(path: str | os.PathLike[str], *, wanted: Sequence[str]) -> Iterator[NamedCaptions]:
    """The rows of a file, or of all that a pattern means; of several keys with captions, those
    `wanted` are read."""
    if not os.path.exists(path) and (found := sorted(glob.glob(str(path)))):
        return chain.from_iterable(_read(one, wanted=wanted) for one in found)
    if Path(path).is_dir():
        return _text_files(Path(path))
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE_BYTES + 1)
        text = "" if data[:4] == PARQUET else decode_text(data)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}.") from None
    if text.lstrip()[:1] in ("{", "["):
        return _of_json(_parse_json(text, path), path, wanted)
    # The table's own reader cleans captions; those of JSON stay as they are.
    tables = parse_captions(data, str(path))
    return (NamedCaptions("", one.file_name, one.captions, one.split) for one in tables)


def _text_files(folder: Path) -> Iterator[NamedCaptions]:
    """A folder's captions beside pictures: a picture's candidate, or a reference a line."""
    seen: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in BESIDE_SUFFIXES or not path.is_file():
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if is_picture_name(name):  # a.jpg.xmp
            name = str(PurePosixPath(name).with_suffix(""))
        if name in seen:
            raise UserError(f"{seen[name]} and {path} are captions of one picture; keep one.")
        seen[name] = path
        try:
            text = decode_text(path.read_bytes(), may_be_empty=True)
            is_sidecar = path.suffix.lower() in XMP_SUFFIXES
            lines = xmp_captions(text) if is_sidecar else text.splitlines()
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}.") from None
        yield NamedCaptions(
            "", name, tuple(line.strip() for line in lines if line.strip()) or ("",)
        )
    if not seen:
        raise UserError(f"{folder} holds no .txt, .caption or .xmp files. Formats: {FORMATS}.")


def _parse_json(text: str, path: str | os.PathLike[str]) -> Any:
    """The content of JSON, or the list of the objects of JSON Lines."""
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except RecursionError:
        raise UserError(f"{path} is not captions in JSON: it is nested too deeply.") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except ValueError as error:
        problem = error
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line, object_pairs_hook=_without_duplicates))
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
        except (ValueError, RecursionError) as error:
            # Broken from its first line on it is no JSON Lines, but one JSON text.
            told = f"line {number}: {error}" if rows else str(problem)
            raise UserError(f"{path} is not JSON: {told}.") from None
    return rows


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a key that stands twice would silently lose its first value."""
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]
        raise UserError(f"the same id stands more than once: {shown(twice)}.")
    return content


def _of_json(
    content: Any, path: str | os.PathLike[str], wanted: Sequence[str]
) -> Iterator[NamedCaptions]:
    if isinstance(content, list):
        yield from _of_rows(content, path, wanted)
        return
    annotations, images = content.get("annotations"), content.get("images")
    if isinstance(annotations, list):
        yield from _with_file_names(_of_rows(annotations, path, wanted), images)
    elif isinstance(images, list):
        yield from _of_rows(images, path, wanted)
    elif _is_row(content, wanted):
        yield from _of_rows([content], path, wanted)
    else:
        for key, value in content.items():
            if isinstance(value, list) and _names_others(value, key):
                rows = _of_rows(value, path, wanted)
                yield from (replace(one, split=one.split or split_name(key)) for one in rows)
                continue
            texts = _texts(value)
            if texts is None:
                raise UserError(
                    f"{path}: the captions of a picture are a text or a list of texts; for "
                    f"{key!r} stands {_glimpse(value)}. Formats: {FORMATS}."
                )
            yield NamedCaptions(key, "", texts)


def _is_row(row: object, wanted: Sequence[str]) -> bool:
    return isinstance(row, dict) and any(_names(row)) and bool(_caption_keys(row, wanted))


def _names_others(rows: list[Any], key: str) -> bool:
    """Whether rows below a key are of several pictures, and not the captions of picture `key`."""
    names = {one for row in rows if isinstance(row, dict) for one in _names(row) if one}
    return bool(names - {key}) and all(any(_names(row)) for row in rows if isinstance(row, dict))


def _of_rows(
    rows: Iterable[Any], path: str | os.PathLike[str], wanted: Sequence[str]
) -> Iterator[NamedCaptions]:
    for number, row in enumerate(rows, start=1):
        keys = _caption_keys(row, wanted) if isinstance(row, dict) else []
        found = [_texts(row[key]) for key in keys]
        identity, file_name = _names(row) if isinstance(row, dict) else ("", "")
        if not (identity or file_name) or not keys or None in found:
            raise UserError(
                f'{path}, row {number}: expected {{"image_id": 1, "caption": "..."}} or the like, '
                f"found {_glimpse(row)}. Formats: {FORMATS}."
            )
        captions = tuple(text for texts in found if texts for text in texts)
        if wanted == PREDICTIONS and _is_ranked(row[keys[0]]):
            captions = captions[:1]
        yield NamedCaptions(identity, file_name, captions, split_name(row.get("split")))


def _names(row: Mapping[str, Any]) -> tuple[str, str]:
    """A picture's number and file name in a row; "" for what it lacks."""
    texts = [key for key, value in row.items() if isinstance(value, str) and value]
    file_key = image_column(key for key in texts if key.lower() not in ID_NAMES)
    file_name = row[file_key] if file_key else ""
    folder = row.get("filepath")
    if file_key == "filename" and isinstance(folder, str) and folder:
        file_name = folder if folder.endswith(file_name) else f"{folder}/{file_name}"
    ids = {name: text for name in ID_NAMES if (text := _id_text(row.get(name)))}
    if len(ids) > 1 or file_name:
        ids.pop("id", None)
    numbers = (text for key in ("image", "file_name") if (text := _id_text(row.get(key))))
    number = next(iter(ids.values()), "") or ("" if file_name else next(numbers, ""))
    return number, file_name


def _id_text(value: object) -> str:
    """An id as text, so that 1, 1.0 and "1" are one; "" for what is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        return ""
    return str(value)


def _caption_keys(row: Mapping[str, Any], wanted: Sequence[str]) -> list[str]:
    first = [key for key in wanted if key in row]
    return first[:1] or caption_columns(row)


def _texts(value: object) -> tuple[str, ...] | None:
    """The captions in a value: a text, {"raw": text} or the like, a list of these; else None."""
    found: list[str] = []
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, dict):
            part = next((part[key] for key in ("raw", "caption", "text") if key in part), None)
        if not isinstance(part, str):
            return None
        found.append(part)
    return tuple(found)


def _is_ranked(value: object) -> bool:
    """Whether captions are those that `generate.py --json` prints of a picture, best first."""
    return isinstance(value, list) and all(
        isinstance(part, dict) and "log_probability" in part for part in value
    )


def _with_file_names(rows: Iterable[NamedCaptions], images: object) -> Iterator[NamedCaptions]:
    """COCO's annotations with the names of the files, which stand in a list of their own."""
    names: dict[str, str] = {}
    for image in images if isinstance(images, list) else []:
        if isinstance(image, dict) and isinstance(image.get("file_name"), str):
            names[_id_text(image.get("id"))] = image["file_name"]
    for row in rows:
        yield replace(row, file_name=row.file_name or names.get(row.id, ""))


def _grouped(rows: Iterable[NamedCaptions]) -> list[NamedCaptions]:
    """Each picture once, with all of its captions."""
    first: dict[str, NamedCaptions] = {}
    captions: dict[str, list[str]] = {}
    for row in rows:
        first.setdefault(row.name, row)
        captions.setdefault(row.name, []).extend(row.captions)
    return [replace(row, captions=tuple(captions[name])) for name, row in first.items()]


def _glimpse(content: object) -> str:
    text = repr(content)
    return text if len(text) <= 80 else text[:77] + "..."

"""Where the captions of a folder of pictures stand: in a file, in one a split, beside each picture.

    captions.csv                        one captions file, in any of the formats of `caption_files`
    annotations/captions_train2017.json, captions_val2017.json
    train/metadata.jsonl, test/metadata.jsonl         one a split, which its name or folder says
    a.jpg with a.txt or a.caption       a file beside each picture, a caption a line
    a.jpg with a.json or a.xmp          what JSON names so; the description of a sidecar
    a.jpg itself                        the description in its XMP, IPTC or EXIF (`captions_inside`)

Split lists (Flickr_8k.trainImages.txt and its like, a picture's name a line) say the splits of
captions that say none.
"""

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from captioning.sources.caption_fields import (
    JSON_SUFFIXES,
    TEXT_SUFFIXES,
    XMP_SUFFIXES,
    clean_caption,
    json_captions,
    split_name,
    splits_in,
    xmp_captions,
)
from captioning.sources.caption_files import (
    LARGEST_FILE_BYTES,
    CaptionedPicture,
    decode_text,
    parse_captions,
)
from captioning.sources.captions_inside import captions_inside
from captioning.sources.origins import READ_ERRORS, LeftOut
from captioning.sources.picture_names import PictureNames, is_picture_name
from captioning.sources.table_columns import TableReading
from captioning.system.errors import UserError
from captioning.system.reading import read_regular

CAPTIONS_PATTERNS = (
    "dataset_*.json", "*karpathy*.json", "results.csv", "results*.token", "*8k.token*", "*.token*",
    "captions*", "metadata.jsonl", "metadata.csv", "*.jsonl", "*.csv",
)  # fmt: skip
"""How captions files are called, those with published splits first."""
LESS_LIKELY_PATTERNS = ("*.json", "*.txt")

INSIDE = "metadata"
"""What CAPTIONS_FILE says for descriptions inside the pictures."""
LIST_SUFFIXES = (".txt", ".lst")
"""Of lists of the pictures of a split."""
SUFFIXES = (*TEXT_SUFFIXES, *JSON_SUFFIXES, *XMP_SUFFIXES)
"""Of files that may stand beside a picture."""
WITH_PICTURES = (*SUFFIXES, INSIDE)
"""What CAPTIONS_FILE says where captions are no file of their own."""

Read = Callable[[], bytes]


@dataclass(frozen=True)
class CaptionsFile:
    """What one captions file says, or all files beside the pictures do."""

    name: str
    pictures: list[CaptionedPicture]
    folder: str = ""
    """Its folder among the pictures', which its names are relative to; "" where it lies outside."""
    split: str | None = None
    """What its name says, where several files are a split each."""
    left_out: tuple[LeftOut, ...] = ()
    remarks: tuple[str, ...] = ()


def find_captions_files(
    where: str,
    files: Mapping[str, Read],
    captions_file: str,
    reading: TableReading,
    *,
    looks_inside: bool = True,
) -> list[CaptionsFile]:
    """The captions of the pictures in `where`, whose files are given by name.

    `captions_file` is a path, a pattern, several of these with semicolons between, a suffix
    (`.txt`) for the files beside the pictures, or `metadata` for what is inside of them; "" looks
    among the files, and then inside, for which each picture is read, unless told otherwise.
    """
    if captions_file == INSIDE and not os.path.exists(INSIDE):
        return [_inside(where, files, reading)]
    if captions_file in SUFFIXES:
        return [_beside(where, files, (captions_file,), reading)]
    if captions_file:
        paths = captions_paths(captions_file)
        found = [_parsed(path, _reader(path), _folder_in(where, path), reading) for path in paths]
        lists = _lists_around(paths, files)
    else:
        chosen, beside = _choose(files, where)
        if not (chosen or beside):
            return [_inside(where, files, reading)] if looks_inside else []
        if beside:
            return [_beside(where, files, beside, reading)]
        found = [_parsed(f"{where}/{name}", files[name], _parent(name), reading) for name in chosen]
        lists = {name: read for name, read in files.items() if name not in chosen}
    return _with_lists(_with_splits(found), lists)


def captions_paths(text: str) -> list[str]:
    """The files that CAPTIONS_FILE names. Raises `UserError` for a pattern without a match."""
    if os.path.exists(text):
        return [text]
    found: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        matches = sorted(glob.glob(part, recursive=True)) if glob.has_magic(part) else [part]
        if not matches:
            raise UserError(f"CAPTIONS_FILE: {part} matches no file; check the pattern.")
        found += [match for match in matches if match not in found]
    return found


def _parsed(name: str, read: Read, folder: str, reading: TableReading) -> CaptionsFile:
    try:
        return CaptionsFile(name, parse_captions(read(), name, reading), folder)
    except READ_ERRORS as error:
        if isinstance(error, UserError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"The captions file {name} cannot be read: {reason}.") from None


def _choose(files: Mapping[str, Read], where: str) -> tuple[list[str], tuple[str, ...]]:
    """The captions files among the files of a folder, or the suffixes of those beside pictures;
    neither where there are none."""
    texts, jsons, xmps = (
        {name for pair in _pairs(files, suffixes).values() for name in pair}
        for suffixes in (TEXT_SUFFIXES, JSON_SUFFIXES, XMP_SUFFIXES)
    )
    names = [name for name in files if name not in texts and not is_picture_name(name)]
    likely = _first_called(names, CAPTIONS_PATTERNS)
    if texts and likely:
        raise UserError(
            f"{where} holds text files beside its pictures, and {likely[0]}; say which are the "
            f"captions: --CAPTIONS_FILE .txt, or --CAPTIONS_FILE {where}/{likely[0]}"
        )
    if texts:
        return [], TEXT_SUFFIXES
    if (jsons or xmps) and not likely:
        return [], JSON_SUFFIXES if jsons else XMP_SUFFIXES
    found = likely or _first_called(names, LESS_LIKELY_PATTERNS)
    if len(found) > 1 and not (_are_one_a_split(found) or _are_parts(found)):
        raise UserError(
            f"{where} holds several files that may be the captions ({', '.join(found[:4])}); "
            f"choose one: --IMAGE_DIR {where} --CAPTIONS_FILE FILE (or several, with semicolons "
            "between)."
        )
    return found, ()


def _first_called(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """The files that are called as the first pattern is that any is called as."""
    for pattern in patterns:
        found = [
            name
            for name in names
            if any(PurePosixPath(name.lower()).match(p) for p in (pattern, f"{pattern}.gz"))
            and not re.search("readme|licen[sc]e|_stats.json", name.lower())
        ]
        if found:
            return found
    return []


def _are_parts(names: Sequence[str]) -> bool:
    """Whether files are parts of one, as `generate.py --part` writes them: captions-1-of-2.csv."""
    return len({re.sub(r"-\d+-of-(\d+)(?=\.\w+$)", "", name) for name in names}) == 1


def _are_one_a_split(names: Sequence[str]) -> bool:
    """Whether files differ in the split that they are of, and in nothing else."""
    splits = [splits_in(name) for name in names]
    shapes = {
        tuple(
            re.sub(
                r"[A-Z]?[a-z]+|[A-Z]+", lambda word: "*" if split_name(word[0]) else word[0], part
            )
            for part in name.split("/")[-2:]
        )
        for name in names
    }
    return len(shapes) == 1 and all(len(s) == 1 for s in splits) and len(set().union(*splits)) > 1


def _with_splits(found: list[CaptionsFile]) -> list[CaptionsFile]:
    """Several captions files with the split that the name of each says."""
    if len(found) < 2:
        return found
    splits = [splits_in(file.name) for file in found]
    if len(set().union(*splits)) < 2:
        return found
    say = [file.name for file, split in zip(found, splits, strict=True) if len(split) == 1]
    silent = [file.name for file in found if file.name not in say]
    if say and silent and not all(p.split for file in found for p in file.pictures):
        raise UserError(
            f"The name of {say[0]} says its split, that of {silent[0]} does not; give it one that "
            "does, such as captions_train.json, captions_val.json or captions_test.json."
        )
    return [
        replace(file, split=min(split)) if not silent else file
        for file, split in zip(found, splits, strict=True)
    ]


def _beside(
    where: str, files: Mapping[str, Read], suffixes: tuple[str, ...], reading: TableReading
) -> CaptionsFile:
    """What the files beside the pictures say."""
    if reading.names_columns:
        raise UserError(
            f"{where} has its captions beside its pictures, where no columns are; leave out "
            "IMAGE_COLUMN and CAPTION_COLUMN, or name the table with --CAPTIONS_FILE."
        )
    pairs = _pairs(files, suffixes)
    owners = Counter(text for texts in pairs.values() for text in texts)
    pictures, wrapped = [], 0
    for name, texts in pairs.items():
        if len(texts) > 1:
            raise UserError(
                f"{where}/{name} has its captions in {' and in '.join(texts)}; say which are "
                f"meant: --CAPTIONS_FILE {PurePosixPath(texts[0]).suffix}"
            )
        captions, problem = _captions_in(texts[0], files[texts[0]])
        if owners[texts[0]] > 1:
            problem = f"ambiguous: {texts[0]} stands beside several pictures of its name"
        wrapped += len(captions) > 1 and suffixes[0] in TEXT_SUFFIXES
        pictures.append(CaptionedPicture(name, captions, None, problem=problem))
    if not any(caption for picture in pictures for caption in picture.captions):
        if problems := [picture.problem for picture in pictures if picture.problem]:
            raise UserError(f"The captions beside the pictures of {where} are {problems[0]}.")
        raise UserError(
            f"{where} holds no captions in {', '.join(suffixes)} files beside its pictures "
            f"(a{suffixes[0]} for a.jpg); name the captions file with --CAPTIONS_FILE."
        )
    said = [caption for picture in pictures for caption in picture.captions]
    if not any(letter.isalpha() for caption in said for letter in caption):
        raise UserError(
            f"The text files beside the pictures of {where} hold no words ({said[0]!r:.60}), as "
            "labels of boxes do; name the captions file with --CAPTIONS_FILE."
        )
    lonely = [
        LeftOut(name, "text files that stand beside no picture")
        for name in files
        if PurePosixPath(name).suffix.lower() in suffixes and name not in owners
        if suffixes[0] not in JSON_SUFFIXES
    ]
    remarks = []
    beside = {text for texts in _pairs(files, JSON_SUFFIXES).values() for text in texts}
    if wrapped:
        remarks.append(
            f"{wrapped:,} of them have several lines; each line was taken for a caption."
        )
    if unread := [name for name in _first_called(files, ("*.json",)) if name not in beside]:
        remarks.append(f"{unread[0]} was not read; --CAPTIONS_FILE names it, if it is meant.")
    used = " and ".join(sorted({PurePosixPath(text).suffix for text in owners}))
    return CaptionsFile(
        f"the {used} files beside them", pictures, "", None, tuple(lonely), tuple(remarks)
    )


def _inside(where: str, files: Mapping[str, Read], reading: TableReading) -> CaptionsFile:
    """What the pictures say themselves."""
    if reading.names_columns:
        raise UserError(
            f"{where} has no captions file, and its pictures have no columns; leave out "
            "IMAGE_COLUMN and CAPTION_COLUMN, or name the table with --CAPTIONS_FILE."
        )
    pictures = []
    for name in filter(is_picture_name, files):
        captions: tuple[str, ...] = ()
        problem = ""
        try:
            captions = captions_inside(files[name]())
        except READ_ERRORS as error:
            problem = f"unreadable: {error}"
        pictures.append(CaptionedPicture(name, captions, None, problem=problem))
    if not any(picture.captions for picture in pictures):
        raise UserError(
            f"{where} holds no captions file, and its pictures hold no descriptions; put one there "
            "(such as captions.csv, dataset_flickr30k.json, results.csv), or a text file beside "
            f"each picture (a.txt for a.jpg), or name it: --IMAGE_DIR {where} --CAPTIONS_FILE FILE."
        )
    return CaptionsFile("the descriptions inside them", pictures)


def _pairs(files: Iterable[str], suffixes: Sequence[str]) -> dict[str, list[str]]:
    """Pictures with the files beside them that are called as they are but for the suffix, or with
    one more suffix."""
    texts: dict[str, list[str]] = {}
    for name in files:
        path = PurePosixPath(name)
        if path.suffix.lower() in suffixes:
            texts.setdefault(str(path.with_suffix("")), []).append(name)
    if not texts:
        return {}
    found = {
        name: texts.get(str(PurePosixPath(name).with_suffix("")), []) + texts.get(name, [])
        for name in files
        if is_picture_name(name)
    }
    return {name: beside for name, beside in found.items() if beside}


def _captions_in(name: str, read: Read) -> tuple[tuple[str, ...], str]:
    """The captions in a file beside a picture, and why they cannot be had."""
    try:
        data = read()
        kind = PurePosixPath(name).suffix.lower()
        if kind in JSON_SUFFIXES:
            return tuple(json_captions(data)), ""
        if not data.strip():
            return (), ""
        if kind in XMP_SUFFIXES:
            return tuple(xmp_captions(decode_text(data))), ""
        return tuple(filter(None, map(clean_caption, decode_text(data).split("\n")))), ""
    except READ_ERRORS as error:
        return (), f"unreadable: {name}: {error}"


def _with_lists(found: list[CaptionsFile], lists: Mapping[str, Read]) -> list[CaptionsFile]:
    """Captions that say no splits with those that split lists say; what no list names is left out,
    as those who use the lists leave it out."""
    lists = {
        name: read
        for name, read in lists.items()
        if name.lower().endswith(LIST_SUFFIXES) and len(splits_in(PurePosixPath(name).name)) == 1
    }
    if not lists or any(file.split or p.split for file in found for p in file.pictures):
        return found
    rows = [picture.file_name for file in found for picture in file.pictures]
    known = PictureNames(dict.fromkeys(rows))
    split_of: dict[str, str] = {}
    used: dict[str, str] = {}
    for list_name, read in lists.items():
        split = min(splits_in(PurePosixPath(list_name).name))
        for name in _listed_in(read, known):
            if split_of.setdefault(name, split) != split:
                raise UserError(
                    f"{name} is listed for {split_of[name]} and in {list_name} for {split}; mend "
                    "the lists."
                )
            used[list_name] = split
    if "train" not in used.values():
        return found
    told = f"Splits are those of {', '.join(used)}."
    unlisted = [LeftOut(row, "pictures in none of the split lists") for row in rows]
    unlisted = [row for row in unlisted if row.name not in split_of]
    kept = [
        replace(
            file,
            pictures=[
                replace(picture, split=split_of[picture.file_name])
                for picture in file.pictures
                if picture.file_name in split_of
            ],
        )
        for file in found
    ]
    first = kept[0]
    kept[0] = replace(first, left_out=(*first.left_out, *unlisted), remarks=(*first.remarks, told))
    return kept


def _listed_in(read: Read, known: PictureNames) -> list[str]:
    """The pictures that a split list names; none where it is no list of these pictures."""
    try:
        lines = [line.strip() for line in decode_text(read()).split("\n") if line.strip()]
    except READ_ERRORS:
        return []
    found = [match[0] for line in lines if len(match := known.find(line)) == 1]
    return found if 2 * len(found) > len(lines) else []


def _lists_around(paths: Sequence[str], files: Mapping[str, Read]) -> dict[str, Read]:
    """Text files among the pictures' and in the folders of captions files."""
    found = {name: read for name, read in files.items() if name.lower().endswith(LIST_SUFFIXES)}
    for path in paths:
        for entry in sorted(Path(path).parent.glob("*")):
            is_text = entry.suffix.lower() in LIST_SUFFIXES and str(entry) not in paths
            if is_text and entry.is_file():
                found[str(entry)] = _reader(entry)
    return found


def _reader(path: str | Path) -> Read:
    return partial(read_regular, path, most_bytes=LARGEST_FILE_BYTES)


def _folder_in(where: str, path: str) -> str:
    """The folder of a file that lies in another folder, relative to that one; "" elsewhere."""
    inside = Path(where).resolve()
    parent = Path(path).resolve().parent
    return parent.relative_to(inside).as_posix() if parent.is_relative_to(inside) else ""


def _parent(name: str) -> str:
    parent = PurePosixPath(name).parent.as_posix()
    return "" if parent == "." else parent

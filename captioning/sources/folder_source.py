"""Pictures in a folder or a zip with their captions: which caption belongs to which file.

Captions are found by `captions_beside`, names by `picture_names`. What a captions file names and
the folder does not hold is `missing`; what may be several files is `ambiguous`.
"""

import os
from collections.abc import Iterable, Mapping, Sequence

from captioning.sources.caption_files import CaptionedPicture
from captioning.sources.captions_beside import CaptionsFile, find_captions_files
from captioning.sources.origins import LeftOut, PictureFile, Source, SourcePicture, list_files
from captioning.sources.picture_names import PICTURE_SUFFIXES, PictureNames, is_picture_name
from captioning.sources.table_columns import TableReading
from captioning.system.errors import UserError

FIRST_NAMES = 100
"""Names by which a captions file in a folder of pictures is known to speak of that folder."""


def files_source(
    where: str, captions_file: str = "", image_column: str = "", caption_column: str = ""
) -> Source:
    """Pictures in a folder or zip with their captions, which are looked for there if not given.

    `captions_file` is what `find_captions_files` takes; the columns are those of a table, where the
    user names them.
    """
    files = {file.name: file for file in list_files(where)}
    pictures = [name for name in files if is_picture_name(name)]
    if not pictures:
        raise UserError(
            f"{where} holds no pictures ({', '.join(PICTURE_SUFFIXES)}); "
            "give the folder or zip that does (links that lead out of it are not followed)."
        )
    root = os.path.abspath(where).removesuffix(".zip")
    found = find_captions_files(
        where,
        {name: file.read for name, file in files.items()},
        captions_file,
        TableReading(image_column, caption_column, PictureNames(files, root).find),
    )
    rows = [(file, row) for file in found for row in file.pictures]
    matched, taken = _match(found, files, root)
    used = {picture.name for picture in matched if not picture.problem}
    if all(picture.problem.startswith("missing") for picture in matched):
        raise UserError(_nothing_found(where, found, pictures[0], matched[0].problem))
    remarks = [remark for file in found for remark in file.remarks]
    if taken:
        told = f"{', '.join(taken[:3])}{' ...' if len(taken) > 3 else ''}"
        remarks.append(f"The captions name pictures in {told}; those in {where} were taken.")
    return Source(
        f"{where} with {', '.join(file.name for file in found)}",
        [
            picture
            for picture, (_, row) in zip(matched, rows, strict=True)
            if row.captions or not row.marked
        ],
        tuple(sorted(set(pictures) - used)),
        (*(out for file in found for out in file.left_out), *_marked(row for _, row in rows)),
        tuple(remarks),
    )


def _match(
    found: Sequence[CaptionsFile], files: Mapping[str, PictureFile], root: str
) -> tuple[list[SourcePicture], list[str]]:
    """The pictures of captions files, in their order, and the writers' folders that were taken for
    the pictures' own."""
    groups: dict[str, list[tuple[CaptionsFile, CaptionedPicture]]] = {}
    places: list[tuple[str, int]] = []
    for file in found:
        folder = _folder_of(file, files)
        group = groups.setdefault(folder, [])
        places += [(folder, len(group) + number) for number in range(len(file.pictures))]
        group += [(file, row) for row in file.pictures]
    matched: dict[str, list[SourcePicture]] = {}
    taken: list[str] = []
    for folder, group in groups.items():
        matches, roots = _names_in(folder, files, root).match_all(
            [row.file_name for _, row in group], [file.split for file, _ in group]
        )
        taken += roots
        matched[folder] = [
            _picture(file, row, match.problem, files.get(os.path.join(folder, match.file)))
            for (file, row), match in zip(group, matches, strict=True)
        ]
    return [matched[folder][number] for folder, number in places], taken


def _folder_of(file: CaptionsFile, files: Mapping[str, PictureFile]) -> str:
    """The folder that a captions file's names are relative to, as those of train/metadata.jsonl
    are; "" where they are looked for everywhere."""
    inside = _names_in(file.folder, files, "")
    names = (row.file_name for row in file.pictures[:FIRST_NAMES])
    return file.folder if any(inside.find(name) for name in names) else ""


def _names_in(folder: str, files: Mapping[str, PictureFile], root: str) -> PictureNames:
    prefix = f"{folder}/" if folder else ""
    inside = (name.removeprefix(prefix) for name in files if name.startswith(prefix))
    return PictureNames(inside, f"{root}/{prefix}")


def _picture(
    file: CaptionsFile, row: CaptionedPicture, problem: str, at: PictureFile | None
) -> SourcePicture:
    split, problem = row.split or file.split, row.problem or problem
    if problem or at is None:
        return SourcePicture(row.file_name, row.captions, split, problem=problem or "missing")
    return SourcePicture(at.name, row.captions, split, at.read, at.path)


def _marked(rows: Iterable[CaptionedPicture]) -> list[LeftOut]:
    """Captions that the data set itself calls none, and pictures that have no others."""
    found = []
    for row in rows:
        found += [
            LeftOut(row.file_name, f"captions that the data set marks as {reason}")
            for reason in row.marked
        ]
        if row.marked and not row.captions:
            found.append(LeftOut(row.file_name, "pictures all of whose captions are so marked"))
    return found


def _nothing_found(where: str, found: Sequence[CaptionsFile], there: str, problem: str) -> str:
    named = next(row.file_name for file in found for row in file.pictures)
    text = (
        f"None of the {sum(len(file.pictures) for file in found)} pictures that {found[0].name} "
        f"names is in {where}: it names {named}, the folder holds {there}. "
    )
    if "://" in named:
        return (
            f"{text}Addresses are not fetched here: download the pictures first (img2dataset "
            "does), and name the files."
        )
    if ": " in problem:
        text += "A name with folders means a file in the same folders only. "
    return f"{text}Give the pictures that belong to the captions."

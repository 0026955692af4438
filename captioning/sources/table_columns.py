"""Which columns of a table name the pictures, hold the captions and say the split.

A column is that of the pictures because its values are files that are there, not because of what
it is called: an `id` may count rows while pictures have numbers for names. What the values leave
open is refused, with the settings that settle it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from captioning.sources.caption_fields import (
    FormatError,
    UncertainError,
    caption_families,
    captions_of,
    image_column,
    mark_columns,
    plain,
    speaks_of_pictures,
    split_column,
    split_name,
)
from captioning.sources.picture_names import is_picture_name

Row = Mapping[str, object]
Find = Callable[[str], Sequence[str]]
SAMPLE_ROWS = 1000
"""Rows, evenly apart, whose values are looked at to tell columns apart."""


@dataclass(frozen=True)
class TableReading:
    """What is known of a table before it is read."""

    image: str = ""
    """The column of the pictures' files, if the user names one."""
    caption: str = ""
    """The column of the captions, or several with commas between, if the user names them."""
    find: Find | None = None
    """Files that a name may mean; without it columns are told by their names alone."""

    @property
    def names_columns(self) -> bool:
        """Whether the user names any."""
        return bool(self.image or self.caption)

    def refuse_columns(self) -> None:
        """Raise `UncertainError` where columns are named of what has none."""
        if self.names_columns:
            raise UncertainError(
                "it has no columns or keys to choose from; leave out IMAGE_COLUMN and "
                "CAPTION_COLUMN"
            )

    def exists(self, value: object) -> bool:
        """Whether a cell names a file that is there."""
        return self.find is not None and any(self.find(name) for name in names_in(value))


@dataclass(frozen=True)
class Columns:
    """Which column holds what."""

    image: str
    captions: tuple[str, ...]
    split: str | None
    marks: tuple[str, ...] = ()
    """Columns in which a data set says itself that a caption is none."""

    def split_of(self, row: Row, place: str) -> str | None:
        """The split of a row; `UncertainError` for a name that is not known."""
        value = row.get(self.split) if self.split else None
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        return known_split(value, f"{place}, {self.split}")

    def captions_of(self, row: Row, place: str) -> list[str]:
        """The captions of a row, those of all columns."""
        if not any(column in row for column in self.captions):
            raise FormatError(f"{place} is {shown(dict(row))}; it has no {self.captions[0]}")
        found = []
        for column in self.captions:
            texts = captions_of(row.get(column))
            if texts is None:
                raise UncertainError(
                    f"{place}: {column} holds {shown(row.get(column))}, no captions"
                )
            found += texts
        return found


def choose_captions(sample: Sequence[Row], names: Sequence[str], wanted: str) -> list[str]:
    """The columns of the captions: those that the user names, else all of the likeliest family.

    Raises `UncertainError` where a column of another family may hold captions, too.
    """
    if wanted:
        parts = [wanted] if wanted in names else wanted.split(",")
        return [_named(names, part.strip(), "CAPTION_COLUMN") for part in parts]
    chosen = next(iter(caption_families(names)), [])
    rivals = [
        name
        for name in names
        if chosen
        and name not in chosen
        and _may_be_captions(name)
        and any(_says_more(row, name, chosen) for row in sample)
    ]
    if rivals:
        raise UncertainError(
            f"its columns {_list([*chosen, *rivals])} may all hold captions; say which do with "
            f'--CAPTION_COLUMN {chosen[0]}, or several: --CAPTION_COLUMN "{chosen[0]},{rivals[0]}"'
        )
    return chosen


def known_split(value: object, place: str) -> str:
    """train, validation or test; `UncertainError` for what is not known to mean one of them."""
    split = split_name(value)
    if split is None:
        raise UncertainError(
            f"{place}: the split {shown(value)} is not known; train (training, restval), "
            "validation (val, valid, dev, eval) and test (testing) are: call it one of these, or "
            "leave the column out to have splits drawn"
        )
    return split


def names_in(value: object) -> list[str]:
    """The names of files in a cell: text, a number, {"path": text}, or a list of these."""
    if isinstance(value, list | tuple):
        return [name for part in value for name in names_in(part)]
    if isinstance(value, dict):
        value = value.get("path")
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return [value] if isinstance(value, str) and value.strip() else []


def choose_columns(rows: Sequence[Row], names: Sequence[str], reading: TableReading) -> Columns:
    """The columns of a table. Raises `UncertainError` where they cannot be told for certain."""
    sample = rows[:: -(-len(rows) // SAMPLE_ROWS) or 1]
    captions = choose_captions(
        sample, [name for name in names if plain(name) != plain(reading.image)], reading.caption
    )
    split = split_column(rows, (name for name in names if name not in captions))
    if reading.image:
        image = _named(names, reading.image, "IMAGE_COLUMN")
    else:
        others = [name for name in names if name not in captions and name != split]
        image = _image_column(sample, others, reading) or ""
    if not image or not captions:
        raise UncertainError(_needs(sample, names, image, captions))
    return Columns(image, tuple(captions), split, tuple(mark_columns(names)))


def shown(value: object) -> str:
    """A value for a message, short."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _named(names: Sequence[str], wanted: str, setting: str) -> str:
    exact = [name for name in names if name == wanted]
    found = exact or [name for name in names if plain(name) == plain(wanted)]
    if len(found) != 1:
        raise UncertainError(f"it has no column {wanted} ({setting}); it has {_list(names)}")
    return found[0]


def _may_be_captions(name: str) -> bool:
    words = ("caption", "sentence", "comment", "description", "text", "prompt", "raw")
    return any(word in plain(name) for word in words)


def _says_more(row: Row, name: str, chosen: Sequence[str]) -> bool:
    """Whether a column has words that those of the captions do not have."""
    texts = captions_of(row.get(name)) or []
    own = [text for column in chosen for text in captions_of(row.get(column)) or []]
    return any(len(text.split()) > 1 and text not in own for text in texts)


def _image_column(sample: Sequence[Row], names: Sequence[str], reading: TableReading) -> str | None:
    """The column whose values are files; without files to look for, by name."""
    values = {name: [row[name] for row in sample if names_in(row.get(name))] for name in names}
    names = [name for name in names if values[name]] or list(names)
    if reading.find is None:
        return image_column(names)
    share = {
        name: sum(map(reading.exists, values[name])) / max(1, len(values[name])) for name in names
    }
    files = [name for name in names if _are_file_names(values[name])]
    there = [name for name in files if share[name] > 0 and 2 * share[name] >= max(share.values())]
    if there:
        return _one_of(there, sample, reading)
    if files:  # names of files, of which none is there: told so when they are looked for
        return image_column(files) or files[0]
    called = [name for name in names if speaks_of_pictures(name)]
    there = [name for name in called if share[name] > 0]
    if there:
        return max(there, key=lambda name: share[name])
    if called:
        return image_column(called) or called[0]
    # Words and numbers under a name that says nothing, such as id: only where no other column can
    # be meant, and numbers, which may count rows, only if all are files.
    if len(names) == 1 and share[names[0]] > 0:
        is_number = all(str(value).strip().isdigit() for value in values[names[0]])
        return names[0] if share[names[0]] == 1 or not is_number else None
    return None


def _one_of(there: Sequence[str], sample: Sequence[Row], reading: TableReading) -> str:
    """Of several columns of files the one that tells most; they must mean the same files."""
    find = reading.find or (lambda name: [])

    def files(row: Row, name: str) -> set[str]:
        return {file for value in names_in(row.get(name)) for file in find(value)}

    first, *others = sorted(
        there, key=lambda name: sum(len(files(row, name)) != 1 for row in sample)
    )
    rivals = [
        name
        for name in others
        if any(
            (one := files(row, first)) and (other := files(row, name)) and one.isdisjoint(other)
            for row in sample
        )
    ]
    if rivals:
        raise UncertainError(
            f"its columns {_list([first, *rivals])} all name pictures that are there, and not the "
            f"same ones; say which the captions are of with --IMAGE_COLUMN {first}"
        )
    return first


def _are_file_names(values: Sequence[object]) -> bool:
    names = [name for value in values for name in names_in(value)]
    return 2 * sum(is_picture_name(name.split("?")[0].split("#")[0]) for name in names) > len(names)


def _needs(sample: Sequence[Row], names: Sequence[str], image: str, captions: Sequence[str]) -> str:
    """What is said of a table whose columns are not understood."""
    missing = [] if image else ["the pictures' file names (--IMAGE_COLUMN NAME)"]
    missing += [] if captions else ["the captions (--CAPTION_COLUMN NAME)"]
    told = f"it has the columns {_list(names)}; say which holds {' and which '.join(missing)}"
    if not image and any("://" in str(value) for row in sample[:1] for value in row.values()):
        told += (
            ". Pictures that are given by addresses are not fetched here: download them first "
            "(img2dataset does) and name the files"
        )
    return told


def _list(names: Sequence[str]) -> str:
    return ", ".join(name or '""' for name in names)

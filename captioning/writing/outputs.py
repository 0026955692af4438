"""Where the captions of a command go, by the form and the place that were asked for.

    output = open_output("jsonl", "", pictures, shards)     # captions.jsonl in the folder of all
    output = open_output("txt", "out", pictures, shards)    # out/sub/a.txt for photos/sub/a.jpg

Without a place, captions go beside their pictures: a file a picture, or one in the folder that was
named. Of shards there is a file for each, beside it or in the folder that is the place, unless the
place is a file.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from captioning.system.errors import UserError
from captioning.writing.beside import BesideFiles, PlaceError
from captioning.writing.forms import FORMS, Form
from captioning.writing.pictures import Picture, Said
from captioning.writing.tables import Table

Item = TypeVar("Item")
Written = Literal["txt", "caption", "xmp", "jsonl", "csv", "parquet", "coco"]


class Output(Protocol):
    """Where captions go."""

    description: str
    """Where they are, in the words of a sentence."""

    def open(self) -> None:
        """Begin to write; one process alone does. Raises `UserError` where another one has."""

    def has(self, picture: Picture) -> bool:
        """Whether a picture was captioned before."""

    def write(self, captioned: Sequence[tuple[Picture, Sequence[Said]]]) -> dict[Picture, str]:
        """Write a batch, which is on disk then; gives what was wrong with pictures' places."""

    def end_shard(self, shard: str) -> None:
        """Note that nothing more comes of a shard."""

    def finish(self) -> None:
        """Make whole what is not."""

    def close(self) -> None:
        """Let others write there; what was not finished waits for the next time."""


@dataclass(frozen=True)
class Part:
    """A share of the work, one of several that know nothing of each other."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Part":
        """`3/64`, or all of it for "". Raises `UserError`."""
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text or "1/1")
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UserError(
                f"--part is {text!r}; it must be NUMBER/COUNT with a number from 1 to the count, "
                "such as 3/64."
            )
        return cls(int(match[1]), int(match[2]))

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Every so many-th of some things, from its own on."""
        return items[self.number - 1 :: self.count]

    @property
    def label(self) -> str:
        """What a file of it alone has in its name; "" for all."""
        width = len(str(self.count))
        return f"-{self.number:0{width}}-of-{self.count}" if self.count > 1 else ""


def open_output(
    form: Written,
    place: str,
    pictures: Sequence[Picture],
    shards: Sequence[str],
    *,
    overwrite: bool = False,
    part: Part | None = None,
) -> "Output":
    """Where captions of pictures and of shards go. Nothing is written yet.

    Raises `UserError` where two pictures would go to one place, or a place cannot be.
    """
    is_table = form in FORMS
    is_file = is_table and place.lower().endswith(FORMS[form].suffix)
    _check_place(place, form, is_file=is_file)
    if not is_table:
        if not place and (shards or not all(one.is_file for one in pictures)):
            name = next((one.name for one in pictures if not one.is_file), *shards[:1])
            raise UserError(
                f"nothing can stand beside {name}, which is no file of its own; name a folder for "
                "the captions: --output FOLDER"
            )
        files = BesideFiles(f".{form}", place, overwrite=overwrite)
        files.check_places(pictures)
        return _FileAPicture(files, f"{place}/" if place else f"the .{form} files beside them")
    known = FORMS[form]
    _check_names(known, pictures)
    return _Tables(known, place, pictures, shards, overwrite, part or Part(), is_file=is_file)


def _check_place(place: str, form: Written, *, is_file: bool) -> None:
    if not place:
        return
    path = Path(place)
    others = {one.suffix for name, one in FORMS.items() if name != form} - {".json"}
    if not is_file and path.suffix.lower() in others and not path.is_dir():
        raise UserError(
            f"--output is {place!r}, and --write {form} writes no {path.suffix}; name a folder, or "
            "a file that ends as its form does."
        )
    folder = path.parent if is_file else path
    for one in (folder, *folder.parents):
        if one.exists() and not one.is_dir():
            raise UserError(f"--output is {place!r}, but {one} is a file; name another folder.")
    if is_file and path.is_dir():
        raise UserError(f"--output is {place!r}, which is a folder; name a file in it.")


def _check_names(form: Form, pictures: Sequence[Picture]) -> None:
    """Raise `UserError` where a table calls two pictures the same."""
    owners: dict[str, str] = {}
    for picture in pictures:
        identity = str(form.identity(picture.name))
        other = picture.name
        if identity != picture.name:
            other = owners.setdefault(identity, picture.name)
        if other != picture.name:
            raise UserError(
                f"{other} and {picture.name} would both be {identity} in this form; rename one, or "
                "write another, such as --write jsonl"
            )


class _FileAPicture:
    """A file of its own for each picture."""

    def __init__(self, files: BesideFiles, description: str) -> None:
        self._files, self.description = files, description

    def open(self) -> None:
        """Nothing has to be opened: each file is written whole, by whomever."""

    def has(self, picture: Picture) -> bool:
        return self._files.has(picture)

    def write(self, captioned: Sequence[tuple[Picture, Sequence[Said]]]) -> dict[Picture, str]:
        problems = {}
        for picture, captions in captioned:
            try:
                self._files.write(picture, captions)
            except PlaceError:
                raise
            except UserError as error:
                problems[picture] = str(error)
        return problems

    def end_shard(self, shard: str) -> None:
        """Nothing more is to be done."""

    def finish(self) -> None:
        """Nothing more is to be done."""

    def close(self) -> None:
        """Nothing was locked."""


class _Tables:
    """One file of all pictures, or one of each shard's."""

    def __init__(
        self,
        form: Form,
        place: str,
        pictures: Sequence[Picture],
        shards: Sequence[str],
        overwrite: bool,
        part: Part,
        *,
        is_file: bool,
    ) -> None:
        self._form, self._overwrite, self._part = form, overwrite, part
        self._paths: dict[str, Path] = {}
        """Of each shard, and of all pictures that are in none ("")."""
        if is_file:
            self._paths = dict.fromkeys(["", *shards], self._labelled(Path(place)))
        else:
            if pictures:
                folder = place or _common_root(pictures, form)
                self._paths[""] = self._labelled(Path(folder) / f"captions{form.suffix}")
            for shard in shards:
                name = re.sub(r"\.(tar|tar\.gz|tgz|parquet)$", "", Path(shard).name, flags=re.I)
                beside = Path(place) if place else Path(shard).parent
                self._paths[shard] = beside / f"{name}{form.suffix}"
        self._is_one = is_file
        self._check_shards()
        self._tables: dict[Path, Table] = {}
        first = next(iter(self._paths.values()))
        self.description = str(first if len(set(self._paths.values())) == 1 else first.parent)

    def open(self) -> None:
        """Lock the file that all go to; a shard's is locked when its turn comes."""
        if "" in self._paths:
            self._table("").open()

    def has(self, picture: Picture) -> bool:
        return self._table(picture.shard).has(self._name(picture))

    def write(self, captioned: Sequence[tuple[Picture, Sequence[Said]]]) -> dict[Picture, str]:
        rows: dict[str, list[tuple[str, Sequence[Said]]]] = {}
        for picture, captions in captioned:
            rows.setdefault(picture.shard, []).append((self._name(picture), captions))
        for shard, of_shard in rows.items():
            self._table(shard).add(of_shard)
        return {}

    def end_shard(self, shard: str) -> None:
        if not self._is_one and (table := self._tables.pop(self._paths[shard], None)):
            table.finish()

    def finish(self) -> None:
        for table in self._tables.values():
            table.finish()

    def close(self) -> None:
        for table in self._tables.values():
            table.close()

    def _name(self, picture: Picture) -> str:
        return picture.inner_name if picture.shard and not self._is_one else picture.name

    def _table(self, shard: str) -> Table:
        path = self._paths[shard]
        if path not in self._tables:
            others = self._other_parts(path) if self._is_one or not shard else []
            self._tables[path] = Table(path, self._form, overwrite=self._overwrite, others=others)
        return self._tables[path]

    def _labelled(self, path: Path) -> Path:
        return path.with_name(f"{path.stem}{self._part.label}{path.suffix}")

    def _other_parts(self, path: Path) -> list[Path]:
        """The whole and the parts of the same captions, shared out in whatever way."""
        stem = path.stem.removesuffix(self._part.label)
        named = re.compile(rf"{re.escape(stem)}(-\d+-of-\d+)?{re.escape(path.suffix)}")
        found = path.parent.iterdir() if path.parent.is_dir() else ()
        return sorted(one for one in found if named.fullmatch(one.name) and one != path)

    def _check_shards(self) -> None:
        owners: dict[Path, str] = {}
        for shard, path in self._paths.items():
            if shard and path.exists() and path.samefile(shard):
                raise UserError(
                    f"{shard} holds the pictures, and nothing is written over them; name a folder "
                    "for the captions: --output FOLDER"
                )
            if not self._is_one and (other := owners.setdefault(path, shard)) != shard:
                raise UserError(
                    f"{other} and {shard} would share {path}; name a file for all: --output "
                    f"captions{self._form.suffix}"
                )


def _common_root(pictures: Sequence[Picture], form: Form) -> str:
    """The folder that was named, where it is one and holds all pictures."""
    roots = {
        one.name.removesuffix(one.inner_name).rstrip("/") or ("/" if one.name[:1] == "/" else ".")
        for one in pictures
    }
    root = roots.pop()
    if roots or not all(one.is_file for one in pictures):
        raise UserError(
            f"{'the pictures are not of one folder' if roots else f'{root} is no folder'}; name "
            f"the file for their captions: --output captions{form.suffix}"
        )
    return root

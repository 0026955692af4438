"""The on-disk contract of a prepared data set: a Hugging Face ImageFolder.

    DATA_DIR/<name>/{train,validation,test}/metadata.jsonl    one line a picture
    DATA_DIR/<name>/{train,validation,test}/<file_name>       the pictures

A line of `metadata.jsonl` holds `file_name` (relative to its folder) and `captions`; it may hold
more, such as the truth of a drawn scene, which is kept in `Record.extra`.
`datasets.load_dataset("imagefolder", data_dir=...)` opens the same folder.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioning.system.errors import UserError
from captioning.system.files import atomic_write
from captioning.system.reading import check_regular

SPLITS = ("train", "validation", "test")
METADATA_NAME = "metadata.jsonl"


@dataclass(frozen=True)
class Record:
    """One picture and what people wrote about it."""

    image: Path
    """The picture's file."""
    captions: tuple[str, ...]
    """At least one caption, as it was written."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further columns of the metadata line."""


@dataclass(frozen=True)
class WordHeat:
    """One word of a caption and where in the picture the model looked while writing it."""

    text: str
    heat: NDArray[np.floating[Any]]
    """(rows, columns) attention >= 0, laid over the whole upright picture; any small size."""


@dataclass(frozen=True)
class CaptionedPicture:
    """A picture, what a model says of it and what people wrote."""

    image: Path = Path()
    """The picture's file; `Path()` where captions were scored without pictures."""
    caption: str = ""
    """What the model says."""
    references: tuple[str, ...] = ()
    """What people wrote."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """The caption's own scores, by the names of the metrics."""
    confidence: float | None = None
    """Geometric mean of its token probabilities, 0 to 1."""
    log_probability: float | None = None
    """Sum of the log-probabilities of its tokens."""
    correct: bool | None = None
    """Whether it tells the truth, where that can be checked (drawn scenes)."""
    words: tuple[WordHeat, ...] = ()
    """Its words with what each looked at, where the picture is shown with them."""

    @property
    def has_image(self) -> bool:
        """Whether there is a file of the picture."""
        return self.image != Path()


@dataclass(frozen=True)
class PreparedSplit:
    """Pictures to caption and score, with what people wrote of them."""

    folder: Path
    """Of the split, in that of its data set."""
    records: Sequence[Record]
    training_captions: Sequence[str] | None
    """Of the same data set; None where it has no training split."""

    @classmethod
    def read(cls, folder: Path, *, limit: int = 0, mend: str = "") -> "PreparedSplit":
        """A split's first `limit` pictures (0 = all); `mend` as of `read_records`."""
        records, train = read_records(folder, mend=mend)[: limit or None], folder.parent / "train"
        known = None
        if (train / METADATA_NAME).exists():
            known = [text for record in read_records(train) for text in record.captions]
        return cls(folder, records, known)

    @property
    def ids(self) -> list[str]:
        """What results call the pictures."""
        return [record.image.relative_to(self.folder).as_posix() for record in self.records]

    @property
    def images(self) -> list[Path]:
        """Their files."""
        return [record.image for record in self.records]

    @property
    def references(self) -> dict[str, tuple[str, ...]]:
        """What people wrote of each."""
        return dict(zip(self.ids, (record.captions for record in self.records), strict=True))


def read_records(split_dir: str | os.PathLike[str], *, mend: str = "") -> list[Record]:
    """The records of one split, in file order.

    `mend` is the command that makes the folder; it ends the `UserError` that a missing or broken
    file raises, or one that names pictures outside of the data set.
    """
    path = Path(split_dir) / METADATA_NAME
    advice = f" Make it with: {mend}" if mend else ""
    try:
        check_regular(path)
        lines = path.read_text(encoding="utf-8").split("\n")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(_missing(path, advice)) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.{advice}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}).{advice}") from None
    records = [
        _parse_line(line, path, number, advice)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    _refuse_outside(path, records)
    return records


def write_records(split_dir: str | os.PathLike[str], records: Iterable[Record]) -> Path:
    """Write `metadata.jsonl` for pictures that already lie in `split_dir`; whole or not at all."""
    folder = Path(split_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / METADATA_NAME
    with atomic_write(path) as file:
        for record in records:
            name = record.image.relative_to(folder).as_posix()
            line = {"file_name": name, "captions": list(record.captions), **record.extra}
            file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
    return path


def _missing(path: Path, advice: str) -> str:
    """What is said of a split that is not there; making a data set anew adds none to it."""
    split, data_set = path.parent.name, path.parent.parent
    others = [name for name in SPLITS if (data_set / name / METADATA_NAME).is_file()]
    if split not in SPLITS or not others:
        return f"{path} is missing.{advice}"
    return (
        f"{data_set} has pictures of {' and '.join(others)} alone, and this needs some of {split}. "
        "Splits are drawn where the source names none, of three pictures at least, and with a "
        f"HELD_OUT_FRACTION above 0: mend that, remove {data_set}, and prepare it again."
    )


def _refuse_outside(path: Path, records: Iterable[Record]) -> None:
    """Raise `UserError` for a picture that a folder from somebody else would read elsewhere."""
    root = os.path.realpath(path.parent.parent)
    is_inside: dict[Path, bool] = {}
    for record in records:
        image, folder = record.image, record.image.parent
        if folder not in is_inside:
            is_inside[folder] = Path(os.path.realpath(folder)).is_relative_to(root)
        leads_out = image.is_symlink() and not image.resolve().is_relative_to(root)
        if leads_out or not is_inside[folder]:
            raise UserError(
                f"{path} names {image}, which leads out of the data set {path.parent.parent}. Copy "
                "the picture into it."
            )


def _parse_line(line: str, path: Path, number: int, advice: str) -> Record:
    try:
        row = json.loads(line)
        name, captions = row.pop("file_name"), row.pop("captions")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise UserError(
            f'{path}, line {number}: expected {{"file_name": "...", "captions": ["..."]}}, '
            f"found {line[:80]!r}.{advice}"
        ) from None
    if not (isinstance(name, str) and isinstance(captions, list) and captions) or not all(
        isinstance(caption, str) for caption in captions
    ):
        raise UserError(
            f"{path}, line {number}: file_name must be a string and captions a list of at least "
            f"one string, found {line[:80]!r}.{advice}"
        )
    if not name or name.startswith("/") or "\0" in name or ".." in name.split("/"):
        raise UserError(
            f"{path}, line {number}: file_name is {name[:80]!r}; it must be a file in "
            f"{path.parent}.{advice}"
        )
    return Record(path.parent / name, tuple(captions), row)

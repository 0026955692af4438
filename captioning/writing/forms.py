"""The shapes of a file of captions: JSON Lines, CSV, Parquet, COCO results.

    jsonl     {"image": "a.jpg", "captions": [{"text": ..., "log_probability": ..., ...}]}
    csv       image,caption,log_probability,confidence      a row a caption, best first
    parquet   the same columns
    coco      [{"image_id": 391895, "caption": "..."}]      the best caption

A form writes rows and reads its own files again, as dictionaries, so that what others have added to
a row stays in it. It knows no journal and no folder; `tables` does.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Any

from captioning.sources.caption_fields import valid_unicode
from captioning.system.errors import UserError
from captioning.system.reading import open_regular
from captioning.system.terminal import json_line
from captioning.writing.pictures import Said

Row = dict[str, Any]
COLUMNS = ("image", "caption", "log_probability", "confidence")
GROUP = 10_000
"""Rows of a Parquet file that are written together."""
_NUMBERED = re.compile(r"(?:COCO_\w+_)?([0-9]{1,18})")


@dataclass(frozen=True)
class Form:
    """How a file of captions looks."""

    suffix: str
    image_key: str
    """Where a row names its picture."""
    identity: Callable[[str], str | int]
    """What rows call a picture by its name."""
    rows: Callable[[str | int, Sequence[Said]], list[Row]]
    """The rows of a picture, so called, with its captions."""
    read: Callable[[Path], Iterator[Row]]
    """The rows of a file. Raises `ValueError` for what is no such file."""
    write: Callable[[IO[bytes], Iterable[Row], Path | None], None]
    """Write rows; the path is that of earlier rows, whose columns stay."""

    def earlier_rows(self, path: Path) -> Iterator[Row]:
        """The rows of a file that may have been written here before, none where there is none."""
        if not path.exists():
            return
        try:
            for row in self.read(path):
                if not isinstance(row.get(self.image_key), str | int):
                    raise ValueError(f"it has rows without {self.image_key!r}")
                yield row
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"{path} is there and cannot be added to: {reason}. Move it away, or name another "
                "file: --output FILE"
            ) from None


def _rows_of_lines(name: str | int, captions: Sequence[Said]) -> list[Row]:
    keys = ("text", "log_probability", "confidence")
    return [{"image": name, "captions": [{k: getattr(one, k) for k in keys} for one in captions]}]


def _rows_of_table(name: str | int, captions: Sequence[Said]) -> list[Row]:
    return [
        dict(
            zip(
                COLUMNS,
                (name, valid_unicode(one.text), one.log_probability, one.confidence),
                strict=True,
            )
        )
        for one in captions
    ]


def _rows_of_coco(name: str | int, captions: Sequence[Said]) -> list[Row]:
    return [{"image_id": name, "caption": one.text} for one in captions[:1]]


def _coco_id(name: str) -> str | int:
    """The number of `000000391895.jpg` and `COCO_val2014_000000391895.jpg`, any other name."""
    match = _NUMBERED.fullmatch(PurePosixPath(name).stem)
    return int(match[1]) if match else name


def _read_lines(path: Path) -> Iterator[Row]:
    with open_regular(path) as file:
        for number, line in enumerate(file, start=1):
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no object")
            yield row


def _write_lines(file: IO[bytes], rows: Iterable[Row], earlier: Path | None) -> None:
    for row in rows:
        file.write(f"{json_line(row)}\n".encode())


def _read_csv(path: Path) -> Iterator[Row]:
    with open_regular(path) as file:
        rows = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True)
        try:
            _check_columns(rows.fieldnames or ())
            yield from rows
        except csv.Error as error:
            raise ValueError(error) from None


def _write_csv(file: IO[bytes], rows: Iterable[Row], earlier: Path | None) -> None:
    columns = list(COLUMNS)
    if earlier is not None:
        with open_regular(earlier) as before:
            text = io.TextIOWrapper(before, encoding="utf-8-sig", newline="")
            columns = next(csv.reader(text), columns)
    out = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.DictWriter(out, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    out.detach()


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with open_regular(path) as file:
            table = pyarrow.parquet.ParquetFile(file)
            _check_columns(table.schema_arrow.names)
            for batch in table.iter_batches():
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise ValueError(error) from None


def _write_parquet(file: IO[bytes], rows: Iterable[Row], earlier: Path | None) -> None:
    import pyarrow
    import pyarrow.parquet

    kinds = (pyarrow.string(), pyarrow.string(), pyarrow.float64(), pyarrow.float64())
    schema = pyarrow.schema(list(zip(COLUMNS, kinds, strict=True)))
    if earlier is not None:
        schema = pyarrow.parquet.read_schema(earlier)
    rows = iter(rows)
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        while group := list(islice(rows, GROUP)):
            writer.write_table(pyarrow.Table.from_pylist(group, schema))


def _check_columns(columns: Sequence[str]) -> None:
    if not {"image", "caption"} <= set(columns):
        raise ValueError(f"it has the columns {', '.join(columns)}, without image and caption")


def _read_results(path: Path) -> Iterator[Row]:
    with open_regular(path) as file:
        rows = json.load(file)
    if not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
        raise ValueError("it is no list of results")
    yield from rows


def _write_results(file: IO[bytes], rows: Iterable[Row], earlier: Path | None) -> None:
    start = "[\n"
    for row in rows:
        file.write(f"{start}{json_line(row)}".encode())
        start = ",\n"
    file.write(b"[]\n" if start == "[\n" else b"\n]\n")


FORMS = {
    "jsonl": Form(".jsonl", "image", str, _rows_of_lines, _read_lines, _write_lines),
    "csv": Form(".csv", "image", valid_unicode, _rows_of_table, _read_csv, _write_csv),
    "parquet": Form(
        ".parquet", "image", valid_unicode, _rows_of_table, _read_parquet, _write_parquet
    ),
    "coco": Form(".json", "image_id", _coco_id, _rows_of_coco, _read_results, _write_results),
}

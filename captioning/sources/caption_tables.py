"""Tables as text: CSV and its relatives, Flickr30k's results.csv, token files.

The delimiter and whether there is a header are found by looking at the first lines. A row with more
fields than the header is a caption with commas that nobody quoted: it is put together again where
all other fields are beyond doubt, and refused with its line otherwise.
"""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from captioning.sources.caption_fields import (
    FormatError,
    UncertainError,
    caption_families,
    image_column,
    plain,
    split_name,
)
from captioning.sources.picture_names import PICTURE_SUFFIXES, is_picture_name
from captioning.sources.table_columns import Columns, Row, TableReading, choose_columns, shown

DELIMITERS = ",\t;|"
MOST_FIELD_BYTES = 2**30
NUMBER_NAMES = re.compile(r"(comment|caption|sentence|text)?_?(number|no|nr|index|id|idx)")

_SUFFIX = "|".join(suffix[1:] for suffix in PICTURE_SUFFIXES)
_Fields = Callable[[str], tuple[str, str] | None]
_TOKEN_LINE = re.compile(rf"([^\t]+)#\w+\t(.*)|(.+?\.(?:{_SUFFIX}))#\d+\s+(.*)", re.IGNORECASE)
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)


@dataclass(frozen=True)
class Table:
    """The rows of a table, and what its columns are."""

    columns: Columns
    rows: list[tuple[int, Row]]
    """With the line on which each begins."""


def read_table(text: str, reading: TableReading) -> Table:
    """The table in `text`, whose lines end in a line feed. Raises `FormatError`."""
    text = text.lstrip()
    first, _, rest = text.partition("\n")
    if _TOKEN_LINE.match(first):
        reading.refuse_columns()
        return _two_columns(_lines(text, _token_fields))
    delimiters, number = DELIMITERS, 1
    if found := _SEPARATOR_LINE.fullmatch(first.strip(" ")):
        # Excel is told so which delimiter follows.
        delimiters, number, text = found[1], 2, rest
        first, _, rest = text.partition("\n")
    if _is_results_header(first):
        return _two_columns(_lines(rest, _Results().fields, number + 1))
    if re.match(r"[^|]*\|\s*\d+\s*\|", first) and is_picture_name(first.split("|")[0].strip()):
        return _two_columns(_lines(text, _Results().fields, number))
    for delimiter in delimiters:
        if _is_header(_fields(first, delimiter), reading):
            return _with_header(list(_rows(text, delimiter, number)), delimiter, reading)
    for delimiter in delimiters:
        if _begins_with_picture(_fields(first, delimiter), reading):
            reading.refuse_columns()
            return _without_header(list(_rows(text, delimiter, number)), delimiter)
    return _unknown(text, first, delimiters, number, reading)


def _is_results_header(line: str) -> bool:
    """`image_name| comment_number| comment`, whose comments are not quoted."""
    names = [plain(name) for name in line.split("|")]
    return (
        len(names) == 3
        and image_column(names[:1]) is not None
        and bool(NUMBER_NAMES.fullmatch(names[1]) and caption_families(names[2:]))
    )


def _is_header(fields: Sequence[str], reading: TableReading) -> bool:
    names = [name.strip() for name in fields]
    if len(names) < 2 or any(map(is_picture_name, names)):
        return False
    asked = {plain(name) for name in (reading.image, *reading.caption.split(",")) if name}
    if asked & set(map(plain, names)):
        return True
    return bool(caption_families(names)) and len(caption_families(names)[0]) < len(names)


def _begins_with_picture(fields: Sequence[str], reading: TableReading) -> bool:
    """Whether a line without a header is a picture's name and a caption."""
    name, *others = (field.strip() for field in fields)
    if is_picture_name(name):
        return bool(others)
    is_there = not name.isdigit() and reading.exists(name)  # a number may count rows
    files = [other for other in others if is_picture_name(other) and " " not in other]
    return is_there and bool(others) and not files


def _unknown(text: str, first: str, delimiters: str, number: int, reading: TableReading) -> Table:
    """A table under names that say nothing, if it is one."""
    lines = [line for line in text.split("\n", 20)[:20] if line.strip()]
    for delimiter in delimiters:
        counts = {len(_fields(line, delimiter)) for line in lines}
        if len(lines) > 1 and len(counts) == 1 and min(counts) > 1:
            if any(map(is_picture_name, _fields(first, delimiter))):
                raise FormatError(
                    f"its first line is {shown(first)}; put a line with the columns' names above "
                    "it, such as id,image,caption"
                )
            return _with_header(list(_rows(text, delimiter, number)), delimiter, reading)
    raise FormatError(f"its first line is {shown(first)}")


def _lines(text: str, fields: _Fields, first: int = 1) -> Iterator[tuple[int, tuple[str, str]]]:
    for number, line in enumerate(text.split("\n"), start=first):
        if line.strip():
            found = fields(line)
            if found is None:
                raise FormatError(f"line {number} is {shown(line)}, unlike those before it")
            yield number, found


def _token_fields(line: str) -> tuple[str, str] | None:
    match = _TOKEN_LINE.match(line)
    return (match[1] or match[3], match[2] or match[4] or "") if match else None


class _Results:
    """Lines of results.csv: `a.jpg| 0| caption`; one of the published file lacks its second bar,
    and is known by its number: `a.jpg| 4   caption`."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def fields(self, line: str) -> tuple[str, str] | None:
        """The name and the caption of a line; None where its number cannot be told for certain."""
        name, bar, rest = line.partition("|")
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*(\||\s)(.*)", rest, re.DOTALL)
        if match is None:
            return (name, rest) if bar else None
        if match[2] != "|" and int(match[1]) != self._last.get(name, -1) + 1:
            return None
        self._last[name] = int(match[1])
        return name, match[3]


def _two_columns(
    rows: Iterator[tuple[int, tuple[str, str]]] | list[tuple[int, list[str]]],
) -> Table:
    """Pairs of a name and one caption, which is no list whatever it looks like."""
    columns = Columns("image", ("caption",), None)
    return Table(
        columns, [(number, {"image": name, "caption": [text]}) for number, (name, text) in rows]
    )


def _without_header(rows: list[tuple[int, list[str]]], delimiter: str) -> Table:
    """A name, and a caption that may have commas; numbers between the two are left out where they
    count the captions of each picture."""
    pairs = [(number, [row[0].strip(), delimiter.join(row[1:])]) for number, row in rows]
    counted: dict[str, list[int]] = defaultdict(list)
    for _, row in rows:
        is_number = len(row) > 2 and re.fullmatch(r"\s*[0-9]{1,4}\s*", row[1])
        counted[row[0].strip()].append(int(row[1]) if is_number else -1)
    counts = [[number - numbers[0] for number in numbers] for numbers in counted.values()]
    starts = {numbers[0] for numbers in counted.values()}
    if starts in ({0}, {1}) and all(c == list(range(len(c))) and len(c) > 1 for c in counts):
        pairs = [(number, [row[0].strip(), delimiter.join(row[2:])]) for number, row in rows]
    columns = Columns("image", ("caption",), None)
    return Table(
        columns, [(number, {"image": name, "caption": text}) for number, (name, text) in pairs]
    )


def _with_header(rows: list[tuple[int, list[str]]], delimiter: str, reading: TableReading) -> Table:
    (_, header), *rows = rows
    names = _with_row_numbers(_unlike(header), [row for _, row in rows])
    right = [dict(zip(names, row, strict=True)) for _, row in rows if len(row) == len(names)]
    cut = [dict(zip(names, row, strict=False)) for _, row in rows]
    columns = choose_columns(right or cut, names, reading)
    fit = _Fit(names, columns, right, delimiter, reading)
    return Table(columns, [(number, fit.row(number, row)) for number, row in rows])


def _unlike(header: list[str]) -> list[str]:
    """The names of a header, of which a repeated one gets a number; empty ones at its end go."""
    names: list[str] = []
    for name in map(str.strip, header):
        count = sum(plain(other) == plain(name) for other in header[: len(names)])
        names.append(f"{name}_{count + 1}" if count else name)
    while len(names) > 1 and not header[len(names) - 1].strip():
        names.pop()
    return names


def _with_row_numbers(names: list[str], rows: list[list[str]]) -> list[str]:
    """The header of a table whose rows begin with their number and whose header does not, as R
    writes it."""
    image = image_column(names)
    if not rows or image is None or any(len(row) != len(names) + 1 for row in rows):
        return names
    at = names.index(image)
    are_shifted = all(
        row[0].strip().isdigit() and is_picture_name(row[at + 1].strip()) for row in rows
    )
    return ["", *names] if are_shifted else names


@dataclass(frozen=True)
class _Fit:
    """Brings rows to the length of the header."""

    names: list[str]
    columns: Columns
    right: list[dict[str, str]]
    """Rows of the right length."""
    delimiter: str
    reading: TableReading

    def row(self, number: int, row: list[str]) -> dict[str, str]:
        """A row by column; `UncertainError` where fields cannot be told apart for certain."""
        extra = len(row) - len(self.names)
        if extra < 0 and self.columns.split in self.names[len(row) :]:
            raise self._unfit(number, row)
        if extra > 0 and not any(field.strip() for field in row[len(self.names) :]):
            extra, row = 0, row[: len(self.names)]
        if extra > 0:
            if len(self.columns.captions) != 1:
                raise self._unfit(number, row)
            at = self.names.index(self.columns.captions[0])
            caption = self.delimiter.join(row[at : at + extra + 1])
            row = [*row[:at], caption, *row[at + extra + 1 :]]
            if not all(map(self._is_certain, self.names, row)):
                raise self._unfit(number, row, extra)
        return dict(zip(self.names, [*row, *[""] * -extra], strict=True))

    def _is_certain(self, name: str, value: str) -> bool:
        """Whether a field is all of its column's value, of which nothing went to the next."""
        value = value.strip()
        if name == self.columns.captions[0]:
            return True
        if name == self.columns.image:
            is_first = name == self.names[0]
            return is_first or is_picture_name(value) or self.reading.exists(value)
        if name == self.columns.split:
            return split_name(value) is not None
        is_number = re.fullmatch(r"[-+.\d]*", value) is not None
        return is_number or any(row[name].strip() == value for row in self.right)

    def _unfit(self, number: int, row: list[str], extra: int = 0) -> UncertainError:
        return UncertainError(
            f"the row on line {number} has {len(row) + extra} fields, the header has "
            f"{len(self.names)}: {shown(self.delimiter.join(row))}; put captions with "
            f"{self.delimiter!r} in them into quotation marks"
        )


def _rows(text: str, delimiter: str, number: int) -> Iterator[tuple[int, list[str]]]:
    """The rows with the line on which each begins; empty ones are passed over."""
    if delimiter == "|":
        yield from _bar_rows(text, number)
        return
    csv.field_size_limit(MOST_FIELD_BYTES)
    # a.jpg, "A caption, quoted after a space"
    spaced = re.search(rf'^[^"\n{delimiter}]+{re.escape(delimiter)} +"', text, re.MULTILINE)
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        skipinitialspace=spaced is not None,
        strict=True,
    )
    line = number
    swallowed = re.compile(rf"\n[^\t,;|\n]*\.(?:{_SUFFIX}){re.escape(delimiter)}", re.IGNORECASE)
    try:
        for row in reader:
            for cell in row:
                if "\n" in cell and swallowed.search(cell):
                    raise FormatError(
                        f"the caption that begins on line {line} is {shown(cell)}: a quotation "
                        "mark is not closed and swallows the lines after it"
                    )
            if any(row):
                yield line, row
            line = number + reader.line_num
    except csv.Error as error:
        raise FormatError(
            f"the row that begins on line {line} has quotation marks that do not match ({error})"
        ) from None


def _bar_rows(text: str, number: int) -> Iterator[tuple[int, list[str]]]:
    """Rows between bars, whose quotation marks are the captions' own unless they enclose a field;
    Markdown's bars around a row, and its line below the header, are left out."""
    lines = [(n, line.strip()) for n, line in enumerate(text.split("\n"), number) if line.strip()]
    is_framed = all(line[0] == line[-1] == "|" and len(line) > 1 for _, line in lines)
    for n, line in lines:
        if is_framed:
            line = line[1:-1]
        if not (is_framed and re.fullmatch(r"[\s:|-]+", line)):
            yield n, [_unquoted(field) for field in line.split("|")]


def _unquoted(field: str) -> str:
    """A field without the quotation marks that enclose it, if they do."""
    text = field.strip()
    inside = text[1:-1]
    is_quoted = len(text) > 1 and text[0] == text[-1] == '"' and '"' not in inside.replace('""', "")
    return inside.replace('""', '"') if is_quoted else field


def _fields(line: str, delimiter: str) -> list[str]:
    """The fields of one line."""
    if delimiter == "|":
        return [field for _, row in _bar_rows(line, 1) for field in row] or [""]
    try:
        return next(csv.reader([line], delimiter=delimiter), [""])
    except csv.Error:
        return line.split(delimiter)

"""The contract of a prepared data set."""

from pathlib import Path

import pytest

from captioning.sources.records import METADATA_NAME, Record, read_records, write_records
from captioning.system.errors import UserError


def test_written_and_read_records_are_equal(tmp_path: Path) -> None:
    records = [
        Record(tmp_path / "a.jpg", ("A dog\u2028runs.", 'She says "hi"')),
        Record(tmp_path / "sub" / "é b.png", ("مرحبا",), {"scene": {"place": "sea"}}),
    ]
    write_records(tmp_path, records)
    assert read_records(tmp_path) == records


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_records(tmp_path, [Record(tmp_path / "a.jpg", ("old",))])

    def broken() -> object:
        yield Record(tmp_path / "b.jpg", ("new",))
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_records(tmp_path, broken())
    assert read_records(tmp_path)[0].captions == ("old",)


def test_a_missing_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is missing\. Make it with: python prepare"):
        read_records(tmp_path / "train", mend="python prepare_dataset.py")


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[]",
        "3",
        '{"file_name": "a"}',
        '{"file_name": "a", "captions": []}',
        '{"file_name": "a", "captions": "one"}',
        '{"file_name": 3, "captions": ["one"]}',
        '{"file_name": "a", "captions": [3]}',
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    good = '{"file_name": "a.jpg", "captions": ["one"]}'
    (tmp_path / METADATA_NAME).write_text(f"{good}\n{line}\n")
    with pytest.raises(UserError, match="line 2"):
        read_records(tmp_path)


def test_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / METADATA_NAME).write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match="is not UTF-8"):
        read_records(tmp_path)

"""The contract of a prepared data set."""

import json
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


@pytest.mark.parametrize(
    "name",
    ["../../p.jpg", "../p.jpg", "a/../../p.jpg", "/p.jpg", "//p.jpg", "..", "", "a\0b.jpg"],
)
def test_names_stay_within_their_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "data" / "train"
    folder.mkdir(parents=True)
    line = {"file_name": name, "captions": ["A dog."]}
    (folder / "metadata.jsonl").write_text(json.dumps(line))
    with pytest.raises(UserError, match=r"line 1: file_name is .* it must be a file in"):
        read_records(folder)


@pytest.mark.parametrize("kind", ["picture", "folder", "split"])
def test_links_lead_no_further_than_the_data_set(tmp_path: Path, kind: str) -> None:
    private, data = tmp_path / "private", tmp_path / "data"
    for folder in (private, data / "test"):
        folder.mkdir(parents=True)
        (folder / "p.jpg").touch()
    if kind == "split":
        (data / "train").symlink_to(private)
    else:
        (data / "train").mkdir()
    name = {"picture": "p.jpg", "folder": "sub/p.jpg", "split": "p.jpg"}[kind]
    line = {"file_name": name, "captions": ["A dog."]}
    (data / "train" / "metadata.jsonl").write_text(json.dumps(line))
    for target in (private, data / "test"):
        if kind != "split":
            path = data / "train" / Path(name).parts[0]
            path.unlink(missing_ok=True)
            path.symlink_to(target / "p.jpg" if kind == "picture" else target)
        if target == private:
            with pytest.raises(UserError, match="leads out of the data set"):
                read_records(data / "train")
        elif kind != "split":  # a link within the data set is followed
            assert [record.image.name for record in read_records(data / "train")] == ["p.jpg"]


def test_a_split_that_a_data_set_lacks_is_told_apart_from_one_that_is_not_made(
    tmp_path: Path,
) -> None:
    write_records(tmp_path / "train", [Record(tmp_path / "train" / "a.jpg", ("x",))])
    with pytest.raises(UserError, match=r"has pictures of train alone, .* three pictures at least"):
        read_records(tmp_path / "validation", mend="make it")
    with pytest.raises(UserError, match=r"is missing\. Make it with: make it"):
        read_records(tmp_path / "other" / "train", mend="make it")

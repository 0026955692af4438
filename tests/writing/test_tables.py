"""Files of captions: whole or not there, whatever was torn, added or changed by others."""

import json
from pathlib import Path

import pytest

from captioning.system.errors import UserError
from captioning.writing.forms import FORMS
from captioning.writing.tables import Table
from tests.helpers.said import Said


def table(path: Path, form: str, *, overwrite: bool = False) -> Table:
    return Table(path, FORMS[form], overwrite=overwrite)


def write(path: Path, form: str, *names: str, text: str = "a dog", overwrite: bool = False) -> None:
    made = table(path, form, overwrite=overwrite)
    made.add([(name, [Said(text)]) for name in names if not made.has(name)])
    made.finish()


@pytest.mark.parametrize("torn", [b'{"key": "b', b'{"key": "b"}\n', b"\0" * 40, b"\xff\n", b"[]\n"])
def test_what_a_kill_left_of_a_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "captions.jsonl"
    first = table(path, "jsonl")
    first.add([("a", [Said("one")])])
    first.close()
    with first.journal_path.open("ab") as file:
        file.write(torn)
    second = table(path, "jsonl")
    assert second.has("a")
    assert not second.has("b")
    second.add([("b", [Said("two")])])
    second.finish()
    assert [json.loads(line)["image"] for line in path.read_text().splitlines()] == ["a", "b"]
    assert [one.name for one in tmp_path.iterdir()] == ["captions.jsonl"]


@pytest.mark.parametrize("form", list(FORMS))
def test_rows_are_added_and_replaced_and_nothing_is_left_behind(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"all{FORMS[form].suffix}"
    write(path, form, "a.jpg", "b.jpg")
    write(path, form, "b.jpg", "c.jpg", text="other")
    rows = list(FORMS[form].read(path))
    assert [str(row[FORMS[form].image_key]) for row in rows] == ["a.jpg", "b.jpg", "c.jpg"]
    assert [("other" in str(row)) for row in rows] == [False, False, True]
    write(path, form, "a.jpg", text="new", overwrite=True)
    rows = list(FORMS[form].read(path))
    assert {str(row[FORMS[form].image_key]): "new" in str(row) for row in rows} == {
        "b.jpg": False,
        "c.jpg": False,
        "a.jpg": True,
    }
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_what_others_have_added_to_a_file_stays(tmp_path: Path) -> None:
    lines, rows = tmp_path / "a.jsonl", tmp_path / "a.csv"
    write(lines, "jsonl", "a.jpg")
    content = json.loads(lines.read_text()) | {"accepted": True}
    lines.write_text(json.dumps(content) + "\n")
    write(lines, "jsonl", "b.jpg")
    assert json.loads(lines.read_text().splitlines()[0]) == content
    rows.write_text('image,note,caption\na.jpg,"x, y",a dog\n')
    write(rows, "csv", "b.jpg")
    assert rows.read_text() == 'image,note,caption\na.jpg,"x, y",a dog\nb.jpg,,a dog\n'


def test_names_of_any_letters_are_known_again(tmp_path: Path) -> None:
    names = ["caf\udce9.jpg", 'a,"b"\n.jpg', "\u00e9.jpg", "=1.jpg"]
    for form in FORMS:
        path = tmp_path / f"all{FORMS[form].suffix}"
        write(path, form, *names)
        assert all(table(path, form).has(name) for name in names)
        assert not table(path, form).has("other.jpg")


def test_coco_takes_numbers_from_names_and_refuses_one_twice(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write(path, "coco", "COCO_val2014_000000391895.jpg", "x/000000000005.jpg", "a7.jpg")
    assert [row["image_id"] for row in json.loads(path.read_text())] == [391895, 5, "a7.jpg"]
    other = table(tmp_path / "other.json", "coco")
    with pytest.raises(UserError, match=r"x/5.jpg and y/5.png would both be 5"):
        other.add([("x/5.jpg", [Said("a")]), ("y/5.png", [Said("b")])])
    other.close()


def test_a_file_is_locked_until_it_is_finished(tmp_path: Path) -> None:
    first, second = (table(tmp_path / "a.csv", "csv") for _ in range(2))
    first.add([("a", [Said("one")])])
    with pytest.raises(UserError, match=r"Another process is writing .*a\.csv; wait for it"):
        second.open()
    first.finish()
    second.open()
    assert second.has("a")
    second.close()
    assert [one.name for one in tmp_path.iterdir()] == ["a.csv"]

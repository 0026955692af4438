"""What people say is on disk when they hear of it, in an order that all windows agree on."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from captioning.app.corrections import Correction, Corrections, StaleError
from captioning.sources.caption_files import read_captions
from captioning.system.errors import UserError

Opened = Callable[[], Corrections]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "corrections.jsonl"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.with_suffix(".journal").read_text().splitlines()]


@pytest.fixture
def opened(path: Path) -> Iterator[Opened]:
    """Opens what lies there, as another process finds it."""
    every: list[Corrections] = []

    def again() -> Corrections:
        for one in every:
            one.close()
        every.append(Corrections(path))
        return every[-1]

    yield again
    for one in every:
        one.close()


def test_what_was_said_last_holds_also_for_the_next_process(path: Path, opened: Opened) -> None:
    corrections = opened()
    corrections.change("a.jpg", 0, "accepted", "a ball", by="w")
    corrections.change("é/b.jpg", 0, "flagged", "", by="w")
    corrections.change("a.jpg", 1, "edited", "  a red\n ball ", by="w")
    expected = [Correction("a.jpg", 2, "edited", "a red ball"), Correction("é/b.jpg", 1, "flagged")]
    assert [*corrections] == expected
    assert [*opened()] == expected
    assert [line["version"] for line in lines_of(path)] == [1, 1, 2]


def test_a_line_is_flushed_to_disk_before_anybody_hears_of_it(
    path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    corrections = opened()
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda _: flushed.append(corrections.journal_path.read_text()))
    corrections.change("a.jpg", 0, "accepted", "a ball", by="w")
    assert json.loads(flushed[0])["text"] == "a ball"


def test_who_knows_an_older_version_is_refused_and_told_the_newest(
    path: Path, opened: Opened
) -> None:
    corrections = opened()
    mine = corrections.change("a.jpg", 0, "edited", "a ball", by="one")
    with pytest.raises(StaleError) as stale:
        corrections.change("a.jpg", 0, "edited", "a box", by="two")
    assert stale.value.current == mine == corrections["a.jpg"]
    assert len(lines_of(path)) == 1


def test_each_window_takes_back_its_own_changes_one_by_one(path: Path, opened: Opened) -> None:
    corrections = opened()
    corrections.change("a.jpg", 0, "edited", "one", by="w")
    corrections.change("a.jpg", 1, "edited", "two", by="w")
    corrections.change("b.jpg", 0, "accepted", "b", by="other")
    corrections = opened()
    assert corrections.undo(by="w") == Correction("a.jpg", 3, "edited", "one")
    corrections = opened()
    assert corrections.undo(by="w") == Correction("a.jpg", 4, "", "")
    assert corrections.undo(by="w") is None
    assert corrections["b.jpg"].status == "accepted"


def test_nothing_is_taken_back_that_another_window_has_changed_since(
    path: Path, opened: Opened
) -> None:
    corrections = opened()
    corrections.change("b.jpg", 0, "flagged", "", by="w")
    corrections.change("a.jpg", 0, "edited", "one", by="w")
    theirs = corrections.change("a.jpg", 1, "edited", "two", by="other")
    with pytest.raises(StaleError) as stale:
        corrections.undo(by="w")
    assert stale.value.current == theirs == corrections["a.jpg"]
    assert corrections.undo(by="w") == Correction("b.jpg", 2, "", "")
    assert corrections.undo(by="other") == Correction("a.jpg", 3, "edited", "one")


@pytest.mark.parametrize("kept", [1, 15, 39])
def test_a_line_that_a_kill_cut_short_is_cut_off_and_said(
    path: Path, opened: Opened, kept: int
) -> None:
    corrections = opened()
    corrections.change("a.jpg", 0, "accepted", "a ball", by="w")
    whole = corrections.journal_path.read_bytes()
    corrections.change("b.jpg", 0, "accepted", "a box", by="w")
    corrections.journal_path.write_bytes(corrections.journal_path.read_bytes()[: len(whole) + kept])
    corrections = opened()
    assert "cut short" in corrections.notes[0]
    assert [one.name for one in corrections] == ["a.jpg"]
    corrections.change("c.jpg", 0, "accepted", "a bat", by="w")
    assert [one.name for one in opened()] == ["a.jpg", "c.jpg"]


@pytest.mark.parametrize("line", ["nonsense", "{}", '{"image": 3}', "[1]", "\0\0"])
def test_a_line_that_is_no_correction_is_passed_over_and_said(
    path: Path, opened: Opened, line: str
) -> None:
    good = '{"image": "a.jpg", "status": "accepted", "text": "a", "by": "w"}'
    path.with_suffix(".journal").write_text(f"{good}\n{line}\n{good.replace('a.jpg', 'b.jpg')}\n")
    corrections = opened()
    assert [one.name for one in corrections] == ["a.jpg", "b.jpg"]
    assert "Line 2" in corrections.notes[0]
    assert line in path.with_suffix(".journal").read_text()


def test_what_the_disk_refuses_has_not_been_said(
    path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    corrections = opened()
    corrections.change("a.jpg", 0, "accepted", "a ball", by="w")
    before = corrections.journal_path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"No space left on device\. Nothing was changed"):
            corrections.change("b.jpg", 0, "accepted", "a box", by="w")
    assert corrections.journal_path.read_bytes() == before
    assert corrections["b.jpg"].version == 0
    corrections.change("b.jpg", 0, "accepted", "a box", by="w")
    assert len(lines_of(path)) == 2


@pytest.mark.parametrize(
    ("status", "text", "rule"),
    [
        ("accepted", " \n", "needs words"),
        ("edited", "", "needs words"),
        ("loved", "a", "cannot be 'loved'"),
        ("edited", "a" * 5_001, "5,000 letters at most"),
    ],
)
def test_what_cannot_be_said_is_refused(
    path: Path, opened: Opened, status: str, text: str, rule: str
) -> None:
    corrections = opened()
    with pytest.raises(UserError, match=rule):
        corrections.change("a.jpg", 0, status, text, by="w")
    assert not [*corrections]


def test_the_captions_file_holds_what_counts_and_is_read_as_such(
    path: Path, opened: Opened
) -> None:
    corrections = opened()
    corrections.change("b.jpg", 0, "edited", 'a "red" ball', by="w")
    corrections.change("a.jpg", 0, "accepted", "a box", by="w")
    corrections.change("c.jpg", 0, "flagged", "a bat", by="w")
    corrections.change("gone.jpg", 0, "accepted", "a bird", by="w")
    corrections.write({"a.jpg", "b.jpg", "c.jpg"}.__contains__)
    found = [(one.file_name, one.captions) for one in read_captions(path)]
    assert found == [("a.jpg", ("a box",)), ("b.jpg", ('a "red" ball',))]
    for _ in range(3):
        corrections.undo(by="w")
    corrections.write(lambda name: name == "b.jpg")
    assert [one.file_name for one in read_captions(path)] == ["b.jpg"]


def test_two_processes_do_not_share_a_journal_nor_take_a_file_of_others(
    path: Path, opened: Opened
) -> None:
    corrections = opened()
    with pytest.raises(UserError, match="Another process keeps"):
        Corrections(path)
    corrections.close()
    other = path.with_name("mine.jsonl")
    other.write_text('{"image": "a.jpg", "caption": "precious"}\n')
    with pytest.raises(UserError, match="it would be written over"):
        Corrections(other)
    with pytest.raises(UserError, match=r"Name another place: --corrections FILE"):
        Corrections(path.parent / "nowhere" / "mine.jsonl")
    link = path.with_name("linked.journal")
    link.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(UserError, match="cannot be written"):
        Corrections(path.with_name("linked.jsonl"))

"""Progress: a bar on a terminal; elsewhere a line now and then, or nothing."""

import io
import re

import pytest

from captioning.system import progress
from captioning.system.progress import Progress


class Terminal(io.StringIO):
    """A screen."""

    def isatty(self) -> bool:
        return True


def count(stream: io.StringIO, **options: bool) -> str:
    with Progress("features", 4, done=1, stream=stream, **options) as bar:
        for _ in range(3):
            bar.advance()
    return stream.getvalue()


def test_elsewhere_there_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    last = r"features: 4 of 4 pictures, [\d.]+ a second\n"
    assert re.fullmatch(last, count(io.StringIO()))
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    each = r"features: {} of 4 pictures, [\d.]+ a second, \d+ s left\n"
    assert re.fullmatch(each.format(2) + each.format(3) + last, count(io.StringIO()))


def test_what_is_not_to_be_seen_is_not() -> None:
    assert count(io.StringIO(), has_lines=False) == ""
    assert count(io.StringIO(), is_shown=False) == ""
    assert count(Terminal(), is_shown=False) == ""


def test_a_terminal_has_a_bar_and_no_lines() -> None:
    shown = count(Terminal())
    assert "features: 100%" in shown
    assert "4/4" in shown
    assert "a second" not in shown


def test_a_bar_that_is_not_kept_leaves_an_empty_line() -> None:
    shown = count(Terminal(), keeps_bar=False).split("\r")
    assert "features: " in shown[1]
    assert shown[-1] == ""
    assert set(shown[-2]) == {" "}


def test_a_bar_makes_room_for_what_is_printed_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setattr("sys.stderr", screen)
    with Progress("captions", 3) as bar:
        bar.advance()
        with bar.aside():
            print("a dog runs")
        bar.advance(2)
    assert "a dog runs" in [line.rpartition("\r")[2] for line in screen.getvalue().split("\n")]

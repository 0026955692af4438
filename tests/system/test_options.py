"""Options of commands: tuples, required values, optional values, help."""

from dataclasses import dataclass
from typing import Annotated

import pytest

from captioning.system.errors import UserError
from captioning.system.options import parse_options
from captioning.system.rules import at_least


@dataclass(frozen=True, kw_only=True)
class Some:
    """Some options."""

    image: tuple[str, ...]
    """Pictures."""
    beam_size: int | None = None
    """Beams."""
    batches: tuple[int, ...] = (1, 32)
    """Pictures together."""
    json: bool = False
    """As JSON."""
    # Further
    limit: Annotated[int, at_least(0)] = 0
    """Pictures at most."""


def test_tuples_take_several_words_and_switches_none() -> None:
    options = parse_options(Some, ["--image", "a", "b", "--json", "--beam-size", "5"])
    assert options == Some(image=("a", "b"), beam_size=5, json=True)


def test_each_of_several_numbers_is_a_number() -> None:
    options = parse_options(Some, ["--image", "a", "--batches", "2", "1e3"])
    assert options.batches == (2, 1000)
    with pytest.raises(UserError, match=r"batches is .*'x'.*; it must be a whole number, or sev"):
        parse_options(Some, ["--image", "a", "--batches", "2", "x"])


def test_a_flag_that_is_given_twice_counts_once() -> None:
    with pytest.raises(UserError, match="--beam-size is given twice"):
        parse_options(Some, ["--image", "a", "--beam-size", "5", "--beam_size", "6"])


def test_a_missing_option_is_named_as_it_is_typed() -> None:
    with pytest.raises(UserError, match=r"^--image is missing\. Pictures\."):
        parse_options(Some, [])
    with pytest.raises(UserError, match="--image needs at least one value"):
        parse_options(Some, ["--image"])
    with pytest.raises(UserError, match="did you mean --beam-size"):
        parse_options(Some, ["--image", "a", "--beamsize", "3"])
    with pytest.raises(UserError, match="--beam-size is 'x'; it must be a whole number"):
        parse_options(Some, ["--image", "a", "--beam-size", "x"])


def test_help_shows_the_docstrings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse_options(Some, ["--help"], description="What it does.", prog="some.py")
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "Pictures." in shown
    assert "What it does." in shown
    assert shown.index("Flags:") < shown.index("--image") < shown.index("Further:")
    assert "--batches NUMBER ...  (default: 1 32)" in shown
    assert shown.index("Further:") < shown.index("--limit NUMBER  (default: 0)")


def test_a_rule_beside_the_type_is_kept_and_told_with_all_other_problems() -> None:
    with pytest.raises(UserError) as caught:
        parse_options(Some, ["--image", "a", "--limit", "-1", "--json", "perhaps"])
    assert caught.value.problems == (
        "--limit is -1; it must be at least 0.",
        "--json is 'perhaps'; it must be true or false.",
    )

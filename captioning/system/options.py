"""Command lines made of a dataclass: one field, one flag, its docstring the help.

    @dataclass(frozen=True, kw_only=True)
    class Options:
        # Every day                                   a heading of the help
        limit: Annotated[int, at_least(0)] = 0        a rule, and the same in words
        \"\"\"Pictures at most (0 = all).\"\"\"

Flags are read in either case, with dashes or underscores; switches also take true or false; all
problems of a command line are reported at once, in words, as one `UserError`. No library does that:
argparse, tyro and pydantic stop at the first problem, so all of it is here.
"""

import ast
import dataclasses
import difflib
import inspect
import math
import shutil
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar

from captioning.system.errors import UserError
from captioning.system.rules import Rule

Options = TypeVar("Options")
Note = TypeVar("Note")
Field = dataclasses.Field[Any]
NOTHING: Mapping[str, str] = MappingProxyType({})
MOST_WHOLE = 2**63 - 1
"""The largest whole number that arrays and files hold."""
SWITCHES = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def parse_options(
    options_type: type[Options],
    argv: Sequence[str],
    *,
    default: Options | None = None,
    description: str = "",
    prog: str | None = None,
    became: Mapping[str, str] = NOTHING,
) -> Options:
    """An `options_type` (a dataclass) from flags; raises `UserError` with every problem.

    `--help` prints the fields with their docstrings and exits with 0. Values that flags do not
    name come from `default`, or from the dataclass. `became` tells of flags that are gone.
    """
    if {"-h", "--help"} & set(argv):
        print(help_text(options_type, default, description, prog or sys.argv[0].split("/")[-1]))
        raise SystemExit(0)
    known = {field.name: field for field in dataclasses.fields(typing.cast(Any, options_type))}
    problems: list[str] = []
    values: dict[str, Any] = {}
    for name, words in _flags(argv, known, problems, became):
        if name in values:
            problems.append(f"{_flag(name)} is given twice.")
        try:
            value = _convert(known[name], words)
        except ValueError as error:
            problems.append(str(error))
            continue
        problems += check_value(known[name], value)
        if _is_of_kind(value, kind_of(known[name])):  # else it would cause further problems
            values[name] = value
    try:
        parsed = _build(options_type, default, values)
    except UserError as error:
        problems += error.problems
    if problems:
        raise UserError(*dict.fromkeys(problems))
    return parsed


def check_value(field: Field, value: object) -> Iterator[str]:
    """The problem with a value, if it has one: `BATCH_SIZE is 'x'; it must be ...`."""
    kind = kind_of(field)
    if value is None and field.default is None:
        return
    if not _is_of_kind(value, kind):
        names = {int: "a whole number", float: "a number", bool: "true or false"}
        if typing.get_origin(kind) is Literal:
            text = f"one of {', '.join(map(str, typing.get_args(kind)))}"
        elif typing.get_origin(kind) is tuple:
            text = f"{names.get(typing.get_args(kind)[0], 'text')}, or several"
        else:
            text = names.get(kind, "text")
        yield f"{_shown(field.name)} is {value!r:.80}; it must be {text}."
        return
    if type(value) is int and abs(value) > MOST_WHOLE:
        yield f"{_shown(field.name)} is a number that no computer counts with; write a smaller one."
        return
    finite = not isinstance(value, float) or math.isfinite(value)
    for rule in notes_of(field, Rule):
        if not (finite and rule.holds(value)):
            yield f"{_shown(field.name)} is {value!r:.80}; it must be {rule.text}."


def _is_of_kind(value: object, kind: Any) -> bool:
    if typing.get_origin(kind) is Literal:
        return value in typing.get_args(kind)
    if isinstance(value, tuple) and typing.get_origin(kind) is tuple:
        return all(_is_of_kind(part, typing.get_args(kind)[0]) for part in value)
    return type(value) is (typing.get_origin(kind) or kind)


def kind_of(field: Field) -> Any:
    """The type of a field's value, without notes and without None."""
    kind: Any = field.type
    if typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
    parts = [part for part in typing.get_args(kind) if part is not type(None)]
    is_optional = typing.get_origin(kind) in (types.UnionType, typing.Union) and len(parts) == 1
    return parts[0] if is_optional else kind


def notes_of(field: Field, kind: type[Note]) -> list[Note]:
    """What stands beside a field's type in `Annotated`, of one kind."""
    return [note for note in getattr(field.type, "__metadata__", ()) if isinstance(note, kind)]


def unknown_name(name: str, known: Iterable[str], became: Mapping[str, str] = NOTHING) -> str:
    """A sentence on a setting that does not exist: what `became` of it since an older version, or
    the one that was probably meant."""
    if advice := became.get(name.upper().replace("-", "_")):
        return f"there is no setting {name} any more; {advice} (CHANGELOG.md)."
    names = {_canonical(other): other for other in known}
    close = difflib.get_close_matches(_canonical(name), names, n=1, cutoff=0.6)
    advice = f"did you mean {names[close[0]]}?" if close else "--help lists them all."
    return f"there is no setting {name}; {advice}"


def _build(options_type: type[Options], default: Options | None, values: dict[str, Any]) -> Options:
    if default is not None:
        return typing.cast(Options, dataclasses.replace(typing.cast(Any, default), **values))
    missing = [
        field.name
        for field in dataclasses.fields(typing.cast(Any, options_type))
        if field.name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        meanings = {field.name: field.meaning for field in described_fields(options_type)}
        raise UserError(*(f"{_flag(name)} is missing. {meanings[name]}" for name in missing))
    return options_type(**values)


def _flags(
    argv: Sequence[str],
    known: dict[str, Field],
    problems: list[str],
    became: Mapping[str, str],
) -> Iterator[tuple[str, list[str]]]:
    """(field name, its words) of each flag; words that belong to no flag become problems."""
    names = {_canonical(name): name for name in known}
    groups: list[tuple[str, list[str]]] = []
    for word in argv:
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            groups.append((flag, [value] if equals else []))
        elif groups:
            groups[-1][1].append(word)
        else:
            problems.append(f"{word!r} follows no flag; write --NAME VALUE.")
    for flag, words in groups:
        name, negated = names.get(_canonical(flag)), False
        if name is None and _canonical(flag).startswith("no-"):
            name, negated = names.get(_canonical(flag)[3:]), True
        if name is None or (negated and kind_of(known[name]) is not bool):
            shown = [_shown(other) for other in known]
            problems.append(unknown_name(flag.lstrip("-"), shown, became))
        elif negated and not words:
            yield name, ["false"]
        else:
            yield name, words


def _convert(field: Field, words: list[str]) -> Any:
    """The value of a flag; raises `ValueError` with a sentence."""
    shown = _flag(field.name)
    kind = kind_of(field)
    if typing.get_origin(kind) is tuple:
        if not words:
            raise ValueError(f"{shown} needs at least one value.")
        part = typing.get_args(kind)[0]
        return tuple(_converted(word, part) for word in words)
    if kind is bool and not words:
        return True
    if len(words) != 1:
        found = " ".join(words) if words else "nothing"
        raise ValueError(f"{shown} takes one value, found {found}.")
    return _converted(words[0], kind)


def _converted(word: str, kind: Any) -> Any:
    """The value that a word means, or the word where it means none of that kind."""
    try:
        return CONVERTERS.get(kind, str)(word)
    except (ValueError, OverflowError):
        return word


def _switch(word: str) -> bool:
    if word.lower() not in SWITCHES:
        raise ValueError(word)
    return SWITCHES[word.lower()]


def _whole(word: str) -> int:
    number = float(word)
    if number != int(number):
        raise ValueError(word)
    return int(word) if word.lstrip("+-").isdigit() else int(number)


CONVERTERS: dict[Any, Callable[[str], Any]] = {bool: _switch, int: _whole, float: float}
PLACEHOLDERS = {int: "NUMBER", float: "NUMBER", bool: "[true|false]"}


def _canonical(name: str) -> str:
    return name.lstrip("-").lower().replace("_", "-")


def _flag(name: str) -> str:
    """A field's flag as people type it: settings as they are, options of a command with dashes."""
    return "--" + (name if name.isupper() else name.replace("_", "-"))


def _shown(name: str) -> str:
    """A field's name in a sentence: settings by name, options of a command by flag."""
    return name if name.isupper() else _flag(name)


@dataclass(frozen=True)
class Described:
    """A field with what the source says of it."""

    heading: str
    """The comment above its group, or ""."""
    name: str
    meaning: str
    """Its docstring in one line."""


def described_fields(options_type: type[Any]) -> Iterator[Described]:
    """The fields of a dataclass in their order, read from its source."""
    source = textwrap.dedent(inspect.getsource(options_type))
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    lines, heading = source.splitlines(), ""
    for before, field, text in zip(body.body, body.body[1:], body.body[2:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        between_them = lines[before.end_lineno or 0 : field.lineno - 1]
        heading = next((one.strip("# ") for one in between_them if "#" in one), heading)
        assert isinstance(text, ast.Expr)
        yield Described(heading, field.target.id, " ".join(ast.literal_eval(text.value).split()))


def help_text(options_type: type[Any], default: Any, description: str, prog: str) -> str:
    """What `--help` prints: every flag with its default and its meaning, under their headings."""
    known = {field.name: field for field in dataclasses.fields(options_type)}
    width = max(shutil.get_terminal_size().columns, 40)
    lines = [f"usage: {prog} [--FLAG VALUE ...]", "", *textwrap.wrap(description, width)]
    heading = None
    for one in described_fields(options_type):
        if one.heading != heading:
            heading = one.heading
            lines += ["", f"{heading or 'Flags'}:"]
        value = getattr(default, one.name, known[one.name].default)
        is_open = value is dataclasses.MISSING or value is None
        shown = "" if is_open else f"  (default: {_as_typed(value)})"
        lines.append(f"  {_flag(one.name)} {_placeholder(known[one.name])}".rstrip() + shown)
        lines += textwrap.indent(textwrap.fill(one.meaning, width - 6), " " * 6).splitlines()
    return "\n".join(lines)


def _placeholder(field: Field) -> str:
    kind = kind_of(field)
    if typing.get_origin(kind) is Literal:
        return "|".join(map(str, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        return f"{PLACEHOLDERS.get(typing.get_args(kind)[0], 'TEXT')} ..."
    return PLACEHOLDERS.get(kind, "TEXT")


def _as_typed(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_as_typed, value)) or '""'
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value) or '""'

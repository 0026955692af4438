"""Command lines made of a dataclass: one field, one flag, its docstring the help.

`tyro` prints the help and builds the object. Around it stand what its users expect here: flags in
either case and with dashes or underscores, switches that also take true or false, and all
problems of a command line reported at once, in words, as one `UserError`.
"""

import ast
import dataclasses
import difflib
import inspect
import itertools
import json
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypeVar

from captioning.system.errors import UserError

Options = TypeVar("Options")
SWITCHES = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def parse_options(
    options_type: type[Options],
    argv: Sequence[str],
    *,
    default: Options | None = None,
    description: str = "",
    prog: str | None = None,
) -> Options:
    """An `options_type` (a dataclass) from flags; raises `UserError` with every problem.

    `--help` prints the fields with their docstrings and exits with 0. Values that flags do not
    name come from `default`, or from the dataclass.
    """
    if {"-h", "--help"} & set(argv):
        import tyro

        shown = tyro.cli(
            options_type,
            args=["--help"],
            default=default,
            description=description or None,
            prog=prog,
            use_underscores=True,
        )
        raise AssertionError(f"--help returned {shown!r}")
    known = {field.name: field for field in dataclasses.fields(typing.cast(Any, options_type))}
    problems: list[str] = []
    values: dict[str, Any] = {}
    for name, words in _flags(argv, known, problems):
        if name in values:
            problems.append(f"{_flag(name)} is given twice.")
        try:
            values[name] = _convert(known[name], words)
        except ValueError as error:
            problems.append(str(error))
    try:
        parsed = _build(options_type, default, values)
    except UserError as error:
        problems += error.problems
    if problems:
        raise UserError(*problems)
    return parsed


def check_value(field: dataclasses.Field[Any], value: object) -> Iterator[str]:
    """The problem with a value's type, if it has one: `BATCH_SIZE is 'x'; it must be ...`."""
    choices = typing.get_args(field.type) if typing.get_origin(field.type) is Literal else ()
    if choices:
        right, rule = value in choices, f"one of {', '.join(map(str, choices))}"
    else:
        right = type(value) is field.type
        rule = {int: "a whole number", float: "a number", bool: "true or false"}.get(
            typing.cast(Any, field.type), "text"
        )
    if not right:
        yield f"{_shown(field.name)} is {value!r}; it must be {rule}."


def unknown_name(name: str, known: Iterable[str]) -> str:
    """A sentence on a setting that does not exist, with the one that was probably meant."""
    names = {_canonical(other): other for other in known}
    close = difflib.get_close_matches(_canonical(name), names, n=1, cutoff=0.6)
    advice = f"did you mean {names[close[0]]}?" if close else "--help lists them all."
    return f"there is no setting {name}; {advice}"


def _build(options_type: type[Options], default: Options | None, values: dict[str, Any]) -> Options:
    if default is not None:
        return typing.cast(Options, dataclasses.replace(typing.cast(Any, default), **values))
    missing = [
        f"{_flag(field.name)} is missing."
        for field in dataclasses.fields(typing.cast(Any, options_type))
        if field.name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UserError(*missing)
    return options_type(**values)


def _flags(
    argv: Sequence[str], known: dict[str, dataclasses.Field[Any]], problems: list[str]
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
        if name is None or (negated and known[name].type is not bool):
            shown = [_shown(other) for other in known]
            problems.append(unknown_name(flag.lstrip("-"), shown))
        elif negated and not words:
            yield name, ["false"]
        else:
            yield name, words


def _convert(field: dataclasses.Field[Any], words: list[str]) -> Any:
    """The value of a flag; raises `ValueError` with a sentence."""
    shown = _flag(field.name)
    kind = _without_none(field.type)
    if typing.get_origin(kind) is tuple:
        if not words:
            raise ValueError(f"{shown} needs at least one value.")
        return tuple(words)
    if kind is bool and not words:
        return True
    if len(words) != 1:
        found = " ".join(words) if words else "nothing"
        raise ValueError(f"{shown} takes one value, found {found}.")
    (word,) = words
    try:
        value = CONVERTERS.get(kind, str)(word)
    except (ValueError, OverflowError):
        value = word
    for problem in check_value(_retyped(field, kind), value):
        raise ValueError(problem)
    return value


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


def _without_none(kind: Any) -> Any:
    parts = [part for part in typing.get_args(kind) if part is not type(None)]
    is_optional = typing.get_origin(kind) in (types.UnionType, typing.Union) and len(parts) == 1
    return parts[0] if is_optional else kind


def _retyped(field: dataclasses.Field[Any], kind: Any) -> dataclasses.Field[Any]:
    if kind is field.type:
        return field
    plain: dataclasses.Field[Any] = dataclasses.field()
    plain.name, plain.type = field.name, kind
    return plain


def _canonical(name: str) -> str:
    return name.lstrip("-").lower().replace("_", "-")


def _flag(name: str) -> str:
    """A field's flag as people type it: settings as they are, options of a command with dashes."""
    return "--" + (name if name.isupper() else name.replace("_", "-"))


def _shown(name: str) -> str:
    """A field's name in a sentence: settings by name, options of a command by flag."""
    return name if name.isupper() else _flag(name)


def settings_table(options_type: type[Any]) -> str:
    """The fields of a dataclass with their defaults and docstrings, as a Markdown table."""
    body = ast.parse(inspect.getsource(options_type)).body[0]
    assert isinstance(body, ast.ClassDef)
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    for field, text in itertools.pairwise(body.body):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        assert isinstance(text, ast.Expr)
        meaning = " ".join(ast.literal_eval(text.value).split()).replace("|", "\\|")
        default = getattr(options_type, field.target.id)
        shown = json.dumps(default) if isinstance(default, str | bool) else f"{default:g}"
        lines.append(f"| `{field.target.id}` | `{shown}` | {meaning} |")
    return "\n".join(lines)

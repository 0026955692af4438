"""TOML files that hold the fields of a dataclass, with the rules that stand beside their types."""

import dataclasses
import os
import tomllib
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from captioning.system.errors import UserError
from captioning.system.options import MOST_WHOLE, NOTHING, check_value, kind_of, unknown_name
from captioning.system.reading import SETTINGS_BYTES, read_regular

Settings = TypeVar("Settings")


def read_toml(path: str | os.PathLike[str], *, advice: str = "") -> dict[str, Any]:
    """What a TOML file holds. Raises `UserError` naming the file; `advice` ends the sentence where
    it cannot be read."""
    try:
        return tomllib.loads(read_regular(path, most_bytes=SETTINGS_BYTES).decode())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.{advice}") from None
    except (ValueError, RecursionError) as error:  # a TOMLDecodeError, mostly
        raise UserError(f"{path} is not TOML: {error}.") from None


def with_values(
    base: Settings,
    values: Mapping[str, Any],
    *,
    place: str,
    became: Mapping[str, str] = NOTHING,
) -> Settings:
    """`base`, a dataclass, with values by name, in either case.

    Raises `UserError` with all problems, each naming `place`; `became` tells of names that are
    gone.
    """
    known = {field.name: field for field in dataclasses.fields(cast(Any, base))}
    problems = []
    accepted: dict[str, Any] = {}
    for key, value in values.items():
        name = key.upper().replace("-", "_")
        if name not in known:
            problems.append(f"{place}: {unknown_name(key, known, became)}")
            continue
        if kind_of(known[name]) is float and type(value) is int and abs(value) <= MOST_WHOLE:
            value = float(value)
        problems += [f"{place}: {problem}" for problem in check_value(known[name], value)]
        accepted[name] = value
    if problems:
        raise UserError(*problems)
    try:
        return cast(Settings, dataclasses.replace(cast(Any, base), **accepted))
    except UserError as error:
        raise UserError(*(f"{place}: {problem}" for problem in error.problems)) from None


def to_toml(value: str | bool | float) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return repr(value)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in escaped) + '"'

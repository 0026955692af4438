"""Flags of a command line that a benchmark puts together from several parts."""

from collections.abc import Sequence


def last_of_each(words: Sequence[str]) -> list[str]:
    """Words before the first flag, then each flag once with its values: of several, the last."""
    command: list[str] = []
    flags: dict[str, list[str]] = {}
    values = command
    for word in words:
        if word.startswith("--"):
            flags[word] = values = []
        else:
            values.append(word)
    return [*command, *(word for flag, given in flags.items() for word in (flag, *given))]

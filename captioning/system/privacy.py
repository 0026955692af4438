"""What does not leave the machine, nor stands in a message: secrets, and where things lie here.

A secret is known by the name of what holds it (`--token`, `?sig=`), or by its look; a place by its
beginning, `/`, `~` or a drive. Of a place the last part is left, by which its owner knows it.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MASK = "***"
SECRET_NAME = re.compile(r"(?i)(token|(secret|passw(or)?d|api[-_]?key|credential)s?)$")
"""How a flag with a secret is called; ENCODER_TOKENS is none."""
SECRET_PARAMETER = (
    r"(?i:[\w.-]*(?:token|secret|passw(?:or)?d|signature|credential|hmac|jwt|(?:api|access)[-_.]?key"
    r"(?:[-_.]?id)?)s?|(?:[\w.-]*[-_.])?(?:sig|pass|pwd|auth|session|policy|key|code))"
)
ADDRESS = re.compile(r"(?<=://)[^\s\"'<>]+")
"""What follows the scheme of a URL."""
SECRET_VALUE = re.compile(rf"((?<=[?&;#]){SECRET_PARAMETER}=)[^&;#\s\"']+")
"""The value of a query's or a fragment's parameter that is called secret."""
BY_LOOK = re.compile(
    r"hf_\w{8,}|wandb_v\d\w{8,}|sk-[\w-]{16,}|gh[opsu]_\w{16,}|github_pat_\w{16,}|AKIA[A-Z0-9]{12,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"
)
"""Tokens by their prefix."""
BARE_KEY = re.compile(r"[0-9a-f]{40}")
"""What a W&B key looks like, and a git commit too, so only where no revision is expected."""
PLACE = re.compile(
    r"(?:^|(?<=[;=\s])|(?<=::)|(?<=random:))(?:(?:file|local):(?://)?)?(?:/(?=[^\s/])|~[\w.-]*(?=/|$)|[A-Za-z]:[\\/])"
    r"[^;]*?(?=\s*(?:=\s*[\d.]+\s*)?(?:;|::|$))"
)
"""An absolute path, alone or as one of the sources of a STREAM."""


def mask_urls(text: str) -> str:
    """Any text, with user, password and secret parameters of the addresses in it masked."""
    return ADDRESS.sub(_masked_address, text)


def masked(name: str, value: str) -> str:
    """The value of a flag or setting, masked by its name or its look."""
    is_key = bool(BARE_KEY.fullmatch(value)) and "revision" not in name.lower()
    if value and (is_key or SECRET_NAME.search(name)):
        return MASK
    return mask_urls(BY_LOOK.sub(MASK, value))


def without_places(text: str) -> str:
    """A value with each absolute path in it cut to its last part: "/home/me/a.zip" -> "a.zip"."""
    return PLACE.sub(lambda found: _last_part(found[0]), text)


def shareable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name as others may see them, without secrets and absolute paths."""
    return {
        name: without_places(masked(name, value)) if isinstance(value, str) else value
        for name, value in settings.items()
    }


def shareable_words(words: Sequence[str]) -> list[str]:
    """A command line as others may see it."""
    found: list[str] = []
    flag = ""
    for word in words:
        name, equals, value = word.partition("=")
        if word.startswith("-"):
            flag = name.lstrip("-")
            value = without_places(masked(flag, value))
            found.append(f"{name}={value}" if equals else word)
        else:
            found.append(without_places(masked(flag, word)))
            flag = ""
    return found


def _last_part(place: str) -> str:
    last = re.split(r"[/\\]", place.rstrip("/\\"))[-1]
    # The home folder is called as its owner is.
    return "" if last.startswith("~") or last == Path.home().name else last


def _masked_address(found: re.Match[str]) -> str:
    address = found[0]
    host = re.split(r"[/?#]", address, maxsplit=1)[0]
    user = host.rpartition("@")[0]
    has_port = host.startswith("[") or host.rpartition(":")[2].isdigit()
    if not user and ":" in host and not has_port:  # a slash in the password
        user = address.rpartition("@")[0]
    if user:
        address = MASK + address[len(user) :]
    return SECRET_VALUE.sub(rf"\1{MASK}", address)

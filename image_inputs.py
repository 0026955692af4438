"""Which pictures a command line names: files, folders, globs and URLs.

URLs are fetched over http(s) only, within a size and a time, and never from a private address, not
even by a redirect.
"""

import glob
import ipaddress
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from PIL import Image

from errors import UserError

MOST_URL_BYTES = 50 * 2**20
URL_SECONDS = 20.0


@dataclass(frozen=True)
class ImageInput:
    """A picture as the user named it."""

    name: str

    def read(self) -> Path | bytes:
        """What `images.load_image` takes. Raises `UserError` where a URL gives nothing."""
        return fetch(self.name) if is_url(self.name) else Path(self.name)


def expand(names: Sequence[str]) -> list[ImageInput]:
    """All pictures that `names` mean, in order; folders and globs sorted by name.

    Raises `UserError` for a folder without pictures and a glob without matches.
    """
    found: list[ImageInput] = []
    for name in names:
        path = Path(name)
        if is_url(name):
            found.append(ImageInput(name))
        elif path.is_dir():
            pictures = [ImageInput(str(file)) for file in _pictures_in(path)]
            if not pictures:
                raise UserError(f"{name} holds no pictures; name a folder that does, or files.")
            found += pictures
        elif path.exists() or not glob.has_magic(name):
            found.append(ImageInput(name))  # a missing file is reported with the broken ones
        else:
            matches = sorted(glob.glob(name, recursive=True))
            if not matches:
                raise UserError(f"{name} matches no file; check the pattern.")
            found += [ImageInput(match) for match in matches if Path(match).is_file()]
    return found


def is_url(name: str) -> bool:
    """Whether a name is a URL of any scheme."""
    return "://" in name


def fetch(url: str) -> bytes:
    """The content of an http(s) URL. Raises `UserError` with the reason where there is none."""
    deadline = time.monotonic() + URL_SECONDS
    _check_address(url)
    request = urllib.request.Request(url, headers={"User-Agent": "image-captioning-trainer"})
    opener = urllib.request.build_opener(_CheckedRedirects)
    try:
        with opener.open(request, timeout=URL_SECONDS) as response:
            return _read(response, url, deadline)
    except UserError:
        raise
    except TimeoutError:
        raise UserError(f"{url} took longer than {URL_SECONDS:.0f} seconds.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"{url} cannot be fetched: {reason}.") from None


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Any,
        newurl: str,
    ) -> urllib.request.Request | None:
        _check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _read(response: Any, url: str, deadline: float) -> bytes:
    parts, size = [], 0
    while part := response.read(2**16):
        size += len(part)
        if size > MOST_URL_BYTES:
            raise UserError(f"{url} is larger than {MOST_URL_BYTES // 2**20} MiB.")
        if time.monotonic() > deadline:
            raise TimeoutError
        parts.append(part)
    return b"".join(parts)


def _check_address(url: str) -> None:
    """Refuse what is not http(s), and hosts that are not public."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{url} is not fetched: only http:// and https:// addresses are.")
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 80, proto=socket.IPPROTO_TCP)
    except OSError as error:
        raise UserError(f"{url} cannot be fetched: {error.strerror or error}.") from None
    for *_, address in found:
        if not ipaddress.ip_address(str(address[0]).split("%")[0]).is_global:
            raise UserError(f"{url} is not fetched: {parts.hostname} is a private address.")


def _pictures_in(folder: Path) -> Iterator[Path]:
    Image.init()
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in Image.EXTENSION and path.is_file():
            yield path

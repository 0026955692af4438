"""Which pictures a command line names: files, folders, globs and URLs.

URLs are fetched over http(s) only, within a size and a time, and never from a private address, not
by a redirect and not by a name that means another address when it is looked up once more.
"""

import glob
import http.client
import ipaddress
import os
import socket
import string
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlsplit

from PIL import Image

from captioning.sources.images import reads_heic
from captioning.system.errors import UserError

MOST_URL_BYTES = 50 * 2**20
URL_SECONDS = 20.0
NO_PHOTOGRAPHS = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
"""Formats that Pillow knows of but cannot draw without other programs, or that are videos."""


@dataclass(frozen=True)
class ImageInput:
    """A picture as the user named it."""

    name: str
    content: bytes = field(default=b"", repr=False)
    """The picture itself, where it came from standard input."""

    @property
    def is_missing(self) -> bool:
        """Whether it is a file that does not exist."""
        return not (self.content or is_url(self.name) or os.path.exists(self.name))

    def read(self) -> Path | bytes:
        """What `images.load_image` takes. Raises `UserError` where a URL gives nothing."""
        if self.content:
            return self.content
        return fetch(self.name) if is_url(self.name) else Path(self.name)


def expand(names: Sequence[str]) -> list[ImageInput]:
    """All pictures that `names` mean, in order; folders and globs sorted by name.

    Raises `UserError` for a folder without pictures and a glob without matches.
    """
    found: list[ImageInput] = []
    for name in names:
        if not name:
            raise UserError("--image is given an empty name; name a file, a folder or a URL.")
        if is_url(name):
            found.append(ImageInput(name))
        elif os.path.exists(name) or not glob.has_magic(name):
            found += _pictures(Path(name))  # a missing file is reported with the broken ones
        else:
            matches = sorted(glob.glob(name, recursive=True))
            if not matches:
                raise UserError(f"{name} matches no file; check the pattern.")
            # Folders that match beside files, as `**` gives them, hold what matches by itself.
            files = [match for match in matches if os.path.isfile(match)]
            for match in files or matches:
                found += _pictures(Path(match))
    return found


def is_url(name: str) -> bool:
    """Whether a name is a URL of any scheme."""
    return "://" in name


def fetch(url: str) -> bytes:
    """The content of an http(s) URL. Raises `UserError` with the reason where there is none."""
    deadline = time.monotonic() + URL_SECONDS
    address = quote(url, safe=string.punctuation)  # people type spaces and letters of any script
    request_headers = {"User-Agent": "image-captioning-trainer"}
    opener = urllib.request.build_opener(_CheckedRedirects, _PublicHTTP, _PublicHTTPS)
    try:
        check_address(address)
        request = urllib.request.Request(address, headers=request_headers)
        with opener.open(request, timeout=URL_SECONDS) as response:
            return _read(response, url, deadline)
    except UserError:
        raise
    except TimeoutError:
        raise UserError(f"{url} took longer than {URL_SECONDS:g} seconds.") from None
    except urllib.error.HTTPError as error:
        with error:
            raise UserError(f"{url} cannot be fetched: {error}.") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
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
        check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _PublicConnection(http.client.HTTPConnection):
    """Looks at whom it has reached before it says a word: names may change their address."""

    def connect(self) -> None:
        super().connect()
        try:
            check_peer(self.sock.getpeername()[0], self.host)
        except UserError:
            self.close()
            raise


class _PublicTLSConnection(http.client.HTTPSConnection, _PublicConnection):
    """The same, before the handshake."""


class _PublicHTTP(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        # A proxy is of the user's own choice, and it is the one that looks names up.
        kind = http.client.HTTPConnection if req.has_proxy() else _PublicConnection
        return self.do_open(kind, req)


class _PublicHTTPS(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        has_proxy = req.has_proxy() or getattr(req, "_tunnel_host", None)
        kind = http.client.HTTPSConnection if has_proxy else _PublicTLSConnection
        return self.do_open(kind, req)


def _read(response: Any, url: str, deadline: float) -> bytes:
    parts, size = [], 0
    # read1 returns what has come, so that the deadline holds for a server that drips, too.
    while part := response.read1(2**16):
        size += len(part)
        if size > MOST_URL_BYTES:
            raise UserError(f"{url} is larger than {MOST_URL_BYTES // 2**20} MiB.")
        if time.monotonic() > deadline:
            raise TimeoutError
        parts.append(part)
    if size < int(response.headers.get("Content-Length") or 0):
        raise ValueError("the connection ended early")
    return b"".join(parts)


def check_address(url: str) -> None:
    """Refuse what is not http(s), and hosts that are not public."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{url} is not fetched: only http:// and https:// addresses are.")
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 80, proto=socket.IPPROTO_TCP)
    except OSError as error:
        raise UserError(f"{url} cannot be fetched: {error.strerror or error}.") from None
    for *_, address in found:
        check_peer(str(address[0]), parts.hostname, url)


def check_peer(address: str, host: str, url: str = "") -> None:
    """Refuse the IP address of a host where it is no public one."""
    ip = ipaddress.ip_address(address.split("%")[0])
    if ip.is_multicast or not ip.is_global:
        raise UserError(f"{url or host} is not fetched: {host} is a private address ({address}).")


def _pictures(path: Path) -> list[ImageInput]:
    """A file itself; of a folder, the pictures in it and below it that are not hidden."""
    if not path.is_dir():
        return [ImageInput(str(path))]
    endings = picture_endings()
    files = visible_files(path)
    found = [ImageInput(str(file)) for file in files if file.suffix.lower() in endings]
    if not found:
        raise UserError(f"{path} holds no pictures; name a folder that does, or files.")
    return found


def visible_files(folder: Path) -> list[Path]:
    """The files in a folder and below it that are not hidden, sorted by name."""
    return [
        file
        for file in sorted(folder.rglob("*"))
        if not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.is_file()
    ]


def picture_endings() -> set[str]:
    """Endings of files that can be read as pictures here."""
    Image.init()
    reads_heic()
    formats = Image.OPEN.keys() - NO_PHOTOGRAPHS
    return {ending for ending, kind in Image.EXTENSION.items() if kind in formats}

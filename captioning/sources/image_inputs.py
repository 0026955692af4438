"""Which pictures a command line names: files, folders, globs, zips, shards and URLs.

URLs are fetched over http(s) only, within a size and a time, and never from a private address, not
by a redirect and not by a name that means another address when it is looked up once more.
"""

import glob
import http.client
import ipaddress
import os
import socket
import string
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, unquote, urlsplit

from PIL import Image

from captioning.sources.images import reads_heic
from captioning.sources.origins import READ_ERRORS, list_files
from captioning.sources.parquet_files import stored_picture_column
from captioning.system.errors import UserError

MOST_URL_BYTES = 50 * 2**20
URL_SECONDS = 20.0
NAME_CHARACTERS = 32
"""Of a name that is none, so many are shown."""
USER_AGENT = "image-captioning-trainer"
TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv4 addresses as a network of IPv6 alone writes them (NAT64, RFC 6052)."""
GIVEN_OUT = ipaddress.IPv6Network("2000::/3")
SPECIAL = tuple(
    map(
        ipaddress.ip_network,
        ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
    )
)
"""Parts of the public space that are none: protocols of the IETF with Teredo among them, relays,
6to4, examples; not every version of Python knows all of them."""
NO_PHOTOGRAPHS = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
"""Formats that Pillow knows of but cannot draw without other programs, or that are videos."""
ARCHIVE_SUFFIX = ".zip"
SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".parquet")
"""Files of many pictures that are read one after another."""


@dataclass(frozen=True, slots=True)
class ImageInput:
    """A picture as the user named it, or a shard of many."""

    name: str
    content: bytes = field(default=b"", repr=False)
    """The picture itself, where it came from standard input."""
    root: str | None = field(default=None, repr=False)
    """The folder or archive by which it was named, with which its name begins; "" = the current
    folder, None = it was named itself."""
    load: Callable[[], bytes] | None = field(default=None, repr=False)
    """Gives the bytes of a member of an archive."""

    @property
    def is_file(self) -> bool:
        """Whether it is a file of its own, or ought to be."""
        return not (self.content or self.load or is_url(self.name))

    @property
    def is_missing(self) -> bool:
        """Whether it is a file that does not exist."""
        return self.is_file and not os.path.exists(self.name)

    @property
    def is_shard(self) -> bool:
        """Whether it is a file of many pictures that pass one after another."""
        return self.is_file and is_shard_name(self.name) and os.path.isfile(self.name)

    @property
    def inner_name(self) -> str:
        """Its path below the place by which it was named; of a single picture the file's name."""
        if self.root is not None:
            return self.name[len(self.root) :].lstrip("/")
        path = unquote(urlsplit(self.name).path) if is_url(self.name) else self.name
        return path.rstrip("/").rpartition("/")[2]

    def read(self) -> Path | bytes:
        """What `images.load_image` takes. Raises `UserError` where a URL gives nothing."""
        if self.content:
            return self.content
        if self.load is not None:
            return self.load()
        return fetch(self.name) if is_url(self.name) else Path(self.name)


def expand(names: Sequence[str]) -> list[ImageInput]:
    """All pictures that `names` mean, in order; folders and globs sorted by name.

    Raises `UserError` for a folder without pictures and a glob without matches.
    """
    found: list[ImageInput] = []
    for name in names:
        if not name:
            raise UserError("--image is given an empty name; name a file, a folder or a URL.")
        if name.lower().startswith("data:"):
            raise UserError(
                f"{name[:NAME_CHARACTERS]!r} ... ({len(name):,} characters) is a picture itself, "
                "no address of one; save it as a file, and name that."
            )
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
            if files:
                root = _fixed_folder(name)
                named = (one for file in files for one in _file(file))
                found += [replace(one, root=root) if one.root is None else one for one in named]
            else:
                found += [one for match in matches for one in _pictures(Path(match))]
    return found


def is_shard_name(name: str) -> bool:
    """Whether a file is called as shards of pictures are."""
    return name.lower().endswith(SHARD_SUFFIXES)


def _fixed_folder(pattern: str) -> str:
    """The folder of a pattern that all of its matches lie in; "" for the current one."""
    parts = pattern.split("/")[:-1]
    fixed = next((n for n, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return "/".join(parts[:fixed])


def is_url(name: str) -> bool:
    """Whether a name is a URL of any scheme."""
    return "://" in name


def fetch(url: str) -> bytes:
    """The content of an http(s) URL. Raises `UserError` with the reason where there is none."""
    call = _Call(url)
    thread = threading.Thread(target=call.run, name="fetch", daemon=True)
    thread.start()
    # One deadline for all: looking the name up, connecting, redirects, headers, whatever drips.
    thread.join(URL_SECONDS)
    if thread.is_alive():
        call.abandon()
        raise UserError(f"{url} took longer than {URL_SECONDS:g} seconds.")
    if call.error is not None:
        raise call.error
    return call.content


class _Call:
    """A URL that is fetched in a thread, which may be left alone when it takes too long."""

    def __init__(self, url: str) -> None:
        self.content = b""
        self.error: Exception | None = None
        self._url = url
        self._sockets: list[socket.socket] = []
        self._is_abandoned = False

    def run(self) -> None:
        """Fetch it; what comes of it is in `content` or `error`."""
        # People type spaces and letters of any script.
        address = quote(self._url, safe=string.punctuation)
        opener = urllib.request.build_opener(_CheckedRedirects, _HTTP(self.note), _HTTPS(self.note))
        try:
            check_address(address)
            request = urllib.request.Request(address, headers={"User-Agent": USER_AGENT})
            with opener.open(request, timeout=URL_SECONDS) as response:
                self.content = _read(response, self._url)
        except UserError as error:  # anew, because its frames hold what is to be closed
            self.error = UserError(*error.problems)
        except TimeoutError:
            self.error = UserError(f"{self._url} took longer than {URL_SECONDS:g} seconds.")
        except urllib.error.HTTPError as error:
            with error:
                self.error = UserError(f"{self._url} cannot be fetched: {error}.")
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            self.error = UserError(f"{self._url} cannot be fetched: {reason}.")
        except Exception as error:  # a bug, which is not to be lost with the thread
            self.error = error

    def note(self, connected: socket.socket) -> None:
        """Remember what has been reached, before a word is said."""
        self._sockets.append(connected)
        if self._is_abandoned:
            self.abandon()

    def abandon(self) -> None:
        """Have nothing more come: a server that drips would hold the thread for ever."""
        self._is_abandoned = True
        for connected in self._sockets:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)


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


class _HTTP(urllib.request.HTTPHandler):
    def __init__(self, note: Callable[[socket.socket], None]) -> None:
        super().__init__()
        self._note = note

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        # A proxy is of the user's own choice, and it is the one that looks names up.
        kind = http.client.HTTPConnection if req.has_proxy() else _PublicConnection
        return self.do_open(_noted(kind, self._note), req)


class _HTTPS(urllib.request.HTTPSHandler):
    def __init__(self, note: Callable[[socket.socket], None]) -> None:
        super().__init__()
        self._note = note

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        has_proxy = req.has_proxy() or getattr(req, "_tunnel_host", None)
        kind = http.client.HTTPSConnection if has_proxy else _PublicTLSConnection
        return self.do_open(_noted(kind, self._note), req)


def _noted(kind: Any, note: Callable[[socket.socket], None]) -> Any:
    """A kind of connection that tells of its socket; the response alone will hold it."""

    class Noted(kind):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            note(self.sock)

    return Noted


def _read(response: Any, url: str) -> bytes:
    parts, size = [], 0
    while part := response.read1(2**16):
        size += len(part)
        if size > MOST_URL_BYTES:
            raise UserError(f"{url} is larger than {MOST_URL_BYTES // 2**20} MiB.")
        parts.append(part)
    if size < int(response.headers.get("Content-Length") or 0):
        raise ValueError("the connection ended early")
    return b"".join(parts)


def check_address(url: str) -> None:
    """Refuse what is not http(s), and hosts that are not public."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{url} is not fetched: only http:// and https:// addresses are.")
    if "@" in parts.netloc:
        raise UserError(f"{url} is not fetched: it holds a user or a password, which are not sent.")
    try:
        port = parts.port or 80
    except ValueError:  # whose text may hold a part of a password
        raise UserError(f"{url} cannot be fetched: its port is no number up to 65535.") from None
    try:
        found = socket.getaddrinfo(parts.hostname, port, proto=socket.IPPROTO_TCP)
    except OSError as error:
        raise UserError(f"{url} cannot be fetched: {error.strerror or error}.") from None
    for *_, address in found:
        check_peer(str(address[0]), parts.hostname, url)


def check_peer(address: str, host: str, url: str = "") -> None:
    """Refuse the IP address of a host where it is no public one."""
    if not is_public(ipaddress.ip_address(address.split("%")[0])):
        raise UserError(f"{url or host} is not fetched: {host} is a private address ({address}).")


def is_public(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is one of a single machine that the whole internet can reach.

    Of an IPv6 address that stands for an IPv4 one, that one counts. All others that are public
    begin with 2000::/3, which is all that has been given out (RFC 4291, IANA).
    """
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(ip.ipv4_mapped)
        if ip in TRANSLATED:
            return is_public(ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF))
        if ip not in GIVEN_OUT:
            return False
    is_special = any(ip.version == network.version and ip in network for network in SPECIAL)
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or is_special)


def _pictures(path: Path) -> list[ImageInput]:
    """A file itself, or the pictures in a zip; of a folder, the pictures in it and below it that
    are not hidden, or the shards where it holds no pictures."""
    if not path.is_dir():
        return _file(str(path))
    root, endings = "" if str(path) == "." else str(path), picture_endings()
    found, shards = [], []
    for name in visible_files(str(path)):
        if os.path.splitext(name)[1].lower() in endings:
            found.append(ImageInput(name, root=root))
        elif is_shard_name(name) and not _is_table_alone(name):
            shards.append(ImageInput(name, root=root))
    if not (found or shards):
        raise UserError(f"{path} holds no pictures; name a folder that does, or files.")
    return found or shards


def _is_table_alone(name: str) -> bool:
    """Whether a file is Parquet without pictures, as lies beside tars."""
    import pyarrow.parquet

    if not name.lower().endswith(".parquet"):
        return False
    try:
        return stored_picture_column(pyarrow.parquet.read_schema(name)) is None
    except (*READ_ERRORS, pyarrow.ArrowException):
        return False  # what is wrong with it is told when it is read


def _file(name: str) -> list[ImageInput]:
    if not (name.lower().endswith(ARCHIVE_SUFFIX) and os.path.isfile(name)):
        return [ImageInput(name)]
    endings = picture_endings()
    found = [
        ImageInput(f"{name}/{member.name}", root=name, load=member.read)
        for member in list_files(name)
        if os.path.splitext(member.name)[1].lower() in endings
    ]
    if not found:
        raise UserError(f"{name} holds no pictures; name a zip that does, or files.")
    return found


def visible_files(folder: str) -> Iterator[str]:
    """The files in a folder and below it that are not hidden, sorted by name."""
    prefix = "" if folder == "." else f"{folder.rstrip('/')}/"
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except PermissionError:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from visible_files(f"{prefix}{entry.name}")
        elif entry.is_file():
            yield f"{prefix}{entry.name}"


def picture_endings() -> set[str]:
    """Endings of files that can be read as pictures here."""
    Image.init()
    reads_heic()
    formats = Image.OPEN.keys() - NO_PHOTOGRAPHS
    return {ending for ending, kind in Image.EXTENSION.items() if kind in formats}

"""Which pictures a command line names, and what may be fetched."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedReader, BytesIO
from pathlib import Path
from socket import AF_INET, IPPROTO_TCP, SOCK_STREAM
from typing import ClassVar

import pytest
from PIL import Image

from captioning.sources import image_inputs
from captioning.sources.image_inputs import check_peer, expand, fetch
from captioning.sources.images import load_image
from captioning.system.errors import UserError

MOST_DRIPS = 150
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKS = OK + b"Transfer-Encoding: chunked\r\n\r\n"
DRIPS = {
    "/drip": (OK + b"\r\n", b"x"),
    "/status": (b"", b"H"),
    "/header": (OK + b"X: ", b"x"),
    "/headers": (OK, b"X: y\r\n"),
    "/continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "/size": (CHUNKS, b"0"),
    "/extension": (CHUNKS + b"1;", b"x"),
    "/chunks": (CHUNKS, b"1\r\nx\r\n"),
    "/trailers": (CHUNKS + b"0\r\n", b"X: y\r\n"),
    "/loop": (b"HTTP/1.1 302 Found\r\nLocation: ", b"/"),
}
"""What a server sends at once, and what then drips, in each phase of an answer."""


def png() -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (4, 3), "red").save(buffer, "PNG")
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    """A server with pictures, pages and traps."""

    drips = 0
    ended = threading.Event()
    said: ClassVar[list[bytes]] = []

    def handle_one_request(self) -> None:
        assert isinstance(self.rfile, BufferedReader)
        self.said.append(self.rfile.peek(1))
        super().handle_one_request()

    def do_GET(self) -> None:
        places = {
            "/to-file": "file:///etc/passwd",
            "/to-private": "http://10.0.0.1/secret.png",
            "/to-loopback": f"http://localhost:{self.server.server_address[1]}/a.png",
            "/to-picture": "/a.png",
        }
        if self.path in places:
            self.send_response(302)
            self.send_header("Location", places[self.path])
            self.end_headers()
        elif self.path in ("/a.png", "/my%20photo.png"):
            self._send(png())
        elif self.path == "/page":
            self._send(b"<!DOCTYPE html><p>hello")
        elif self.path == "/large":
            self._send(b"x" * 100_000)
        elif self.path in DRIPS:
            self._drip(*DRIPS[self.path])
        elif self.path == "/cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
        else:
            self.send_error(404)

    def _send(self, content: bytes) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(content)

    def _drip(self, start: bytes, drop: bytes) -> None:
        Handler.drips = 0
        try:
            self.wfile.write(start)
            while Handler.drips < MOST_DRIPS:
                self.wfile.write(drop)
                self.wfile.flush()
                Handler.drips += 1
                time.sleep(0.02)
        except OSError:
            pass  # the reader has gone, as it should
        Handler.ended.set()

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=web.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{web.server_address[1]}"
    web.shutdown()
    thread.join()
    web.server_close()


@pytest.fixture
def allowed(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server's address, which alone is allowed although it is no public one."""
    check = image_inputs.check_address

    def check_others(url: str) -> None:
        if not url.startswith(server):
            check(url)

    monkeypatch.setattr(image_inputs, "check_address", check_others)
    monkeypatch.setattr(image_inputs._PublicConnection, "connect", HTTPConnection.connect)
    monkeypatch.setenv("no_proxy", "*")
    return server


def names(*wanted: str | Path) -> list[str]:
    return [one.name for one in expand([str(name) for name in wanted])]


def test_a_url_gives_its_picture(allowed: str) -> None:
    for path in ("a.png", "to-picture", "my photo.png"):
        (one,) = expand([f"{allowed}/{path}"])
        assert load_image(one.read(), name=one.name).size == (4, 3)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing.png", "404"),
        ("to-file", "is not allowed"),
        ("to-private", "private address"),
        ("to-loopback", "private address"),
        ("cut", "ended early"),
    ],
)
def test_what_a_url_does_not_give_is_told(allowed: str, path: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        fetch(f"{allowed}/{path}")


def test_a_page_is_no_picture(allowed: str) -> None:
    (one,) = expand([f"{allowed}/page"])
    with pytest.raises(UserError, match=r"/page is text .*no picture"):
        load_image(one.read(), name=one.name)


def test_a_url_has_a_limit_of_size(allowed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_inputs, "MOST_URL_BYTES", 99_999)
    with pytest.raises(UserError, match="larger than"):
        fetch(f"{allowed}/large")
    monkeypatch.setattr(image_inputs, "MOST_URL_BYTES", 100_000)
    assert len(fetch(f"{allowed}/large")) == 100_000


@pytest.mark.parametrize("path", DRIPS)
def test_a_url_has_one_limit_of_time_whatever_drips(
    allowed: str, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    Handler.ended.clear()
    monkeypatch.setattr(image_inputs, "URL_SECONDS", 0.2)
    with pytest.raises(UserError, match=r"longer than 0\.2 seconds"):
        fetch(f"{allowed}{path}")
    assert Handler.ended.wait(20)
    assert Handler.drips < MOST_DRIPS


def test_a_name_that_nobody_looks_up_in_time_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    is_over = threading.Event()

    def look_up(*_: object, **__: object) -> list[object]:
        is_over.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(image_inputs, "URL_SECONDS", 0.1)
    with pytest.raises(UserError, match=r"longer than 0\.1 seconds"):
        fetch("http://slow.example/a.png")
    is_over.set()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.png",
        "http://localhost:8000/a.png",
        "http://[::1]/a.png",
        "http://[::ffff:127.0.0.1]/a.png",
        "http://2130706433/a.png",
        "http://0.0.0.0/a.png",
        "http://10.1.2.3/a.png",
        "http://192.168.0.1/a.png",
        "http://169.254.169.254/latest/meta-data",
        "http://224.0.0.1/a.png",
    ],
)
def test_private_hosts_are_refused(url: str) -> None:
    with pytest.raises(UserError, match="private address"):
        fetch(url)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        *((one, True) for one in ("93.184.215.14", "8.8.8.8", "192.0.1.1", "223.255.255.254")),
        *((one, True) for one in ("2606:4700::1111", "2a00:1450:4001::1", "64:ff9b::808:808")),
        *((one, False) for one in ("0.1.2.3", "10.0.0.1", "100.64.0.1", "127.9.9.9")),
        *((one, False) for one in ("169.254.169.254", "172.16.0.1", "192.168.1.1", "192.0.0.8")),
        *((one, False) for one in ("192.0.0.9", "192.0.0.170", "192.0.2.1", "192.88.99.1")),
        *((one, False) for one in ("198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.251")),
        *((one, False) for one in ("240.0.0.1", "255.255.255.255", "0.0.0.0")),
        *((one, False) for one in ("::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:10.0.0.1")),
        *((one, False) for one in ("::ffff:0:127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b::a00:1")),
        *((one, False) for one in ("64:ff9b::7f00:1", "64:ff9b::e000:1", "64:ff9b::c000:8")),
        *((one, False) for one in ("64:ff9b:1::808:808", "64:ff9b:0:1::1", "100::1", "fec0::1")),
        *((one, False) for one in ("fc00::1", "fd12::1", "fe80::1%eth0", "ff02::1", "ff0e::1")),
        *((one, False) for one in ("2001::7f00:1", "2001:0:53aa:64c:0:5efe::", "2001:db8::1")),
        *((one, False) for one in ("2001:10::1", "2001:20::1", "2002:7f00:1::", "2002:808:808::")),
        *((one, False) for one in ("2002:a9fe:a9fe::", "3fff::1", "5f00::1", "4000::1")),
    ],
)
def test_public_is_what_the_internet_reaches(address: str, expected: bool) -> None:
    if expected:
        check_peer(address, "host.example")
        return
    with pytest.raises(UserError, match=r"host\.example is a private address"):
        check_peer(address, "host.example")


@pytest.mark.parametrize(
    "url",
    [
        "https://alice:PASSWORD@127.0.0.1/a.png?token=TOKEN&id=7",
        "https://alice:PASS@WORD@127.0.0.1/a.png",
        "https://alice:PASS/WORD@127.0.0.1/a.png",
        "http://PASSWORD@10.0.0.1/#access_token=TOKEN",
        "http://127.0.0.1/a.png?X-Amz-Signature=TOKEN&X-Amz-Credential=TOKEN",
        "http://127.0.0.1:PASSWORD/a.png?sig=TOKEN",
        "ftp://alice:PASSWORD@host/?api_key=TOKEN",
        "http://[PASSWORD@/a.png?key=TOKEN",
    ],
)
def test_no_error_tells_a_secret(url: str) -> None:
    with pytest.raises(UserError) as caught:
        fetch(url)
    told = str(caught.value).replace("127.0.0.1:PASSWORD", "")  # there it is no password
    assert not [secret for secret in ("PASS", "WORD", "TOKEN") if secret in told]


def test_a_picture_in_a_url_is_not_echoed() -> None:
    url = "data:image/png;base64," + "A" * 10_000
    with pytest.raises(UserError, match=r"\(10,022 characters\) is a picture itself") as caught:
        expand([url])
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_name_that_changes_its_address_is_refused_before_a_word_is_said(
    server: str, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    port = int(server.rpartition(":")[2])
    answers = iter(["93.184.215.14", "127.0.0.1"])  # DNS rebinding: looked up twice, two answers

    def look_up(host: str, *_: object, **__: object) -> list[object]:
        assert host == "rebinds.example"
        return [(AF_INET, SOCK_STREAM, IPPROTO_TCP, "", (next(answers), port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(Handler, "said", [])
    with pytest.raises(UserError, match=r"is a private address \(127\.0\.0\.1\)"):
        fetch(f"{scheme}://rebinds.example:{port}/a.png")
    assert not list(answers)
    assert not any(Handler.said)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://example.org/a.png", "http://", "gopher://example.org"]
)
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(UserError, match="only http"):
        fetch(url)


@pytest.mark.parametrize("url", ["http://[/a.png", "http://127.0.0.1:99999/a.png"])
def test_a_broken_url_is_a_sentence(url: str) -> None:
    with pytest.raises(UserError, match="cannot be fetched"):
        fetch(url)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures among other things, at two levels."""
    for name in ("b.png", "a.JPG", "deep/c.webp", ".hidden.png", ".thumbs/d.png", "deep/._c.webp"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    for name in ("notes.txt", "report.pdf", "film.mpg", "data.h5"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def test_a_folder_means_its_pictures_in_order(folder: Path) -> None:
    found = [os.path.relpath(name, folder) for name in names(folder)]
    assert found == ["a.JPG", "b.png", "deep/c.webp"]
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="holds no pictures"):
        expand([str(folder / "empty")])


def test_a_pattern_means_its_matches_in_order(folder: Path) -> None:
    assert names(folder / "*.png") == [str(folder / "b.png")]
    assert names(f"{folder}/**/*.*p*") == [
        str(folder / name) for name in ("b.png", "deep/c.webp", "film.mpg", "report.pdf")
    ]
    assert names(f"{folder}/de*") == [str(folder / "deep/c.webp")]
    with pytest.raises(UserError, match="matches no file"):
        expand([f"{folder}/*.bmp"])


def test_a_name_with_brackets_is_a_file_first(folder: Path) -> None:
    (folder / "photo[1].png").write_bytes(b"")
    assert names(folder / "photo[1].png") == [str(folder / "photo[1].png")]


def test_order_is_as_typed_and_missing_files_are_kept(folder: Path) -> None:
    missing = folder / "missing.png"
    assert names(folder / "b.png", missing, "http://example.org/a.png", folder / "a.JPG") == [
        str(folder / "b.png"),
        str(missing),
        "http://example.org/a.png",
        str(folder / "a.JPG"),
    ]
    assert [one.is_missing for one in expand([str(missing), str(folder / "b.png")])] == [
        True,
        False,
    ]


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(UserError, match="empty name"):
        expand([""])

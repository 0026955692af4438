"""What the page may ask, and what it is answered. Starlette, with nothing between.

    GET  /                      the page; its parts are /page/NAME
    GET  /api/about             models, folder, what was noticed at the start
    POST /api/try               a picture; captions with what their words looked at
    GET  /api/order             the numbers of a filter's pictures, least confident first
    GET  /api/items             what is said of some pictures
    GET  /api/news              what has changed since, and how far drafts are
    POST /api/say, /api/undo    a correction, which is on disk when the answer comes; 409 where
                                another window was first
    POST /api/drafting          go on or pause with drafts
    POST /api/learn             the captions file is written; commands that learn from it
    GET  /picture/SIZE/NUMBER   a small copy

Mistakes are `{"error": "a sentence"}`. News are asked for again and again, not pushed: a browser
opens six connections to a server at most, and six windows that listen would leave none.
"""

import asyncio
import json
import os
import sys
import threading
import time
import traceback
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from captioning.app.album import Album
from captioning.app.corrections import StaleError
from captioning.app.desk import Desk, Model, Said
from captioning.app.drafts import Drafting, drafts_in_folder
from captioning.app.guard import Guard
from captioning.app.learning import Beginning, summary
from captioning.app.pictures import SIDES, SmallCopies, changed_at
from captioning.reports.gallery import embedded_heat
from captioning.reports.report import TEMPLATES_DIR
from captioning.sources.image_inputs import MOST_URL_BYTES
from captioning.sources.images import load_image
from captioning.system.errors import UserError
from captioning.system.processes import worker_count

PAGE_DIR = Path(__file__).parent / "page"
SHARED = ("palette.css", "heat.js", "camera.js")
"""Parts that the page has in common with reports and exported pages."""
KINDS = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".html": "text/html",
    ".svg": "image/svg+xml",
}
MOST_PICTURE_BYTES = MOST_URL_BYTES
MOST_JSON_BYTES = 2**16
MOST_ITEMS = 500
WRITE_SECONDS = 1.0
"""Between a correction and the captions file that has it."""


@dataclass
class Page:
    """All that the page shows."""

    models: Sequence[Model]
    beginning: Beginning
    album: Album | None = None
    drafting: Drafting | None = None
    captions_file: str = ""
    """Where captions of the folder are, as CAPTIONS_FILE says it."""
    notes: list[str] = field(default_factory=list)
    """What was noticed and should be known."""
    copies: SmallCopies = field(default_factory=SmallCopies)

    def __post_init__(self) -> None:
        self.desk = Desk(self.drafting)
        self.turns = anyio.CapacityLimiter(max(1, worker_count(-1)))
        """Pictures that are made small at the same time."""
        if self.album is not None:
            self.notes += self.album.corrections.notes

    def read_drafts(self) -> None:
        """Read what is there of captions, then let the model say the others."""
        assert self.album is not None
        try:
            self.album.add_drafts(drafts_in_folder(self.album, self.captions_file))
        except UserError as error:
            self.notes.append(str(error))
        except Exception as error:
            traceback.print_exc()
            self.notes.append(f"The captions in {self.album.folder} cannot be read: {error}.")
        if self.drafting is not None:
            self.drafting.resume()
        self.desk.wake()

    def reviewed(self) -> Album:
        """The folder. Raises `UserError` where none was named."""
        if self.album is None:
            raise UserError("No folder was named. Start again with: --folder PICTURES")
        return self.album


def build(page: Page, *, host: str = "127.0.0.1", names: Collection[str] = ()) -> Starlette:
    """The application that serves a page to those who reach `host`, or call it one of `names`."""
    api = (
        ("/", show_page, "GET"),
        ("/page/{name}", show_part, "GET"),
        ("/api/about", tell_about, "GET"),
        ("/api/try", caption, "POST"),
        ("/api/order", tell_order, "GET"),
        ("/api/items", tell_items, "GET"),
        ("/api/news", tell_news, "GET"),
        ("/api/say", say, "POST"),
        ("/api/undo", undo, "POST"),
        ("/api/drafting", steer_drafting, "POST"),
        ("/api/learn", learn, "POST"),
        ("/picture/{size}/{number:int}", show_picture, "GET"),
    )
    application = Starlette(
        routes=[Route(path, _told(answer), methods=[method]) for path, answer, method in api],
        middleware=[Middleware(Guard, host=host, names=names)],
        exception_handlers={HTTPException: _http_problem},
        lifespan=_life,
    )
    application.state.page = page
    return application


@asynccontextmanager
async def _life(application: Starlette) -> AsyncIterator[None]:
    """The threads of a page, from its start to its end."""
    page: Page = application.state.page
    page.desk.open()
    writing = None
    if page.album is not None:
        threading.Thread(target=page.read_drafts, name="drafts", daemon=True).start()
        writing = asyncio.create_task(_keep_written(page.album))
    try:
        yield
    finally:
        if writing is not None:
            writing.cancel()
        await to_thread.run_sync(page.desk.close)
        if page.drafting is not None:
            page.drafting.close()
        if page.album is not None:
            page.album.corrections.write(page.album.number_of.__contains__)
            page.album.corrections.close()


async def _keep_written(album: Album) -> None:
    """Write the captions file soon after each correction."""
    told = ""
    while True:
        try:
            await to_thread.run_sync(album.corrections.write, album.number_of.__contains__)
            told = ""
        except OSError as error:
            if str(error) != told:
                print(f"{album.corrections.path} cannot be written: {error}.", file=sys.stderr)
            told = str(error)
        await asyncio.sleep(WRITE_SECONDS)


# ---- the page ----


async def show_page(request: Request) -> Response:
    """The page itself."""
    return _file(PAGE_DIR / "index.html")


async def show_part(request: Request) -> Response:
    """One of the files that the page is made of."""
    name = request.path_params["name"]
    parts = {path.name: path for path in PAGE_DIR.iterdir() if path.suffix in KINDS}
    parts |= {shared: TEMPLATES_DIR / shared for shared in SHARED}
    if name not in parts:
        raise HTTPException(404, f"There is no {name} here.")
    return _file(parts[name])


async def tell_about(request: Request) -> Response:
    """What the page begins with."""
    page = _page(request)
    album = page.album
    return _json(
        {
            "models": [{"name": one.name, "usual": dict(one.usual)} for one in page.models],
            "album": album and {"folder": str(album.folder), "count": len(album.names)},
            "notes": page.notes,
        }
    )


# ---- try ----


async def caption(request: Request) -> Response:
    """Captions of the picture that was sent."""
    page, wishes = _page(request), dict(request.query_params)
    number, window = wishes.pop("model", "0"), wishes.pop("window", "")
    if not (number.isdigit() and int(number) < len(page.models)):
        raise UserError(f"There is no model {number}.")
    model, name = page.models[int(number)], wishes.pop("name", "") or "The picture"
    content = await _body(request, MOST_PICTURE_BYTES, "A picture")
    began = time.monotonic()

    def work() -> Sequence[Said]:
        return model.captions(load_image(content, name=name), wishes)

    found = await _asked(page.desk, f"try {window} {number}", work)
    return _json({"captions": list(map(_shown, found)), "seconds": time.monotonic() - began})


def _shown(said: Said) -> dict[str, Any]:
    return {
        "text": said.text,
        "confidence": said.confidence,
        "log_probability": said.log_probability,
        "words": [
            {"text": word.text, "confidence": sure, "heat": embedded_heat(word)}
            for word, sure in said.words
        ],
    }


async def _asked(desk: Desk, key: str, work: Callable[[], Any]) -> Any:
    """What came of work for a model."""
    try:
        return await asyncio.wrap_future(desk.ask(key, work))
    except (CancelledError, asyncio.CancelledError):
        raise HTTPException(409, "Something else was asked for meanwhile.") from None


# ---- review ----


async def tell_order(request: Request) -> Response:
    """The numbers of the pictures of a filter and a search, in their order."""
    album, wanted = _page(request).reviewed(), request.query_params
    chosen, search = wanted.get("filter", "all"), wanted.get("search", "")
    numbers = await to_thread.run_sync(album.order, chosen, search)
    return _json({"stamp": album.stamp, "numbers": numbers, "counts": album.counts()})


async def tell_items(request: Request) -> Response:
    """What is said of pictures by their numbers."""
    page = _page(request)
    album, words = page.reviewed(), request.query_params.get("numbers", "").split(",")
    if request.query_params.get("stamp") != album.stamp:
        raise HTTPException(410, "The program was started anew.")
    numbers = [int(word) for word in words if word.isascii() and word.isdigit()][:MOST_ITEMS]
    numbers = [number for number in numbers if number < len(album.names)]
    if page.drafting is not None:
        page.drafting.want(reversed(numbers))
        page.desk.wake()
    return _json([_item(album, number) for number in numbers])


async def tell_news(request: Request) -> Response:
    """What has changed since a window asked last."""
    page = _page(request)
    album, since = page.reviewed(), request.query_params.get("since", "0")
    return _json(
        {
            "stamp": album.stamp,
            **album.news(int(since) if since.isascii() and since.isdigit() else 0),
            "counts": album.counts(),
            "drafts": page.drafting and page.drafting.progress(),
            "notes": page.notes,
        }
    )


async def say(request: Request) -> Response:
    """A correction."""
    album, said = _page(request).reviewed(), await _object(request)
    name, version = _text(said, "name"), said.get("version")
    if name not in album.number_of or not isinstance(version, int):
        raise UserError(f"There is no picture {name!r} in {album.folder}.")
    change = album.corrections.change
    return await _corrected(
        album,
        lambda: change(
            name, version, _text(said, "status"), _text(said, "text"), by=_text(said, "window")
        ),
    )


async def undo(request: Request) -> Response:
    """Take back the last correction of a window."""
    album, said = _page(request).reviewed(), await _object(request)
    return await _corrected(album, lambda: album.corrections.undo(by=_text(said, "window")))


async def _corrected(album: Album, work: Callable[[], Any]) -> Response:
    try:
        correction, status = await to_thread.run_sync(work), 200
    except StaleError as error:
        correction, status = error.current, 409
    if correction is None:
        return _json({"item": None})
    number = album.number_of.get(correction.name)
    if number is None:
        return _json({"item": None})
    if status == 200:
        album.touch(number)
    return _json({"item": _item(album, number)}, status)


async def steer_drafting(request: Request) -> Response:
    """Go on with drafts, or pause."""
    page, said = _page(request), await _object(request)
    if page.drafting is None:
        raise UserError("No folder was named. Start again with: --folder PICTURES")
    page.drafting.is_on, page.drafting.problem = bool(said.get("on")), ""
    page.desk.wake()
    return _json(page.drafting.progress())


async def learn(request: Request) -> Response:
    """Write the captions file, and say what learns from it."""
    page = _page(request)
    return _json(await to_thread.run_sync(summary, page.reviewed(), page.beginning))


async def show_picture(request: Request) -> Response:
    """A small copy of a picture."""
    page, size = _page(request), request.path_params["size"]
    path = page.reviewed().path(request.path_params["number"])
    if size not in SIDES:
        raise HTTPException(404, f"There is no size {size!r}.")
    async with page.turns:
        if await request.is_disconnected():
            return Response(status_code=204)  # scrolled past meanwhile
        content = await to_thread.run_sync(page.copies.jpeg, path, size)
    headers = {"Cache-Control": "private, max-age=31536000, immutable"}
    return Response(content, media_type="image/jpeg", headers=headers)


def _item(album: Album, number: int) -> dict[str, Any]:
    # The address of a copy tells one folder's first picture from another's, and changes with it.
    changed = f"{changed_at(album.folder / album.names[number]):x}"
    return {**album.item(number), "changed": f"{changed}-{zlib.crc32(os.fsencode(album.folder)):x}"}


# ---- in and out ----


def _told(answer: Callable[[Request], Awaitable[Response]]) -> Callable[..., Awaitable[Response]]:
    """The same, with mistakes as sentences."""

    async def told(request: Request) -> Response:
        try:
            return await answer(request)
        except UserError as error:
            return _json({"error": str(error)}, 400)
        except HTTPException:
            raise
        except Exception as error:
            traceback.print_exc()
            what = f"{type(error).__name__}: {error}"
            return _json({"error": f"This is a bug; the terminal says where. {what}"}, 500)

    return told


def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json({"error": error.detail}, error.status_code)


def _page(request: Request) -> Page:
    page: Page = request.app.state.page
    return page


def _json(value: object, status: int = 200) -> Response:
    # Names of files may hold halves of letters, which ASCII alone can carry.
    content = json.dumps(value, separators=(",", ":"))
    headers = {"Cache-Control": "no-store"}
    return Response(content, status, headers=headers, media_type="application/json")


def _file(path: Path) -> Response:
    headers = {"Cache-Control": "no-cache"}
    return Response(path.read_bytes(), headers=headers, media_type=KINDS[path.suffix])


async def _body(request: Request, most: int, what: str) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise HTTPException(413, f"{what} may have {most / 2**20:.3g} MiB at most.")
        parts.append(part)
    return b"".join(parts)


async def _object(request: Request) -> Mapping[str, Any]:
    if request.headers.get("content-type", "").split(";")[0] != "application/json":
        raise HTTPException(415, "This takes application/json.")
    try:
        value = json.loads(await _body(request, MOST_JSON_BYTES, "A correction"))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError("That is no JSON object.")
    return value


def _text(said: Mapping[str, Any], key: str) -> str:
    value = said.get(key)
    if not isinstance(value, str):
        raise UserError(f"{key} is {value!r:.80}; it must be text.")
    return value

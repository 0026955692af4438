"""Who may ask: only the page itself.

A page of somebody else, open in the same browser, can send requests to this machine, and can have
its own name mean this machine's address (DNS rebinding). So a request has to name this server as
people do, and browsers say whether it comes from this page. What is answered runs nothing but the
page's own files, and shows inside no other page.
"""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("localhost", "127.0.0.1", "::1")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; media-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors {frames}"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
}
SPACES = "https://huggingface.co"
"""Which shows the page of a Space inside of its own."""


class Guard:
    """Refuses what does not come from the page, and says what answers may do."""

    def __init__(self, app: ASGIApp, host: str, names: Collection[str] = ()) -> None:
        """For a server that listens on `host`; `names` are others by which it is reached."""
        self._app = app
        self._is_private = is_loopback(host)
        self._names = {*LOOPBACK, *(name.lower() for name in names)}
        frames = "'none'" if self._is_private else f"'self' {SPACES}"
        self._headers = {**HEADERS, "Content-Security-Policy": POLICY.format(frames=frames)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        if problem := self._problem(Headers(scope=scope), scope):
            await PlainTextResponse(problem, 403)(scope, receive, marked)
        else:
            await self._app(scope, receive, marked)

    def _problem(self, headers: Headers, scope: Scope) -> str:
        host = _name_in(f"//{headers.get('host', '')}")
        if not self._knows(host):
            return (
                f"This page is not called {host[:100]!r}. Open the address that app.py printed; "
                "where the page has a name, say it at the start: --known-as NAME\n"
            )
        is_reading = scope["method"] in ("GET", "HEAD")
        site = headers.get("sec-fetch-site", "")
        is_visit = is_reading and headers.get("sec-fetch-mode") == "navigate"
        if site not in ("", "same-origin", "none") and not (is_visit and scope["path"] == "/"):
            return "Another page has asked for this; only this one may.\n"
        origin = headers.get("origin", "")
        if origin and not is_reading and urlsplit(origin).netloc != headers.get("host"):
            return "Another page has asked for this; only this one may.\n"
        return ""

    def _knows(self, host: str) -> bool:
        """Whether people call this server so: an address is no name that could be made to mean
        something else, but where only this machine may ask it has to be this machine's."""
        return host in self._names or (not self._is_private and _is_address(host))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on `host`."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _name_in(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""

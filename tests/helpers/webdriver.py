"""A headless Chromium for tests, driven through chromedriver's WebDriver protocol (W3C, 2018)."""

import base64
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
START_SECONDS = 30


class Browser:
    """One window; `script` and `command` raise `RuntimeError` with the browser's own words."""

    def __init__(self, address: str, session: str) -> None:
        self._root = f"{address}/session/{session}"
        # The page of a new tab asks for parts of the browser itself: none of ours.
        call(f"{self._root}/url", {"url": "about:blank"})
        self._log("performance")

    def open(self, path: Path) -> None:
        """Load a file and wait until it has loaded."""
        call(f"{self._root}/url", {"url": path.absolute().as_uri()})

    def script(self, body: str, *arguments: object) -> Any:
        """What the body of a JavaScript function returns."""
        return call(f"{self._root}/execute/sync", {"script": body, "args": arguments})

    def command(self, name: str, **parameters: object) -> Any:
        """A command of the DevTools protocol."""
        return call(f"{self._root}/goog/cdp/execute", {"cmd": name, "params": parameters})

    def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        """Show the page `width` x `height` CSS pixels large."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )

    def prefer(self, scheme: str) -> None:
        """Say that the system is `light` or `dark`, and that nothing shall move by itself."""
        wishes = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in wishes.items()]
        self.command("Emulation.setEmulatedMedia", features=features)

    def click(self, selector: str) -> None:
        """A real click on the middle of the first element that matches."""
        call(f"{self._element(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        """Press the keys of `text` in the first element that matches."""
        call(f"{self._element(selector)}/value", {"text": text})

    def console(self) -> list[str]:
        """Errors and warnings since the last call, those of the network too."""
        return [line["message"] for line in self._log("browser")]

    def requested(self) -> list[str]:
        """Addresses that pages asked for since the last call, embedded ones left out."""
        events = (json.loads(line["message"])["message"] for line in self._log("performance"))
        addresses = (
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        )
        return [address for address in addresses if not address.startswith("data:")]

    def screenshot(self, path: Path) -> None:
        """Write what the window shows as PNG."""
        image = self.command("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(image))

    def _element(self, selector: str) -> str:
        found = call(f"{self._root}/element", {"using": "css selector", "value": selector})
        (reference,) = found.values()
        return f"{self._root}/element/{reference}"

    def _log(self, kind: str) -> list[dict[str, Any]]:
        return call(f"{self._root}/se/log", {"type": kind})


@contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile; skips the test where Chromium is not installed."""
    chromium = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("chromium and chromedriver are not installed")
    process = subprocess.Popen(
        [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        address = f"http://127.0.0.1:{_port(process)}"
        session = call(f"{address}/session", {"capabilities": _capabilities(chromium, profile)})
        try:
            yield Browser(address, session["sessionId"])
        finally:
            call(f"{address}/session/{session['sessionId']}", None, method="DELETE")
    finally:
        process.terminate()
        process.wait(timeout=START_SECONDS)
        process.stdout.close()


def call(address: str, content: object, *, method: str = "POST") -> Any:
    """The `value` of a WebDriver answer."""
    request = urllib.request.Request(
        address,
        data=None if content is None else json.dumps(content).encode(),
        headers={"Content-Type": "application/json"},
        method=method,
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        with error:
            raise RuntimeError(error.read().decode()[:2000]) from None


def _port(process: subprocess.Popen[str]) -> int:
    """The port that chromedriver chose, from what it prints on starting."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        words = process.stdout.readline().rstrip(".\n").split()
        if "successfully" in words and words[-1].isdigit():
            return int(words[-1])
    raise RuntimeError("chromedriver did not start")


def _capabilities(chromium: str, profile: Path) -> dict[str, Any]:
    arguments = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={profile}",
        "--window-size=1280,900",
    ]
    return {
        "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": chromium, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
    }

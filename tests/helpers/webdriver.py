"""A headless Chromium for tests, driven by Selenium."""

import base64
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage".split()


class Browser:
    """One window."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        # The page of a new tab asks for parts of the browser itself: none of ours.
        driver.get("about:blank")
        driver.get_log("performance")
        self.script, self.command = driver.execute_script, driver.execute_cdp_cmd

    def open(self, path: Path) -> None:
        """Load a file and wait until it has loaded."""
        self._driver.get(path.absolute().as_uri())

    def visit(self, address: str) -> None:
        """Load a page that is served."""
        self._driver.get(address)

    def wait_for(self, script: str, seconds: float = 60) -> None:
        """Wait until a script returns something that is true."""
        end = time.monotonic() + seconds
        while not self.script(script):
            assert time.monotonic() < end, f"{script}: not in {seconds} s; {self.console()}"
            time.sleep(0.05)

    def choose(self, selector: str, files: Sequence[Path]) -> None:
        """Choose files in the first element that matches."""
        self.type(selector, "\n".join(map(str, files)))

    def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        """Show the page `width` x `height` CSS pixels large."""
        size = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1}
        self.command("Emulation.setDeviceMetricsOverride", {**size, "mobile": phone})

    def prefer(self, scheme: str) -> None:
        """Say that the system is `light` or `dark`, and that nothing shall move by itself."""
        wishes = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in wishes.items()]
        self.command("Emulation.setEmulatedMedia", {"features": features})

    def click(self, selector: str) -> None:
        """A real click on the middle of the first element that matches."""
        self._driver.find_element("css selector", selector).click()

    def type(self, selector: str, text: str) -> None:
        """Press the keys of `text` in the first element that matches."""
        self._driver.find_element("css selector", selector).send_keys(text)

    def console(self) -> list[str]:
        """Errors and warnings since the last call, those of the network too."""
        return [line["message"] for line in self._driver.get_log("browser")]

    def requested(self) -> list[str]:
        """Addresses that pages asked for since the last call, embedded ones left out."""
        lines = self._driver.get_log("performance")
        events = (json.loads(line["message"])["message"] for line in lines)
        addresses = (
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        )
        return [address for address in addresses if not address.startswith("data:")]

    def screenshot(self, path: Path) -> None:
        """Write what the window shows as PNG."""
        image = self.command("Page.captureScreenshot", {"format": "png"})["data"]
        path.write_bytes(base64.b64decode(image))


@contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile; skips the test where Chromium is not installed."""
    chromium = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    chromedriver = shutil.which("chromedriver")
    if not chromium or not chromedriver:
        pytest.skip("chromium and chromedriver are not installed")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.ignore_local_proxy_environment_variables()  # the driver is on this machine
    # With the driver named, Selenium looks for none and downloads none.
    service = webdriver.ChromeService(executable_path=chromedriver)
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield Browser(driver)
    finally:
        driver.quit()

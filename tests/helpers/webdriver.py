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

FAKE_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
"""A camera that shows a moving picture, and nobody who is asked."""


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

    def press(self, *keys: str) -> None:
        """Press keys one after another, wherever the focus is: letters, or names such as ENTER;
        CONTROL is held for the next one."""
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        actions, is_held = ActionChains(self._driver, duration=0), False
        for key in keys:
            if key == "CONTROL":
                actions.key_down(Keys.CONTROL)
                is_held = True
                continue
            actions.send_keys(getattr(Keys, key, key))
            if is_held:
                actions.key_up(Keys.CONTROL)
                is_held = False
        actions.perform()

    def hover(self, selector: str) -> None:
        """Move the mouse to the middle of the first element that matches."""
        from selenium.webdriver.common.action_chains import ActionChains

        place = self._driver.find_element("css selector", selector)
        ActionChains(self._driver, duration=0).move_to_element(place).perform()

    def drop(self, path: Path, x: int = 300, y: int = 300) -> None:
        """Drag a file over the page, and let it fall."""
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.command("Input.dispatchDragEvent", {"type": kind, "x": x, "y": y, "data": data})

    def paste(self, picture: Path) -> None:
        """Put a PNG into the clipboard, and press Ctrl and V."""
        wanted = ["clipboardReadWrite", "clipboardSanitizedWrite"]
        self.command("Browser.grantPermissions", {"permissions": wanted})
        self.command("Page.bringToFront", {})
        encoded = base64.b64encode(picture.read_bytes()).decode()
        self._driver.execute_async_script(
            "const [encoded, done] = arguments;"
            "const bytes = Uint8Array.from(atob(encoded), (one) => one.charCodeAt(0));"
            "const blob = new Blob([bytes], { type: 'image/png' });"
            "const item = new ClipboardItem({ 'image/png': blob });"
            "navigator.clipboard.write([item]).then(done, done);",
            encoded,
        )
        key = {"key": "v", "code": "KeyV", "windowsVirtualKeyCode": 86, "modifiers": 2}
        self.command("Input.dispatchKeyEvent", {**key, "type": "keyDown", "commands": ["paste"]})
        self.command("Input.dispatchKeyEvent", {**key, "type": "keyUp"})

    def bring(self, picture: Path, way: str) -> None:
        """Give a page a picture: "file", "drop" or "paste" it, or take another by "camera"."""
        if way == "file":
            self.choose("#files", [picture])
        elif way == "drop":
            self.drop(picture)
        elif way == "paste":
            self.paste(picture)
        else:
            self.wait_for("return !document.querySelector('#open-camera').hidden")
            self.click("#open-camera")
            self.wait_for("return document.querySelector('#viewfinder').videoWidth")
            self.click("#shoot")

    def open_window(self) -> str:
        """Open another window and turn to it; gives the handle of the one before."""
        before: str = self._driver.current_window_handle
        self._driver.switch_to.new_window("tab")
        return before

    def turn_to(self, window: str) -> str:
        """Turn to a window by its handle; gives that of the one before."""
        before: str = self._driver.current_window_handle
        self._driver.switch_to.window(window)
        return before

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
def open_browser(profile: Path, arguments: Sequence[str] = ()) -> Iterator[Browser]:
    """A browser with an empty profile; skips the test where Chromium is not installed."""
    chromium = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    chromedriver = shutil.which("chromedriver")
    if not chromium or not chromedriver:
        pytest.skip("chromium and chromedriver are not installed")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        *ARGUMENTS,
        *arguments,
        f"--user-data-dir={profile}",
        "--window-size=1280,900",
    ):
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

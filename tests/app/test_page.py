"""The page in a real browser: a picture in, captions reviewed by keyboard, nothing lost."""

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the extra `app` is not installed")
from tests.helpers.app_page import Parrot, listener_at, page_of, served, write_reds
from tests.helpers.webdriver import FAKE_CAMERA, Browser, open_browser

ROOT = Path(__file__).parents[2]
REDS = {"<b>b.png": 200, "a.png": 100, "c.png": 50, "d.png": 150}
READY = "return document.documentElement.dataset.ready"
SHOWN = (
    "return [...document.querySelectorAll('.cell')].sort((a, b) => a.dataset.place - "
    "b.dataset.place).map((one) => one.querySelector('.words').textContent)"
)
CAPTION = "return document.querySelector('#answers .caption')?.textContent"
CHOSEN = "return document.querySelector('#pane .name').textContent"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("profile"), FAKE_CAMERA) as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_reds(tmp_path / "photos", REDS)


@pytest.fixture
def page(folder: Path) -> Iterator[str]:
    with served(page_of(folder, Parrot("one"), Parrot("other"))) as address:
        yield address


def journal(folder: Path) -> list[tuple[str, str, str]]:
    lines = (folder / "corrections.journal").read_text().splitlines()
    return [(one["image"], one["status"], one["text"]) for one in map(json.loads, lines)]


def review(browser: Browser, page: str) -> None:
    """Open the folder, with all drafts made and in their order."""
    browser.visit("about:blank")
    browser.visit(page + "#review")
    browser.wait_for(READY)
    first = "document.querySelector('.cell[data-place=\"0\"] .words')?.textContent"
    browser.wait_for(f"return {first} === 'a red of 50'")


def tried(browser: Browser, page: str, picture: Path, way: str = "file") -> None:
    """Have a picture captioned."""
    browser.visit("about:blank")
    browser.visit(page + "#try")
    browser.wait_for(READY)
    browser.bring(picture, way)
    browser.wait_for(CAPTION)


def wait_until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_captions_are_reviewed_by_keyboard_alone(browser: Browser, page: str, folder: Path) -> None:
    review(browser, page)
    assert browser.script(SHOWN) == [f"a red of {red}" for red in sorted(REDS.values())]
    browser.press("a")
    browser.wait_for(f"{CHOSEN} === 'a.png'")
    browser.press("ENTER", " boat", "ENTER", "f")
    wait_until(lambda: len(journal(folder)) == 3)
    browser.press("u")
    wait_until(lambda: len(journal(folder)) == 4)
    browser.press("HOME", "ARROW_RIGHT", "ENTER", "gone", "ESCAPE", "CONTROL", "z")
    wait_until(lambda: len(journal(folder)) == 5)
    assert journal(folder) == [
        ("c.png", "accepted", "a red of 50"),
        ("a.png", "edited", "a red of 100 boat"),
        ("d.png", "flagged", "a red of 150"),
        ("d.png", "", ""),
        ("a.png", "", ""),
    ]
    browser.press("/", "<b>", "ENTER")
    browser.wait_for(f"return ({SHOWN.removeprefix('return ')}).length === 1")
    assert browser.script(CHOSEN) == "<b>b.png"
    browser.press("?")
    browser.wait_for("return document.querySelector('#keys').open")
    assert not browser.console()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["file", "drop", "paste", "camera"])
def test_a_picture_comes_in_every_way(browser: Browser, page: str, folder: Path, way: str) -> None:
    tried(browser, page, folder / "d.png", way)
    text = browser.script(CAPTION)
    assert text.startswith("a red of ") if way == "camera" else text == "a red of 150"
    answers = "return document.querySelectorAll('#answers .answer li').length"
    browser.wait_for(f"{answers} === 6")  # three of each model
    assert not browser.console()


@pytest.mark.slow
def test_a_word_shows_what_it_looked_at_when_pointed_at_and_focused(
    browser: Browser, page: str, folder: Path
) -> None:
    tried(browser, page, folder / "d.png")
    brightest = (
        "const canvas = document.querySelector('.look canvas');"
        "if (canvas.hidden) return null;"
        "const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);"
        "let best = 3; for (let i = 3; i < data.length; i += 4) if (data[i] > data[best]) best = i;"
        "const place = (best - 3) / 4;"
        "const [x, y] = [place % canvas.width, Math.floor(place / canvas.width)];"
        "return [x / canvas.width, y / canvas.height];"
    )
    assert browser.script(brightest) is None
    browser.hover(".answer .word:nth-of-type(2)")
    x, y = browser.script(brightest)
    assert 0.5 <= x < 0.75  # the cell that the model looked at
    assert 0.25 <= y < 0.5
    browser.hover("h1")
    assert browser.script(brightest) is None
    browser.script("document.querySelector('.answer .word').focus()")
    browser.press("ARROW_RIGHT")
    assert browser.script("return document.activeElement.textContent") == "red"
    assert browser.script(brightest) == [x, y]


@pytest.mark.slow
def test_settings_ask_anew_and_mistakes_are_sentences(
    browser: Browser, page: str, folder: Path
) -> None:
    tried(browser, page, folder / "d.png")
    browser.script(
        "const one = document.querySelector('[name=num_captions]'); one.value = 5;"
        "one.dispatchEvent(new Event('input', { bubbles: true }))"
    )
    browser.wait_for("return document.querySelectorAll('#answers .answer li').length === 10")
    broken = folder.parent / "<i>broken.png"
    broken.write_text("no picture")
    browser.choose("#files", [broken])
    problem = "document.querySelector('.answer .problem')?.textContent"
    browser.wait_for(f"return {problem}")
    assert browser.script(f"return {problem}").startswith("<i>broken.png is text")


@pytest.mark.slow
def test_what_was_said_is_there_after_a_kill(browser: Browser, folder: Path) -> None:
    with listener_at() as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.helpers.app_page", str(folder), str(port)]

    def start() -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(command, cwd=ROOT)
        wait_until(lambda: process.poll() is not None or answers(port))
        return process

    process = start()
    try:
        review(browser, f"http://127.0.0.1:{port}/")
        browser.press("a", "ENTER", " boat", "ENTER")
        browser.wait_for("return document.querySelector('.cell[data-status=edited]')")
        assert len(journal(folder)) == 2
        process.send_signal(signal.SIGKILL)
        process.wait()
        browser.press("ENTER", " late", "ENTER")
        browser.wait_for("return !document.querySelector('#trouble').hidden")
        field = "return document.querySelector('#text').value"
        browser.wait_for(f"{field}.endsWith('late')")  # to be saved once more
        with (folder / "corrections.journal").open("ab") as file:
            file.write(b'{"image": "c.png", "versi')
        process = start()
        browser.visit("about:blank")
        browser.visit(f"http://127.0.0.1:{port}/#review")
        # What was typed while nobody answered was saved when the page was left.
        browser.wait_for(f"return ({SHOWN.removeprefix('return ')})[2] === 'a red of 150 late'")
        assert browser.script(SHOWN)[1] == "a red of 100 boat"
        marks = "return [...document.querySelectorAll('.cell .mark')].map((one) => one.textContent)"
        assert set(browser.script(marks)) == {"Accepted", "Edited", ""}
        assert "cut short" in browser.script("return document.querySelector('#notes').textContent")
        browser.press("u")
        browser.wait_for(f"return ({SHOWN.removeprefix('return ')})[2] === 'a red of 150'")
        browser.press("u")  # also what was said before the kill
        browser.wait_for(f"return ({SHOWN.removeprefix('return ')})[1] === 'a red of 100'")
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/api/about", timeout=1).close()
    except OSError:
        return False
    return True


@pytest.mark.slow
def test_two_windows_lose_nothing_of_each_other(browser: Browser, page: str, folder: Path) -> None:
    review(browser, page)
    browser.press("ENTER", " mine")  # typed, and not yet saved
    theirs = {
        "name": "c.png",
        "version": 0,
        "status": "edited",
        "text": "theirs",
        "window": "other",
    }
    request = urllib.request.Request(page + "api/say", json.dumps(theirs).encode())
    request.add_header("Content-Type", "application/json")
    urllib.request.urlopen(request).close()
    browser.wait_for("return document.querySelector('#pane .state').textContent === 'Edited'")
    browser.press("ENTER")
    browser.wait_for("return !document.querySelector('#conflict').hidden")
    texts = "return [...document.querySelectorAll('#conflict dd')].map((one) => one.textContent)"
    assert browser.script(texts) == ["theirs (edited)", "a red of 50 mine (edited)"]
    assert len(journal(folder)) == 1
    browser.click("#conflict .keep-mine")
    wait_until(lambda: len(journal(folder)) == 2)
    assert journal(folder)[-1] == ("c.png", "edited", "a red of 50 mine")
    first = browser.open_window()
    browser.visit(page + "#review")
    browser.wait_for(f"return ({SHOWN.removeprefix('return ')})[0] === 'a red of 50 mine'")
    browser.press("ARROW_RIGHT", "f")
    wait_until(lambda: len(journal(folder)) == 3)
    browser.press("HOME", "a")
    wait_until(lambda: len(journal(folder)) == 4)
    browser.turn_to(first)
    # Each hears of the other's changes by itself.
    for status in ("flagged", "accepted"):
        cells = f".cell[data-status={status}]"
        browser.wait_for(f"return document.querySelectorAll('{cells}').length === 1")


@pytest.mark.slow
def test_learn_says_what_to_type(browser: Browser, page: str, folder: Path) -> None:
    review(browser, page)
    browser.press("a", "f")
    wait_until(lambda: len(journal(folder)) == 2)
    browser.script("location.hash = '#learn'")
    browser.wait_for("return document.querySelector('#alone').textContent")
    assert browser.script("return document.querySelector('#learn-title').textContent") == (
        "1 caption to learn from"
    )
    command = browser.script("return document.querySelector('#alone').textContent")
    assert command.startswith("python train.py --DATASET photos-corrected --IMAGE_DIR ")
    assert (folder / "corrections.jsonl").read_text().count("\n") == 1


@pytest.mark.slow
def test_thousands_of_pictures_are_a_few_cells(browser: Browser, tmp_path: Path) -> None:
    folder = write_reds(tmp_path / "many", {"0.png": 7})
    for number in range(1, 20_000):
        (folder / f"{number}.png").hardlink_to(folder / "0.png")
    with served(page_of(folder, is_on=False)) as page:
        browser.visit(page + "#review")
        browser.wait_for("return document.querySelectorAll('.cell img[src]').length > 8")
        cells = "return document.querySelectorAll('.cell').length"
        assert browser.script(cells) < 100
        browser.press("END")
        last = "document.querySelector('.cell[aria-selected=true]')"
        browser.wait_for(f"return {last}?.dataset.place === '19999'")
        browser.wait_for(f"return {last}.querySelector('img').naturalWidth")
        assert browser.script(cells) < 100


@pytest.mark.slow
@pytest.mark.parametrize("part", ["try", "review", "learn"])
@pytest.mark.parametrize("width", [320, 1280])
def test_the_page_fits_any_width_and_its_controls_have_names(
    browser: Browser, page: str, width: int, part: str
) -> None:
    browser.resize(width, 800, phone=width < 600)
    browser.visit("about:blank")
    browser.visit(f"{page}#{part}")
    browser.wait_for(READY)
    assert browser.script("return document.documentElement.scrollWidth") <= width
    unnamed: Any = browser.script(
        "return [...document.querySelectorAll('button, select, input, textarea, progress, meter')]"
        ".filter((one) => one.checkVisibility() && !one.textContent.trim() && !one.labels?.length"
        " && !one.ariaLabel && !one.placeholder).map((one) => one.outerHTML)"
    )
    browser.resize(1280, 900)
    assert not unnamed

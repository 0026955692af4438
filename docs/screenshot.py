"""Draws `docs/review.png`: the page of `app.py`, reviewing the captions of drawn scenes.

    python docs/screenshot.py checkpoints/demo/best data/demo/test

Needs Chromium with its driver. Reads a checkpoint and some pictures, writes the picture.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from app import AppOptions, make_page  # noqa: E402
from captioning.sources.records import read_records  # noqa: E402
from tests.helpers.app_page import served  # noqa: E402
from tests.helpers.webdriver import open_browser  # noqa: E402

PICTURES = 40
WIDTH, HEIGHT, SHOWN_WIDTH = 1240, 700, 1100
SMALLER = (
    "const zoom = document.querySelector('#zoom'); zoom.value = 160;"
    "zoom.dispatchEvent(new Event('input'))"
)


def draw(checkpoint: str, source: Path, path: Path) -> None:
    """Open the page on some pictures, accept, edit and flag a few, and write what is seen."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "photos"
        folder.mkdir()
        for picture in sorted(source.glob("*.jpg"))[:PICTURES]:
            shutil.copy(picture, folder)
        truth = {record.image.name: record.captions[0] for record in read_records(source)}
        page = make_page(AppOptions(checkpoint=(checkpoint,), folder=str(folder), device="cpu"))
        page.models[0].name = "demo"
        with served(page) as address, open_browser(Path(place) / "profile") as browser:
            browser.prefer("light")
            browser.resize(WIDTH, HEIGHT)
            browser.visit(f"{address}#review")
            browser.wait_for("return document.querySelector('.cell')")
            browser.script(SMALLER)
            while page.drafting is None or page.drafting.progress()["done"] < PICTURES:
                time.sleep(0.1)
            time.sleep(5)  # until the order is that of all captions, and all pictures are there
            browser.press("a", "a", "f")
            name = browser.script("return document.querySelector('#pane .name').textContent")
            browser.press("ENTER", "CONTROL", "a", truth[name], "ENTER", "ARROW_LEFT")
            time.sleep(5)  # until what was told has gone
            shot = Path(place) / "shot.png"
            browser.screenshot(shot)
            image = Image.open(shot).convert("RGB")
    size = (SHOWN_WIDTH, round(SHOWN_WIDTH * image.height / image.width))
    small = image.resize(size, Image.Resampling.LANCZOS)
    small.quantize(256, Image.Quantize.MEDIANCUT).save(path, optimize=True)


if __name__ == "__main__":
    draw(sys.argv[1], Path(sys.argv[2]), ROOT / "docs" / "review.png")

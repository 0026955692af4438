"""Draws `docs/first-look.png` for the README: the report's gallery, and what each word looked at.

    python docs/first_look.py checkpoints/demo data/demo/test/scene_000240.jpg

Reads the evaluation of a run, whose report it opens in Chromium, and captions the picture with the
run's `best`. `make demo` makes both the run and the evaluation.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from captioner import Captioner  # noqa: E402

REPORT_PIXELS = (960, 960)
"""Window in which the report is opened."""
GALLERY_ALONE = "<style>body > :not(main), main > :not(#gallery) { display: none }</style>"
HEIGHT, MARGIN = 600, 24
COLOURS = 256


def screenshot(report: Path) -> Image.Image:
    """A report's gallery as Chromium shows it."""
    with tempfile.TemporaryDirectory() as folder:
        page, shown = Path(folder) / "page.html", Path(folder) / "shown.png"
        page.write_text(report.read_text(encoding="utf-8") + GALLERY_ALONE, encoding="utf-8")
        subprocess.run(
            [
                *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                f"--window-size={REPORT_PIXELS[0]},{REPORT_PIXELS[1]}",
                f"--screenshot={shown}",
                page.as_uri(),
            ],
            check=True,
            capture_output=True,
        )
        return Image.open(shown).convert("RGB")


def scaled(picture: Image.Image) -> Image.Image:
    """A picture at the height of the whole."""
    width = round(picture.width * HEIGHT / picture.height)
    return picture.resize((width, HEIGHT), Image.Resampling.LANCZOS)


def main(run: Path, picture: Path) -> None:
    """Write the picture."""
    captioner = Captioner.from_pretrained(run / "best", device="cpu")
    report = scaled(screenshot(run / "evaluation" / "report.html"))
    strip = scaled(captioner.strip(picture).convert("RGB"))
    look = Image.new("RGB", (report.width + MARGIN + strip.width, HEIGHT), "white")
    look.paste(report, (0, 0))
    look.paste(strip, (report.width + MARGIN, 0))
    palette = look.quantize(COLOURS, kmeans=3)
    look.quantize(palette=palette).save(ROOT / "docs" / "first-look.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

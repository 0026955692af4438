"""Copies what `make demo` measured into `docs/`, for the README.

    python docs/record_demo.py checkpoints/demo      `make readme-demo` calls it

Reads the run's evaluation and its trainer state; writes `docs/demo.json` and `docs/demo.png`, a
sheet of test pictures with the captions that the model gave them, one of each place.
"""

import json
import os
import platform
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from captioning.reports.contact_sheet import contact_sheet  # noqa: E402
from captioning.sources.records import CaptionedPicture, read_records  # noqa: E402

COPIED = ("CIDEr", "BLEU-4", "ROUGE-L", "num_images", "truth")
PLACES = ("sea", "meadow", "beach", "snow")


def main(run: Path, data: Path) -> None:
    """Write both files."""
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    state = json.loads((run / "last" / "trainer_state.json").read_text(encoding="utf-8"))
    settings = metrics["provenance"]["settings"]
    numbers = {name: metrics[name] for name in COPIED} | {
        "trained_minutes": state["trained_seconds"] / 60,
        "steps": state["step"],
        "seed": settings["RANDOM_SEED"],
        "machine": f"{os.cpu_count()} cores ({platform.machine()})",
        "date": date.today().isoformat(),
    }
    (ROOT / "docs" / "demo.json").write_text(json.dumps(numbers, indent=2) + "\n")
    lines = (run / "evaluation" / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    items = [json.loads(line) for line in lines]
    records = {record.image.name: record for record in read_records(data / "test")}
    chosen = []
    for place in PLACES:
        # The first scene of two objects there, whether its caption is right or not.
        of_place = [
            item
            for item in items
            if (scene := records[Path(item["image"]).name].extra["scene"])["place"] == place
            and scene["relation"] is not None
        ]
        chosen += of_place[:2]
    sheet = [
        CaptionedPicture(
            image=Path(item["image"]),
            caption=item["caption"],
            references=tuple(item["references"]),
            correct=item["correct"],
        )
        for item in chosen
    ]
    contact_sheet(sheet, ROOT / "docs" / "demo.png", columns=4, cell_width=240, font_size=15)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "checkpoints/demo")
    main(folder, Path(sys.argv[2] if len(sys.argv) > 2 else "data/demo"))

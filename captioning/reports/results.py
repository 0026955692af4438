"""What an evaluation leaves in its folder: `metrics.json`, `captions.jsonl` and `report.html`.

Each file is written whole or not at all; the numbers come last, so that a folder which has them is
whole.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from captioning.metrics.scoring import ScoreSheet
from captioning.reports.report import Report, ReportedScore, write_report
from captioning.sources.records import CaptionedPicture
from captioning.system.files import write_json, write_text


def write_results(
    folder: Path,
    *,
    numbers: Mapping[str, Any],
    captions: Iterable[Mapping[str, Any]],
    report: Report,
) -> None:
    """Write all three into `folder`, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in captions)
    write_text(folder / "captions.jsonl", lines)
    write_report(folder / "report.html", report)
    write_json(folder / "metrics.json", numbers)


def caption_line(image: str, item: CaptionedPicture, **more: object) -> dict[str, Any]:
    """A line of `captions.jsonl`; `more` are further entries."""
    return {
        "image": image,
        "caption": item.caption,
        "references": list(item.references),
        "scores": dict(item.scores),
        **more,
    }


def reported_scores(sheet: ScoreSheet) -> tuple[ReportedScore, ...]:
    """The scores as the report shows them, the two that matter most first."""
    first = ("CIDEr", "BLEU-4")
    reported = []
    for name in (*first, *(name for name in sheet.corpus if name not in first)):
        value, interval = sheet.corpus[name], sheet.intervals.get(name)
        low, high = (interval.low, interval.high) if interval else (None, None)
        skipped = sheet.skipped.get(name, "")
        reported.append(ReportedScore(name=name, value=value, low=low, high=high, skipped=skipped))
    return tuple(reported)

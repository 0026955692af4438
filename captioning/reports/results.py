"""What comes of an evaluation: what is printed, and the files that it leaves in its folder.

    write_evaluation(evaluation, folder)     metrics.json, captions.jsonl, captions.json (COCO
                                             results), report.html, captions.png

Each file is written whole or not at all; the numbers come last, so that a folder which has them is
whole.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from captioning.metrics.score_pairs import coco_ids
from captioning.metrics.scoring import ScoreSheet
from captioning.reports.contact_sheet import contact_sheet
from captioning.reports.report import Report, ReportedScore, write_report
from captioning.sources.records import CaptionedPicture, Record
from captioning.system.files import alone_in, write_json, write_text
from captioning.system.terminal import counted, one_line
from captioning.tracking.effort import Effort

NUMBERS = "metrics.json"
SHEET_PICTURES = 12
SHOWN_CAPTIONS = 5


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Captions with their scores: of a checkpoint on a split, or of any model."""

    title: str
    subtitle: str
    pictures: tuple[CaptionedPicture, ...]
    """In the order of `sheet.base.ids`."""
    sheet: ScoreSheet
    protocol: Mapping[str, object]
    checkpoint: str = ""
    """Its folder or repository; the following are of it, and empty where there is none."""
    model: Mapping[str, object] = field(default_factory=dict)
    """The encoder, its features of a picture, and parameters."""
    truth: Mapping[str, float | None] = field(default_factory=dict)
    """On drawn scenes: share of captions that are right, by what they tell, and of words that
    looked at their object; None where there was nothing to count. Else empty."""
    settings: Mapping[str, object] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    effort: Effort | None = None
    """What captioning took; None where captions were given."""
    warnings: tuple[str, ...] = ()
    """What the reader must know before the numbers, besides what `sheet` warns of."""

    def to_json(self) -> dict[str, Any]:
        """What `metrics.json` holds."""
        of_checkpoint = {"checkpoint": self.checkpoint, "model": self.model}
        return {
            **self.sheet.to_json(),
            "warning": " ".join(self.all_warnings) or None,
            **({"truth": self.truth} if self.truth else {}),
            **(of_checkpoint if self.checkpoint else {}),
            **({"effort": self.effort.to_json()} if self.effort else {}),
            "protocol": self.protocol,
            **({"provenance": self.provenance} if self.provenance else {}),
        }

    @property
    def all_warnings(self) -> tuple[str, ...]:
        """What the reader must know before the numbers."""
        repetition = self.sheet.diversity.warning
        return (*self.warnings, repetition) if repetition else self.warnings

    def report(self) -> Report:
        """What `report.html` shows."""
        return Report(
            title=self.title,
            subtitle=self.subtitle,
            scores=_reported_scores(self.sheet),
            items=self.pictures,
            curves=tuple(_curves(Path(self.checkpoint))) if self.checkpoint else (),
            warnings=self.warnings,
            diversity=self.sheet.diversity,
            measures={
                **{
                    name.replace("_", " "): None if value is None else f"{value:.1%}"
                    for name, value in self.truth.items()
                },
                **(self.effort.lines() if self.effort else {}),
            },
            protocol=self.protocol,
            settings=self.settings,
            provenance=self.provenance,
        )


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write numbers, captions and report into `folder`, and a contact sheet where pictures are."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = evaluation.pictures
    lines = [
        json.dumps(_line(name, picture), ensure_ascii=False) + "\n"
        for name, picture in zip(evaluation.sheet.base.ids, pictures, strict=True)
    ]
    ids = coco_ids(evaluation.sheet.base.ids)
    results = [
        {"image_id": one, "caption": picture.caption}
        for one, picture in zip(ids, pictures, strict=True)
    ]
    with alone_in(folder):
        (folder / NUMBERS).unlink(missing_ok=True)  # they are of what is replaced now
        if evaluation.checkpoint:
            count = min(SHEET_PICTURES, len(pictures))
            spread = np.linspace(0, len(pictures) - 1, count).astype(int)
            contact_sheet([pictures[number] for number in spread], folder / "captions.png")
        write_text(folder / "captions.jsonl", "".join(lines))
        write_json(folder / "captions.json", results)
        write_report(folder / "report.html", evaluation.report())
        write_json(folder / NUMBERS, evaluation.to_json())


def print_evaluation(evaluation: Evaluation) -> None:
    """A line a metric, what is right, and how the numbers came about, so that they can be compared.

    What the reader must know before the numbers goes to standard error.
    """
    _print_scores(evaluation.sheet)
    if evaluation.truth:
        print("\nright, as the truth of the drawn scenes tells:")
        for name, share in evaluation.truth.items():
            print(f"  {name.replace('_', ' '):26}{'-' if share is None else f'{share:.1%}':>7}")
    effort = evaluation.effort.lines() if evaluation.effort else {}
    facts = {**evaluation.protocol, **effort}
    print("\n" + "\n".join(f"{name:22}{value}" for name, value in facts.items()))
    for warning in evaluation.all_warnings:
        print(f"\nWARNING: {warning}", file=sys.stderr)


def captioned_pictures(
    records: Sequence[Record],
    texts: Sequence[str],
    sheet: ScoreSheet,
    correct: Sequence[bool | None],
    sure: Sequence[tuple[float | None, float | None]] = (),
) -> tuple[CaptionedPicture, ...]:
    """All that is known of each picture, but what its caption's words looked at; `sure` are
    confidences and log-probabilities, where they are known."""
    sure = sure or [(None, None)] * len(records)
    return tuple(
        CaptionedPicture(
            image=record.image,
            caption=text,
            references=record.captions,
            scores=sheet.of(number),
            confidence=confidence,
            log_probability=log_probability,
            correct=is_correct,
        )
        for number, (record, text, is_correct, (confidence, log_probability)) in enumerate(
            zip(records, texts, correct, sure, strict=True)
        )
    )


def print_places(folder: Path) -> None:
    """Print where the results of a checkpoint lie."""
    print(f"\nreport    {folder / 'report.html'}\npictures  {folder / 'captions.png'}")
    print(f"numbers   {folder / 'metrics.json'}, {folder / 'captions.jsonl'}")


def print_captions(evaluation: Evaluation) -> None:
    """A few captions beside what a person wrote."""
    pictures = evaluation.pictures
    shown = min(SHOWN_CAPTIONS, len(pictures))
    print(f"\n{counted(shown, 'caption')}, and what a person wrote:")
    step = max(len(pictures) // SHOWN_CAPTIONS, 1)
    for one in pictures[::step][:SHOWN_CAPTIONS]:
        name, caption, reference = map(one_line, (one.image.name, one.caption, one.references[0]))
        print(f"  {name}\n    model   {caption}\n    person  {reference}")


def _print_scores(sheet: ScoreSheet) -> None:
    """A line a metric, with its 95 % interval or the reason why it is missing."""
    for metric, value in sheet.corpus.items():
        if value is None:
            print(f"{metric:14}{'-':>9}  {sheet.skipped[metric]}")
            continue
        interval = sheet.intervals.get(metric)
        ends = f"  [{interval.low:.4f}, {interval.high:.4f}]" if interval else ""
        print(f"{metric:14}{value:9.4f}{ends}")
    if len(sheet.base.ids) == 1:
        print("\nOne picture: no intervals, which tell how scores vary over pictures.")


def _line(name: str, picture: CaptionedPicture) -> dict[str, Any]:
    """A line of `captions.jsonl`; `name` stands for a picture that has no file."""
    known = {
        "confidence": picture.confidence,
        "log_probability": picture.log_probability,
        "correct": picture.correct,
    }
    return {
        "image": str(picture.image) if picture.has_image else name,
        "caption": picture.caption,
        "references": list(picture.references),
        "scores": dict(picture.scores),
        **{key: value for key, value in known.items() if value is not None},
    }


def _reported_scores(sheet: ScoreSheet) -> tuple[ReportedScore, ...]:
    """The scores as the report shows them, the two that matter most first."""
    first = ("CIDEr", "BLEU-4")
    reported = []
    for name in (*first, *(name for name in sheet.corpus if name not in first)):
        value, interval = sheet.corpus[name], sheet.intervals.get(name)
        low, high = (interval.low, interval.high) if interval else (None, None)
        skipped = sheet.skipped.get(name, "")
        reported.append(ReportedScore(name=name, value=value, low=low, high=high, skipped=skipped))
    return tuple(reported)


def _curves(checkpoint: Path) -> list[dict[str, Any]]:
    """The log of the run that a checkpoint's folder lies in, if it does."""
    path = checkpoint.parent / "metrics.jsonl"
    if not (checkpoint.is_dir() and path.is_file()) or path.is_symlink():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]

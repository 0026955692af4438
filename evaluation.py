"""A checkpoint, measured on a split: captions, scores, what words looked at, the report.

Writes into a folder: `metrics.json`, `captions.jsonl`, `report.html` and `captions.png`, a contact
sheet. On drawn scenes, whose truth is known, it also tells how many captions are right and whether
object words looked at their object.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from attention import WordAttention, attend, word_attention
from captioner import Captioner
from captioning import TextCaption, in_batches
from contact_sheet import contact_sheet
from decoding import SearchOptions
from images import load_image
from provenance import provenance
from records import Record, read_records
from report import GalleryItem, Report, ReportedScore, WordHeat, gallery_indexes, write_report
from scenes import Scene, SceneCheck, check_caption, object_words
from scoring import TOKENIZER, ScoreSheet, score_everything

CHECKS = ("objects_and_colours", "place", "time", "relation")
HEAT_SIZE = 24
"""Rows and columns of the heat maps that the report holds."""
SHEET_PICTURES = 12


@dataclass(frozen=True)
class Evaluation:
    """One checkpoint on one split."""

    name: str
    records: list[Record]
    captions: list[TextCaption]
    sheet: ScoreSheet
    truth: dict[str, float]
    """On drawn scenes: share of captions that are right, by what they tell; else empty."""
    checks: list[SceneCheck] | None
    protocol: dict[str, object]
    provenance: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """What `metrics.json` holds."""
        return {
            **self.sheet.to_json(),
            **({"truth": self.truth} if self.truth else {}),
            "protocol": self.protocol,
            "provenance": self.provenance,
        }


def evaluate_checkpoint(
    captioner: Captioner,
    name: str,
    dataset_dir: Path,
    *,
    split: str = "test",
    options: SearchOptions | None = None,
    limit: int = 0,
    clip_model: str = "",
    use_java: bool = True,
    seed: int = 0,
) -> Evaluation:
    """Caption a prepared split (its first `limit` pictures) and score the captions."""
    options = options or captioner.default_options()
    mend = f"python prepare_dataset.py --DATASET {captioner.config.DATASET}"
    records = read_records(dataset_dir / split, mend=mend)
    records = records[:limit] if limit else records
    captions = _caption(captioner, records, options)
    ids = [record.image.name for record in records]
    sheet = score_everything(
        dict(zip(ids, (caption.text for caption in captions), strict=True)),
        dict(zip(ids, (record.captions for record in records), strict=True)),
        images=[record.image for record in records],
        training_captions=_training_captions(dataset_dir),
        clip_model=clip_model,
        use_java=use_java,
        device=str(captioner.pipeline.runtime.device),
        seed=seed,
    )
    checks = _check(records, captions)
    truth = _truth(records, checks) if checks else {}
    if checks:
        truth["attention_inside_object"] = _pointing(captioner, records, captions)
    references = sorted({len(record.captions) for record in records})
    shown = "-".join(str(count) for count in dict.fromkeys((references[0], references[-1])))
    return Evaluation(
        name,
        records,
        captions,
        sheet,
        truth,
        checks,
        protocol={
            "data": dataset_dir.name,
            "split": split,
            "pictures": len(records),
            "references a picture": shown,
            "tokenizer": TOKENIZER,
            "decoding": describe(options),
        },
        provenance=provenance(
            vars(captioner.config), device=captioner.pipeline.runtime.description
        ),
    )


def write_evaluation(evaluation: Evaluation, captioner: Captioner, folder: Path) -> None:
    """Write numbers, captions, report and contact sheet."""
    folder.mkdir(parents=True, exist_ok=True)
    items = _items(evaluation)
    chosen = sorted({number for group in gallery_indexes(items).values() for number in group})
    items = _with_attention(captioner, evaluation, items, chosen)
    lines = [
        {
            "image": str(item.image),
            "caption": item.caption,
            "references": list(item.references),
            "scores": dict(item.scores),
            "confidence": item.confidence,
            "log_probability": caption.log_probability,
            **({} if item.correct is None else {"correct": item.correct}),
        }
        for item, caption in zip(items, evaluation.captions, strict=True)
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    _write_text(folder / "captions.jsonl", text)
    write_report(folder / "report.html", _report(evaluation, captioner, items))
    spread = np.linspace(0, len(items) - 1, min(SHEET_PICTURES, len(items))).astype(int)
    contact_sheet([items[i] for i in spread], folder / "captions.png")
    numbers = json.dumps(evaluation.to_json(), indent=2, ensure_ascii=False) + "\n"
    _write_text(folder / "metrics.json", numbers)


def describe(options: SearchOptions) -> str:
    """A search in a few words."""
    if options.method == "beam":
        return f"beam search, {options.beam_size} beams, length penalty {options.length_penalty:g}"
    if options.method == "diverse":
        return f"diverse beam search, {options.beam_size} beams in {options.groups} groups"
    if options.method == "sample":
        return f"sampling, temperature {options.warp.temperature:g}, seed {options.seed}"
    return "greedy"


def _caption(
    captioner: Captioner, records: Sequence[Record], options: SearchOptions
) -> list[TextCaption]:
    from tqdm import tqdm

    with tqdm(total=len(records), desc="captions", unit="picture", disable=None) as bar:

        def caption(batch: range) -> list[TextCaption]:
            features = captioner.features([records[number].image for number in batch])
            found = captioner.pipeline.captions(features, options, picture_numbers=batch)
            bar.update(len(batch))
            return [captions[0] for captions in found]

        return in_batches(len(records), caption)


def _training_captions(dataset_dir: Path) -> list[str] | None:
    if not (dataset_dir / "train" / "metadata.jsonl").exists():
        return None
    return [text for record in read_records(dataset_dir / "train") for text in record.captions]


def _check(records: Sequence[Record], captions: Sequence[TextCaption]) -> list[SceneCheck] | None:
    if not all("scene" in record.extra for record in records):
        return None
    return [
        check_caption(caption.text, Scene.from_dict(record.extra["scene"]))
        for record, caption in zip(records, captions, strict=True)
    ]


def _truth(records: Sequence[Record], checks: Sequence[SceneCheck]) -> dict[str, float]:
    """Share of right captions; relations among the scenes of two objects."""
    shares = {}
    for name in CHECKS:
        counted = [
            getattr(check, name)
            for record, check in zip(records, checks, strict=True)
            if name != "relation" or record.extra["scene"]["relation"] is not None
        ]
        shares[name] = sum(counted) / max(len(counted), 1)
    return shares


def _pointing(
    captioner: Captioner, records: Sequence[Record], captions: Sequence[TextCaption]
) -> float:
    """Share of right object words whose heat peaks inside the box of the object that they name."""
    inside = named = 0
    for record, (words, size) in zip(
        records, _attention(captioner, records, captions), strict=True
    ):
        scene = Scene.from_dict(record.extra["scene"])
        words = [word for word in words if word.text]
        texts = " ".join(word.text for word in words)
        boxes = {(thing.kind, thing.colour): thing.box for thing in scene.objects}
        for word in object_words(texts):
            box = boxes.get((word.kind, word.colour or ""))
            if box is None or word.index >= len(words):
                continue
            x, y = words[word.index].peak(size)
            named += 1
            inside += box[0] <= x / size[0] <= box[2] and box[1] <= y / size[1] <= box[3]
    return inside / max(named, 1)


def _attention(
    captioner: Captioner, records: Sequence[Record], captions: Sequence[TextCaption]
) -> list[tuple[list[WordAttention], tuple[int, int]]]:
    """Each caption's words with their heat, and the size of its picture."""

    def look(batch: range) -> list[tuple[list[WordAttention], tuple[int, int]]]:
        images = [load_image(records[number].image) for number in batch]
        ids = [captions[number].hypothesis.ids for number in batch]
        weights = attend(captioner.pipeline, captioner.features(images), ids)
        return [
            (word_attention(captioner.pipeline, one, heat, image.size), image.size)
            for one, heat, image in zip(ids, weights, images, strict=True)
        ]

    return in_batches(len(records), look)


def _items(evaluation: Evaluation) -> list[GalleryItem]:
    checks: Sequence[SceneCheck | None] = evaluation.checks or [None] * len(evaluation.records)
    return [
        GalleryItem(
            image=record.image,
            caption=caption.text,
            references=record.captions,
            scores=evaluation.sheet.of(number),
            confidence=caption.confidence,
            correct=None if check is None else check.objects_and_colours,
        )
        for number, (record, caption, check) in enumerate(
            zip(evaluation.records, evaluation.captions, checks, strict=True)
        )
    ]


def _with_attention(
    captioner: Captioner,
    evaluation: Evaluation,
    items: Sequence[GalleryItem],
    chosen: Sequence[int],
) -> list[GalleryItem]:
    """The items, those of the gallery with what their words looked at."""
    looked = _attention(
        captioner,
        [evaluation.records[number] for number in chosen],
        [evaluation.captions[number] for number in chosen],
    )
    items = list(items)
    for number, (words, size) in zip(chosen, looked, strict=True):
        heats = tuple(WordHeat(word.text, _small(word.heat(size))) for word in words)
        items[number] = replace(items[number], words=heats)
    return items


def _small(heat: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    shape = (HEAT_SIZE, HEAT_SIZE)
    return np.asarray(Image.fromarray(heat).resize(shape, Image.Resampling.BOX))


def _report(evaluation: Evaluation, captioner: Captioner, items: Sequence[GalleryItem]) -> Report:
    sheet = evaluation.sheet
    scores = tuple(
        ReportedScore(
            name=name,
            value=value,
            low=sheet.intervals[name].low if value is not None else None,
            high=sheet.intervals[name].high if value is not None else None,
            skipped=sheet.skipped.get(name, ""),
        )
        for name, value in _in_order(sheet.corpus)
    )
    run = Path(evaluation.name).parent
    return Report(
        title=f"{captioner.config.run_name} on {evaluation.protocol['data']}",
        subtitle=f"{evaluation.name}, {evaluation.provenance['started'][:10]}",
        scores=scores,
        items=tuple(items),
        curves=tuple(_lines(run / "metrics.jsonl")),
        diversity=sheet.diversity,
        measures={
            name.replace("_", " "): f"{value:.1%}" for name, value in evaluation.truth.items()
        },
        protocol=evaluation.protocol,
        settings=vars(captioner.config),
        provenance=evaluation.provenance,
    )


def _in_order(corpus: Mapping[str, float | None]) -> list[tuple[str, float | None]]:
    first = ("CIDEr", "BLEU-4")
    rest = [name for name in corpus if name not in first]
    return [(name, corpus[name]) for name in (*first, *rest)]


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def _write_text(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)

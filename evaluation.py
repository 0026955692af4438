"""A checkpoint, measured on a split: captions, scores, what words looked at, the report.

Writes into a folder: `metrics.json`, `captions.jsonl`, `report.html` and `captions.png`, a contact
sheet. On drawn scenes, whose truth is known, it also tells how many captions are right and how many
object words looked at their object.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from attention import WordAttention, attend, word_attention
from captioner import Captioner
from captioning.decoding import SearchOptions
from captioning.metrics.scoring import TOKENIZER, ScoreSheet, references_a_picture, score_everything
from captioning.reports.contact_sheet import contact_sheet
from captioning.reports.gallery import gallery_indexes
from captioning.reports.report import Report
from captioning.reports.results import caption_line, reported_scores, write_results
from captioning.scenes import Scene, SceneCheck, check_caption, object_words
from captioning.sources.images import load_image
from captioning.sources.records import CaptionedPicture, Record, WordHeat, read_records
from captioning.system.progress import Progress
from captioning.tracking.provenance import data_fingerprint, provenance
from pipeline import Caption, in_batches

CHECKS = ("objects_and_colours", "place", "time", "relation")
HEAT_SIZE = (24, 24)
"""Columns and rows of the heat maps that the report holds."""
SHEET_PICTURES = 12


@dataclass(frozen=True)
class Pointing:
    """Whether right object words looked at the object that they name."""

    words: int
    inside: int
    """Words whose heat peaks inside the object's box."""
    box_share: float
    """Sum over the words of their box's share of the picture: `inside` if they looked anywhere."""

    def to_json(self) -> dict[str, float | None]:
        """The shares for `metrics.json`; None where there are no such words."""
        return {
            "attention_inside_object": self.inside / self.words if self.words else None,
            "attention_inside_by_chance": self.box_share / self.words if self.words else None,
        }


@dataclass(frozen=True)
class Evaluation:
    """One checkpoint on one split."""

    name: str
    records: list[Record]
    captions: list[Caption]
    sheet: ScoreSheet
    truth: dict[str, float | None]
    """On drawn scenes: share of captions that are right, by what they tell, and `Pointing`; None
    where there was nothing to count. Else empty."""
    checks: list[SceneCheck] | None
    model: dict[str, object]
    """The encoder, its features of a picture, and parameters."""
    protocol: dict[str, object]
    provenance: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """What `metrics.json` holds."""
        return {
            **self.sheet.to_json(),
            **({"truth": self.truth} if self.truth else {}),
            "checkpoint": self.name,
            "model": self.model,
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
    options = options or SearchOptions.of_beams(captioner.config.BEAM_SIZE)
    mend = (
        f"python prepare_dataset.py --DATASET {captioner.config.DATASET} "
        f"--DATA_DIR {dataset_dir.parent}"
    )
    records = read_records(dataset_dir / split, mend=mend)[: limit or None]
    captions = _caption(captioner, records, options)
    ids = [record.image.relative_to(dataset_dir / split).as_posix() for record in records]
    runtime = captioner.pipeline.runtime
    sheet = runtime.on_main(
        lambda: score_everything(
            dict(zip(ids, (caption.text for caption in captions), strict=True)),
            dict(zip(ids, (record.captions for record in records), strict=True)),
            images=[record.image for record in records],
            training_captions=_training_captions(dataset_dir),
            clip_model=clip_model,
            use_java=use_java,
            device=str(runtime.device),
            seed=seed,
        )
    )
    checks = _check(records, captions)
    truth: dict[str, float | None] = {}
    if checks:
        truth = {**_truth(records, checks), **_pointing(captioner, records, captions).to_json()}
    return Evaluation(
        name,
        records,
        captions,
        sheet,
        truth,
        checks,
        model=describe_model(captioner),
        protocol={
            "data": dataset_dir.name,
            "split": split,
            "pictures": len(records),
            "references a picture": references_a_picture(record.captions for record in records),
            "tokenizer": TOKENIZER,
            "decoding": options.description,
        },
        provenance=provenance(
            vars(captioner.config),
            device=captioner.pipeline.runtime.description,
            data=data_fingerprint(dataset_dir),
        ),
    )


def write_evaluation(evaluation: Evaluation, captioner: Captioner, folder: Path) -> None:
    """Write numbers, captions, report and contact sheet."""
    items = _items(evaluation)
    chosen = sorted({number for group in gallery_indexes(items).values() for number in group})
    items = _with_attention(captioner, evaluation, items, chosen)
    lines = [
        caption_line(
            str(item.image),
            item,
            confidence=item.confidence,
            log_probability=caption.log_probability,
            **({} if item.correct is None else {"correct": item.correct}),
        )
        for item, caption in zip(items, evaluation.captions, strict=True)
    ]
    spread = np.linspace(0, len(items) - 1, min(SHEET_PICTURES, len(items))).astype(int)
    contact_sheet([items[i] for i in spread], folder / "captions.png")
    report = _report(evaluation, captioner, items)
    write_results(folder, numbers=evaluation.to_json(), captions=lines, report=report)


def describe_model(captioner: Captioner) -> dict[str, object]:
    """The encoder, its features of a picture (tokens x width), trained and frozen parameters."""
    encoder, model = captioner.pipeline.encoder, captioner.pipeline.model
    trained = sum(one.numel() for one in (*model.parameters(), *encoder.trained_parameters()))
    every = sum(one.numel() for part in (model, encoder) for one in part.parameters())
    return {
        "encoder": captioner.config.ENCODER_MODEL_NAME,
        "feature_tokens": encoder.num_tokens,
        "feature_width": encoder.feature_dim,
        "parameters_trained": trained,
        "parameters_frozen": every - trained,
    }


def _caption(
    captioner: Captioner, records: Sequence[Record], options: SearchOptions
) -> list[Caption]:
    pipeline = captioner.pipeline
    batches = pipeline.best_captions(
        len(records),
        lambda numbers: captioner.features([records[number].image for number in numbers]),
        options,
    )
    captions: list[Caption] = []
    with Progress("captions", len(records), is_shown=pipeline.runtime.is_main) as progress:
        for batch in batches:
            captions += batch
            progress.advance(len(batch))
    return captions


def _training_captions(dataset_dir: Path) -> list[str] | None:
    if not (dataset_dir / "train" / "metadata.jsonl").exists():
        return None
    return [text for record in read_records(dataset_dir / "train") for text in record.captions]


def _check(records: Sequence[Record], captions: Sequence[Caption]) -> list[SceneCheck] | None:
    if not all("scene" in record.extra for record in records):
        return None
    return [
        check_caption(caption.text, Scene.from_dict(record.extra["scene"]))
        for record, caption in zip(records, captions, strict=True)
    ]


def _truth(records: Sequence[Record], checks: Sequence[SceneCheck]) -> dict[str, float | None]:
    """Share of right captions; relations among the scenes of two objects."""
    shares: dict[str, float | None] = {}
    for name in CHECKS:
        counted = [
            getattr(check, name)
            for record, check in zip(records, checks, strict=True)
            if name != "relation" or record.extra["scene"]["relation"] is not None
        ]
        shares[name] = sum(counted) / len(counted) if counted else None
    return shares


def _pointing(
    captioner: Captioner, records: Sequence[Record], captions: Sequence[Caption]
) -> Pointing:
    """Where right object words, thing and colour, have their peak."""
    inside, shares = 0, []
    attended = _attention(captioner, records, captions)
    for record, words in zip(records, attended, strict=True):
        scene = Scene.from_dict(record.extra["scene"])
        boxes = {thing.name: thing.box for thing in scene.objects}
        # A no-break space inside a word would make two of it.
        caption = " ".join("".join(word.text.split()) for word in words)
        for named in object_words(caption):
            box = boxes.get((named.kind, named.colour or ""))
            if box is None:
                continue
            left, top, right, bottom = box
            x, y = words[named.index].peak()
            width, height = words[named.index].image_size
            inside += left <= (x + 0.5) / width <= right and top <= (y + 0.5) / height <= bottom
            shares.append((right - left) * (bottom - top))
    return Pointing(len(shares), inside, sum(shares))


def _attention(
    captioner: Captioner, records: Sequence[Record], captions: Sequence[Caption]
) -> list[list[WordAttention]]:
    """Each caption's words with their heat."""

    def look(batch: range) -> list[list[WordAttention]]:
        images = [load_image(records[number].image) for number in batch]
        ids = [captions[number].ids for number in batch]
        weights = attend(captioner.pipeline, captioner.features(images), ids)
        return [
            word_attention(captioner.pipeline, one, heat, image.size)
            for one, heat, image in zip(ids, weights, images, strict=True)
        ]

    return in_batches(len(records), look)


def _items(evaluation: Evaluation) -> list[CaptionedPicture]:
    checks: Sequence[SceneCheck | None] = evaluation.checks or [None] * len(evaluation.records)
    return [
        CaptionedPicture(
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
    items: Sequence[CaptionedPicture],
    chosen: Sequence[int],
) -> list[CaptionedPicture]:
    """The items, those of the gallery with what their words looked at."""
    looked = _attention(
        captioner,
        [evaluation.records[number] for number in chosen],
        [evaluation.captions[number] for number in chosen],
    )
    items = list(items)
    for number, words in zip(chosen, looked, strict=True):
        heats = tuple(WordHeat(word.text, word.heat(HEAT_SIZE)) for word in words)
        items[number] = replace(items[number], words=heats)
    return items


def _report(
    evaluation: Evaluation, captioner: Captioner, items: Sequence[CaptionedPicture]
) -> Report:
    return Report(
        title=f"{captioner.config.run_name} on {evaluation.protocol['data']}",
        subtitle=f"{evaluation.name}, {evaluation.provenance['started'][:10]}",
        scores=reported_scores(evaluation.sheet),
        items=tuple(items),
        curves=tuple(_curves(Path(evaluation.name))),
        diversity=evaluation.sheet.diversity,
        measures={
            name.replace("_", " "): None if value is None else f"{value:.1%}"
            for name, value in evaluation.truth.items()
        },
        protocol=evaluation.protocol,
        settings=vars(captioner.config),
        provenance=evaluation.provenance,
    )


def _curves(checkpoint: Path) -> list[dict[str, Any]]:
    """The log of the run that a checkpoint's folder lies in, if it does."""
    path = checkpoint.parent / "metrics.jsonl"
    if not (checkpoint.is_dir() and path.is_file()):
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]

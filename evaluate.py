"""Score captions: of a checkpoint on a split, or of any model from two files.

    python evaluate.py                                           the newest `best`, its test split
    python evaluate.py --checkpoint A/best B/best                several, compared
    python evaluate.py --candidates mine.json --references theirs.json

Writes `metrics.json`, `captions.jsonl`, `captions.json` (COCO results, as evaluation servers take
them), `report.html` and `captions.png` into the output folder; of several checkpoints a folder
each, and `comparison.html`, `.md` and `.json` besides.
BLEU, ROUGE-L and CIDEr equal coco-caption's and need no Java; METEOR and SPICE run where Java can.
"""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from captioning.sources.records import (
    METADATA_NAME,
    CaptionedPicture,
    Record,
    WordHeat,
    read_records,
)
from captioning.system.errors import EXIT_DONE, EXIT_PARTLY_DONE, UserError, run_command
from captioning.system.files import refuse_links
from captioning.system.options import notes_of, parse_options
from captioning.system.privacy import without_places
from captioning.system.processes import ending_together, is_main_process
from captioning.system.rules import (
    MOST_BEAMS,
    OF_CHECKPOINTS,
    OF_GIVEN_CAPTIONS,
    Role,
    at_least,
    within,
)
from captioning.system.terminal import one_line

if TYPE_CHECKING:
    from captioner import Caption, Captioner
    from captioning.decoding import SearchOptions
    from captioning.metrics.scoring import ScoreSheet, ScoringOptions
    from captioning.reports.results import Evaluation

HEAT_SIZE = (24, 24)
"""Columns and rows of the heat maps that the report holds."""
TITLE_LABELS = 3
"""A comparison of more checkpoints is called by their number."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What to score, and how."""

    checkpoint: tuple[str, ...] = ()
    """Checkpoint folders or Hub repositories (default: the newest `best` under output-dir)."""
    candidates: str = ""
    """Any model's captions: {"id": "caption"}, COCO results, JSON Lines (generate.py --json), CSV
    or a folder of .txt files. Needs references."""
    references: str = ""
    """What people wrote: {"id": ["...", ...]}, COCO annotations, Karpathy JSON, JSON Lines, CSV,
    token file or a folder of .txt files."""
    partial: Annotated[bool, OF_GIVEN_CAPTIONS] = False
    """Score the candidates that there are, though the references are of more pictures."""
    image_dir: Annotated[str, OF_GIVEN_CAPTIONS] = ""
    """Folder of the pictures that the candidates are of, for clip-model and for the report."""
    split: Annotated[Literal["test", "validation", "train"], OF_CHECKPOINTS] = "test"
    """Split of the prepared data set."""
    data_dir: Annotated[str, OF_CHECKPOINTS] = ""
    """Folder of prepared data sets ("" = as in training)."""
    output: str = ""
    """Folder for the results ("" = `evaluation` beside the checkpoint; of several checkpoints, a
    folder each in it, or "" = as of one, and their comparison in `comparison` under output-dir).
    Captions that are given leave results only where it is set."""
    output_dir: Annotated[str, OF_CHECKPOINTS] = "checkpoints"
    """Where to look for the newest `best`."""
    method: Annotated[Literal["greedy", "beam"], OF_CHECKPOINTS] = "beam"
    """How to search."""
    beam_size: Annotated[int, within(0, MOST_BEAMS), OF_CHECKPOINTS] = 0
    """Beams (0 = as in training)."""
    length_penalty: Annotated[float, OF_CHECKPOINTS] = 1.0
    """Above 1 favours longer captions, below 1 shorter ones."""
    limit: Annotated[int, at_least(0), OF_CHECKPOINTS] = 0
    """Score the first so many pictures only (0 = all)."""
    clip_model: str = ""
    """CLIP of the Hub or a folder, for CLIPScore and RefCLIPScore ("" = leave them out). Captions
    that are given need image-dir too."""
    tokenizer: Literal["auto", "ptb", "script", "spaces"] = "auto"
    """Tokens to score by: ptb (coco-caption's), script (characters where words have no spaces
    between them) or spaces (captions that were segmented before); auto fits the references."""
    java: bool = True
    """Compute METEOR and SPICE where Java and their files are there."""
    seed: Annotated[int, at_least(0)] = 0
    """Seed of the bootstrap."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    revision: Annotated[str, OF_CHECKPOINTS] = ""
    """Branch, tag or commit of a Hub repository."""
    trust_remote_code: Annotated[bool, OF_CHECKPOINTS] = False
    """Run code that the encoder's repository brings along. Only for repositories you trust."""


def main(argv: Sequence[str] | None = None) -> int:
    """Score two files, or checkpoints."""
    options = parse_options(
        EvaluateOptions,
        sys.argv[1:] if argv is None else argv,
        description="Score captions as coco-caption does, without Java.",
    )
    _check(options)
    if options.candidates:
        return score_files(options)
    with ending_together():
        return score_checkpoints(options)


def score_files(options: EvaluateOptions) -> int:
    """Score captions of any model."""
    from captioning.metrics.score_files import read_candidates, read_references
    from captioning.metrics.score_pairs import find_pictures, pair
    from captioning.metrics.scoring import references_a_picture, score_everything
    from captioning.reports.results import Evaluation, print_evaluation, write_evaluation

    pairs = pair(
        read_candidates(options.candidates),
        read_references(options.references),
        is_partial=options.partial,
    )
    images = find_pictures(options.image_dir, pairs.names) if options.image_dir else None
    sheet = score_everything(
        pairs.candidates,
        pairs.references,
        _scoring(options),
        images=images,
        device=_device(options.device) if options.clip_model else "",
    )
    evaluation = Evaluation(
        title=Path(options.candidates).name,
        subtitle=f"against {options.references}",
        pictures=tuple(
            CaptionedPicture(
                image=images[number] if images else Path(),
                caption=caption,
                references=pairs.references[name],
                scores=sheet.of(number),
            )
            for number, (name, caption) in enumerate(pairs.candidates.items())
        ),
        sheet=sheet,
        protocol={
            "candidates": options.candidates,
            "references": options.references,
            **pairs.protocol,
            "pictures": len(pairs.candidates),
            "references a picture": references_a_picture(pairs.references.values()),
            "tokenizer": sheet.tokenizer,
        },
        warnings=(pairs.warning,) if pairs.warning else (),
    )
    print_evaluation(evaluation)
    if options.output:
        write_evaluation(evaluation, Path(options.output))
        print(
            f"\nwritten to {options.output}: metrics.json, captions.jsonl, captions.json (COCO "
            "results), report.html"
        )
    return EXIT_DONE


def _device(name: str) -> str:
    from captioning.system.runtime import Runtime

    return str(Runtime.create(name, "auto").device)


def score_checkpoints(options: EvaluateOptions) -> int:
    """Caption a split with each checkpoint, score, and write the results."""
    from captioner import Captioner
    from captioning.decoding import SearchOptions
    from captioning.reports.results import write_evaluation
    from checkpoint import data_folder, newest_best

    names = options.checkpoint or (os.fspath(newest_best(Path(options.output_dir))),)
    labels = _labels(names)
    folders: dict[str, Path] = {}
    for name, label in labels.items():
        captioner = Captioner.from_pretrained(
            name,
            revision=options.revision,
            device=options.device,
            trust_remote_code=options.trust_remote_code,
        )
        config = captioner.config
        evaluation = evaluate_checkpoint(
            captioner,
            name,
            (Path(options.data_dir) if options.data_dir else data_folder(name, config))
            / config.dataset_name,
            split=options.split,
            search=SearchOptions.of_beams(
                1 if options.method == "greedy" else options.beam_size or config.BEAM_SIZE,
                length_penalty=options.length_penalty,
            ),
            scoring=_scoring(options),
            limit=options.limit,
        )
        folder = _output_folder(options.output, name, label if len(labels) > 1 else "")
        if not options.output:
            refuse_links(folder)
        folders[label] = folder
        if is_main_process():
            write_evaluation(evaluation, folder)
            _print(evaluation, folder)
    if len(folders) > 1 and is_main_process():
        return _compare(options, folders, labels)
    return EXIT_DONE


def evaluate_checkpoint(
    captioner: "Captioner",
    name: str,
    dataset_dir: Path,
    *,
    split: str = "test",
    search: "SearchOptions | None" = None,
    scoring: "ScoringOptions | None" = None,
    limit: int = 0,
) -> "Evaluation":
    """Caption a prepared split (its first `limit` pictures) and score the captions."""
    from captioning.decoding import SearchOptions
    from captioning.metrics.scoring import references_a_picture, score_everything
    from captioning.reports.results import Evaluation
    from captioning.tracking.provenance import data_fingerprint, provenance

    config, runtime = captioner.config, captioner.pipeline.runtime
    search = search or SearchOptions.of_beams(config.BEAM_SIZE)
    flags = ["--DATASET", config.DATASET, "--DATA_DIR", str(dataset_dir.parent)]
    mend = f"python prepare_dataset.py {shlex.join(flags)}"
    records = read_records(dataset_dir / split, mend=mend)[: limit or None]
    captions = _captions(captioner, records, search)
    ids = [record.image.relative_to(dataset_dir / split).as_posix() for record in records]
    sheet = runtime.on_main(
        lambda: score_everything(
            dict(zip(ids, (caption.text for caption in captions), strict=True)),
            dict(zip(ids, (record.captions for record in records), strict=True)),
            scoring,
            images=[record.image for record in records],
            training_captions=_training_captions(dataset_dir),
            device=str(runtime.device),
        )
    )
    truth, correct = _truth(captioner, records, captions)
    pictures = _pictures(records, captions, sheet, correct)
    record = provenance(
        vars(config), device=runtime.description, data=data_fingerprint(dataset_dir)
    )
    return Evaluation(
        title=f"{_run_of(name)} on {dataset_dir.name}",
        subtitle=f"{without_places(name)}, {record['started'][:10]}",
        pictures=_with_words(captioner, pictures, captions) if runtime.is_main else pictures,
        sheet=sheet,
        protocol={
            "data": dataset_dir.name,
            "split": split,
            "pictures": len(records),
            "references a picture": references_a_picture(record.captions for record in records),
            "tokenizer": sheet.tokenizer,
            "decoding": search.description,
        },
        checkpoint=name,
        model=captioner.description,
        truth=truth,
        settings=record["settings"],
        provenance=record,
    )


def _scoring(options: EvaluateOptions) -> "ScoringOptions":
    """How to score, as the command line has it."""
    from captioning.metrics.scoring import ScoringOptions

    names = (field.name for field in fields(ScoringOptions))
    return ScoringOptions(**{name: getattr(options, name) for name in names})


def _captions(
    captioner: "Captioner", records: Sequence[Record], search: "SearchOptions"
) -> list["Caption"]:
    """The best caption of each record."""
    from captioning.system.progress import Progress

    pipeline = captioner.pipeline
    batches = pipeline.best_captions(
        len(records),
        lambda numbers: captioner.features([records[number].image for number in numbers]),
        search,
    )
    captions: list[Caption] = []
    with Progress("captions", len(records), is_shown=pipeline.runtime.is_main) as progress:
        for batch in batches:
            captions += batch
            progress.advance(len(batch))
    return captions


def _training_captions(dataset_dir: Path) -> list[str] | None:
    if not (dataset_dir / "train" / METADATA_NAME).exists():
        return None
    return [text for record in read_records(dataset_dir / "train") for text in record.captions]


def _truth(
    captioner: "Captioner", records: Sequence[Record], captions: Sequence["Caption"]
) -> tuple[dict[str, float | None], list[bool | None]]:
    """On drawn scenes, whose truth is known: shares of what is right, and which captions are."""
    if not all("scene" in record.extra for record in records):
        return {}, [None] * len(records)
    from captioning.scenes import Scene, check_caption
    from captioning.scenes.truth import pointing, right_shares

    scenes = [Scene.from_dict(record.extra["scene"]) for record in records]
    checks = [check_caption(one.text, scene) for one, scene in zip(captions, scenes, strict=True)]
    attention = captioner.attentions([record.image for record in records], captions)
    looks = [[(word.text, *word.peak_share()) for word in words] for words in attention]
    truth = {**right_shares(scenes, checks), **pointing(scenes, looks)}
    return truth, [check.objects_and_colours for check in checks]


def _pictures(
    records: Sequence[Record],
    captions: Sequence["Caption"],
    sheet: "ScoreSheet",
    correct: Sequence[bool | None],
) -> tuple[CaptionedPicture, ...]:
    """All that is known of each picture, but what its caption's words looked at."""
    return tuple(
        CaptionedPicture(
            image=record.image,
            caption=caption.text,
            references=record.captions,
            scores=sheet.of(number),
            confidence=caption.confidence,
            log_probability=caption.log_probability,
            correct=is_correct,
        )
        for number, (record, caption, is_correct) in enumerate(
            zip(records, captions, correct, strict=True)
        )
    )


def _with_words(
    captioner: "Captioner", pictures: Sequence[CaptionedPicture], captions: Sequence["Caption"]
) -> tuple[CaptionedPicture, ...]:
    """The pictures, those of the report's gallery with what their words looked at.

    Only the process that writes the report needs it.
    """
    from captioning.reports.gallery import gallery_indexes

    chosen = sorted({number for group in gallery_indexes(pictures).values() for number in group})
    attention = captioner.attentions(
        [pictures[number].image for number in chosen], [captions[number] for number in chosen]
    )
    found = list(pictures)
    for number, words in zip(chosen, attention, strict=True):
        heats = tuple(WordHeat(word.text, word.heat(HEAT_SIZE)) for word in words)
        found[number] = replace(found[number], words=heats)
    return tuple(found)


def _print(evaluation: "Evaluation", folder: Path) -> None:
    from captioning.reports.results import print_captions, print_evaluation

    print(f"\n{evaluation.checkpoint}\n")
    print_evaluation(evaluation)
    print_captions(evaluation)
    print(f"\nreport    {folder / 'report.html'}\npictures  {folder / 'captions.png'}")
    print(f"numbers   {folder / 'metrics.json'}, {folder / 'captions.jsonl'}")
    photo = evaluation.pictures[0].image
    words = shlex.join(["--checkpoint", evaluation.checkpoint, "--image", str(photo)])
    print(f"\nNext: python generate.py {one_line(words)}")


def _compare(
    options: EvaluateOptions, folders: Mapping[str, Path], labels: Mapping[str, str]
) -> int:
    """Compare evaluated checkpoints, by label; returns the exit code."""
    from captioning.comparison.comparing import compare_runs
    from captioning.comparison.page import write_comparison
    from captioning.comparison.runs import read_run
    from config import Config, result_settings

    runs = {label: Path(name).parent for name, label in labels.items() if Path(name).is_dir()}
    target = Path(options.output or Path(options.output_dir) / "comparison")
    results = [
        read_run(folder, model=label, run_dir=runs.get(label)) for label, folder in folders.items()
    ]
    try:
        comparison = compare_runs(results, result_settings(Config()), seed=options.seed)
    except UserError as error:
        print(f"\n{error}", file=sys.stderr)
        return EXIT_PARTLY_DONE
    title = ", ".join(folders) if len(folders) <= TITLE_LABELS else f"{len(folders)} checkpoints"
    write_comparison(comparison, target, title=title)
    print("\n" + (target / "comparison.md").read_text(encoding="utf-8"))
    print(f"page      {target / 'comparison.html'}")
    print(f"numbers   {target / 'comparison.md'}, {target / 'comparison.json'}")
    return EXIT_DONE


def _check(options: EvaluateOptions) -> None:
    """Raise `UserError` with all that can be told from the options alone."""
    problems = []
    if options.method == "greedy" and options.beam_size > 1:
        problems.append("--beam-size means nothing to --method greedy; leave one of them out.")
    if bool(options.candidates) != bool(options.references):
        missing = "references" if options.candidates else "candidates"
        problems.append(
            f"--candidates and --references go together; add --{missing} FILE.json, or leave both "
            "out to score a checkpoint."
        )
    elif options.candidates:
        if options.checkpoint:
            problems.append("give either --checkpoint, or --candidates and --references.")
        if options.clip_model and not options.image_dir:
            problems.append(
                "--clip-model looks at the pictures that the captions are of; add --image-dir "
                "FOLDER."
            )
    role, sense = OF_GIVEN_CAPTIONS, "is for captions that are given; add --candidates FILE"
    if options.candidates:
        role = OF_CHECKPOINTS
        sense = "is for checkpoints and means nothing to captions that are given; leave it out"
    problems += [
        f"--{field.name.replace('_', '-')} {sense}."
        for field in fields(options)
        if role in notes_of(field, Role) and getattr(options, field.name) != field.default
    ]
    if problems:
        raise UserError(*problems)


def _run_of(name: str) -> str:
    """What a checkpoint's run is called: as its folder, whatever its settings say."""
    return Path(name).absolute().parent.name if Path(name).is_dir() else name


def _output_folder(output: str, name: str, label: str) -> Path:
    """Where a checkpoint's results go; `label` tells it from others, "" where it is alone."""
    if output:
        return Path(output) / label.replace("/", "--")
    checkpoint = Path(name)
    return checkpoint.parent / "evaluation" if checkpoint.is_dir() else Path("evaluation") / label


def _labels(names: Sequence[str]) -> dict[str, str]:
    """Each checkpoint's short name: run and folder, or more where two would be called the same."""
    paths = {name: Path(name).absolute().parts for name in names if Path(name).is_dir()}
    labels = {name: name for name in names}
    for length in range(2, max(map(len, paths.values()), default=1) + 1):
        short = {name: "/".join(parts[-length:]) for name, parts in paths.items()}
        if len(set(short.values())) == len(short):
            return labels | short
    return labels


if __name__ == "__main__":
    run_command(main)

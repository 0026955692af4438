"""Score captions: of a checkpoint on a split, or of any model from two files.

    python evaluate.py                                           the newest `best`, its test split
    python evaluate.py --checkpoint A/best B/best                several, compared
    python evaluate.py --model Salesforce/blip-image-captioning-base    beside the newest `best`
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

from captioning.sources.records import CaptionedPicture, PreparedSplit, Record, WordHeat
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
    from captioning.metrics.scoring import ScoringOptions
    from captioning.reports.results import Evaluation

HEAT_SIZE = (24, 24)
"""Columns and rows of the heat maps that the report holds."""
TITLE_LABELS = 3
"""A comparison of more models is called by their number."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What to score, and how."""

    checkpoint: tuple[str, ...] = ()
    """Checkpoint folders or Hub repositories (default: the newest `best` under output-dir)."""
    model: Annotated[tuple[str, ...], OF_CHECKPOINTS] = ()
    """Captioners of the Hub (BLIP, GIT, ViT-GPT2, chat models) or folders of them, or files of
    captions, to score beside the checkpoints; alone with dataset and no checkpoint."""
    prompt: Annotated[str, OF_CHECKPOINTS] = ""
    """What chat models are asked ("" = for one short sentence), and how BLIP and GIT begin."""
    dataset: Annotated[str, OF_CHECKPOINTS] = ""
    """Prepared data set under data-dir ("" = that of the first checkpoint)."""
    candidates: str = ""
    """Any model's captions: {"id": "caption"}, COCO results, JSON Lines (generate.py --json), CSV
    or a folder of .txt files; a pattern for parts ("captions-*-of-64.csv"). Needs references."""
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
    length_penalty: Annotated[float | None, OF_CHECKPOINTS] = None
    """Larger favours longer captions, 0 is plain sums (default: as in training)."""
    choose: Annotated[Literal["score", "neighbours"], OF_CHECKPOINTS] = "score"
    """Which beam is the caption: the likeliest, or, as captions of similar training pictures say
    too, the best (docs/scores.md)."""
    limit: Annotated[int, at_least(0), OF_CHECKPOINTS] = 0
    """Score the first so many pictures only (0 = all)."""
    clip_model: str = ""
    """CLIP of the Hub or a folder, for CLIPScore and RefCLIPScore ("" = leave them out). Captions
    that are given need image-dir too."""
    tokenizer: Literal["auto", "ptb", "script", "spaces"] = "auto"
    """Tokens: ptb (coco-caption's), script (characters where words have no spaces between them),
    spaces (captions were segmented); auto fits the references."""
    document_frequencies: str = ""
    """File by which CIDEr weighs words ("" = the references): docs/metrics.md."""
    objects: str = ""
    """List of words of objects; mentions that no reference has are counted (CHAIR)."""
    java: bool = True
    """Compute METEOR and SPICE where Java and their files are there."""
    seed: Annotated[int, at_least(0)] = 0
    """Seed of the bootstrap."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Annotated[Literal["auto", "fp32", "bf16", "int8"], OF_CHECKPOINTS] = "auto"
    """Arithmetic of the checkpoints; int8: of their decoders alone, faster on a CPU, not exact."""
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
    from captioning.reports.given_captions import evaluate_files
    from captioning.reports.results import print_evaluation, write_evaluation

    device = "cpu"
    if options.clip_model:  # else torch is not needed
        from captioning.system.runtime import Runtime

        device = str(Runtime.create(options.device, "auto").device)
    evaluation = evaluate_files(
        options.candidates,
        options.references,
        _scoring(options),
        is_partial=options.partial,
        image_dir=options.image_dir,
        device=device,
    )
    print_evaluation(evaluation)
    if options.output:
        write_evaluation(evaluation, Path(options.output))
        names = "metrics.json, captions.jsonl, captions.json (COCO results), report.html"
        print(f"\nwritten to {options.output}: {names}")
    return EXIT_DONE


def score_checkpoints(options: EvaluateOptions) -> int:
    """Caption a split with each checkpoint and other model, score, and write the results."""
    from captioning.comparison.runs import short_names
    from captioning.reports.results import write_evaluation
    from checkpoint import newest_best

    checkpoints = options.checkpoint
    if not (checkpoints or (options.model and options.dataset)):
        checkpoints = (os.fspath(newest_best(Path(options.output_dir))),)
    labels = short_names((*checkpoints, *options.model))
    folders: dict[str, Path] = {}
    problems: list[str] = []
    ours: dict[str, object] = {}
    for name, label in labels.items():
        is_ours = name in checkpoints
        folder = _output_folder(options.output, name, label if len(labels) > 1 else "", is_ours)
        if not options.output:
            refuse_links(folder)
        if is_ours:
            evaluation, data_dir = _evaluated_checkpoint(options, name)
            ours = ours or {**evaluation.settings, "DATA_DIR": str(data_dir)}
        elif is_main_process():
            try:
                evaluation = _evaluated_rival(options, name, ours)
            except UserError as error:
                if len(labels) == 1:
                    raise
                problems += error.problems  # the others are captioned all the same
                continue
        folders[label] = folder
        if is_main_process():
            write_evaluation(evaluation, folder)
            _print(evaluation, folder, is_ours=is_ours)
    for problem in problems:
        print(f"\n{problem}", file=sys.stderr)
    code = EXIT_PARTLY_DONE if problems else EXIT_DONE
    if len(folders) > 1 and is_main_process():
        return _compare(options, folders, labels) or code
    return code


def _evaluated_checkpoint(options: EvaluateOptions, name: str) -> tuple["Evaluation", Path]:
    """The evaluation of a checkpoint, and where the prepared data sets are that it was made on."""
    from captioner import Captioner
    from checkpoint import data_folder

    captioner = Captioner.from_pretrained(
        name,
        revision=options.revision,
        device=options.device,
        precision=options.precision,
        trust_remote_code=options.trust_remote_code,
    )
    if not captioner.is_ours:
        captioner.take_dataset(options.dataset, name)
    config = captioner.config
    data_dir = data_folder(name, config, options.data_dir)
    dataset_dir = _dataset_dir(options, {**vars(config), "DATA_DIR": str(data_dir)})
    if options.choose == "neighbours":
        captioner.ask_neighbours(dataset_dir)
    evaluation = evaluate_checkpoint(
        captioner,
        name,
        dataset_dir,
        split=options.split,
        search=_search(options, vars(config)),
        scoring=_scoring(options),
        limit=options.limit,
    )
    return evaluation, data_dir


def _evaluated_rival(
    options: EvaluateOptions, name: str, ours: Mapping[str, object]
) -> "Evaluation":
    """A captioner that is not ours, searched as `ours` is: the first checkpoint's settings."""
    from captioning.rivals.evaluating import evaluate_rival
    from captioning.system.runtime import Runtime
    from config import Config

    settings = {**vars(Config()), **ours}
    dataset_dir = _dataset_dir(options, settings)
    mend = f"python prepare_dataset.py --DATASET {dataset_dir.name}"
    split = PreparedSplit.read(dataset_dir / options.split, limit=options.limit, mend=mend)
    search = _search(options, settings)
    runtime = Runtime.create(options.device, "auto")
    return evaluate_rival(name, split, search, _scoring(options), runtime, prompt=options.prompt)


def _dataset_dir(options: EvaluateOptions, settings: Mapping[str, object]) -> Path:
    from config import Config

    data_dir = Path(options.data_dir or str(settings["DATA_DIR"]))
    config = Config(DATASET=options.dataset or str(settings["DATASET"]))
    return data_dir / config.dataset_name


def _search(options: EvaluateOptions, settings: Mapping[str, object]) -> "SearchOptions":
    from captioning.decoding import SearchOptions

    beam_size = options.beam_size or int(str(settings["BEAM_SIZE"]))
    penalty = options.length_penalty
    return SearchOptions.of_beams(
        1 if options.method == "greedy" else beam_size,
        length_penalty=float(str(settings["LENGTH_PENALTY"])) if penalty is None else penalty,
    )


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
    from captioning.comparison.runs import run_of
    from captioning.decoding import SearchOptions
    from captioning.metrics.scoring import references_a_picture, score_split
    from captioning.reports.results import Evaluation, captioned_pictures
    from captioning.tracking.effort import Measuring
    from captioning.tracking.provenance import data_fingerprint, provenance

    config, runtime = captioner.config, captioner.pipeline.runtime
    search = search or SearchOptions.of_beams(
        config.BEAM_SIZE, length_penalty=config.LENGTH_PENALTY
    )
    flags = ["--DATASET", config.DATASET, "--DATA_DIR", str(dataset_dir.parent)]
    mend = f"python prepare_dataset.py {shlex.join(flags)}"
    prepared = PreparedSplit.read(dataset_dir / split, limit=limit, mend=mend)
    records = prepared.records
    measuring = Measuring(runtime.device, runtime.gpu_uuids)
    captions = _captions(captioner, records, search)
    effort = measuring.finish(len(captions))
    texts = [caption.text for caption in captions]
    sheet = runtime.on_main(
        lambda: score_split(prepared, texts, scoring, device=str(runtime.device))
    )
    truth, correct = _truth(captioner, records, captions)
    sure = [(caption.confidence, caption.log_probability) for caption in captions]
    pictures = captioned_pictures(records, texts, sheet, correct, sure)
    record = provenance(
        vars(config), device=runtime.description, data=data_fingerprint(dataset_dir)
    )
    return Evaluation(
        title=f"{run_of(name)} on {dataset_dir.name}",
        subtitle=f"{without_places(name)}, {record['started'][:10]}",
        pictures=_with_words(captioner, pictures, captions) if runtime.is_main else pictures,
        sheet=sheet,
        protocol={
            "data": dataset_dir.name,
            "split": split,
            "pictures": len(records),
            "references a picture": references_a_picture(prepared.references.values()),
            **sheet.protocol,
            "decoding": captioner.pipeline.decoding(search),
        },
        checkpoint=name,
        model=captioner.description,
        truth=truth,
        settings=record["settings"],
        provenance=record,
        effort=effort,
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


def _truth(
    captioner: "Captioner", records: Sequence[Record], captions: Sequence["Caption"]
) -> tuple[dict[str, float | None], list[bool | None]]:
    """On drawn scenes, whose truth is known: shares of what is right, and which captions are."""
    from captioning.scenes.truth import check_records, pointing, right_shares

    checked = check_records(records, [caption.text for caption in captions])
    if checked is None:
        return {}, [None] * len(records)
    scenes, checks = checked
    attention = captioner.attentions([record.image for record in records], captions)
    looks = [[(word.text, *word.peak_share()) for word in words] for words in attention]
    truth = {**right_shares(scenes, checks), **pointing(scenes, looks)}
    return truth, [check.objects_and_colours for check in checks]


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


def _print(evaluation: "Evaluation", folder: Path, *, is_ours: bool) -> None:
    from captioning.reports.results import print_captions, print_evaluation, print_places

    print(f"\n{evaluation.checkpoint}\n")
    print_evaluation(evaluation)
    print_captions(evaluation)
    print_places(folder)
    photo = evaluation.pictures[0].image
    if is_ours:
        words = shlex.join(["--checkpoint", evaluation.checkpoint, "--image", str(photo)])
        print(f"\nNext: python generate.py {one_line(words)}")


def _compare(
    options: EvaluateOptions, folders: Mapping[str, Path], labels: Mapping[str, str]
) -> int:
    """Compare evaluated checkpoints, by label; returns the exit code."""
    from captioning.comparison.comparing import compare_runs
    from captioning.comparison.page import print_comparison, write_comparison
    from captioning.comparison.runs import read_run
    from config import Config, result_settings

    ours = {name: label for name, label in labels.items() if name not in options.model}
    runs = {label: Path(name).parent for name, label in ours.items() if Path(name).is_dir()}
    target = Path(options.output or Path(options.output_dir) / "comparison")
    results = [
        read_run(folder, model=label, run_dir=runs.get(label)) for label, folder in folders.items()
    ]
    try:
        comparison = compare_runs(results, result_settings(Config()), seed=options.seed)
    except UserError as error:
        print(f"\n{error}", file=sys.stderr)
        return EXIT_PARTLY_DONE
    title = ", ".join(folders) if len(folders) <= TITLE_LABELS else f"{len(folders)} models"
    write_comparison(comparison, target, title=title)
    print_comparison(target)
    return EXIT_DONE


def _check(options: EvaluateOptions) -> None:
    """Raise `UserError` with all that can be told from the options alone."""
    problems = []
    if options.method == "greedy" and options.beam_size > 1:
        problems.append("--beam-size means nothing to --method greedy; leave one of them out.")
    if options.choose == "neighbours":
        if options.method == "greedy":
            problems.append("--choose needs beams to choose from; leave out --method greedy.")
        if options.split == "train":
            problems.append("--choose neighbours finds training pictures themselves; leave it out.")
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
    if options.model and options.dataset and not options.checkpoint:
        problems += [
            f"--{flag} is for checkpoints, and none is given; leave it out, or add --checkpoint "
            "FOLDER."
            for flag in ("choose", "precision", "revision")
            if getattr(options, flag) != getattr(EvaluateOptions, flag)
        ]
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


def _output_folder(output: str, name: str, label: str, is_ours: bool) -> Path:
    """Where results go; `label` tells the checkpoint from others, "" where it is alone."""
    if output:
        return Path(output) / label.replace("/", "--")
    checkpoint = Path(name)
    if is_ours and checkpoint.is_dir():
        return checkpoint.parent / "evaluation"
    return Path("evaluation") / (label or checkpoint.name).replace("/", "--")


if __name__ == "__main__":
    run_command(main)

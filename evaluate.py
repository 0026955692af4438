"""Score captions: of a checkpoint on a split, or of any model from two files.

    python evaluate.py                                           the newest `best`, its test split
    python evaluate.py --checkpoint A/best B/best                several, compared
    python evaluate.py --candidates mine.json --references theirs.json

Writes `metrics.json`, `captions.jsonl`, `report.html` and `captions.png` into the output folder; of
several checkpoints a folder each, and `comparison.html`, `.md` and `.json` besides.
BLEU, ROUGE-L and CIDEr equal coco-caption's and need no Java; METEOR and SPICE run where Java can.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from captioning.system.errors import EXIT_DONE, EXIT_PARTLY_DONE, UserError, run_command
from captioning.system.options import parse_options
from captioning.system.processes import ending_together, is_main_process

if TYPE_CHECKING:
    from captioning.metrics.scoring import ScoreSheet
    from evaluation import Evaluation

SHOWN_CAPTIONS = 5
TITLE_LABELS = 3
"""A comparison of more checkpoints is called by their number."""
OF_CHECKPOINTS = {
    *("split", "data_dir", "output_dir", "method", "beam_size", "length_penalty", "limit"),
    *("clip_model", "device", "revision", "trust_remote_code"),
}
"""Options that mean nothing where captions are given."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What to score, and how."""

    checkpoint: tuple[str, ...] = ()
    """Checkpoint folders or Hub repositories (default: the newest `best` under output-dir)."""
    candidates: str = ""
    """JSON of any model's captions: {"id": "caption"}, or COCO results. Needs references."""
    references: str = ""
    """JSON of what people wrote: {"id": ["...", ...]}, or COCO annotations."""
    split: Literal["test", "validation", "train"] = "test"
    """Split of the prepared data set."""
    data_dir: str = ""
    """Folder of prepared data sets ("" = as in training)."""
    output: str = ""
    """Folder for the results ("" = `evaluation` beside the checkpoint; of several checkpoints, a
    folder each in it, or "" = as of one, and their comparison in `comparison` under output-dir).
    Captions that are given leave results only where it is set."""
    output_dir: str = "checkpoints"
    """Where to look for the newest `best`."""
    method: Literal["greedy", "beam"] = "beam"
    """How to search."""
    beam_size: int = 0
    """Beams (0 = as in training)."""
    length_penalty: float = 1.0
    """Above 1 favours longer captions, below 1 shorter ones."""
    limit: int = 0
    """Score the first so many pictures only (0 = all)."""
    clip_model: str = ""
    """CLIP of the Hub or a folder, for CLIPScore and RefCLIPScore ("" = leave them out)."""
    java: bool = True
    """Compute METEOR and SPICE where Java and their files are there."""
    seed: int = 0
    """Seed of the bootstrap."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    revision: str = ""
    """Branch, tag or commit of a Hub repository."""
    trust_remote_code: bool = False
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
    from captioning.metrics.scoring import TOKENIZER, references_a_picture, score_everything

    candidates = read_candidates(options.candidates)
    references = read_references(options.references)
    sheet = score_everything(candidates, references, use_java=options.java, seed=options.seed)
    protocol = {
        "candidates": options.candidates,
        "references": options.references,
        "pictures": len(candidates),
        "references a picture": references_a_picture(references.values()),
        "tokenizer": TOKENIZER,
    }
    print_scores(sheet)
    print_protocol(protocol)
    _warn(sheet)
    if options.output:
        _write_scores(Path(options.output), candidates, references, sheet, protocol)
        print(f"\nwritten to {options.output}: metrics.json, captions.jsonl, report.html")
    return EXIT_DONE


def score_checkpoints(options: EvaluateOptions) -> int:
    """Caption a split with each checkpoint, score, and write the results."""
    from captioner import Captioner
    from checkpoint import newest_best
    from evaluation import evaluate_checkpoint, write_evaluation

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
        data = Path(options.data_dir or config.DATA_DIR) / config.dataset_name
        evaluation = evaluate_checkpoint(
            captioner,
            name,
            data,
            split=options.split,
            options=_search(options, config.BEAM_SIZE),
            limit=options.limit,
            clip_model=options.clip_model,
            use_java=options.java,
            seed=options.seed,
        )
        folder = _output_folder(options.output, name, label if len(labels) > 1 else "")
        folders[label] = folder
        if is_main_process():
            write_evaluation(evaluation, captioner, folder)
            _print_evaluation(evaluation, folder)
    if len(folders) > 1 and is_main_process():
        return _compare(options, folders, labels)
    return EXIT_DONE


def print_scores(sheet: "ScoreSheet") -> None:
    """A line a metric, with its 95 % interval or the reason why it is missing."""
    for metric, value in sheet.corpus.items():
        if value is None:
            print(f"{metric:14}{'-':>9}  {sheet.skipped[metric]}")
            continue
        interval = sheet.intervals.get(metric)
        ends = f"  [{interval.low:.4f}, {interval.high:.4f}]" if interval else ""
        print(f"{metric:14}{value:9.4f}{ends}")


def print_protocol(protocol: Mapping[str, object]) -> None:
    """How the numbers came about, so that they can be compared."""
    print("\n" + "\n".join(f"{name:22}{value}" for name, value in protocol.items()))


def _write_scores(
    folder: Path,
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    sheet: "ScoreSheet",
    protocol: Mapping[str, object],
) -> None:
    """Write the results of captions that came without pictures."""
    from captioning.reports.report import Report
    from captioning.reports.results import caption_line, reported_scores, write_results
    from captioning.sources.records import CaptionedPicture

    items = tuple(
        CaptionedPicture(
            caption=caption,
            references=tuple(references[picture]),
            scores=sheet.of(number),
        )
        for number, (picture, caption) in enumerate(candidates.items())
    )
    report = Report(
        title=Path(str(protocol["candidates"])).name,
        subtitle=f"against {protocol['references']}",
        scores=reported_scores(sheet),
        items=items,
        diversity=sheet.diversity,
        protocol=protocol,
    )
    lines = [caption_line(name, item) for name, item in zip(candidates, items, strict=True)]
    numbers = {**sheet.to_json(), "protocol": protocol}
    write_results(folder, numbers=numbers, captions=lines, report=report)


def _print_evaluation(evaluation: "Evaluation", folder: Path) -> None:
    print(f"\n{evaluation.name}\n")
    print_scores(evaluation.sheet)
    if evaluation.truth:
        print("\nright, as the truth of the drawn scenes tells:")
        for name, share in evaluation.truth.items():
            print(f"  {name.replace('_', ' '):26}{'-' if share is None else f'{share:.1%}':>7}")
    print_protocol(evaluation.protocol)
    _warn(evaluation.sheet)
    print(f"\n{min(SHOWN_CAPTIONS, len(evaluation.records))} captions, and what a person wrote:")
    step = max(len(evaluation.records) // SHOWN_CAPTIONS, 1)
    for number in range(0, len(evaluation.records), step)[:SHOWN_CAPTIONS]:
        record, caption = evaluation.records[number], evaluation.captions[number]
        print(
            f"  {record.image.name}\n    model   {caption.text}\n    person  {record.captions[0]}"
        )
    print(f"\nreport    {folder / 'report.html'}\npictures  {folder / 'captions.png'}")
    print(f"numbers   {folder / 'metrics.json'}, {folder / 'captions.jsonl'}")
    photo = evaluation.records[0].image
    print(f"\nNext: python generate.py --checkpoint {evaluation.name} --image {photo}")


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
    problems = [
        f"--{name.replace('_', '-')} is {getattr(options, name)}; it must be at least 0."
        for name in ("limit", "beam_size", "seed")
        if getattr(options, name) < 0
    ]
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
        problems += [
            f"--{field.name.replace('_', '-')} is for checkpoints and means nothing to captions "
            "that are given; leave it out."
            for field in fields(options)
            if field.name in OF_CHECKPOINTS and getattr(options, field.name) != field.default
        ]
    if problems:
        raise UserError(*problems)


def _search(options: EvaluateOptions, trained_beam_size: int) -> Any:
    from captioning.decoding import SearchOptions

    beam_size = 1 if options.method == "greedy" else options.beam_size or trained_beam_size
    return SearchOptions.of_beams(beam_size, length_penalty=options.length_penalty)


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


def _warn(sheet: "ScoreSheet") -> None:
    if sheet.diversity.warning:
        print(f"\nWARNING: {sheet.diversity.warning}", file=sys.stderr)


if __name__ == "__main__":
    run_command(main)

"""Score captions: of a checkpoint on a split, or of any model from two files.

    python evaluate.py                                           the newest `best`, its test split
    python evaluate.py --checkpoint A/best B/best                several, in one table
    python evaluate.py --candidates mine.json --references theirs.json

Writes `metrics.json`, `captions.jsonl`, `report.html` and `captions.png` into the output folder.
BLEU, ROUGE-L and CIDEr equal coco-caption's and need no Java; METEOR and SPICE run where Java can.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from errors import EXIT_DONE, UserError, run_command
from options import parse_options

if TYPE_CHECKING:
    from evaluation import Evaluation
    from scoring import ScoreSheet

SHOWN_CAPTIONS = 5


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
    """Folder for the results ("" = `evaluation` beside the checkpoint)."""
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


def main(argv: Sequence[str] | None = None) -> int:
    """Score two files, or checkpoints."""
    options = parse_options(
        EvaluateOptions,
        sys.argv[1:] if argv is None else argv,
        description="Score captions as coco-caption does, without Java.",
    )
    if options.limit < 0 or options.beam_size < 0:
        raise UserError("--limit and --beam-size must be at least 0.")
    if bool(options.candidates) != bool(options.references):
        missing = "references" if options.candidates else "candidates"
        raise UserError(f"--candidates and --references go together; add --{missing} FILE.json")
    if options.candidates and options.checkpoint:
        raise UserError("give either --checkpoint, or --candidates and --references.")
    return score_files(options) if options.candidates else score_checkpoints(options)


def score_files(options: EvaluateOptions) -> int:
    """Score captions of any model."""
    from score_files import read_candidates, read_references
    from scoring import TOKENIZER, score_everything

    candidates = read_candidates(options.candidates)
    references = read_references(options.references)
    sheet = score_everything(candidates, references, use_java=options.java, seed=options.seed)
    counts = sorted({len(references[picture]) for picture in candidates})
    protocol = {
        "candidates": options.candidates,
        "references": options.references,
        "pictures": len(candidates),
        "references a picture": "-".join(map(str, dict.fromkeys((counts[0], counts[-1])))),
        "tokenizer": TOKENIZER,
    }
    print_scores({"score": sheet})
    print_protocol(protocol)
    _warn(sheet)
    if options.output:
        folder = Path(options.output)
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / "metrics.json", {**sheet.to_json(), "protocol": protocol})
        lines = [
            {
                "image": picture,
                "caption": caption,
                "references": list(references[picture]),
                "scores": sheet.of(number),
            }
            for number, (picture, caption) in enumerate(candidates.items())
        ]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        _write(folder / "captions.jsonl", text)
        print(f"\nwritten to {folder}")
    return EXIT_DONE


def score_checkpoints(options: EvaluateOptions) -> int:
    """Caption a split with each checkpoint, score, and write the results."""
    from captioner import Captioner
    from checkpoint import newest_best
    from evaluation import evaluate_checkpoint, write_evaluation

    names = options.checkpoint or (os.fspath(newest_best(Path(options.output_dir))),)
    evaluations: dict[str, Evaluation] = {}
    for name in names:
        captioner = Captioner.from_pretrained(
            name, revision=options.revision, device=options.device
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
        folder = _output_folder(options, name, len(names))
        write_evaluation(evaluation, captioner, folder)
        evaluations[name] = evaluation
        _print_evaluation(evaluation, folder)
    if len(evaluations) > 1:
        print_scores({name: one.sheet for name, one in evaluations.items()})
        _print_differences(evaluations)
    return EXIT_DONE


def print_scores(sheets: Mapping[str, "ScoreSheet"]) -> None:
    """A table: a line a metric, a column a system, with 95 % intervals."""
    first = next(iter(sheets.values()))
    if len(sheets) > 1:
        print("\n" + " " * 14 + "".join(f"{_short(name):>30}" for name in sheets))
    for metric in first.corpus:
        cells = []
        for sheet in sheets.values():
            value = sheet.corpus[metric]
            if value is None:
                cells.append(
                    f"{'-':>9}" + (f"  {sheet.skipped[metric]}" if len(sheets) < 2 else "")
                )
                continue
            interval = sheet.intervals[metric]
            cells.append(f"{value:9.4f}  [{interval.low:.4f}, {interval.high:.4f}]")
        print(
            f"{metric:14}" + "".join(f"{cell:>30}" if len(sheets) > 1 else cell for cell in cells)
        )


def print_protocol(protocol: Mapping[str, object]) -> None:
    """How the numbers came about, so that they can be compared."""
    print("\n" + "\n".join(f"{name:22}{value}" for name, value in protocol.items()))


def _print_evaluation(evaluation: "Evaluation", folder: Path) -> None:
    print(f"\n{evaluation.name}\n")
    print_scores({evaluation.name: evaluation.sheet})
    if evaluation.truth:
        print("\nright, as the truth of the drawn scenes tells:")
        for name, share in evaluation.truth.items():
            print(f"  {name.replace('_', ' '):26}{share:7.1%}")
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


def _print_differences(evaluations: Mapping[str, "Evaluation"]) -> None:
    from caption_statistics import compare_systems

    (first_name, first), *others = evaluations.items()
    for name, other in others:
        differences = compare_systems(first.sheet.base, other.sheet.base)
        for metric in ("CIDEr", "BLEU-4"):
            found = differences[metric]
            print(
                f"{_short(name)} - {_short(first_name)}: {metric} {found.value:+.4f} "
                f"[{found.interval.low:+.4f}, {found.interval.high:+.4f}], p = {found.p_value:.3f}"
            )


def _search(options: EvaluateOptions, trained_beam_size: int) -> Any:
    from decoding import SearchOptions

    beam_size = options.beam_size or trained_beam_size
    method = "greedy" if beam_size == 1 else options.method
    return SearchOptions(method=method, beam_size=beam_size, length_penalty=options.length_penalty)


def _output_folder(options: EvaluateOptions, name: str, count: int) -> Path:
    local = Path(name)
    usual = local.parent / "evaluation" if local.is_dir() else Path("evaluation")
    folder = Path(options.output) if options.output else usual
    return folder / _short(name).replace("/", "--") if count > 1 else folder


def _short(name: str) -> str:
    path = Path(name)
    return f"{path.parent.name}/{path.name}" if path.is_dir() else name


def _warn(sheet: "ScoreSheet") -> None:
    if sheet.diversity.warning:
        print(f"\nWARNING: {sheet.diversity.warning}", file=sys.stderr)


def _write_json(path: Path, value: object) -> None:
    _write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _write(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


if __name__ == "__main__":
    run_command(main)
